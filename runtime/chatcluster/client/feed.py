"""The queue between the connection and the application: events in order, and the marks that cover them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from chatcluster.client.cursors import CursorStore, Saved
from chatcluster.client.events import ChatEvent


class Feed:
    """Bounded by ``size`` events. Marks are merged with their neighbours, so they need no bound.

    A mark is saved when the reader comes back for what follows it: then everything before it has been
    dealt with, and a crash in between repeats it instead of losing it.
    """

    def __init__(self, size: int, store: CursorStore) -> None:
        self.size = size
        self.on_empty: Callable[[], None] = lambda: None
        """Called when a reader finds nothing."""
        self._store = store
        self._queue: deque[ChatEvent | Saved] = deque()
        self._events = 0
        self._wake: asyncio.Future[None] | None = None
        self._rooms: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._end: BaseException | None = None
        self._reading = False

    @property
    def full(self) -> bool:
        return self._events >= self.size

    def push(self, event: ChatEvent) -> None:
        """Add an event. The caller has looked at ``full``; one input may add a few more than it asked for."""
        self._queue.append(event)
        self._events += 1
        self._notify()

    def mark(self, saved: Saved) -> None:
        """Everything pushed before is covered by ``saved``."""
        if self._queue and isinstance(self._queue[-1], Saved):
            self._queue[-1] = saved
        else:
            self._queue.append(saved)
        self._notify()

    def finish(self, reason: BaseException) -> None:
        """No more will come: readers get what is here, then ``reason``."""
        self._end = reason
        self._notify()
        for _, room in self._rooms:
            if not room.done():
                room.set_exception(reason)
        self._rooms.clear()

    async def room(self, events: int) -> None:
        """Wait until so many events fit (or the queue is empty)."""
        if self._events and self._events + events > self.size:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._rooms.append((events, future))
            await future

    async def next(self) -> ChatEvent:
        """The next event; saves the marks before it. One reader at a time. Raises the reason of ``finish``."""
        if self._reading:
            raise RuntimeError("events() and messages() read one queue: only one of them at a time")
        self._reading = True
        try:
            while True:
                while self._queue:
                    entry = self._queue[0]
                    if isinstance(entry, Saved):
                        await self._store.save(entry)
                        # It may have been merged with a newer one meanwhile: that one is saved next time.
                        if self._queue and self._queue[0] is entry:
                            self._queue.popleft()
                        continue
                    self._queue.popleft()
                    self._events -= 1
                    self._make_room()
                    return entry
                if self._end is not None:
                    raise self._end
                self.on_empty()
                if not self._queue:
                    self._wake = asyncio.get_running_loop().create_future()
                    await self._wake
        finally:
            self._wake = None
            self._reading = False

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _make_room(self) -> None:
        while self._rooms:
            events, room = self._rooms[0]
            if not room.done():
                if self._events and self._events + events > self.size:
                    return
                room.set_result(None)
            self._rooms.popleft()
