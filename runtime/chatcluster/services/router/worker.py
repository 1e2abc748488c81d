"""The worker number: leased, and with it the right to mint ids. Knows no channel and no message."""

from __future__ import annotations

import asyncio
import logging

from chatcluster.core.codes import Refused
from chatcluster.core.ids import CLOCK_BOUND, ClockFault, Minter
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock, Fenced, Unavailable, Workers
from chatcluster.services.router.settings import RouterSettings

log = logging.getLogger(__name__)


class Worker:
    """Mints ids while the lease stands.

    "Worker numbers are leased; minting stops a margin before the lease ends, on the monotonic clock"
    (delivery.md section 1). A wall clock that leaves those of the others by more than the bound mints nothing: ids
    from the future would make every other router refuse what follows them.
    """

    def __init__(self, *, workers: Workers, clock: Clock, metrics: Metrics, settings: RouterSettings) -> None:
        self._workers = workers
        self._clock = clock
        self._settings = settings
        self._minter: Minter | None = None
        self._number = -1
        self._until = 0.0
        self._last = 0
        self.leased = asyncio.Event()
        """Set when there was a lease for the first time."""
        self._true: int | None = None  # wall ms of the others at monotonic 0, as the last lease told
        self._wrong = False
        self._faults = metrics.counter("router_clock_faults_total", "Ids refused: the clock and seen ids disagree")
        self._fenced = metrics.counter("router_fenced_total", "Leases of the worker number lost")

    @property
    def minting(self) -> bool:
        """Whether there is a lease to mint with."""
        return self._minter is not None and self._clock.monotonic() < self._until

    def mint(self, after: int = 0) -> int:
        """A new id above ``after``. Raises ``Refused(unavailable)`` without a lease or with a faulty clock."""
        minter = self._minter
        if minter is None or self._clock.monotonic() >= self._until:
            raise Refused("unavailable", "this router has no worker number just now", retry_after_ms=1_000)
        try:
            now = self._clock.now()
            self._compare(now)
            return minter.mint(now, after)
        except ClockFault as fault:
            self._faults.add()
            raise Refused("unavailable", f"no id can be minted: {fault}", retry_after_ms=1_000) from fault

    def _compare(self, now: int) -> None:
        """Raises ``ClockFault`` when the wall clock is more than the bound away from the others'."""
        if self._true is None:
            return
        off = now - self._true - int(self._clock.monotonic() * 1000)
        wrong = abs(off) > CLOCK_BOUND
        if wrong != self._wrong:
            self._wrong = wrong
            if wrong:
                log.error("the clock is %d ms ahead of the other routers' and Redis': sends are refused", off)
            else:
                log.warning("the clock agrees with the others' again")
        if wrong:
            raise ClockFault(f"the clock is {off} ms ahead of the others'")

    def observe(self, event_id: int) -> None:
        """Take note of an id that the platform minted (never of one that a client made up)."""
        if self._minter is not None:
            self._minter.observe(event_id)

    async def renew(self) -> float:
        """Take or renew the lease once; the seconds until the next time."""
        try:
            lease = await self._workers.lease(self._settings.name)
        except Unavailable:
            return 0.5  # keep what we have until it ends
        except Fenced:
            # "Whoever holds it must stop acting": at once, not at the end of the lease.
            if self._minter is not None:
                log.error("the lease of worker number %d was lost: sends are refused", self._number)
                self._last = max(self._last, self._minter.last)
            self._fenced.add()
            self._minter = None
            return 1.0
        if self._minter is None or lease.worker != self._number:
            if self._minter is not None:
                self._last = max(self._last, self._minter.last)
            self._minter = Minter(lease.worker)
            self._minter.observe(self._last)
            self._number = lease.worker
        self._minter.observe(lease.floor)
        if lease.skew is not None:
            self._true = self._clock.now() - lease.skew - int(self._clock.monotonic() * 1000)
        self._until = lease.expires - self._settings.lease_margin
        self.leased.set()
        return min(5.0, max(0.1, (lease.expires - self._clock.monotonic()) / 3))

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            pause = await self.renew()
            await asyncio.sleep(pause)
