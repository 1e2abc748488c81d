"""Imported by a process at its start: its wall clock is ahead by what a file says. Monotonic clocks stay true.

``faketime`` would do it from outside, but breaks ``time.sleep`` (an absolute sleep on the monotonic clock).
"""

from __future__ import annotations

import os
import time

_FILE = os.environ["WRONG_CLOCK"]
_time_ns = time.time_ns


def _ahead() -> float:
    with open(_FILE) as file:
        return float(file.read())


time.time_ns = lambda: _time_ns() + int(_ahead() * 1e9)
time.time = lambda: _time_ns() / 1e9 + _ahead()
