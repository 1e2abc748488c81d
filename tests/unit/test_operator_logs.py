"""Logs of the operator: one JSON object a line, whatever is in it."""

from __future__ import annotations

import json
import logging
import sys

from chatcluster_operator.logs import JsonFormatter


def line_of(message, *arguments, exc_info=None):
    record = logging.LogRecord("chatcluster_operator.kube", logging.WARNING, "", 0, message, arguments, exc_info)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_quotes_and_line_ends_of_a_message_stay_in_it():
    said = line_of('%s said "no"\nand more', "the server")
    assert said["message"] == 'the server said "no"\nand more'
    assert (said["level"], said["logger"]) == ("warning", "chatcluster_operator.kube")
    assert said["time"].endswith("Z")
    assert "stack" not in said


def test_an_exception_is_told_in_the_same_line():
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        said = line_of("a pass failed", exc_info=sys.exc_info())
    assert said["message"] == "a pass failed"
    assert "RuntimeError: broken" in said["stack"]
