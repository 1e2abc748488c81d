"""The bus of one process: publishing hands the same envelope object to each subscriber's buffer.

Knows nothing of who publishes what. A rumour like every bus: a full buffer is dropped and told as ``Lost``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from chatcluster.core.envelope import Envelope
from chatcluster.core.metrics import Counter, Metrics
from chatcluster.ports import Delivery, Lost

BUFFER = 32_768
"""Deliveries that wait for one listener; over it the buffer is dropped (law 7: the slow one is cut)."""

Drop = Callable[[str, Envelope], bool]


class MemoryBuses:
    """Makes subscribers that share one table of topics (port ``Buses``).

    ``drop``: loses each (topic, envelope) for which it returns True. The bus does not know that it lost:
    no ``Lost`` follows, as after a fail-over of a real one.
    """

    __slots__ = ("_overflows", "buffer", "drop", "table")

    def __init__(self, *, metrics: Metrics | None = None, buffer: int = BUFFER) -> None:
        self.drop: Drop | None = None
        self.buffer = buffer
        # Topic to its subscribers, as tuples: publishing is one look-up and a walk.
        self.table: dict[str, tuple[MemoryBus, ...]] = {}
        self._overflows: Counter = (metrics or Metrics()).counter(
            "bus_overflows_total", "Buffers of listeners dropped because they were full."
        )

    def subscriber(self, name: str) -> MemoryBus:
        """A new subscriber. ``name`` is for people."""
        return MemoryBus(self, name, self._overflows)


class MemoryBus:
    """One subscriber (port ``Bus``)."""

    __slots__ = ("_buffer", "_buses", "_listening", "_overflows", "_table", "_topics", "_waiter", "name")

    def __init__(self, buses: MemoryBuses, name: str, overflows: Counter) -> None:
        self.name = name
        self._buses = buses
        self._table = buses.table
        self._overflows = overflows
        self._buffer: list[Delivery | Lost] = []
        self._topics: set[str] = set()
        self._waiter: asyncio.Future[None] | None = None
        self._listening = False

    def publish(self, topics: Sequence[str], envelope: Envelope) -> None:
        buses = self._buses
        find = self._table.get
        drop = buses.drop
        bound = buses.buffer
        for topic in topics:
            subscribers = find(topic)
            if subscribers is None or (drop is not None and drop(topic, envelope)):
                continue
            delivery = Delivery(topic, envelope)
            for subscriber in subscribers:
                buffer = subscriber._buffer
                if len(buffer) >= bound:
                    subscriber.lose()
                    buffer = subscriber._buffer
                buffer.append(delivery)
                waiter = subscriber._waiter
                if waiter is not None:
                    # One wake-up per batch: whatever is published until the listener runs joins it.
                    subscriber._waiter = None
                    if not waiter.done():
                        waiter.set_result(None)

    def lose(self) -> None:
        """Drop what waits and say so. Called over the bound; tests call it for a broken connection."""
        self._overflows.add()
        self._buffer = [Lost(None)]
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def subscribe(self, topics: Sequence[str]) -> None:
        table = self._table
        own = self._topics
        for topic in topics:
            if topic not in own:
                own.add(topic)
                table[topic] = (*table.get(topic, ()), self)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        for topic in topics:
            self._leave(topic)

    def close(self) -> None:
        """Leave every topic: whoever made this subscriber is gone."""
        for topic in tuple(self._topics):
            self._leave(topic)
        self._buffer = []

    def _leave(self, topic: str) -> None:
        if topic not in self._topics:
            return
        self._topics.discard(topic)
        rest = tuple(other for other in self._table[topic] if other is not self)
        if rest:
            self._table[topic] = rest
        else:
            del self._table[topic]

    async def listen(self) -> AsyncIterator[Sequence[Delivery | Lost]]:
        if self._listening:
            raise RuntimeError(f"the bus subscriber {self.name} has a listener already")
        self._listening = True
        loop = asyncio.get_running_loop()
        try:
            while True:
                if not self._buffer:
                    waiter = self._waiter = loop.create_future()
                    await waiter
                batch, self._buffer = self._buffer, []
                if batch:
                    yield batch
        finally:
            self._waiter = None
            self._listening = False
