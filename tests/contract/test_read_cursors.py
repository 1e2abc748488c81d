"""Port ReadCursors: merged by max, dirty until flushed."""

from __future__ import annotations

import pytest

from chatcluster.backends.memory import MemoryReadCursors
from chatcluster.core.rows import ReadCursorRow
from chatcluster.ports import Unavailable


def row(message_id, user="u", channel="c", tenant="t"):
    return ReadCursorRow(tenant, user, channel, message_id)


def test_it_only_moves_forward(jump, make_read_cursors):
    async def main():
        async with make_read_cursors() as cursors:
            assert await cursors.advance(row(5)) == 5
            assert await cursors.advance(row(3)) == 5
            assert await cursors.advance(row(10)) == 10
            assert await cursors.advance(row(9)) == 10
            assert await cursors.advance(row(1, tenant="other")) == 1
            assert await cursors.get("t", "u", ["c", "unknown"]) == {"c": 10}
            assert await cursors.get("t", "nobody", ["c"]) == {}

    jump(main())


def test_changes_wait_for_their_flush_oldest_first(jump, make_read_cursors):
    async def main():
        async with make_read_cursors() as cursors:
            for number, channel in enumerate("abc"):
                await cursors.advance(row(number + 1, channel=channel))
            await cursors.advance(row(8, channel="a"))
            taken = await cursors.dirty(2)
            assert taken == [row(8, channel="a"), row(2, channel="b")]
            assert await cursors.dirty(2) == taken, "dirty until flushed"
            await cursors.advance(row(9, channel="b"))
            await cursors.flushed(taken)
            assert await cursors.dirty(9) == [row(9, channel="b"), row(3, channel="c")]
            assert await cursors.get("t", "u", ["a"]) == {"a": 8}
            await cursors.advance(row(2, channel="a"))
            assert row(2, channel="a") not in await cursors.dirty(9)

    jump(main())


def test_over_the_bound_a_newcomer_is_refused_and_what_waits_moves_on(jump, make_read_cursors):
    async def main():
        async with make_read_cursors(dirty=5) as cursors:
            for number in range(5):
                await cursors.advance(row(number + 1, user=f"u{number}"))
            with pytest.raises(Unavailable):
                await cursors.advance(row(1, user="newcomer"))
            assert await cursors.get("t", "newcomer", ["c"]) == {}
            assert await cursors.advance(row(50, user="u0")) == 50
            waiting = await cursors.dirty(9)
            assert len(waiting) == 5
            await cursors.flushed(waiting)
            assert await cursors.advance(row(1, user="newcomer")) == 1

    jump(main())


def test_ids_beyond_a_double_are_told_apart(jump, make_read_cursors):
    async def main():
        async with make_read_cursors() as cursors:
            assert await cursors.advance(row(2**62)) == 2**62
            assert await cursors.advance(row(2**62 + 1)) == 2**62 + 1
            assert await cursors.advance(row(2**62)) == 2**62 + 1
            await cursors.flushed([row(2**62)])
            assert await cursors.dirty(9) == [row(2**62 + 1)]

    jump(main())


def test_in_this_process_only_what_is_flushed_is_forgotten(jump):
    async def main():
        cursors = MemoryReadCursors(cursors=3, dirty=5)
        for number in range(5):
            await cursors.advance(row(number + 1, user=f"u{number}"))
        await cursors.flushed(await cursors.dirty(9))
        known = [user for user in range(5) if await cursors.get("t", f"u{user}", ["c"])]
        assert len(known) == 3

    jump(main())
