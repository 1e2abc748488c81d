"""What tests ask of a server through raw connections."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
OPEN_TIMEOUT = 1.0
WITHDRAWN = {"GATEWAY__DRAIN_PROPAGATION": "0", "GATEWAY__DRAIN_NOTICE": "0"}
HEAD = {
    "Host": "x",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def eventually(holds: Callable[[], bool], patience: float = 10.0) -> bool:
    """Whether it comes to hold."""
    deadline = time.monotonic() + patience
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return held


def group(wire: Any, client_id: str, members: list[str]) -> str:
    return str(wire.ask("channel.create", client_id=client_id, kind="group", members=members)["channel"])


def large(wire: Any, client_id: str) -> str:
    return group(wire, client_id, [f"member-{number}" for number in range(12)])


def history(wire: Any, channel: str) -> list[dict[str, Any]]:
    return list(wire.ask("history", channel=channel)["messages"])


def cpu(server: Any) -> float:
    """Seconds of CPU that the process has used."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def head(line: str = "GET /v1/connect HTTP/1.1", more: dict[str, str | None] | None = None) -> bytes:
    fields = {**HEAD, **(more or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"{line}\r\n{lines}\r\n".encode("iso-8859-1")
