"""Port Tails: a cache that refuses zombies and says when it does not know."""

from __future__ import annotations

import asyncio

from chatcluster.backends.memory import MemoryTails
from chatcluster.core.records import MessageRecord
from chatcluster.ports import Committed, TailEntry


def entry(offset, prev=-1):
    return TailEntry(offset, prev, offset, MessageRecord("t", "c", offset + 1, "u", f"c{offset}", 0, 0, "hi"))


def offsets(found):
    return None if found is None else [one.offset for one in found]


def test_reading_after_a_position(jump, loop_clock, make_tails):
    async def main():
        async with make_tails(clock=loop_clock) as tails:
            await tails.append(
                [("u:t/a", entry(3)), ("u:t/b", entry(4)), ("u:t/a", entry(7, 3)), ("u:t/a", entry(9, 7))]
            )
            found = await tails.read([("u:t/a", -1), ("u:t/a", 3), ("u:t/a", 5), ("u:t/a", 9), ("u:t/a", 10), ("x", 1)])
            assert [offsets(one) for one in found] == [[3, 7, 9], [7, 9], [7, 9], [], None, None]
            assert found[1][0] == entry(7, 3)

    jump(main())


def test_many_are_read_together_and_each_gets_its_own(jump, loop_clock, make_tails):
    async def main():
        async with make_tails(clock=loop_clock) as tails:
            await tails.append([(f"u:t/{number}", entry(number)) for number in range(0, 230, 2)])
            found = await tails.read([(f"u:t/{number}", number - 1) for number in range(230)])
            assert [offsets(one) for one in found] == [None if number % 2 else [number] for number in range(230)]

    jump(main())


def test_a_zombie_that_writes_late_changes_nothing(jump, loop_clock, make_tails):
    async def main():
        async with make_tails(clock=loop_clock) as tails:
            await tails.append([("x", entry(5)), ("x", entry(8, 5))])
            await tails.append([("x", entry(5)), ("x", entry(6, 5)), ("x", entry(8, 6)), ("y", entry(1))])
            assert [offsets(one) for one in await tails.read([("x", -1), ("y", -1)])] == [[5, 8], [1]]
            assert (await tails.read([("x", 5)]))[0][0].prev == 5

    jump(main())


def test_tails_are_bounded_and_expire(jump, loop_clock, make_tails):
    async def main():
        async with make_tails(clock=loop_clock, entries=3, ttl=2_000) as tails:
            await tails.append([("x", entry(offset)) for offset in range(10)])
            assert [offsets(one) for one in await tails.read([("x", -1), ("x", 8)])] == [[7, 8, 9], [9]]
            await tails.append([("x", entry(10)), ("x", entry(11))])
            assert offsets((await tails.read([("x", -1)]))[0]) == [9, 10, 11]
            await asyncio.sleep(1.2)
            await tails.append([("y", entry(1))])
            await asyncio.sleep(1)
            assert [offsets(one) for one in await tails.read([("x", 11), ("y", 1)])] == [None, []]
            await tails.append([("x", entry(4))])
            assert offsets((await tails.read([("x", -1)]))[0]) == [4], "what expired refuses nobody"

    jump(main())


def test_in_this_process_the_timelines_written_to_least_recently_go_first(jump, loop_clock):
    async def main():
        tails = MemoryTails(clock=loop_clock, size=1000)
        await tails.append([("a", entry(1)), ("b", entry(1)), ("a", entry(2))])
        await tails.append([("c", entry(1))])
        assert [offsets(one) for one in await tails.read([("a", 0), ("b", 0), ("c", 0)])] == [[1, 2], None, [1]]

    jump(main())


def test_positions_never_go_backward_and_stages_are_apart(jump, loop_clock, make_tails):
    async def main():
        async with make_tails(clock=loop_clock) as tails:
            await tails.commit("messages", {0: Committed(10, 500), 1: Committed(1, 1)})
            await tails.commit("messages", {0: Committed(7, 400)})
            assert await tails.committed("messages") == {0: Committed(10, 500), 1: Committed(1, 1)}
            assert await tails.committed("inbox") == {}

    jump(main())


def test_wiped_it_knows_nothing_and_takes_what_comes(jump, loop_clock, make_tails, wipe):
    async def main():
        async with make_tails(clock=loop_clock) as tails:
            await tails.append([("x", entry(5))])
            await tails.commit("inbox", {0: Committed(5, 5)})
            await wipe(tails)
            assert await tails.read([("x", 5)]) == [None]
            assert await tails.committed("inbox") == {}
            await tails.append([("x", entry(2))])
            assert offsets((await tails.read([("x", -1)]))[0]) == [2]

    jump(main())
