"""Port Workers: a number has one holder at a time, and the next one mints above what it minted."""

from __future__ import annotations

import asyncio

import pytest

from chatcluster.core.ids import CLOCK_BOUND, Minter, first_id
from chatcluster.ports import Unavailable

TTL = 1.0


async def given(workers, holder):
    """A lease, however often it has to be asked for."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await workers.lease(holder)
            except Unavailable:
                await asyncio.sleep(0.05)


def test_lease_renew_and_take_over(jump, loop_clock, make_workers):
    async def main():
        floor = first_id(loop_clock.now())
        async with make_workers(clock=loop_clock, floor=floor, ttl=TTL) as workers:
            first = await given(workers, "one")
            assert first.floor >= floor
            assert first.expires > loop_clock.monotonic()
            with pytest.raises(Unavailable):
                await workers.lease("two")
            await asyncio.sleep(TTL / 3)
            renewed = await workers.lease("one")
            assert (renewed.worker, renewed.floor) == (first.worker, first.floor)
            assert renewed.expires == pytest.approx(first.expires + TTL / 3, abs=1)
            assert renewed.expires > first.expires
            # The holder's ids may run ahead of the clock by the bound, to the last moment of its lease.
            await asyncio.sleep(renewed.expires - loop_clock.monotonic() - 0.3)
            minter = Minter(renewed.worker)
            minter.observe(renewed.floor)
            last = minter.mint(loop_clock.now(), after=first_id(loop_clock.now() + CLOCK_BOUND) - 1)
            other = await given(workers, "two")
            assert loop_clock.monotonic() >= renewed.expires
            assert other.worker == renewed.worker
            successor = Minter(other.worker)
            successor.observe(other.floor)
            assert successor.mint(loop_clock.now()) > last
            with pytest.raises(Unavailable):
                await workers.lease("one")

    jump(main())


def test_a_holder_that_renews_keeps_its_number_from_the_others(jump, loop_clock, make_workers):
    async def main():
        async with make_workers(clock=loop_clock, floor=0, ttl=TTL) as workers:
            first = await given(workers, "one")
            for _ in range(6):
                await asyncio.sleep(TTL / 4)
                assert (await workers.lease("one")).worker == first.worker
                with pytest.raises(Unavailable):
                    await workers.lease("two")

    jump(main())
