"""The log in SQLite: Kafka's contract in one file. Knows bytes and offsets, not what records mean.

A table of batches: one row per partition and commit, whatever the number of records. One writer takes
all that is queued, commits it in one transaction (WAL, synchronous=FULL: durable at the report) and
reports it. Partition of a key: ``crc32(key as UTF-8) % partitions``, the same for ever.

Positions of consumers are stored lazily (a lost one only causes a replay), and never ahead of what the
consumer wrote elsewhere in the folder: before positions go to the disk, every other write-ahead log of
the data folder is synced. So the store may commit without a sync per transaction: after a power loss
its tail is gone, the stored position is older than that tail, and the log is replayed from there.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import msgspec

from chatcluster.backends.sqlite.consumer import SqliteConsumer
from chatcluster.backends.sqlite.files import (
    checkpoint,
    connect,
    locked,
    prepare,
    sync_wals,
    wal_of,
    wal_size,
)
from chatcluster.backends.sqlite.log_schema import SCHEMA, VERSION, identity
from chatcluster.backends.sqlite.recent import Recent
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock, Entry, Failure, Full, Receipt, Report, Unavailable

MAX_RECORDS = 20_000
"""Records in flight; over it ``Full``."""
MAX_BYTES = 32 * 1024 * 1024
"""Bytes of values in flight; over it ``Full``."""
RECENT_BYTES = 8 * 1024 * 1024
"""Bytes of values kept in memory per partition for those who read along."""
PACE = 0.005
"""Seconds from one group commit to the next at least: a commit costs as much as twenty records."""
CHORES_EVERY = 0.5
"""Seconds between storing positions and looking whether a checkpoint is due."""
CHECKPOINT_BYTES = 8 * 1024 * 1024
"""Size of the write-ahead log from which on it is moved into the database."""

T = TypeVar("T")
_SHIFT = 48
_encode = msgspec.msgpack.Encoder().encode
_decode: msgspec.msgpack.Decoder[list[tuple[str, bytes]]] = msgspec.msgpack.Decoder(list[tuple[str, bytes]])

Position = tuple[str, str, int]
"""(group, topic, partition)"""


class _Partition:
    """What is queued for one partition, and what was committed last."""

    __slots__ = ("base", "number", "recent", "records", "reports", "time", "topic")

    def __init__(self, topic: str, number: int, base: int, end: int, time: int, size: int) -> None:
        self.topic = topic
        self.number = number
        self.base = base
        self.time = time
        self.recent = Recent(end, size)
        self.records: list[tuple[str, bytes]] = []
        self.reports: list[Report] = []


class SqliteLog:
    """Ports ``Log`` and ``LogReader``. Made by ``open``."""

    def __init__(
        self,
        file: Path,
        *,
        clock: Clock,
        metrics: Metrics,
        partitions: Mapping[str, int] | None,
        max_records: int,
        max_bytes: int,
        recent_bytes: int,
    ) -> None:
        self._file = file
        self._clock = clock
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._writer = connect(file, "FULL", cache=8)
        prepare(self._writer, SCHEMA, VERSION, file)
        self._reader = connect(file, "FULL", cache=8, reader=True)
        self._keeper = connect(file, "FULL", cache=1)
        # One thread each for appends, for reads of old records, and for positions and checkpoints.
        self._writing = ThreadPoolExecutor(1, "log-write")
        self._reading = ThreadPoolExecutor(1, "log-read")
        self._keeping = ThreadPoolExecutor(1, "log-keep")
        self._epoch, counts = identity(self._writer, dict(partitions or {}), file)
        self._topics: dict[str, list[_Partition]] = {}
        for name, (topic, count) in counts.items():
            self._topics[name] = [self._load(name, topic, at, recent_bytes) for at in range(count)]
        self._partitions = [partition for topic in self._topics.values() for partition in topic]
        self._positions: dict[Position, int] = {
            (consumers, topic, partition): offset
            for consumers, topic, partition, offset in self._writer.execute(
                "SELECT consumers, topic, partition, offset FROM positions"
            )
        }
        self._moved: dict[Position, int] = {}
        self._consumers: dict[tuple[str, str], SqliteConsumer] = {}
        self._touched: list[_Partition] = []
        self._count = 0  # in flight, records and bytes
        self._bytes = 0
        self._queued_at = 0.0
        self._taken_at = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._closing = False
        self._commits = metrics.histogram("log_commit_seconds", "Time of one group commit of the log.")
        self._appended = metrics.counter("log_records_total", "Records appended to the log.")
        self._failed = metrics.counter("log_failures_total", "Records whose append failed.")
        self._trouble = metrics.counter("log_chore_failures_total", "Failed checkpoints and stores of positions.")
        metrics.gauge("log_in_flight", "Records queued and not yet reported.", lambda: self._count)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: str | Path,
        *,
        clock: Clock,
        metrics: Metrics,
        partitions: Mapping[str, int] | None = None,
        max_records: int = MAX_RECORDS,
        max_bytes: int = MAX_BYTES,
        recent_bytes: int = RECENT_BYTES,
    ) -> AsyncIterator[SqliteLog]:
        """The log of a data folder (made if missing), for the time of the block.

        ``partitions``: by topic, for a new folder; must agree with an old one. Raises ``BadDataFolder``.
        Leaving the block writes and reports what is queued, and stores positions.
        """
        folder = Path(path)
        with locked(folder, "log"):
            log = cls(
                folder / "log.db",
                clock=clock,
                metrics=metrics,
                partitions=partitions,
                max_records=max_records,
                max_bytes=max_bytes,
                recent_bytes=recent_bytes,
            )
            writer = asyncio.create_task(log._write(), name="log-writer")
            chores = asyncio.create_task(log._chores(), name="log-chores")
            try:
                yield log
            finally:
                log._closing = True
                log._wake()
                chores.cancel()
                await asyncio.gather(writer, chores, return_exceptions=True)
                try:
                    await log._store_positions()
                finally:
                    for executor in (log._writing, log._reading, log._keeping):
                        executor.shutdown()
                    for connection in (log._reader, log._keeper, log._writer):
                        connection.close()

    # -- Log ------------------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        return self._epoch

    def partitions(self, topic: str) -> int:
        return len(self._topics[topic])

    def partition_of(self, topic: str, key: str) -> int:
        return crc32(key.encode()) % len(self._topics[topic])

    def append(self, topic: str, key: str, value: bytes, report: Report) -> None:
        partitions = self._topics[topic]
        self._queue(partitions[crc32(key.encode()) % len(partitions)], key, value, report)

    def append_to(self, topic: str, partition: int, value: bytes, report: Report) -> None:
        self._queue(self._topics[topic][partition], "", value, report)

    def stalled(self) -> float:
        since = self._taken_at or self._queued_at
        return self._clock.monotonic() - since if since else 0.0

    def _queue(self, partition: _Partition, key: str, value: bytes, report: Report) -> None:
        size = len(value)
        if self._count >= self._max_records or self._bytes + size > self._max_bytes or self._closing:
            raise Full(f"{self._count} records wait for the log")
        records = partition.records
        if not records:
            if not self._touched:
                self._queued_at = self._clock.monotonic()
                waiter, self._waiter = self._waiter, None
                if waiter is not None and not waiter.done():
                    waiter.set_result(None)
            self._touched.append(partition)
        records.append((key, value))
        partition.reports.append(report)
        self._count += 1
        self._bytes += size

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _write(self) -> None:
        """Until closed and empty: take all that is queued, commit, report."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._touched:
                if self._closing:
                    return
                self._waiter = loop.create_future()
                await self._waiter
                continue
            self._taken_at, self._queued_at = self._queued_at, 0.0
            touched, self._touched = self._touched, []
            now, began = self._clock.now(), self._clock.monotonic()
            taken: list[tuple[_Partition, list[tuple[str, bytes]], list[Report], int]] = []
            values: list[int | bytes] = []
            for partition in touched:
                records, partition.records = partition.records, []
                reports, partition.reports = partition.reports, []
                # Append times of a partition never decrease, whatever the wall clock does.
                time = max(now, partition.time)
                taken.append((partition, records, reports, time))
                values += (partition.base | partition.recent.end, len(records), time, _encode(records))
            try:
                await loop.run_in_executor(self._writing, self._insert, values)
            except sqlite3.Error as error:
                self._fail(taken, f"the log could not be written: {error}")
            else:
                self._report(taken)
            self._taken_at = 0.0
            # A lone record is committed at once; under load a commit is shared by whoever comes within PACE.
            pause = began + PACE - self._clock.monotonic()
            if pause > 0 and not self._closing:
                await asyncio.sleep(pause)

    def _insert(self, values: list[int | bytes]) -> None:
        # One statement is one transaction and one pass without the interpreter's lock.
        rows = ",".join(["(?,?,?,?)"] * (len(values) // 4))
        self._writer.execute(f"INSERT INTO batches (id, count, time, payload) VALUES {rows}", values)

    def _report(self, taken: list[tuple[_Partition, list[tuple[str, bytes]], list[Report], int]]) -> None:
        self._commits.observe(self._clock.monotonic() - self._taken_at)
        topics = set()
        for partition, records, reports, time in taken:
            number = partition.number
            offset = partition.recent.end
            partition.time = time
            entries = []
            size = 0
            for key, value in records:
                entries.append(Entry(offset, time, key, value))
                size += len(value)
                offset += 1
            partition.recent.add(entries, size)
            topics.add(partition.topic)
            self._count -= len(records)
            self._bytes -= size
            self._appended.add(len(records))
            for entry, report in zip(entries, reports, strict=True):
                report(Receipt(number, entry.offset, time))
        for consumer in self._consumers.values():
            if consumer.topic in topics:
                consumer.wake()

    def _fail(self, taken: list[tuple[_Partition, list[tuple[str, bytes]], list[Report], int]], reason: str) -> None:
        failure = Failure(reason)
        for _, records, reports, _ in taken:
            self._count -= len(records)
            self._bytes -= sum(len(value) for _, value in records)
            self._failed.add(len(records))
            for report in reports:
                report(failure)

    # -- LogReader ------------------------------------------------------------------------------

    async def read(self, topic: str, partition: int, start: int, limit: int) -> Sequence[Entry]:
        held = self._topics[topic][partition]
        start = max(start, 0)
        if start >= held.recent.first:
            return held.recent.read(start, limit)
        return await self._ask(partial(self._read_file, held.base, start, held.recent.end, limit))

    async def offset_at(self, topic: str, partition: int, time: int) -> int:
        held = self._topics[topic][partition]
        found = held.recent.offset_at(time)
        if found is not None:
            return found
        return await self._ask(partial(self._search_file, held.base, held.recent.end, time))

    async def end(self, topic: str, partition: int) -> int:
        return self._topics[topic][partition].recent.end

    async def _ask(self, function: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, function)
        except sqlite3.Error as error:
            raise Unavailable(f"the log could not be read: {error}") from error

    def _read_file(self, base: int, start: int, end: int, limit: int) -> list[Entry]:
        found: list[Entry] = []
        first = self._reader.execute(
            "SELECT max(id) FROM batches WHERE id BETWEEN ? AND ?", (base, base | start)
        ).fetchone()[0]
        cursor = self._reader.execute(
            "SELECT id, time, payload FROM batches WHERE id >= ? AND id < ? ORDER BY id",
            (base | start if first is None else first, base | end),
        )
        for number, time, payload in cursor:
            offset = number - base
            for key, value in _decode.decode(payload):
                if offset >= start:
                    found.append(Entry(offset, time, key, value))
                offset += 1
            if len(found) >= limit:
                break
        cursor.close()
        return found[:limit]

    def _search_file(self, base: int, end: int, time: int) -> int:
        """Batches ascend by offset and time alike: halve the offsets, no index needed."""
        low, high = 0, end  # the answer is in low..high
        while low < high:
            middle = (low + high) // 2
            row = self._reader.execute(
                "SELECT id, count, time FROM batches WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1",
                (base, base | middle),
            ).fetchone()
            if row is None:
                low = middle + 1
            elif row[2] >= time:
                high = row[0] - base
            else:
                low = row[0] - base + row[1]
        return low

    # -- consumers, positions, checkpoints --------------------------------------------------------

    def consumer(self, group: str, topic: str) -> SqliteConsumer:
        """A consumer that owns all partitions. The group's consumer before it loses them (a zombie is fenced)."""
        before = self._consumers.get((group, topic))
        generation = 1
        if before is not None:
            generation = before.generation + 1
            before.fence()
        starts = {at: self._positions.get((group, topic, at), 0) for at in range(len(self._topics[topic]))}
        consumer = SqliteConsumer(self, group, topic, generation, starts)
        self._consumers[group, topic] = consumer
        return consumer

    def move(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Of a consumer: these are done. Stored within ``CHORES_EVERY``."""
        for partition, offset in positions.items():
            self._positions[group, topic, partition] = offset
            self._moved[group, topic, partition] = offset

    async def _chores(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHORES_EVERY)
            try:
                await self._store_positions()
                if wal_size(self._file) >= CHECKPOINT_BYTES:
                    # Most of it beside the writer; the rest between two commits, so that the file starts anew.
                    await loop.run_in_executor(self._keeping, checkpoint, self._keeper)
                    await loop.run_in_executor(self._writing, checkpoint, self._writer)
            except (sqlite3.Error, OSError):
                self._trouble.add()  # disk full or the like: appends tell it, and the next round tries again

    async def _store_positions(self) -> None:
        moved, self._moved = self._moved, {}
        if not moved:
            return
        loop = asyncio.get_running_loop()
        rows = [(*position, offset) for position, offset in moved.items()]
        try:
            # In this order: no position may outlive what the consumer wrote below it.
            await loop.run_in_executor(self._keeping, self._sync_others)
            await loop.run_in_executor(self._writing, self._insert_positions, rows)
        except BaseException:
            self._moved = moved | self._moved
            raise

    def _sync_others(self) -> None:
        sync_wals(self._file.parent, but=wal_of(self._file))

    def _insert_positions(self, rows: Sequence[tuple[str, str, int, int]]) -> None:
        values = ",".join(["(?,?,?,?)"] * len(rows))
        self._writer.execute(
            f"INSERT OR REPLACE INTO positions VALUES {values}", [value for row in rows for value in row]
        )

    def _load(self, name: str, topic: int, number: int, recent_bytes: int) -> _Partition:
        base = (topic * 256 + number) << _SHIFT
        row = self._writer.execute(
            "SELECT id, count, time FROM batches WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1",
            (base, base | (1 << _SHIFT) - 1),
        ).fetchone()
        end, time = (0, 0) if row is None else (row[0] - base + row[1], row[2])
        return _Partition(name, number, base, end, time, recent_bytes)
