"""The bus's two connections to one node: the mouth publishes, the ear hears and keeps the subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chatcluster.backends.redis.shards import Node
from chatcluster.backends.redis.wire import Line, command
from chatcluster.core.envelope import Envelope
from chatcluster.ports import Delivery

if TYPE_CHECKING:
    from chatcluster.backends.redis.bus import RedisBus, RedisBuses


class Topic:
    """``asked``: subscriptions sent and not yet confirmed. ``heard``: the last one is confirmed."""

    __slots__ = ("asked", "buses", "ear", "heard", "name", "waiters", "wire_name")

    def __init__(self, name: str, wire_name: bytes) -> None:
        self.name = name
        self.wire_name = wire_name
        self.buses: tuple[RedisBus, ...] = ()
        self.ear: Ear | None = None
        self.asked = 0
        self.heard = False
        self.waiters: list[asyncio.Future[None]] = []


class Mouth(Line):
    """What is published through one node, one write per turn of the loop."""

    def __init__(self, buses: RedisBuses, node: Node) -> None:
        super().__init__(node, buses.settings, buses.tls, "publishing")
        self._buses = buses
        self._bound = buses.settings.publish_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._planned = False

    def say(self, head: bytes, tail: bytes) -> bool:
        """Queue a publication in two parts; False when it was dropped."""
        wire = self.wire
        if wire is None or self._size >= self._bound:
            return False
        if not self._planned:
            if wire.waiting() >= self._bound:
                return False
            self._planned = True
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts += (head, tail)
        self._size += len(head) + len(tail)
        return True

    def _flush(self) -> None:
        self._planned = False
        parts, self._parts, self._size = self._parts, [], 0
        if self.wire is not None:
            self.wire.write(b"".join(parts))

    def take(self, replies: list[Any]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                self._buses.refused(str(reply))


class Ear(Line):
    """What is heard from one node."""

    def __init__(self, buses: RedisBuses, node: Node) -> None:
        super().__init__(node, buses.settings, buses.tls, "listening")
        self._buses = buses
        self.topics: dict[bytes, Topic] = {}
        self._unheard = 0
        self.gap = False

    def up(self) -> None:
        for topic in self.topics.values():
            topic.asked = 0
            topic.heard = False
        self._unheard = 0
        self.ask(list(self.topics.values()))
        self._told()

    def down(self) -> None:
        # What was published since the last word is gone. It is told when we hear again, so that whoever
        # then reads the tails misses nothing in between.
        self.gap = True
        for topic in self.topics.values():
            topic.heard = False

    def ask(self, topics: Sequence[Topic]) -> None:
        if self.wire is None:
            return
        for topic in topics:
            topic.asked += 1
            topic.heard = False
        self._unheard += len(topics)
        self._send(self._buses.words[0], [topic.wire_name for topic in topics])

    def leave(self, topics: Sequence[Topic]) -> None:
        for topic in topics:
            self.topics.pop(topic.wire_name, None)
        if self.wire is not None and topics:
            self._send(self._buses.words[1], [topic.wire_name for topic in topics])

    def _send(self, word: bytes, names: Sequence[bytes]) -> None:
        assert self.wire is not None
        # In a cluster all topics of one command have to share a slot, so there it is one command each.
        size = 1 if self._buses.clustered else self._buses.settings.pipeline
        self.wire.write(b"".join(command(word, *names[at : at + size]) for at in range(0, len(names), size)))

    def take(self, replies: list[Any]) -> None:
        buses = self._buses
        topics = self.topics
        decoded: dict[bytes, Envelope | None] = {}
        for reply in replies:
            if isinstance(reply, Exception):
                buses.refused(str(reply))
                if self._unheard and self.wire is not None:
                    self.wire.abort()  # which topics are meant is not said: all anew
                continue
            kind = reply[0]
            if kind in {b"message", b"smessage"}:
                topic = topics.get(reply[1])
                if topic is None:
                    continue
                payload = reply[2]
                # A group's message comes on hundreds of inboxes: it is decoded once per batch.
                envelope = decoded.get(payload)
                if envelope is None:
                    if payload in decoded:
                        continue
                    envelope = decoded[payload] = buses.decoded(payload)
                    if envelope is None:
                        continue
                delivery = Delivery(topic.name, envelope)
                for bus in topic.buses:
                    bus.put(delivery)
            elif kind in {b"subscribe", b"ssubscribe"}:
                self._confirmed(reply[1])
            elif kind == b"sunsubscribe" and reply[1] in topics:
                # Nobody asked for it: the slot moved to another node.
                buses.shards.doubt()
                self.gap = True
                topics[reply[1]].heard = False

    def _confirmed(self, wire_name: bytes) -> None:
        self._unheard = max(0, self._unheard - 1)
        topic = self.topics.get(wire_name)
        if topic is not None:
            topic.asked = max(0, topic.asked - 1)
            if topic.asked == 0:
                topic.heard = True
                waiters, topic.waiters = topic.waiters, []
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)
        self._told()

    def _told(self) -> None:
        if self.gap and not self._unheard:
            self.gap = False
            self.lose()

    def lose(self) -> None:
        """Tell every listener which of its topics may have missed something."""
        self._buses.lose(self.topics.values())
