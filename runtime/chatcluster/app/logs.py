"""Logs of a role: one JSON object a line (or plain text for people), with the role and the process's name in each.

Never a stack trace and never a message's text: faults are told by kind and place (``core.faults``).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

import msgspec

from chatcluster.core.faults import told

LEVELS = ("debug", "info", "warning", "error")


class LoggingSettings(msgspec.Struct, frozen=True):
    """Section ``logging``."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is written. ``info`` has a line per change of state, none per message."""
    format: Literal["json", "text"] = "json"
    """``json``: one object a line, for a log collector. ``text``: for people."""


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "role", "name", "logger", "message", "fault"?}``; times are RFC 3339, UTC."""

    def __init__(self, role: str, name: str) -> None:
        super().__init__()
        self._role = role
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "role": self._role,
            "name": self._name,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info is not None and record.exc_info[1] is not None:
            line["fault"] = told(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """The same for people; an exception in one line, too."""

    def __init__(self, role: str, name: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {role} {name} %(name)s: %(message)s")

    def formatException(self, ei: object) -> str:  # noqa: N802  the standard library's name
        error = ei[1] if isinstance(ei, tuple) else None
        return "" if error is None else told(error)


def write_logs(settings: LoggingSettings, *, role: str, name: str) -> None:
    """Everything that this process logs from now on goes to standard error in the form asked for."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter if settings.format == "json" else TextFormatter
    handler.setFormatter(formatter(role, name))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    logging.getLogger("aiohttp.access").setLevel("WARNING")
