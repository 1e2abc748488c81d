"""The worker number of a router: it begins with its first lease, not before, and mints while the lease stands."""

from __future__ import annotations

import asyncio

import pytest

from chatcluster.backends.memory import MemoryWorkers
from chatcluster.core.codes import Refused
from chatcluster.core.metrics import Metrics
from chatcluster.services.router.settings import RouterSettings
from chatcluster.services.router.worker import Worker

TTL = 10.0


def test_it_begins_with_its_first_lease_and_ends_a_margin_before_the_lease(jump, loop_clock):
    async def main():
        workers = MemoryWorkers(clock=loop_clock, floor=0, ttl=TTL)
        await workers.lease("somebody else")
        settings = RouterSettings(name="router")
        worker = Worker(workers=workers, clock=loop_clock, metrics=Metrics(), settings=settings)
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(TTL / 2)
        assert not worker.leased.is_set()
        assert not worker.minting
        with pytest.raises(Refused):
            worker.mint()
        await asyncio.wait_for(worker.leased.wait(), TTL)
        assert worker.minting
        assert worker.mint() > 0
        running.cancel()  # nobody renews it any more
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.sleep(TTL - settings.lease_margin + 0.1)
        assert not worker.minting
        with pytest.raises(Refused):
            worker.mint()

    jump(main())
