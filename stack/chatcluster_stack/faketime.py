"""A wall clock that is wrong, for one process: libfaketime (Debian's ``faketime``); monotonic clocks stay true."""

from __future__ import annotations

from pathlib import Path

from chatcluster_stack import fetch


class WrongClock:
    """An offset in a file that the process reads at every look at the clock."""

    def __init__(self, file: Path, seconds: float = 0.0) -> None:
        self._file = file
        self.set(seconds)

    def set(self, seconds: float) -> None:
        """Seconds ahead of true (behind when negative); bites at once."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+f}\n")
        new.replace(self._file)

    def environment(self) -> dict[str, str]:
        """Environment of a ``Node``. Raises ``Missing``."""
        return {
            "LD_PRELOAD": str(fetch.faketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
