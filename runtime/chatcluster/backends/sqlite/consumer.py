"""A consumer of the SQLite log: the only member of its group, so it owns every partition."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chatcluster.ports import Batch, Fenced

if TYPE_CHECKING:
    from chatcluster.backends.sqlite.log import SqliteLog

FETCH_RECORDS = 512
"""Entries of one partition in one fetch."""


class SqliteConsumer:
    """Port ``Consumer``. Made by ``SqliteLog.consumer``; the next one of its group fences it."""

    def __init__(self, log: SqliteLog, group: str, topic: str, generation: int, starts: Mapping[int, int]) -> None:
        self.topic = topic
        self.generation = generation
        self._log = log
        self._group = group
        self._next = dict(starts)
        self._owned = dict.fromkeys(starts, generation)
        self._waiter: asyncio.Future[None] | None = None

    async def fetch(self) -> Sequence[Batch]:
        topic = self.topic
        loop = asyncio.get_running_loop()
        while True:
            batches = []
            # The waiter stands before the look, so news that come in between are not missed.
            waiter = self._waiter = loop.create_future()
            for partition in tuple(self._owned):
                start = self._next[partition]
                entries = await self._log.read(topic, partition, start, FETCH_RECORDS)
                if entries and partition in self._owned:
                    batches.append(Batch(topic, partition, entries))
            if batches:
                for batch in batches:
                    self._next[batch.partition] = batch.entries[-1].offset + 1
                return batches
            await waiter

    def owned(self) -> Mapping[int, int]:
        return self._owned

    async def commit(self, positions: Mapping[int, int]) -> None:
        for partition in positions:
            if partition not in self._owned:
                raise Fenced(f"{self._group} does not own {self.topic}/{partition} here any more")
        self._log.move(self._group, self.topic, positions)

    def wake(self) -> None:
        """Of the log: there are new records."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fence(self) -> None:
        """Of the log: another consumer of the group has taken over."""
        self._owned = {}
