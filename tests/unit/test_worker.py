"""The worker number of a router: it begins with its first lease, not before, and mints while the lease stands."""

from __future__ import annotations

import asyncio

import pytest

from chatcluster.backends.memory import MemoryWorkers
from chatcluster.core.codes import Refused
from chatcluster.core.ids import first_id
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Fenced, Lease, Unavailable
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


class Given:
    """Leases as the test gives them."""

    def __init__(self, clock):
        self.clock = clock
        self.number, self.floor, self.error = 3, 0, None

    async def lease(self, holder):
        if self.error is not None:
            raise self.error
        return Lease(self.number, self.floor, self.clock.monotonic() + TTL)


def number_of(event_id):
    return event_id >> 12 & 1023


def test_ids_go_on_above_all_before_whatever_becomes_of_the_lease_and_the_clock(jump, loop_clock):
    async def main():
        given = Given(loop_clock)
        worker = Worker(workers=given, clock=loop_clock, metrics=Metrics(), settings=RouterSettings())
        given.floor = first_id(loop_clock.now() + 3_000)  # its last holder may have minted so far
        await worker.renew()
        ids = [worker.mint()]
        assert ids[0] > given.floor
        given.number, given.floor, loop_clock.skew = 4, 0, 4_500  # another number, and nobody was asked to stop
        await worker.renew()
        ids.append(worker.mint())
        given.error = Fenced("taken")
        await worker.renew()
        assert not worker.minting
        given.error, given.number, loop_clock.skew = None, 2, 0
        await worker.renew()
        ids.append(worker.mint())
        given.error = Unavailable("silent")
        await worker.renew()
        ids.append(worker.mint())  # what it has lasts until its end
        assert ids == sorted(set(ids))
        assert [number_of(one) for one in ids] == [3, 4, 2, 2]

    jump(main())
