"""Which buckets a series has, as a reader knows them.

Old buckets never vanish, and a bucket is registered before its rows are written. A cached list is used only
while no newer bucket can have come: its newest one must still cover the present and ``SLACK`` beyond (the log's
clock may be ahead of ours), it must be young, and the series not hot. All else is one read of a small partition.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from chatcluster.backends.cassandra.buckets import SLACK, end
from chatcluster.backends.cassandra.cluster import CassandraLink
from chatcluster.backends.cassandra.rows import MAX
from chatcluster.backends.cassandra.widths import Widths
from chatcluster.ports import Clock

CACHED = 50_000
YOUNG = 30.0
"""Seconds for which a list is used again."""

Bucket = tuple[int, int]
"""A bucket and the lowest offset registered for it."""
T = TypeVar("T")


class Flights:
    """Identical reads share one: whoever comes while one waits for its turn joins it.

    A read that has begun is not joined, because it may have passed the row that the newcomer must see. Its result
    starts the next one: so a crowd costs two reads, one under way and one behind it.
    """

    def __init__(self) -> None:
        self._flying: dict[object, asyncio.Task[Any]] = {}
        self._next: dict[object, asyncio.Task[Any]] = {}

    async def share(self, key: object, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer of a read that began after this call."""
        task: asyncio.Task[T] | None = self._next.get(key)
        if task is None:
            before = self._flying.get(key)
            task = asyncio.get_running_loop().create_task(self._fly(key, before, read))
            task.add_done_callback(_noticed)
            (self._flying if before is None else self._next)[key] = task
        return await asyncio.shield(task)

    async def _fly(self, key: object, before: asyncio.Task[Any] | None, read: Callable[[], Awaitable[T]]) -> T:
        if before is not None:
            await asyncio.wait([before])
            self._flying[key] = self._next.pop(key)
        try:
            return await read()
        finally:
            if self._flying.get(key) is asyncio.current_task():
                del self._flying[key]


def _noticed(task: asyncio.Task[Any]) -> None:
    """Whoever asked may have been cancelled: nobody else is told of the failure."""
    if not task.cancelled():
        task.exception()


class Index:
    """Buckets by series."""

    def __init__(self, link: CassandraLink, clock: Clock, widths: Widths) -> None:
        self._link = link
        self._widths = widths
        self._clock = clock
        self._cached: OrderedDict[str, tuple[float, Sequence[Bucket]]] = OrderedDict()

    async def buckets(self, series: str) -> Sequence[Bucket]:
        """All of them, newest first."""
        await self._widths.refresh()
        cached = None if self._widths.hot(series) else self._cached.get(series)
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
