"""Port Dedupe: one claim stands; only its own id is called durable."""

from __future__ import annotations

import asyncio

from chatcluster.core.records import DEDUPE_WINDOW
from chatcluster.ports import Claim, Claimed


def test_the_first_claim_stands_also_within_one_call(jump, loop_clock, make_dedupe):
    async def main():
        dedupe = make_dedupe(clock=loop_clock)
        assert await dedupe.claim([Claim("k", 1, 11), Claim("k", 2, 22), Claim("other", 3, 33)]) == [
            None,
            Claimed(1, 11, False),
            None,
        ]
        assert await dedupe.claim([Claim("k", 4, 44)]) == [Claimed(1, 11, False)]

    jump(main())


def test_settled_only_while_it_holds_that_id(jump, loop_clock, make_dedupe):
    async def main():
        dedupe = make_dedupe(clock=loop_clock)
        await dedupe.claim([Claim("k", 1, 11)])
        await dedupe.replace(Claim("k", 2, 11))
        dedupe.settle([Claim("k", 1, 11), Claim("unknown", 1, 1)])
        assert await dedupe.claim([Claim("k", 3, 11)]) == [Claimed(2, 11, False)]
        dedupe.settle([Claim("k", 2, 11)])
        assert await dedupe.claim([Claim("k", 3, 11)]) == [Claimed(2, 11, True)]

    jump(main())


def test_entries_end_with_the_window(jump, loop_clock, make_dedupe):
    async def main():
        dedupe = make_dedupe(clock=loop_clock)
        await dedupe.claim([Claim("k", 1, 11)])
        await asyncio.sleep(DEDUPE_WINDOW / 1000 - 1)
        assert await dedupe.claim([Claim("k", 2, 11)]) == [Claimed(1, 11, False)]
        await asyncio.sleep(2)
        assert await dedupe.claim([Claim("k", 2, 11)]) == [None]

    jump(main())


def test_bounded_and_wiped(jump, loop_clock, make_dedupe):
    async def main():
        dedupe = make_dedupe(clock=loop_clock, entries=2)
        await dedupe.claim([Claim("a", 1, 1), Claim("b", 2, 2), Claim("c", 3, 3)])
        assert await dedupe.claim([Claim("b", 9, 9), Claim("c", 9, 9)]) == [Claimed(2, 2, False), Claimed(3, 3, False)]
        assert await dedupe.claim([Claim("a", 9, 9)]) == [None]
        dedupe.wipe()
        assert await dedupe.claim([Claim("c", 4, 4)]) == [None]

    jump(main())
