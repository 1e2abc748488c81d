"""Which buckets a series has, as a reader knows them.

Old buckets never vanish, and a bucket is registered before its rows are written. A cached list is used only
while no newer bucket can have come: its newest one must still cover the present and ``SLACK`` beyond (the log's
clock may be ahead of ours), and it must be young. All else is one read of a small partition.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from chatcluster.backends.cassandra.buckets import SLACK, end
from chatcluster.backends.cassandra.cluster import CassandraLink
from chatcluster.backends.cassandra.rows import MAX
from chatcluster.ports import Clock

CACHED = 50_000
YOUNG = 30.0
"""Seconds for which a list is used again."""

Bucket = tuple[int, int]
"""A bucket and the lowest offset registered for it."""
T = TypeVar("T")


class Flights:
    """Identical reads in flight share one."""

    def __init__(self) -> None:
        self._flying: dict[object, asyncio.Task[object]] = {}

    async def share(self, key: object, read: Callable[[], Awaitable[T]]) -> T:
        """The answer of a read that began after this call, or of one under way that others began before.

        Whoever asks gets what the rows said at some moment during the call, but for rows written between the
        start of the shared read and this call; see ``CassandraReads.history``.
        """
        task = self._flying.get(key)
        if task is None:
            task = asyncio.ensure_future(read())  # type: ignore[arg-type]
            self._flying[key] = task
            task.add_done_callback(lambda _: self._flying.pop(key, None))
        return await asyncio.shield(task)  # type: ignore[return-value]


class Index:
    """Buckets by series."""

    def __init__(self, link: CassandraLink, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._cached: OrderedDict[str, tuple[float, Sequence[Bucket]]] = OrderedDict()

    async def buckets(self, series: str) -> Sequence[Bucket]:
        """All of them, newest first."""
        cached = self._cached.get(series)
        begun = self._clock.monotonic()
        if cached is not None:
            read, found = cached
            if begun - read < YOUNG and found and end(found[0][0]) > self._clock.now() + SLACK:
                return found
        name = series.encode()
        rows = await self._link.ask("buckets", (name,), name)
        found = [(bucket, MAX - first) for bucket, first in rows]
        self._cached[series] = (begun, found)
        self._cached.move_to_end(series)
        while len(self._cached) > CACHED:
            self._cached.popitem(last=False)
        return found
