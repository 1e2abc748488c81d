"""The one worker number of one process."""

from __future__ import annotations

from chatcluster.core.ids import CLOCK_BOUND, first_id
from chatcluster.ports import Clock, Lease, Unavailable

LEASE = 30.0
"""Seconds that a lease lasts without being renewed."""


class MemoryWorkers:
    """Port ``Workers``: number ``worker``, for one holder at a time. ``floor``: ids up to here may exist already."""

    def __init__(self, *, clock: Clock, floor: int, worker: int = 0, ttl: float = LEASE) -> None:
        self._clock = clock
        self._floor = floor
        self._worker = worker
        self._ttl = ttl
        self._holder: str | None = None
        self._expires = 0.0
        self._last_moment = 0  # wall time at which the newest lease ends

    async def lease(self, holder: str) -> Lease:
        now = self._clock.monotonic()
        if self._holder != holder:
            if self._holder is not None and now < self._expires:
                raise Unavailable(f"worker number {self._worker} is held by {self._holder}")
            if self._holder is not None:
                # The one before may have minted up to its last moment, with a clock ahead by the bound.
                self._floor = max(self._floor, first_id(self._last_moment + CLOCK_BOUND))
            self._holder = holder
        self._expires = now + self._ttl
        self._last_moment = self._clock.now() + int(self._ttl * 1000)
        return Lease(self._worker, self._floor, self._expires)
