"""What is around a router, at no cost: ports that answer at once, so that what remains is the router's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from chatcluster.core.metrics import Metrics
from chatcluster.core.rows import Membership, StoredChannel
from chatcluster.ports import Lease, Receipt, Report
from chatcluster.services.router.service import RouterService
from chatcluster.services.router.settings import RouterSettings


class RealClock:
    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class TrivialLog:
    epoch = "e"

    def __init__(self) -> None:
        self.waiting: list[Report] = []
        self.end = 0

    def append(self, topic: str, key: str, value: bytes, report: Report) -> None:
        if not self.waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self.waiting.append(report)

    def flush(self) -> None:
        reports, self.waiting = self.waiting, []
        now = time.time_ns() // 1_000_000
        for report in reports:
            self.end += 1
            report(Receipt(0, self.end, now))

    def stalled(self) -> float:
        return 0.0


class TrivialRest:
    """Bus, dedupe, store and lease that answer at once."""

    def publish(self, topics: Sequence[str], envelope: object) -> None:
        pass

    async def subscribe(self, topics: Sequence[str]) -> None:
        pass

    async def listen(self) -> AsyncIterator[Sequence[Any]]:
        await asyncio.Event().wait()
        yield []

    async def claim(self, claims: Sequence[Any]) -> list[None]:
        return [None] * len(claims)

    def settle(self, settled: Sequence[Any]) -> None:
        pass

    async def channel(self, tenant: str, channel: str) -> StoredChannel:
        return StoredChannel(channel, "direct", None, "ann", 0, 2, "inbox", -1, None, 1)

    async def members(self, tenant: str, channel: str, *, after: str, limit: int) -> list[Membership]:
        return [Membership("ann", "member", 1), Membership("bob", "member", 1)]

    async def lease(self, holder: str) -> Lease:
        return Lease(1, 0, time.monotonic() + 3_600)


def trivial_router(**ports: Any) -> RouterService:
    """A router without limits of rate; ``ports`` are real, all others trivial."""
    names = ("bus", "store", "dedupe", "cursors", "tails", "workers")
    return RouterService(
        **{"log": TrivialLog(), **dict.fromkeys(names, TrivialRest()), **ports},
        clock=RealClock(),
        metrics=Metrics(),
        settings=RouterSettings(sends_per_second=1e9, send_burst=1_000_000_000),
    )
