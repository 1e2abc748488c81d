"""The hub: a gateway's table topic → sessions, and local fan-out.

An event is encoded once per codec and timeline form, and its bytes are handed to every session. Knows
nothing of reads, proofs or requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from chatcluster.core.cursor import Cursor, encode_cursor
from chatcluster.core.frames import JSON, MSGPACK, ServerFrame
from chatcluster.core.proof import UNKNOWN, Proof
from chatcluster.core.wire import INBOX_WIRE, channel_wire
from chatcluster.ports import Bus, Unavailable

if TYPE_CHECKING:
    from chatcluster.services.gateway.session import Session

FrameBytes = Callable[[bytes, bool], bytes]
"""Payload and whether it is text, to a whole WebSocket message: ``core.outbound.frame_bytes``."""

SLOTS = 50
"""Topics are spread over this many slots of the wheel, so that periodic work is even."""


class Wire:
    """One server frame, encoded at most once per codec."""

    __slots__ = ("_frame", "_frame_bytes", "_json", "_packed")

    def __init__(self, frame: ServerFrame, frame_bytes: FrameBytes) -> None:
        self._frame = frame
        self._frame_bytes = frame_bytes
        self._json: bytes | None = None
        self._packed: bytes | None = None

    def text(self) -> bytes:
        """A WebSocket message in JSON."""
        wire = self._json
        if wire is None:
            wire = self._json = self._frame_bytes(JSON.encode(self._frame), True)
        return wire

    def packed(self) -> bytes:
        """A WebSocket message in MessagePack."""
        wire = self._packed
        if wire is None:
            wire = self._packed = self._frame_bytes(MSGPACK.encode(self._frame), False)
        return wire


class Topic(Proof):
    """A timeline that this gateway serves: its proof, and who is attached.

    ``sessions`` have got everything of it up to ``cursor`` and all that is pending. ``waiting`` have
    said hello and are being brought there (inboxes only: this is the registry of a user's sessions).
    """

    __slots__ = (
        "active_until",
        "holds",
        "key",
        "members",
        "moved",
        "name",
        "newest_at",
        "next_mark",
        "sessions",
        "slot",
        "store_after",
        "store_wait",
        "subscribed",
        "tenant",
        "waiting",
    )

    sessions: Collection[Session]

    def __init__(self, key: str, tenant: str, name: str) -> None:
        super().__init__()
        self.key = key
        self.tenant = tenant
        self.name = name  # the user of an inbox, the channel of a channel's timeline
        self.sessions = ()
        self.waiting: tuple[Session, ...] = ()
        self.members: dict[str, int] | None = None  # channel topics: user to the version of the membership checked
        self.holds = 0  # sessions on their way to a channel
        self.slot = hash(key) % SLOTS
        self.subscribed = False
        self.moved = False
        self.next_mark = 0.0
        self.active_until = 0.0
        self.newest_at = 0.0
        self.store_after = 0.0
        self.store_wait = 0.0

    @property
    def is_inbox(self) -> bool:
        return self.key[0] == "u"

    @property
    def empty(self) -> bool:
        """Whether nobody is here or on the way."""
        return not self.sessions and not self.waiting and not self.holds

    def end(self) -> None:
        """The hub forgot it."""
        self.cursor = UNKNOWN
        self.pending = None

    @property
    def known(self) -> bool:
        """Whether the durable cursor is known."""
        return self.cursor != UNKNOWN

    @property
    def wire_timeline(self) -> str:
        """``timeline`` of this topic's events on the wire."""
        return INBOX_WIRE if self.key[0] == "u" else channel_wire(self.name)

    def cursor_text(self, epoch: str) -> str:
        """The durable cursor for clients."""
        return encode_cursor(Cursor(epoch, self.cursor, self.last_id), self.key)

    def attach(self, session: Session) -> None:
        """From here on the session gets what the topic gets. Inboxes have few: a tuple; channels many: a dict."""
        sessions = self.sessions
        if isinstance(sessions, dict):
            sessions[session] = None
        elif self.key[0] == "u":
            self.sessions = (*sessions, session)
        else:
            self.sessions = {session: None}

    def detach(self, session: Session) -> None:
        """Nothing more of this topic. Idempotent."""
        sessions = self.sessions
        if isinstance(sessions, dict):
            sessions.pop(session, None)
        elif session in sessions:
            self.sessions = tuple(other for other in sessions if other is not session)

    def registered(self) -> tuple[Session, ...]:
        """All sessions of an inbox's user here, attached or on the way."""
        return (*self.waiting, *self.sessions)


class Hub:
    """All topics of a gateway."""

    def __init__(self, *, bus: Bus, frame_bytes: FrameBytes, linger: float) -> None:
        self._bus = bus
        self._order = asyncio.Lock()  # subscribe and unsubscribe of one topic must not overtake each other
        self._idle: dict[Topic, float] = {}
        self._linger = linger
        self._deaf: dict[Topic, None] = {}  # topics that the bus did not take
        self.frame_bytes = frame_bytes
        self.topics: dict[str, Topic] = {}
        self.wheel: list[dict[Topic, None]] = [{} for _ in range(SLOTS)]
        self.moved: dict[Topic, None] = {}
        self.claimants: dict[Session, None] = {}  # sessions with claims: ids that no topic's proof decides
        self.pending = 0  # live events not yet proven, over all topics

    def topic(self, key: str, tenant: str, name: str) -> Topic:
        """The topic of a timeline, made when it is first asked for. It stays while somebody is there."""
        topic = self.topics.get(key)
        if topic is None:
            topic = self.topics[key] = Topic(key, tenant, name)
            self.wheel[topic.slot][topic] = None
        else:
            self._idle.pop(topic, None)
        return topic

    async def subscribe(self, topics: Iterable[Topic]) -> None:
        """Returns when later publishes on all of them reach this gateway. One call to the bus.

        A bus that does not answer is no reason to refuse anybody (the proof brings everything, only later):
        it is asked again by ``resubscribe``.
        """
        if all(topic.subscribed for topic in topics):
            return
        async with self._order:
            new = [topic for topic in topics if not topic.subscribed]
            if new:
                try:
                    await self._bus.subscribe([topic.key for topic in new])
                except Unavailable:
                    self._deaf.update(dict.fromkeys(new))
                    return
                for topic in new:
                    topic.subscribed = True

    async def resubscribe(self) -> Sequence[Topic]:
        """Try what failed before. Returns the topics that hear again: they may have missed something."""
        deaf = [topic for topic in self._deaf if self.topics.get(topic.key) is topic]
        self._deaf.clear()
        await self.subscribe(deaf)
        return [topic for topic in deaf if topic.subscribed]

    def left(self, topic: Topic, now: float) -> None:
        """Somebody left: a topic without anybody goes after its linger, one that never began at once."""
        if topic.empty:
            self._idle[topic] = now + self._linger if topic.known else now

    async def sweep(self, now: float) -> None:
        """Forget topics that were empty for their linger."""
        gone = [topic for topic, at in self._idle.items() if at <= now]
        for topic in gone:
            del self._idle[topic]
            if not topic.empty:
                continue
            del self.topics[topic.key]
            self.moved.pop(topic, None)
            del self.wheel[topic.slot][topic]
            if topic.pending is not None:
                self.pending -= len(topic.pending)
            topic.end()  # a read on its way must not move it any more
        if gone:
            async with self._order:  # whoever comes back meanwhile subscribes after this
                keys = [topic.key for topic in gone if topic.subscribed]
                if keys:
                    with suppress(Unavailable):
                        await self._bus.unsubscribe(keys)

    def touch(self, topic: Topic, mark_at: float) -> None:
        """The topic's cursor or pending ids changed: its sessions are due a mark, not before ``mark_at``."""
        if not topic.moved:
            topic.moved = True
            topic.next_mark = max(topic.next_mark, mark_at)
            self.moved[topic] = None

    def wire(self, frame: ServerFrame) -> Wire:
        """A frame for many."""
        return Wire(frame, self.frame_bytes)

    def emit(
        self,
        topic: Topic,
        wires: Sequence[Wire],
        *,
        but: str | None = None,
        only: Sequence[Session] | None = None,
    ) -> None:
        """Hand the frames to every attached session, joined: one write each (law 8: it waits for nobody).

        ``but``: a user whose sessions do not get them. ``only``: these of them, if they are still attached.
        """
        text: bytes | None = None
        packed: bytes | None = None
        sessions = topic.sessions
        # A copy: a write may cut a slow consumer, who then leaves the topic.
        told = tuple(sessions) if only is None else [one for one in only if one in sessions]
        for session in told:
            if but is not None and session.user == but:
                continue
            link = session.link
            if link.codec is JSON:
                if text is None:
                    text = wires[0].text() if len(wires) == 1 else b"".join([wire.text() for wire in wires])
                link.write(text)
            else:
                if packed is None:
                    packed = wires[0].packed() if len(wires) == 1 else b"".join([wire.packed() for wire in wires])
                link.write(packed)

    def session_count(self) -> int:
        """Sessions registered at inboxes: a walk, for the gauge."""
        return sum(len(topic.sessions) + len(topic.waiting) for topic in self.topics.values() if topic.is_inbox)

    def inboxes(self, slot: int) -> Iterator[Topic]:
        """The inbox topics of one slot of the wheel."""
        return (topic for topic in self.wheel[slot] if topic.is_inbox)
