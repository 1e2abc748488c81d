"""Logs of a role: one object a line, no trace, no text of an exception."""

from __future__ import annotations

import json
import logging

from chatcluster.app.logs import JsonFormatter, TextFormatter


def record_of(message: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    made = logging.LogRecord("chatcluster.x", logging.ERROR, __file__, 1, message, args, None)
    if error is not None:
        try:
            raise error
        except Exception as raised:
            made.exc_info = (type(raised), raised, raised.__traceback__)
    return made


def test_a_line_is_one_object_with_role_and_name() -> None:
    line = JsonFormatter("router", "r-1").format(record_of('said "%s"\nand more', "hi"))
    assert "\n" not in line
    said = json.loads(line)
    assert said.pop("time").endswith("Z")
    assert said == {
        "level": "error",
        "role": "router",
        "name": "r-1",
        "logger": "chatcluster.x",
        "message": 'said "hi"\nand more',
    }


def test_an_exception_is_told_by_kind_and_place_only() -> None:
    record = record_of("failed", error=ValueError("password=hunter2"))
    line = JsonFormatter("router", "r-1").format(record)
    assert "hunter2" not in line
    assert json.loads(line)["fault"].startswith("ValueError at ")
    text = TextFormatter("router", "r-1").format(record)
    assert "hunter2" not in text
    assert "Traceback" not in text
    assert "ValueError at " in text
