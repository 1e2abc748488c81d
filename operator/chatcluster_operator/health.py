"""Whether this process still does its work: what ``/healthz`` says, and why not. No I/O.

A leader is not alive when one of these stands still for longer than it can by any fault outside: a watch (news or a
bookmark), a look at a ChatCluster that is due, the event loop. A follower has nothing of these. A server that is away
is no reason: the Lease is lost by then, and the process ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

STALE_WATCH = 300.0
"""Seconds: a dead watch is noticed after ``watches.QUIET`` and begun anew, with backoff; this is when that failed."""
STALE_LOOK = 180.0
"""Seconds for which a look at a ChatCluster is due or takes."""
SLOW_LOOP = 5.0
"""Seconds that the event loop lags, each time for half a minute."""


class Lag:
    """How late the event loop runs what is due."""

    EVERY = 1.0
    SPAN = 30

    def __init__(self) -> None:
        self._seen: list[float] = []

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            due = time.monotonic() + self.EVERY
            await asyncio.sleep(self.EVERY)
            self._seen = [*self._seen[1 - self.SPAN :], time.monotonic() - due]

    @property
    def most(self) -> float:
        """Seconds, in the last half minute."""
        return max(self._seen, default=0.0)

    @property
    def least(self) -> float:
        """Seconds that it lagged all the time; 0 before half a minute is known."""
        return min(self._seen) if len(self._seen) == self.SPAN else 0.0


def ailment(*, leads: bool, watches: Mapping[str, float], behind: float, lag: float) -> str:
    """Why this process is to be started anew; empty: it is well. ``watches``: seconds since each gave something."""
    if not leads:
        return ""
    if watches:
        oldest = max(watches, key=lambda name: watches[name])
        if watches[oldest] > STALE_WATCH:
            return f"the watch of {oldest} gave nothing for {watches[oldest]:.0f} s"
    if behind > STALE_LOOK:
        return f"a ChatCluster waits for a look for {behind:.0f} s"
    if lag > SLOW_LOOP:
        return f"the event loop lags {lag:.1f} s"
    return ""
