"""Timelines from the tail if it covers, else from the store; one flight for identical reads."""

from __future__ import annotations

import asyncio

import pytest

from chatcluster.core.metrics import Metrics
from chatcluster.core.records import MessageRecord
from chatcluster.core.rows import TimelineRow
from chatcluster.ports import TailEntry, Unavailable
from chatcluster.services.reader import TimelineReader

RECORD = MessageRecord("t", "c", 1, "u", "k", 1, 0, "hi")


class Tails:
    def __init__(self) -> None:
        self.entries: dict[str, list[TailEntry]] = {}
        self.down = False
        self.reads = 0

    async def read(self, positions):
        self.reads += 1
        if self.down:
            raise Unavailable("tails")
        return [
            None
            if key not in self.entries or self.entries[key][-1].offset < after
            else [entry for entry in self.entries[key] if entry.offset > after]
            for key, after in positions
        ]


class Store:
    def __init__(self) -> None:
        self.rows = [TimelineRow("t", "x", n, n - 1, n, RECORD) for n in range(10)]
        self.reads = 0
        self.down = False

    async def timeline(self, timeline, *, after, limit):
        self.reads += 1
        await asyncio.sleep(1)
        if self.down:
            raise Unavailable("store")
        return [row for row in self.rows if row.offset > after][:limit]


@pytest.fixture
def parts():
    tails, store = Tails(), Store()
    return tails, store, TimelineReader(tails=tails, store=store, metrics=Metrics())


def offsets(page):
    return [entry.offset for entry in page.entries]


def tail(*offsets: int, prev: int) -> list[TailEntry]:
    before = [prev, *offsets]
    return [TailEntry(offset, before[index], offset, RECORD) for index, offset in enumerate(offsets)]


def test_a_tail_that_covers_is_enough(jump, parts):
    tails, store, reader = parts
    tails.entries["x"] = tail(5, 6, 7, prev=4)
    page = jump(reader.read("x", 4, 10))
    assert (offsets(page), page.more, page.stored, store.reads) == ([5, 6, 7], False, False, 0)
    assert offsets(jump(reader.read("x", 7, 10))) == []
    page = jump(reader.read("x", 4, 2))
    assert (offsets(page), page.more) == ([5, 6], True)


@pytest.mark.parametrize("state", ["short", "stale", "gone", "down"])
def test_else_the_store_answers(jump, parts, state):
    tails, store, reader = parts
    if state == "short":
        tails.entries["x"] = tail(8, 9, prev=7)
    elif state == "stale":
        tails.entries["x"] = tail(2, 3, prev=1)
    elif state == "down":
        tails.entries["x"] = tail(5, 6, prev=4)
        tails.down = True
    page = jump(reader.read("x", 4, 3))
    assert (offsets(page), page.more, page.stored, store.reads) == ([5, 6, 7], True, True, 1)


def test_many_positions_are_one_read_of_the_tails(jump, parts):
    tails, _, reader = parts
    tails.entries["x"] = tail(5, prev=4)
    pages = jump(reader.covered([("x", 4), ("y", 4), ("x", 3)], 10))
    assert [page is not None for page in pages] == [True, False, False]
    assert tails.reads == 1
    assert jump(reader.covered([], 10)) == ()


def test_identical_reads_at_the_same_time_are_one(jump, parts):
    _, store, reader = parts

    async def main():
        pages = await asyncio.gather(*(reader.read("x", 4, 3) for _ in range(20)), reader.read("x", 5, 3))
        assert store.reads == 2
        assert all(page is pages[0] for page in pages[:20])
        await reader.read("x", 4, 3)
        assert store.reads == 3  # only at the same time: nothing is kept

    jump(main())


def test_who_leaves_takes_nobody_along(jump, parts):
    _, _, reader = parts

    async def main():
        leader = asyncio.ensure_future(reader.stored("x", 4, 3))
        follower = asyncio.ensure_future(reader.stored("x", 4, 3))
        other = asyncio.ensure_future(reader.stored("x", 4, 3))
        await asyncio.sleep(0.5)
        leader.cancel()
        other.cancel()
        assert offsets(await follower) == [5, 6, 7]
        assert leader.cancelled()
        assert other.cancelled()

    jump(main())


def test_a_store_that_fails_fails_for_all_who_wait_and_not_for_the_next(jump, parts):
    _, store, reader = parts
    store.down = True

    async def main():
        results = await asyncio.gather(*(reader.read("x", 4, 3) for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 3
        store.down = False
        assert offsets(await reader.read("x", 4, 3)) == [5, 6, 7]

    jump(main())
