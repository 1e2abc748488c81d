"""Writing that does not give up: retries with jitter, appends with their reports, tails with a backlog.

Knows ports and time, nothing of channels or timelines.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from chatcluster.core.backoff import delay
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Failure, Full, Log, Receipt, TailEntry, Tails, Unavailable
from chatcluster.services.persister.settings import PersisterSettings

T = TypeVar("T")


class Patience:
    """Tries for ever: nothing of the log may be skipped because a backend is down (bounded: nothing new is fetched)."""

    def __init__(self, *, metrics: Metrics, settings: PersisterSettings) -> None:
        self._base = settings.retry_base
        self._cap = settings.retry_cap
        self._retries = metrics.counter("persister_retries_total", "Steps tried again: a backend did not answer.")

    async def insist(self, step: Callable[[], Awaitable[T]]) -> T:
        """The step's result, tried until it does not raise ``Unavailable``. The step must be repeatable."""
        attempt = 0
        while True:
            try:
                return await step()
            except Unavailable:
                await self.wait(attempt)
                attempt += 1

    async def wait(self, attempt: int) -> None:
        """Back off before another try."""
        self._retries.add()
        await asyncio.sleep(delay(attempt, random.random, base=self._base, cap=self._cap))


class _Reports:
    """Waits for the reports of one chunk of appends; one object and no future per append."""

    __slots__ = ("_done", "_failed", "_waiting")

    def __init__(self) -> None:
        self._done: asyncio.Future[None] | None = None
        self._waiting = 0
        self._failed = False

    def expect(self) -> None:
        self._waiting += 1

    def report(self, outcome: Receipt | Failure) -> None:
        self._waiting -= 1
        if isinstance(outcome, Failure):
            self._failed = True
        if not self._waiting and self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def settled(self) -> bool:
        """Whether every append is durable."""
        if self._waiting:
            self._done = asyncio.get_running_loop().create_future()
            await self._done
        return not self._failed


class Appender:
    """Appends to the log and waits until everything is durable."""

    def __init__(self, *, log: Log, patience: Patience, chunk: int) -> None:
        self._log = log
        self._patience = patience
        self._chunk = chunk

    async def append(self, topic: str, records: Sequence[tuple[str, bytes]]) -> None:
        """Append (key, value) pairs, those of one key in order. A failed chunk is appended again before the next.

        So a record may stand twice, or after a later one of the same chunk; readers tell repeats by content.
        """
        for start in range(0, len(records), self._chunk):
            chunk = records[start : start + self._chunk]
            attempt = 0
            while not await self._append(topic, chunk):
                await self._patience.wait(attempt)
                attempt += 1

    async def _append(self, topic: str, chunk: Sequence[tuple[str, bytes]]) -> bool:
        reports = _Reports()
        append, expect, report = self._log.append, reports.expect, reports.report
        attempt = 0
        for key, value in chunk:
            while True:
                try:
                    append(topic, key, value, report)
                    break
                except Full:  # nothing queued: wait for room and go on where we were
                    await self._patience.wait(attempt)
                    attempt += 1
            expect()
        return await reports.settled()


class TailWriter:
    """Step 3. A tail that does not answer must not stop the log: entries wait in a bounded backlog.

    Without them events come from the store (section 5); readers see by ``prev`` what is missing.
    """

    def __init__(self, *, tails: Tails, metrics: Metrics, settings: PersisterSettings, stage: str) -> None:
        self._tails = tails
        self._patience = settings.tail_patience
        self._bound = settings.tail_backlog
        self._backlog: deque[tuple[str, TailEntry]] = deque()
        self._dropped = metrics.counter("persister_tail_entries_dropped_total", "Tail entries given up.", stage=stage)
        metrics.gauge(
            "persister_tail_backlog", "Tail entries waiting for the tails.", lambda: len(self._backlog), stage=stage
        )

    async def append(self, entries: Sequence[tuple[str, TailEntry]]) -> None:
        """Add to the tails, in order. Returns after ``tail_patience`` at the latest, whatever the tails do."""
        backlog = self._backlog
        if not backlog and not entries:
            return
        waiting = [*backlog, *entries] if backlog else entries
        try:
            async with asyncio.timeout(self._patience):
                await self._tails.append(waiting)
        except (Unavailable, TimeoutError):
            backlog.extend(entries)
            while len(backlog) > self._bound:
                backlog.popleft()
                self._dropped.add()
        else:
            backlog.clear()
