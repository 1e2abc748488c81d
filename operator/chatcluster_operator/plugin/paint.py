"""Colours, marks and columns of a terminal. Pure, but for the question what the terminal can do."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_CODES = {"good": "32", "bad": "31;1", "note": "33", "quiet": "2", "strong": "1"}
_MARKS = {"good": ("✔", "+"), "bad": ("✖", "x"), "note": ("●", "*"), "quiet": ("·", "-")}
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Paint:
    """How to write. ``width``: columns; 0: as long as it gets."""

    colours: bool = False
    unicode: bool = True
    width: int = 0

    @classmethod
    def of(cls, colour: str) -> Paint:
        """For stdout. ``colour``: auto, always, never."""
        terminal = sys.stdout.isatty()
        colours = colour == "always" or (
            colour == "auto" and terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16")
        return cls(colours, unicode, shutil.get_terminal_size().columns if terminal else 0)

    def __call__(self, text: str, tone: str) -> str:
        return f"\x1b[{_CODES[tone]}m{text}\x1b[0m" if self.colours and tone and text else text

    def mark(self, tone: str) -> str:
        """A character that says good or bad without colours, too."""
        return self(_MARKS[tone][0 if self.unicode else 1], tone)

    def bar(self, share: float, cells: int = 20) -> str:
        """How far something is."""
        full = round(max(0.0, min(1.0, share)) * cells)
        on, off = ("█", "░") if self.unicode else ("#", ".")
        return self(on * full, "good") + self(off * (cells - full), "quiet")

    def table(self, rows: Sequence[Sequence[str]], gap: int = 2) -> list[str]:
        """Rows in columns; the first is the head."""
        widths = [max(length(row[n]) for row in rows if n < len(row)) for n in range(max(map(len, rows)))]
        lines = []
        for at, row in enumerate(rows):
            cells = [cell + " " * (widths[n] - length(cell)) for n, cell in enumerate(row)]
            line = (" " * gap).join(cells).rstrip()
            lines.append(self(line, "quiet") if at == 0 else line)
        return lines

    def wrapped(self, text: str, indent: int) -> list[str]:
        """Lines of text that fit beside an indent."""
        import textwrap

        room = self.width - indent if self.width else 0
        return textwrap.wrap(text, max(20, room), break_on_hyphens=False) if room > 0 else [text]


def length(text: str) -> int:
    """Columns that a text takes."""
    return len(_ANSI.sub("", text))


def plain(text: object) -> str:
    """What the API said, without anything that a terminal would obey."""
    return _CONTROL.sub("?", str(text)).replace("\n", " ").replace("\t", " ")
