"""Text of strangers on a terminal: what they write is shown, never obeyed."""

from __future__ import annotations

import unicodedata
from datetime import datetime

_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str, *, lines: bool = False) -> str:
    """``text`` without escape sequences and overrides of direction. ``lines``: line ends stay."""
    if text.isprintable():
        return text
    shown = []
    for char in text:
        if char == "\n" and lines:
            shown.append(char)
        elif char in "\n\t":
            shown.append(" ")
        elif char in _BIDI or unicodedata.category(char) in ("Cc", "Cs"):
            shown.append("\N{REPLACEMENT CHARACTER}")
        else:
            shown.append(char)
    return "".join(shown)


def clock(time: datetime) -> str:
    """The local time of day; with the date when it is not today's."""
    local = time.astimezone()
    if local.date() == datetime.now(local.tzinfo).date():
        return local.strftime("%H:%M")
    return local.strftime("%d %b %H:%M")
