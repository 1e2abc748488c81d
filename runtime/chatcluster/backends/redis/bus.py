"""The bus on Redis' publish and subscribe: one connection per node and process to hear, one to speak.

On a cluster it is sharded publish and subscribe; never the classic one, which every node repeats to every other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec

from chatcluster.backends.redis.access import tls_context
from chatcluster.backends.redis.liar import Liar
from chatcluster.backends.redis.shards import Node, RedisShards
from chatcluster.backends.redis.speech import Ear, Mouth, Topic
from chatcluster.core.envelope import Envelope, decode_envelope, encode_envelope
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock, Delivery, Lost, Unavailable

log = logging.getLogger(__name__)


class RedisBuses:
    """Makes the subscribers of one process (port ``Buses``)."""

    def __init__(self, shards: RedisShards, *, metrics: Metrics) -> None:
        self.shards = shards
        self.settings = shards.settings
        self.tls = tls_context(shards.settings)
        self.clustered = shards.settings.mode == "cluster"
        self.words = (b"SSUBSCRIBE", b"SUNSUBSCRIBE") if self.clustered else (b"SUBSCRIBE", b"UNSUBSCRIBE")
        self._word = b"*3\r\n$8\r\nSPUBLISH\r\n" if self.clustered else b"*3\r\n$7\r\nPUBLISH\r\n"
        self.publish: Callable[[Sequence[str], Envelope], None] = self._tell
        if self.settings.bus_loss or self.settings.bus_repeat or self.settings.bus_delay:
            self.publish = Liar(self._tell, self.settings)
        self.topics: dict[str, Topic] = {}
        self._ears: dict[str, Ear] = {}
        self._mouths: dict[str, Mouth] = {}
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._heads: dict[str, tuple[Mouth, bytes]] = {}
        self._dropped = metrics.counter("bus_dropped_total", "Publications dropped: no connection, or over the bound.")
        self._refused = metrics.counter("bus_refused_total", "Commands of the bus that a node refused.")
        self._corrupt = metrics.counter("bus_corrupt_total", "Payloads that could not be decoded.")
        self._lost = metrics.counter("bus_lost_total", "Gaps told to listeners.")
        self._overflows = metrics.counter("bus_overflows_total", "Buffers of listeners dropped because they were full.")

    @classmethod
    @asynccontextmanager
    async def open(cls, shards: RedisShards, *, clock: Clock, metrics: Metrics) -> AsyncIterator[RedisBuses]:
        """For the time of the block. Waits for its connections, ``connect_timeout`` at the most."""
        buses = cls(shards, metrics=metrics)
        buses._follow()
        lines = [*buses._ears.values(), *buses._mouths.values()]
        with suppress(TimeoutError):
            async with asyncio.timeout(shards.settings.connect_timeout):
                for line in lines:
                    await line.stands.wait()
        shards.on_gap(buses._doubt)
        shards.on_move(buses._follow)
        try:
            yield buses
        finally:
            tasks = [task for pair in buses._tasks.values() for task in pair]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def subscriber(self, name: str) -> RedisBus:
        """A new subscriber. ``name`` is for people."""
        return RedisBus(self, name)

    # -- nodes -------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """A connection pair for each node, and each topic with the node that serves it now."""
        nodes = self.shards.nodes
        for name in [name for name in self._ears if name not in nodes]:
            for task in self._tasks.pop(name):
                task.cancel()
            del self._ears[name], self._mouths[name]
        for name, node in nodes.items():
            if name not in self._ears:
                listening = self._ears[name] = Ear(self, node)
                mouth = self._mouths[name] = Mouth(self, node)
                self._tasks[name] = [
                    asyncio.create_task(listening.run(), name="redis-ear"),
                    asyncio.create_task(mouth.run(), name="redis-mouth"),
                ]
        self._heads.clear()
        moved: dict[Ear, list[Topic]] = {}
        for topic in self.topics.values():
            ear = self._ear_of(topic.name)
            if ear is not None and (ear is not topic.ear or not topic.heard):
                if topic.ear is not None and topic.ear is not ear:
                    topic.ear.leave([topic])
                topic.asked = 0
                topic.ear = ear
                ear.topics[topic.wire_name] = topic
                moved.setdefault(ear, []).append(topic)
        for new, topics in moved.items():
            new.gap = True
            new.ask(topics)

    def _doubt(self, node: Node) -> None:
        ear = self._ears.get(node.name)
        if ear is not None:
            ear.lose()

    def _ear_of(self, topic: str) -> Ear | None:
        node = self.shards.node_of(topic)
        return None if node is None else self._ears.get(node.name)

    # -- publishing -----------------------------------------------------------------------------------------------

    def _tell(self, topics: Sequence[str], envelope: Envelope) -> None:
        payload = encode_envelope(envelope)
        tail = b"$%d\r\n%b\r\n" % (len(payload), payload)
        heads = self._heads
        for topic in topics:
            known = heads.get(topic) or self._head(topic)
            if known is None or not known[0].say(known[1], tail):
                self._dropped.add()

    def _head(self, topic: str) -> tuple[Mouth, bytes] | None:
        node = self.shards.node_of(topic)
        if node is None or node.name not in self._mouths:
            return None
        name = self.shards.key("b", topic).encode()
        known = self._mouths[node.name], self._word + b"$%d\r\n%b\r\n" % (len(name), name)
        if len(self._heads) >= 100_000:
            self._heads.clear()
        self._heads[topic] = known
        return known

    def refused(self, text: str) -> None:
        """A node answered with an error."""
        self._refused.add()
        if text.startswith("MOVED"):
            self.shards.doubt()

    def decoded(self, payload: bytes) -> Envelope | None:
        """An envelope, or None for what cannot be read (dropped and counted)."""
        try:
            return decode_envelope(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._corrupt.add()
            return None

    # -- subscribing ------------------------------------------------------------------------------------------------

    async def subscribe(self, bus: RedisBus, names: Sequence[str]) -> None:
        waiters: list[asyncio.Future[None]] = []
        asking: dict[Ear, list[Topic]] = {}
        loop = asyncio.get_running_loop()
        for name in dict.fromkeys(names):
            topic = self.topics.get(name)
            if topic is None:
                topic = self.topics[name] = Topic(name, self.shards.key("b", name).encode())
            if bus not in topic.buses:
                topic.buses = (*topic.buses, bus)
                bus.topics.add(name)
            if topic.heard:
                continue
            waiter = loop.create_future()
            topic.waiters.append(waiter)
            waiters.append(waiter)
            if topic.ear is None:
                topic.ear = self._ear_of(name)
                if topic.ear is None:
                    self.shards.doubt()
                    continue
                topic.ear.topics[topic.wire_name] = topic
            if topic.asked == 0:
                asking.setdefault(topic.ear, []).append(topic)
        for ear, topics in asking.items():
            ear.ask(topics)
        if waiters:
            _, late = await asyncio.wait(waiters, timeout=self.settings.subscribe_timeout)
            for waiter in late:
                waiter.cancel()
            if late:
                raise Unavailable("redis: a subscription was not confirmed in time")

    def unsubscribe(self, bus: RedisBus, names: Iterable[str]) -> None:
        leaving: dict[Ear, list[Topic]] = {}
        for name in names:
            topic = self.topics.get(name)
            if topic is None or bus not in topic.buses:
                continue
            topic.buses = tuple(other for other in topic.buses if other is not bus)
            bus.topics.discard(name)
            if not topic.buses:
                del self.topics[name]
                if topic.ear is not None:
                    leaving.setdefault(topic.ear, []).append(topic)
        for ear, topics in leaving.items():
            ear.leave(topics)

    def lose(self, topics: Iterable[Topic]) -> None:
        found: dict[RedisBus, list[str]] = {}
        for topic in topics:
            for bus in topic.buses:
                found.setdefault(bus, []).append(topic.name)
        for bus, names in found.items():
            self._lost.add()
            bus.put(Lost(frozenset(names)))

    def overflowed(self) -> None:
        """A listener's buffer was dropped."""
        self._overflows.add()


class RedisBus:
    """One subscriber (port ``Bus``)."""

    def __init__(self, buses: RedisBuses, name: str) -> None:
        self.name = name
        self.topics: set[str] = set()
        self.publish = buses.publish
        self._buses = buses
        self._bound = buses.settings.listen_buffer
        self._buffer: list[Delivery | Lost] = []
        self._waiter: asyncio.Future[None] | None = None
        self._listening = False

    def put(self, item: Delivery | Lost) -> None:
        """Hand over to the listener; over the bound the buffer is dropped (law 7: the slow one is cut)."""
        if len(self._buffer) >= self._bound:
            self._buses.overflowed()
            self._buffer = [Lost(None)]
        self._buffer.append(item)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    async def subscribe(self, topics: Sequence[str]) -> None:
        await self._buses.subscribe(self, topics)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self._buses.unsubscribe(self, topics)

    def close(self) -> None:
        """Leave every topic: whoever made this subscriber is gone."""
        self._buses.unsubscribe(self, tuple(self.topics))
        self._buffer = []

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
