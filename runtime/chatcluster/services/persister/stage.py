"""One stage of the persister: fetch, work, commit. What the work is, it does not know.

Commits the contiguous prefix only: a round is done as a whole, in the order of the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from chatcluster.core.metrics import Metrics
from chatcluster.ports import Batch, Clock, Committed, Consumer, Fenced, LogReader, Tails, Unavailable
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.persister.writing import Patience

Topic = Literal["messages", "inbox"]


class Work(Protocol):
    """What a stage does with the records."""

    async def begin(self, partition: int, offset: int, time: int) -> None:
        """Build the memory of a partition whose next record stands at ``offset``, appended at ``time``."""
        ...

    def forget(self, partition: int) -> None:
        """The partition may have been somebody else's: what is in memory of it counts no more."""
        ...

    async def process(self, batches: Sequence[Batch]) -> None:
        """Write everything of these batches, every step acknowledged when it returns."""
        ...


class _Progress:
    __slots__ = ("committed", "generation", "log_time", "next")

    def __init__(self, generation: int, offset: int) -> None:
        self.generation = generation
        self.next = offset
        self.log_time = 0
        self.committed = offset


class Stage:
    """Runs one ``Work`` over one ``Consumer``."""

    def __init__(
        self,
        *,
        topic: Topic,
        consumer: Consumer,
        reader: LogReader,
        work: Work,
        tails: Tails,
        clock: Clock,
        metrics: Metrics,
        settings: PersisterSettings,
        patience: Patience,
    ) -> None:
        self._topic: Topic = topic
        self._consumer = consumer
        self._reader = reader
        self._work = work
        self._tails = tails
        self._clock = clock
        self._settings = settings
        self._patience = patience
        self._progress: dict[int, _Progress] = {}
        self._due = 0.0
        self._lag = 0
        self._records = metrics.counter("persister_records_total", "Records done.", stage=topic)
        self._rounds = metrics.histogram("persister_round_seconds", "From fetched to written.", stage=topic)
        self._delay = metrics.histogram(
            "persister_delay_seconds", "From append to written, the oldest of a round.", stage=topic
        )
        self._rebuilds = metrics.counter("persister_rebuilds_total", "Partitions whose memory was built.", stage=topic)
        metrics.gauge("persister_lag_records", "Records not yet done.", lambda: self._lag, stage=topic)
        metrics.gauge("persister_lag_seconds", "Age of the oldest record not yet done.", self._lag_seconds, stage=topic)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(self._settings.commit_interval, self._commit))
            group.create_task(self._every(self._settings.progress_interval, self._publish))
            # The next records are fetched while these are written: one round ahead, no more.
            fetching = group.create_task(self._fetch())
            while True:
                batches = await fetching
                fetching = group.create_task(self._fetch())
                await self._round(batches)

    async def _fetch(self) -> Sequence[Batch]:
        # Rounds have a price of their own: a lone record is taken at once, a stream in rounds worth their price.
        wait = self._due - self._clock.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        fetched = await self._patience.insist(self._consumer.fetch)
        self._due = self._clock.monotonic() + self._settings.round_interval
        return fetched

    async def _every(self, interval: float, act: Callable[[], object]) -> None:
        while True:
            await asyncio.sleep(interval)
            await act()  # type: ignore[misc]

    async def _round(self, fetched: Sequence[Batch]) -> None:
        started = self._clock.monotonic()
        owned = self._consumer.owned()
        for partition in [partition for partition in self._progress if partition not in owned]:
            self._drop(partition)
        batches = [batch for batch in fetched if batch.entries and batch.partition in owned]
        for batch in batches:
            await self._enter(batch, owned[batch.partition])
        if not batches:
            return
        await self._work.process(batches)
        oldest = batches[0].entries[0].time
        for batch in batches:
            progress = self._progress[batch.partition]
            progress.next = batch.entries[-1].offset + 1
            progress.log_time = max(progress.log_time, *(entry.time for entry in batch.entries))
            oldest = min(oldest, batch.entries[0].time)
            self._records.add(len(batch.entries))
        self._rounds.observe(self._clock.monotonic() - started)
        self._delay.observe(max(0, self._clock.now() - oldest) / 1000)

    async def _enter(self, batch: Batch, generation: int) -> None:
        first = batch.entries[0]
        progress = self._progress.get(batch.partition)
        # Another generation: it was somebody else's in between. An earlier offset: it was read again. What we
        # remember is as of a later position then, and counts no more.
        if progress is not None and (progress.generation != generation or first.offset < progress.next):
            self._drop(batch.partition)
            progress = None
        if progress is None:
            await self._work.begin(batch.partition, first.offset, first.time)
            self._progress[batch.partition] = _Progress(generation, first.offset)
            self._rebuilds.add()

    def _drop(self, partition: int) -> None:
        self._progress.pop(partition, None)
        self._work.forget(partition)

    async def _commit(self) -> None:
        positions = {
            partition: progress.next
            for partition, progress in self._progress.items()
            if progress.next != progress.committed
        }
        if not positions:
            return
        try:
            await self._consumer.commit(positions)
        except Unavailable:
            return  # with the next ones
        except Fenced:
            # The whole call may have been refused for one partition: the others are committed by themselves.
            # The next round sees by ``owned`` what was lost, and drops its memory.
            for partition, offset in positions.items():
                try:
                    await self._consumer.commit({partition: offset})
                except (Fenced, Unavailable):
                    continue
                self._committed(partition, offset)
            return
        for partition, offset in positions.items():
            self._committed(partition, offset)

    def _committed(self, partition: int, offset: int) -> None:
        progress = self._progress.get(partition)
        if progress is not None:
            progress.committed = offset

    async def _publish(self) -> None:
        """Beside the tails, every second: how far this stage has come. All rows below it are acknowledged."""
        positions = {
            partition: Committed(progress.next, progress.log_time)
            for partition, progress in self._progress.items()
            if progress.log_time
        }
        try:
            if positions:  # also when nothing moved: a cache may have forgotten it
                async with asyncio.timeout(self._settings.tail_patience):
                    await self._tails.commit(self._topic, positions)
            lag = 0
            for partition, progress in self._ours():
                lag += max(0, await self._reader.end(self._topic, partition) - progress.next)
            self._lag = lag
        except (Unavailable, TimeoutError):
            return

    def _ours(self) -> list[tuple[int, _Progress]]:
        """What is owned: a lost partition is dropped by the next round, and to whoever lost all none comes."""
        owned = self._consumer.owned()
        return [(at, progress) for at, progress in self._progress.items() if owned.get(at) == progress.generation]

    def _lag_seconds(self) -> float:
        oldest = min((progress.log_time for _, progress in self._ours() if progress.log_time), default=None)
        if not self._lag or oldest is None:
            return 0.0
        return max(0, self._clock.now() - oldest) / 1000
