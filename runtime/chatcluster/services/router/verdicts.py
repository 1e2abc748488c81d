"""Flagged sends wait here for what the persister decided: ``ack`` the **winning** id (delivery.md section 3 step 5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from chatcluster.core.codes import Refused
from chatcluster.core.faults import told
from chatcluster.core.rows import VerdictRow
from chatcluster.ports import Clock, StoreReader, Unavailable
from chatcluster.services.router.refusals import id_conflict, unknown_outcome
from chatcluster.services.router.sending import Sending
from chatcluster.services.router.settings import RouterSettings

log = logging.getLogger(__name__)
_AT_ONCE = 32


class _Wait:
    __slots__ = ("deadline", "due", "pause", "sending")

    def __init__(self, sending: Sending, now: float, pause: float, deadline: float) -> None:
        self.sending = sending
        self.pause = pause
        self.due = now + pause
        self.deadline = deadline


class Verdicts:
    """Polls the verdict rows of flagged sends that are durable. Bounded; each wait has a deadline."""

    def __init__(
        self,
        *,
        store: StoreReader,
        clock: Clock,
        settings: RouterSettings,
        won: Callable[[Sending, int], None],
        lost: Callable[[Sending, Refused], None],
    ) -> None:
        self._store = store
        self._now = clock.monotonic
        self._settings = settings
        self._won = won
        self._lost = lost
        self._waits: list[_Wait] = []
        self._wake = asyncio.Event()

    @property
    def full(self) -> bool:
        return len(self._waits) >= self._settings.max_verdicts

    def wait(self, sending: Sending) -> None:
        """Its record is durable at ``sending.offset``: answer when the verdict is there."""
        if self.full:
            self._lost(sending, unknown_outcome())
            return
        now = self._now()
        deadline = now + self._settings.verdict_deadline
        self._waits.append(_Wait(sending, now, self._settings.poll, deadline))
        self._wake.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            self._wake.clear()
            if not self._waits:
                await self._wake.wait()
                continue
            now = self._now()
            first = min(wait.due for wait in self._waits)
            if first > now:
                try:
                    async with asyncio.timeout(first - now):
                        await self._wake.wait()
                except TimeoutError:
                    now = max(self._now(), first)
                else:
                    continue
            due = [wait for wait in self._waits if wait.due <= now]
            for start in range(0, len(due), _AT_ONCE):
                await asyncio.gather(*(self._look(wait) for wait in due[start : start + _AT_ONCE]))
            self._waits = [wait for wait in self._waits if not wait.sending.answered]

    async def _look(self, wait: _Wait) -> None:
        sending = wait.sending
        caller, request = sending.caller, sending.request
        try:
            rows = await self._store.verdicts(caller.tenant, request.channel, caller.user, request.client_id)
            if self._decide(sending, rows):
                return
        except Unavailable:
            pass
        except Exception as error:
            log.error("reading a verdict failed: %s", told(error))
        now = self._now()
        if now >= wait.deadline:
            self._lost(sending, unknown_outcome())
            return
        wait.due = min(now + wait.pause, wait.deadline)
        wait.pause = min(wait.pause * 2, self._settings.poll_max)

    def _decide(self, sending: Sending, rows: Sequence[VerdictRow]) -> bool:
        mine: VerdictRow | None = None
        for row in rows:
            # The same id again is a repeat: what was decided of the first record holds for it.
            if row.id == sending.id and row.winner is not None:
                mine = row
                break
            if row.offset == sending.offset:
                mine = row
        if mine is None:
            return False
        winner = mine.winner
        if winner is None:
            self._lost(sending, unknown_outcome("it was void by age: repeat it with retry"))
            return True
        assert sending.claim is not None
        for row in rows:
            if row.id == winner and row.digest != sending.claim.digest:
                self._lost(sending, id_conflict())
                return True
        self._won(sending, winner)
        return True

    def close(self) -> None:
        """Answer who still waits."""
        waits, self._waits = self._waits, []
        for wait in waits:
            self._lost(wait.sending, unknown_outcome())
