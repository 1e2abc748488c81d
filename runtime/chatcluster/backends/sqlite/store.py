"""The store in SQLite: writing rows, and the lifetimes of its connections. Reads are in ``reads``.

Concurrent writes are gathered: one writer takes all that wait, in one transaction. Rows go in multi-row
statements of fixed sizes, because each step of a statement gives the interpreter's lock away and has to
wait for it again beside a busy event loop.

A transaction is not synced (synchronous=NORMAL: it survives a crash of the process, not a power loss).
That is safe because the log syncs this file's write-ahead log before it stores any consumer's position
(see ``log``): what a power loss takes from here is read from the log again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from chatcluster.backends.sqlite.files import checkpoint, connect, locked, prepare, wal_size
from chatcluster.backends.sqlite.reads import SqliteReads
from chatcluster.backends.sqlite.schema import SCHEMA, UPSERTS, VERSION
from chatcluster.core.metrics import Metrics
from chatcluster.core.rows import AnyRow, Row
from chatcluster.ports import Clock, Unavailable

MAX_ROWS = 100_000
"""Rows that wait for the writer; over it ``Unavailable``."""
TRANSACTION_ROWS = 20_000
"""Rows of one transaction: more are written in several."""
CHUNKS = (64, 8, 1)
CHORES_EVERY = 0.5
"""Seconds between looks whether a checkpoint is due."""
CHECKPOINT_BYTES = 16 * 1024 * 1024
"""Size of the write-ahead log from which on it is moved into the database."""

Job = tuple[str, list[Any]]


class SqliteStore(SqliteReads):
    """Port ``Store``. Made by ``open``."""

    def __init__(self, file: Path, *, clock: Clock, metrics: Metrics, max_rows: int, cache: int) -> None:
        self._file = file
        self._clock = clock
        self._max_rows = max_rows
        self._writer = connect(file, "NORMAL", cache=cache)
        prepare(self._writer, SCHEMA, VERSION, file)
        self._keeper = connect(file, "NORMAL", cache=1)
        super().__init__([connect(file, "NORMAL", cache=cache // 2, reader=True) for _ in range(2)])
        self._writing = ThreadPoolExecutor(1, "store-write")
        self._keeping = ThreadPoolExecutor(1, "store-keep")
        self._queue: list[tuple[Sequence[AnyRow], asyncio.Future[None]]] = []
        self._waiting = 0
        self._waiter: asyncio.Future[None] | None = None
        self._closing = False
        self._seconds = metrics.histogram("store_write_seconds", "Time of one transaction of the store.")
        self._written = metrics.counter("store_rows_total", "Rows written to the store.")
        self._trouble = metrics.counter("store_failures_total", "Failed transactions and checkpoints of the store.")

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: str | Path, *, clock: Clock, metrics: Metrics, max_rows: int = MAX_ROWS, cache: int = 32
    ) -> AsyncIterator[SqliteStore]:
        """The store of a data folder (made if missing), for the time of the block. ``cache``: MiB of pages.

        Raises ``BadDataFolder``. The folder must be the log's: see the module's docstring.
        """
        folder = Path(path)
        with locked(folder, "store"):
            store = cls(folder / "store.db", clock=clock, metrics=metrics, max_rows=max_rows, cache=cache)
            writer = asyncio.create_task(store._write(), name="store-writer")
            chores = asyncio.create_task(store._chores(), name="store-chores")
            try:
                yield store
            finally:
                store._closing = True
                store._wake()
                chores.cancel()
                await asyncio.gather(writer, chores, return_exceptions=True)
                for executor in (store._writing, store._keeping):
                    executor.shutdown()
                store.stop_reading()
                store._keeper.close()
                store._writer.close()

    async def write(self, rows: Sequence[AnyRow]) -> None:
        if not rows:
            return
        if self._closing or (self._waiting and self._waiting + len(rows) > self._max_rows):
            raise Unavailable(f"{self._waiting} rows wait for the store")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((rows, done))
        self._waiting += len(rows)
        self._wake()
        await done

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._waiter = loop.create_future()
                await self._waiter
                continue
            count = taken = 0
            while taken < len(self._queue) and count < TRANSACTION_ROWS:
                count += len(self._queue[taken][0])
                taken += 1
            writes, self._queue = self._queue[:taken], self._queue[taken:]
            begun = self._clock.monotonic()
            failure: Exception | None = None
            try:
                jobs = await _jobs(writes)
                await loop.run_in_executor(self._writing, self._transact, jobs)
            except Exception as error:  # any: the writer must outlive a row that cannot be stored
                failure = Unavailable(f"the store could not be written: {error}")
                failure.__cause__ = error
                self._trouble.add()
            else:
                self._written.add(count)
                self._seconds.observe(self._clock.monotonic() - begun)
            self._waiting -= count
            for _, done in writes:
                if done.done():
                    continue  # its caller was cancelled
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)

    def _transact(self, jobs: Sequence[Job]) -> None:
        execute = self._writer.execute
        execute("BEGIN IMMEDIATE")
        try:
            for statement, values in jobs:
                execute(statement, values)
            execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                execute("ROLLBACK")
            raise

    async def _chores(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHORES_EVERY)
            try:
                if wal_size(self._file) >= CHECKPOINT_BYTES:
                    # Most of it beside the writer; the rest between two transactions, so that the file starts anew.
                    await loop.run_in_executor(self._keeping, checkpoint, self._keeper)
                    await loop.run_in_executor(self._writing, checkpoint, self._writer)
            except (sqlite3.Error, OSError):
                self._trouble.add()  # disk full or the like: writes tell it, and the next round tries again


async def _jobs(writes: Sequence[tuple[Sequence[AnyRow], asyncio.Future[None]]]) -> list[Job]:
    """The rows of all writes as statements, rows of one table together. Lets others run every few hundred rows."""
    tables: dict[type[Row], list[AnyRow]] = {}
    for rows, _ in writes:
        for row in rows:
            kind: type[Row] = type(row)
            table = tables.get(kind)
            if table is None:
                tables[kind] = [row]
            else:
                table.append(row)
    jobs: list[Job] = []
    turns = 0
    for kind, found in tables.items():
        upsert = UPSERTS[kind]
        to_values = upsert.values
        at = 0
        left = len(found)
        for chunk in CHUNKS:
            while left >= chunk:
                values: list[Any] = []
                for row in found[at : at + chunk]:
                    values += to_values(row)
                jobs.append((upsert.statement(chunk), values))
                at += chunk
                left -= chunk
                turns += chunk
                if turns >= 512:
                    turns = 0
                    await asyncio.sleep(0)
    return jobs
