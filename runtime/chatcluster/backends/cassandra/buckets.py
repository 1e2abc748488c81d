"""Buckets: which slice of time a row's partition covers. Pure.

A bucket is one number that holds its start and its width, so that buckets of several widths stand beside each
other and a reader needs nothing but the index to know what each covers. Widths divide each other. The table
below is part of the data: it must never change.
"""

from __future__ import annotations

_MINUTE = 60_000
_DAY = 1_440
MINUTES = (30 * _DAY, 10 * _DAY, 2 * _DAY, 720, 120, 30, 5)
"""Width in minutes by level."""

LEVELS = len(MINUTES)
SLACK = 120_000
"""Milliseconds by which times of one series may go back from one row to the next: 60 s that an id may be older
than its place in the log, 5 s of clocks, and a change of the log's leader."""


def level_of_days(days: int) -> int | None:
    """The level whose buckets are so wide."""
    return next((level for level, minutes in enumerate(MINUTES) if minutes == days * _DAY), None)


def bucket_at(time: int, level: int) -> int:
    """The bucket of this level that covers ``time`` (ms since 1970)."""
    width = MINUTES[level]
    return (time // _MINUTE // width * width << 4) | level


def start(bucket: int) -> int:
    """Its first millisecond."""
    return (bucket >> 4) * _MINUTE


def end(bucket: int) -> int:
    """The first millisecond after it."""
    return ((bucket >> 4) + MINUTES[bucket & 15]) * _MINUTE


def covers(bucket: int, time: int) -> bool:
    """Whether a row of this time may stand in it."""
    return start(bucket) <= time < end(bucket)
