"""Port Dedupe: one claim stands; only its own id is called durable."""

from __future__ import annotations

import asyncio

from chatcluster.backends.memory import MemoryDedupe
from chatcluster.ports import Claim, Claimed


def test_the_first_claim_stands_also_within_one_call(jump, loop_clock, make_dedupe):
    async def main():
        async with make_dedupe(clock=loop_clock) as dedupe:
            assert await dedupe.claim([Claim("k", 1, 11), Claim("k", 2, 22), Claim("other", 3, 33)]) == [
                None,
                Claimed(1, 11, False),
                None,
            ]
            assert await dedupe.claim([Claim("k", 4, 44)]) == [Claimed(1, 11, False)]

    jump(main())


def test_settled_only_while_it_holds_that_id(jump, loop_clock, make_dedupe):
    async def main():
        async with make_dedupe(clock=loop_clock) as dedupe:
            await dedupe.claim([Claim("k", 1, 11)])
            await dedupe.replace(Claim("k", 2, 11))
            dedupe.settle([Claim("k", 1, 11), Claim("unknown", 1, 1)])
            await asyncio.sleep(0.3)  # best effort, some time soon
            assert await dedupe.claim([Claim("k", 3, 11)]) == [Claimed(2, 11, False)]
            dedupe.settle([Claim("k", 2, 11)])
            async with asyncio.timeout(20):
                while await dedupe.claim([Claim("k", 3, 11)]) != [Claimed(2, 11, True)]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    jump(main())


def test_entries_end_with_the_window(jump, loop_clock, make_dedupe):
    async def main():
        async with make_dedupe(clock=loop_clock, window=2_000) as dedupe:
            await dedupe.claim([Claim("k", 1, 11)])
            await asyncio.sleep(1)
            assert await dedupe.claim([Claim("k", 2, 11)]) == [Claimed(1, 11, False)]
            await asyncio.sleep(1.2)
            assert await dedupe.claim([Claim("k", 2, 11)]) == [None], "a claim that lost does not renew"
            await dedupe.replace(Claim("k", 3, 11))
            dedupe.settle([Claim("k", 3, 11)])
            await asyncio.sleep(1)
            assert await dedupe.claim([Claim("k", 4, 11)]) == [Claimed(3, 11, True)]
            await asyncio.sleep(1.2)
            assert await dedupe.claim([Claim("k", 4, 11)]) == [None], "what is durable ends too"

    jump(main())


def test_bounded_in_this_process(jump, loop_clock):
    async def main():
        dedupe = MemoryDedupe(clock=loop_clock, entries=2)
        await dedupe.claim([Claim("a", 1, 1), Claim("b", 2, 2), Claim("c", 3, 3)])
        assert await dedupe.claim([Claim("b", 9, 9), Claim("c", 9, 9)]) == [Claimed(2, 2, False), Claimed(3, 3, False)]
        assert await dedupe.claim([Claim("a", 9, 9)]) == [None]

    jump(main())


def test_wiped_it_takes_what_comes(jump, loop_clock, make_dedupe, wipe):
    async def main():
        async with make_dedupe(clock=loop_clock) as dedupe:
            await dedupe.claim([Claim("c", 1, 1)])
            await wipe(dedupe)
            dedupe.settle([Claim("c", 1, 1)])
            assert await dedupe.claim([Claim("c", 4, 4)]) == [None]
            assert await dedupe.claim([Claim("c", 5, 5)]) == [Claimed(4, 4, False)]

    jump(main())
