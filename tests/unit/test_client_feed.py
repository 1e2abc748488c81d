"""The queue between connection and application: order, bounds, and when a mark is saved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from chatcluster.client.cursors import MemoryCursors, Saved
from chatcluster.client.errors import Stopped, Unauthorized
from chatcluster.client.events import Typing
from chatcluster.client.feed import Feed

Jump = Callable[[Coroutine[Any, Any, None]], None]


def event(number: int) -> Typing:
    return Typing("c", str(number))


def test_a_mark_is_saved_when_the_reader_comes_back(jump: Jump) -> None:
    async def main() -> None:
        store = MemoryCursors()
        feed = Feed(10, store)
        feed.push(event(1))
        feed.mark(Saved("a"))
        feed.mark(Saved("b"))
        feed.push(event(2))
        assert await feed.next() == event(1)
        assert await store.load() is None
        assert await feed.next() == event(2)
        assert await store.load() == Saved("b")

    jump(main())


def test_a_mark_that_is_replaced_while_it_is_saved_is_saved_too(jump: Jump) -> None:
    class Slow(MemoryCursors):
        async def save(self, saved: Saved) -> None:
            await asyncio.sleep(1)
            await super().save(saved)

    async def main() -> None:
        store = Slow()
        feed = Feed(10, store)
        feed.mark(Saved("a"))
        reading = asyncio.create_task(feed.next())
        await asyncio.sleep(0.5)
        feed.mark(Saved("b"))
        feed.push(event(1))
        assert await reading == event(1)
        assert await store.load() == Saved("b")

    jump(main())


def test_full_and_room(jump: Jump) -> None:
    async def main() -> None:
        feed = Feed(3, MemoryCursors())
        for number in range(3):
            assert not feed.full
            feed.push(event(number))
        assert feed.full
        room = asyncio.create_task(feed.room(2))
        await asyncio.sleep(1)
        await feed.next()
        await asyncio.sleep(1)
        assert not room.done()
        await feed.next()
        await room
        # More than the queue holds fits when it is empty.
        await feed.next()
        await feed.room(100)

    jump(main())


def test_an_empty_queue_says_so_and_wakes_its_reader(jump: Jump) -> None:
    async def main() -> None:
        feed = Feed(3, MemoryCursors())
        asked: list[bool] = []
        feed.on_empty = lambda: asked.append(True)
        reading = asyncio.create_task(feed.next())
        await asyncio.sleep(1)
        assert asked == [True]
        with pytest.raises(RuntimeError, match="only one"):
            await feed.next()
        feed.push(event(1))
        assert await reading == event(1)

    jump(main())


def test_the_end_comes_after_what_is_queued(jump: Jump) -> None:
    async def main() -> None:
        feed = Feed(1, MemoryCursors())
        feed.push(event(1))
        waiting = asyncio.create_task(feed.room(1))
        await asyncio.sleep(0)
        feed.finish(Unauthorized("no"))
        with pytest.raises(Unauthorized):
            await waiting
        assert await feed.next() == event(1)
        with pytest.raises(Unauthorized):
            await feed.next()

    jump(main())


def test_a_reader_that_waits_hears_the_end(jump: Jump) -> None:
    async def main() -> None:
        feed = Feed(1, MemoryCursors())
        reading = asyncio.create_task(feed.next())
        await asyncio.sleep(0)
        feed.finish(Stopped("closed"))
        with pytest.raises(Stopped):
            await reading

    jump(main())
