"""Shorter buckets for hot series: which width holds when. Widths are rows that all writers read.

A series is hot when one process puts more rows or bytes into one of its buckets than the settings say. The shorter
width holds from a boundary ahead, until the end of the widest bucket around it; if the series is still hot then,
that is seen again. Which bucket a row goes to is a function of its time and these rows. It never decides whether
a row is found: every bucket is in the index whoever made it, and readers merge overlapping ones. So a writer
that knows a width late makes a partition larger than meant and hides nothing.

Readers keep lists of buckets for a while, and a shorter bucket begins inside one that they know. So a writer waits
``SETTLE`` after it learned of a width before it uses it; by then every reader has read the widths again and keeps
no list of that series any more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from chatcluster.backends.cassandra import rows as cells
from chatcluster.backends.cassandra.buckets import LEVELS, MINUTES, bucket_at
from chatcluster.backends.cassandra.cluster import CassandraLink
from chatcluster.backends.cassandra.settings import CassandraSettings
from chatcluster.ports import Clock

FRESH = 30.0
"""Seconds after which a writer reads the widths again before it writes."""
SETTLE = 90.0
"""Seconds from learning of a width to using it: readers learn of it within ``FRESH`` and the time of a read."""
AHEAD = 120_000
"""Milliseconds from the row that was too much to the first boundary of the shorter width: four times ``FRESH``."""
COUNTED = 50_000
"""Buckets whose rows are counted."""
_SPAN = 1
"""Level (10 days) of the bucket at whose end a shorter width ends."""
_DAY = 86_400

Width = tuple[int, int]
"""Since when (ms), and the level."""


class _Count:
    __slots__ = ("bytes", "rows", "since")

    def __init__(self, since: int) -> None:
        self.since = since
        self.rows = 0
        self.bytes = 0


class Widths:
    """The widths in force, and the counters that find hot series."""

    def __init__(self, link: CassandraLink, settings: CassandraSettings, *, clock: Clock, level: int) -> None:
        self._link = link
        self._clock = clock
        self._level = level
        self._rows = settings.hot_rows
        self._bytes = settings.hot_bytes
        self._ttl = cells.int4(settings.log_retention_hours * 3600 + 30 * _DAY)
        self._read = float("-inf")
        self._known: dict[str, dict[Width, float]] = {}  # with the time (monotonic) from which each is used
        self._reading = asyncio.Lock()
        self._counts: OrderedDict[tuple[str, int], _Count] = OrderedDict()
        self._hot: dict[tuple[str, int], int] = {}  # bucket that is too full: time of the row that showed it

    def level(self, series: str, time: int) -> int:
        """Of the bucket for a row of this time."""
        known = self._known.get(series)
        level = self._level
        if known is not None:
            span = bucket_at(time, _SPAN)
            now = self._clock.monotonic()
            for (since, narrower), used in known.items():
                if since <= time and used <= now and bucket_at(since, _SPAN) == span:
                    level = max(level, narrower)
        return level

    def hot(self, series: str) -> bool:
        """Whether it may get buckets inside of one that is known already."""
        return series in self._known

    def count(self, series: str, bucket: int, time: int, size: int) -> None:
        """A row goes into this bucket."""
        key = (series, bucket)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = _Count(time)
            if len(self._counts) > COUNTED:
                self._counts.popitem(last=False)
        count.rows += 1
        count.bytes += size
        if (count.rows > self._rows or count.bytes > self._bytes) and bucket & 15 < LEVELS - 1:
            self._hot[key] = time

    async def refresh(self) -> None:
        """Read the widths again when they are not fresh. Raises ``Unavailable``."""
        if self._clock.monotonic() - self._read < FRESH:
            return
        async with self._reading:
            now = self._clock.monotonic()
            if now - self._read < FRESH:
                return
            rows = await self._link.ask("widths", (cells.int4(0),), cells.int4(0))
            known: dict[str, dict[Width, float]] = {}
            for series, since, level in rows:
                if level is not None and 0 <= level < LEVELS:
                    before = self._known.get(series, {}).get((since, level))
                    used = self._clock.monotonic() + SETTLE if before is None else before
                    known.setdefault(series, {})[since, level] = used
            self._known = known
            self._read = now

    async def narrow(self) -> None:
        """Record shorter widths for what was found hot. Raises ``Unavailable``: the rows are written again."""
        for (series, bucket), time in list(self._hot.items()):
            count = self._counts.get((series, bucket))
            level = bucket & 15
            known = self._known.get(series, {})
            if count is not None and not any(
                other > level and bucket_at(since, _SPAN) == bucket_at(time, _SPAN) for since, other in known
            ):
                level = self._narrower(count, level, time)
                width = MINUTES[level] * 60_000
                since = -(-(time + AHEAD) // width) * width
                values = (series.encode(), cells.long(since), cells.int4(level), cells.by_time(time), self._ttl)
                await self._link.send([("width", values)], cells.int4(0))
                self._known.setdefault(series, {})[since, level] = self._clock.monotonic() + SETTLE
            self._hot.pop((series, bucket), None)
            self._counts.pop((series, bucket), None)

    def _narrower(self, count: _Count, level: int, time: int) -> int:
        """The widest level whose buckets stay below half of the threshold at the rate seen."""
        minutes = max(1, (time - count.since) / 60_000)
        load = max(count.rows / self._rows, count.bytes / self._bytes) / minutes
        for narrower in range(level + 1, LEVELS):
            if MINUTES[narrower] * load <= 0.5:
                return narrower
        return LEVELS - 1
