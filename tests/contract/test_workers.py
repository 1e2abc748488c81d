"""Port Workers: a number has one holder at a time, and the next one mints above what it minted."""

from __future__ import annotations

import asyncio

import pytest

from chatcluster.core.ids import CLOCK_BOUND, Minter, first_id
from chatcluster.ports import Unavailable


def test_lease_renew_and_take_over(jump, loop_clock, make_workers):
    async def main():
        floor = first_id(loop_clock.now())
        workers = make_workers(clock=loop_clock, floor=floor)
        first = await workers.lease("one")
        assert first.floor == floor
        assert first.expires > loop_clock.monotonic()
        with pytest.raises(Unavailable):
            await workers.lease("two")
        await asyncio.sleep(1)
        renewed = await workers.lease("one")
        assert (renewed.worker, renewed.floor) == (first.worker, floor)
        assert renewed.expires == pytest.approx(first.expires + 1)
        # The holder's ids may run ahead of the clock by the bound, to the last moment of its lease.
        await asyncio.sleep(renewed.expires - loop_clock.monotonic())
        minter = Minter(renewed.worker)
        last = minter.mint(loop_clock.now(), after=first_id(loop_clock.now() + CLOCK_BOUND) - 1)
        other = await workers.lease("two")
        assert other.worker == renewed.worker
        assert other.floor >= first_id(loop_clock.now() + CLOCK_BOUND)
        successor = Minter(other.worker)
        successor.observe(other.floor)
        assert successor.mint(loop_clock.now()) > last
        with pytest.raises(Unavailable):
            await workers.lease("one")

    jump(main())
