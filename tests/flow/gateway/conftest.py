"""A gateway's session side on memory bus and tails, with a store and a log that a test writes by hand."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatcluster.backends.memory.bus import MemoryBuses
from chatcluster.backends.memory.tails import MemoryTails
from chatcluster.core.codes import Close, Refused
from chatcluster.core.cursor import START, Cursor, encode_cursor
from chatcluster.core.envelope import Envelope, Live, Nudge, PresenceChange
from chatcluster.core.frames import (
    JSON,
    Ack,
    Answer,
    ClientFrame,
    Codec,
    ErrorFrame,
    Event,
    Hello,
    ListChannels,
    Mark,
    Reply,
    Request,
    Resume,
    Resync,
    Send,
    ServerFrame,
    Welcome,
)
from chatcluster.core.ids import Minter
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import (
    EventRecord,
    MemberRecord,
    MessageRecord,
    Role,
    Route,
    RouteRecord,
    channel_timeline,
    inbox_timeline,
)
from chatcluster.core.rows import Membership, RevocationRow, StoredChannel, TimelineRow, UserChannelRow
from chatcluster.ports import Beat, Caller, Committed, TailEntry, Unavailable
from chatcluster.services.gateway.auth import Identity
from chatcluster.services.gateway.session_settings import SessionSettings
from chatcluster.services.gateway.sessions import Sessions

TENANT = "acme"
PARTITIONS = 4


class Link:
    """A client's connection that keeps what it is sent, decoded."""

    def __init__(self, codec: Codec = JSON) -> None:
        self.codec = codec
        self.closed = False
        self.code: Close | None = None
        self.frames: list[ServerFrame] = []
        self.writes = 0
        self.paused = False
        self.key = ""
        self.expires: float | None = None
        self.handler: Any = None

    def send(self, frame: ServerFrame) -> None:
        if not self.closed:
            self.frames.append(self.codec.decode_server(self.codec.encode(frame)))

    def write(self, wire: bytes) -> None:
        if self.closed:
            return
        self.writes += 1
        while wire:
            assert wire[0] == (0x81 if self.codec.text else 0x82)
            size, start = wire[1], 2
            if size == 126:
                size, start = int.from_bytes(wire[2:4], "big"), 4
            elif size == 127:
                size, start = int.from_bytes(wire[2:10], "big"), 10
            self.frames.append(self.codec.decode_server(wire[start : start + size]))
            wire = wire[start + size :]

    def close(self, code: Close, reason: str) -> None:
        if not self.closed:
            self.closed = True
            self.code = code
            self.handler.on_closed()

    def authenticated(self, key: str, expires: float | None) -> None:
        self.key = key
        self.expires = expires

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class Client:
    """One device on one gateway."""

    def __init__(self, sessions: Sessions, user: str, codec: Codec = JSON, bearer: str | None = None) -> None:
        self.user = user
        self.link = Link(codec)
        self.handler = sessions.accept(self.link, bearer)
        self.link.handler = self.handler

    def say(self, frame: ClientFrame) -> None:
        self.handler.on_frame(frame)

    def hello(self, *, token: str | None = "", device: str = "", resume: Resume | None = None) -> None:
        self.say(Hello("h", f"{self.user}" if token == "" else token, device, resume))

    def gone(self) -> None:
        self.link.closed = True
        self.handler.on_closed()

    def of(self, kind: type[Any]) -> list[Any]:
        return [frame for frame in self.link.frames if isinstance(frame, kind)]

    @property
    def welcome(self) -> Welcome:
        (welcome,) = self.of(Welcome)
        assert isinstance(welcome, Welcome)
        return welcome

    def events(self, kind: str | None = None) -> list[Event]:
        return [event for event in self.of(Event) if kind is None or event.kind == kind]

    def ids(self, kind: str = "message", *, live: bool | None = None) -> list[int]:
        return [int(event.id) for event in self.events(kind) if live is None or event.live is live]

    @property
    def mark(self) -> Mark:
        mark = self.of(Mark)[-1]
        assert isinstance(mark, Mark)
        return mark

    def saved(self) -> Resume:
        """What a client that saves every mark resumes with."""
        inbox = self.welcome.inbox
        channels = dict(self.welcome.follow)
        pending: list[str] = []
        for mark in self.of(Mark):
            inbox = mark.inbox if isinstance(mark.inbox, str) else inbox
            channels.update(mark.channels if isinstance(mark.channels, dict) else {})
            pending = mark.pending
        return Resume(inbox, channels, pending)

    def errors(self) -> list[str]:
        return [error.code for error in self.of(ErrorFrame)]

    def resyncs(self) -> list[tuple[str, str]]:
        return [(resync.timeline, resync.reason) for resync in self.of(Resync)]

    def clear(self) -> None:
        self.link.frames.clear()


class Store:
    """The readers' half of a store, over lists. ``down``: it does not answer. ``reads``: names of calls."""

    def __init__(self) -> None:
        self.down = False
        self.reads: list[str] = []
        self.rows: dict[str, list[TimelineRow]] = defaultdict(list)
        self.events: dict[tuple[str, int], int] = {}
        self.roles: dict[tuple[str, str], list[Membership]] = defaultdict(list)
        self.large: dict[str, tuple[Route, int]] = {}
        self.revoked: list[RevocationRow] = []

    async def _read(self, name: str) -> None:
        if name != "revocations":
            self.reads.append(name)
        await asyncio.sleep(0.001)
        if self.down:
            raise Unavailable(name)

    async def timeline(self, timeline: str, *, after: int, limit: int) -> Sequence[TimelineRow]:
        await self._read("timeline")
        return [row for row in self.rows[timeline] if row.offset > after][:limit]

    async def newest(self, timelines: Sequence[str]) -> Mapping[str, TimelineRow]:
        await self._read("newest")
        return {key: self.rows[key][-1] for key in timelines if self.rows.get(key)}

    async def has_events(self, tenant: str, keys: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        await self._read("has_events")
        return {key: self.events[key] for key in keys if key in self.events}

    async def memberships(
        self, tenant: str, channel: str, users: Sequence[str], *, at: int | None = None
    ) -> Mapping[str, Membership]:
        await self._read("memberships")
        found = {}
        for user in users:
            rows = [row for row in self.roles[(channel, user)] if at is None or row.offset <= at]
            if rows:
                found[user] = rows[-1]
        return found

    async def channel(self, tenant: str, channel: str) -> StoredChannel | None:
        await self._read("channel")
        if not any(key[0] == channel for key in self.roles):
            return None
        route, offset = self.large.get(channel, ("inbox", START))
        return StoredChannel(channel, "group", None, "root", 0, 3, route, offset, None, offset)

    async def channels_of(self, tenant: str, user: str, *, after: str, limit: int) -> Sequence[UserChannelRow]:
        await self._read("channels_of")
        mine = sorted(
            channel for (channel, one), rows in self.roles.items() if one == user and rows and rows[-1].role is not None
        )
        return [UserChannelRow(TENANT, user, channel, 0, "member") for channel in mine if channel > after][:limit]

    async def revocations(self) -> Sequence[RevocationRow]:
        await self._read("revocations")
        return list(self.revoked)


class Log:
    """Where a channel lies."""

    epoch = "e1"

    def partitions(self, topic: str) -> int:
        return PARTITIONS

    def partition_of(self, topic: str, key: str) -> int:
        return sum(key.encode()) % PARTITIONS


class Presence:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.beats: list[Beat] = []
        self.batches = 0
        self.watched: dict[str, tuple[str, ...]] = {}
        self.forgotten: list[str] = []
        self.down = False

    def beat(self, gateway: str, beats: Sequence[Beat]) -> None:
        self.batches += 1
        self.beats.extend(beats)

    async def watch(self, gateway: str, session: str, tenant: str, users: Sequence[str]) -> Sequence[PresenceChange]:
        await asyncio.sleep(0.001)
        if self.down:
            raise Unavailable("presence")
        self.watched[session] = tuple(users)
        return [PresenceChange(user, "offline", 0) for user in users]

    def forget(self, gateway: str, sessions: Sequence[str]) -> None:
        self.forgotten.extend(sessions)


class Router:
    """Keeps requests; answers them when the test says so, and the conversation list at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[Caller, Request, Callable[[Answer], None]]] = []
        self.channels: list[Any] = []

    def submit(self, caller: Caller, request: Request, done: Callable[[Answer], None]) -> None:
        if isinstance(request, ListChannels):
            done(Reply(request.rid, channels=self.channels))
        else:
            self.asked.append((caller, request, done))

    def answer(self) -> None:
        asked, self.asked = self.asked, []
        for _, request, done in asked:
            assert isinstance(request, Send)
            done(Ack(request.rid, request.channel, "1", "", False))


class Authenticator:
    """A token is ``user``, ``user#tenant`` or ``user@issued_at``. ``slow``: seconds that keys take."""

    slow = 0.0

    async def verify(self, token: str) -> Identity:
        if token == "bad":
            raise Refused("unauthorized", "no")
        if token == "early":
            raise Refused("unavailable", "no keys yet")
        if self.slow:
            await asyncio.sleep(self.slow)
        user, _, issued = token.partition("@")
        user, _, tenant = user.partition("#")
        return Identity(user, tenant or TENANT, 2e9, float(issued or 1.79e9))


class World:
    """One gateway and everything around it."""

    def __init__(self, clock: Any, settings: SessionSettings) -> None:
        self.clock = clock
        self.settings = settings
        self.buses = MemoryBuses()
        self.publisher = self.buses.subscriber("router")
        self.tails = MemoryTails(clock=clock)
        self.store = Store()
        self.log = Log()
        self.presence = Presence()
        self.router = Router()
        self.metrics = Metrics()
        self.minter = Minter(1)
        self.source = 100  # offsets of ``messages``
        self.offset = 1000  # offsets of ``inbox``
        self.authenticator = Authenticator()
        self.gateways = 0
        self.sessions = self.gateway()

    def gateway(self) -> Sessions:
        self.gateways += 1
        self.bus = self.buses.subscriber(f"g{self.gateways}")
        return Sessions(
            router=self.router,
            bus=self.bus,
            tails=self.tails,
            store=self.store,  # type: ignore[arg-type]
            presence=self.presence,
            log=self.log,
            authenticator=self.authenticator,
            clock=self.clock,
            metrics=self.metrics,
            settings=self.settings,
            name=f"g{self.gateways}",
        )

    # -- clients

    def client(self, user: str, codec: Codec = JSON) -> Client:
        return Client(self.sessions, user, codec)

    async def connect(
        self,
        user: str,
        resume: Resume | None = None,
        *,
        device: str = "",
        codec: Codec = JSON,
        sessions: Sessions | None = None,
    ) -> Client:
        client = Client(sessions or self.sessions, user, codec)
        client.hello(device=device, resume=resume)
        await self.until(lambda: bool(client.of(Welcome)) or client.link.closed)
        return client

    async def until(self, true: Callable[[], bool], seconds: float = 30.0) -> float:
        """Waits for a condition; returns how long it took."""
        start = self.clock.monotonic()
        while not true():
            assert self.clock.monotonic() - start < seconds, "it never came"
            await asyncio.sleep(0.01)
        return float(self.clock.monotonic() - start)

    # -- the log

    def say(self, sender: str = "bob", channel: str = "room", body: str = "hi") -> MessageRecord:
        event_id = self.minter.mint(self.clock.now())
        return MessageRecord(TENANT, channel, event_id, sender, f"k{event_id}", 1, 0, body)

    def live(self, record: EventRecord, *users: str, large: bool = False) -> None:
        topics = [channel_timeline(TENANT, record.channel)] if large else [inbox_timeline(TENANT, u) for u in users]
        self.publish(topics, Live(record))

    def publish(self, topics: Sequence[str], envelope: Envelope) -> None:
        self.publisher.publish(topics, envelope)

    def event(self, record: EventRecord) -> int:
        """The record's own row; returns its offset in ``messages``."""
        self.source += 1
        self.store.events[(record.channel, record.id)] = self.source
        return self.source

    async def durable(
        self, record: EventRecord, *users: str, large: bool = False, tail: bool = True, nudge: bool = False
    ) -> int:
        """What the persister does for one record: its row, its timelines, their tails. Returns the source offset."""
        source = self.event(record)
        if large:
            await self._place(channel_timeline(TENANT, record.channel), source, source, record, tail, nudge)
        for user in users:
            self.offset += 1
            await self._place(inbox_timeline(TENANT, user), self.offset, source, record, tail, nudge)
        return source

    async def _place(self, key: str, offset: int, source: int, record: EventRecord, tail: bool, nudge: bool) -> None:
        rows = self.store.rows[key]
        prev = rows[-1].offset if rows else START
        rows.append(TimelineRow(TENANT, key, offset, prev, source, record))
        if tail:
            await self.tails.append([(key, TailEntry(offset, prev, source, record))])
        if nudge:
            self.publish([key], Nudge(offset))

    def member(self, user: str, change: Any, *, channel: str = "room", route: Route | None = None) -> MemberRecord:
        event_id = self.minter.mint(self.clock.now())
        return MemberRecord(TENANT, channel, event_id, "root", "", 0, 0, user, change, "member", route)

    def role(self, user: str, role: Role | None, *, channel: str = "room", offset: int | None = None) -> None:
        """A member row."""
        at = self.source if offset is None else offset
        self.store.roles[(channel, user)].append(Membership(user, role, at))

    def enlarge(self, channel: str, *users: str) -> None:
        """A large channel with these members."""
        self.source += 1
        for user in users:
            self.role(user, "member", channel=channel)
        self.store.large[channel] = ("channel", self.source)

    def switch(self, to: Route, channel: str = "room") -> RouteRecord:
        return RouteRecord(TENANT, channel, self.minter.mint(self.clock.now()), "root", "", 0, 0, to)

    async def settle(self, at: int | None = None, partitions: Sequence[int] = range(PARTITIONS)) -> None:
        """Stage 1 has come to ``at`` (ms; None: now) in these partitions."""
        time = self.clock.now() if at is None else at
        await self.tails.commit("messages", {p: Committed(self.source + 1, time) for p in partitions})

    def cursor(self, offset: int, *, user: str = "alice", channel: str | None = None, epoch: str = "e1") -> str:
        key = inbox_timeline(TENANT, user) if channel is None else channel_timeline(TENANT, channel)
        return encode_cursor(Cursor(epoch, offset, 1), key)

    def count(self, name: str, **labels: str) -> float:
        return float(
            sum(
                metric.source.value  # type: ignore[union-attr]
                for metric in self.metrics
                if metric.name == name and labels.items() <= metric.labels.items()
            )
        )


@pytest.fixture
def open_world(loop_clock: Any) -> Callable[..., Any]:
    """``async with open_world() as world``: a running gateway."""

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[World]:
        world = World(loop_clock, SessionSettings(**settings))
        running = asyncio.ensure_future(world.sessions.run())
        try:
            yield world
            assert not running.done(), running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert running.cancelled(), running.exception()

    return opened


@pytest.fixture
def new_client() -> Any:
    """``new_client(sessions, user, codec)``, and the parts that every gateway needs beside the real ones."""

    def make(sessions: Sessions, user: str, codec: Codec | None) -> Client:
        return Client(sessions, user, codec or JSON)

    make.presence = Presence  # type: ignore[attr-defined]
    make.authenticator = Authenticator  # type: ignore[attr-defined]
    return make


@pytest.fixture
def world_record() -> Callable[..., MessageRecord]:
    """A message that no log has."""

    def make(tenant: str, channel: str, event_id: int, sender: str) -> MessageRecord:
        return MessageRecord(tenant, channel, event_id, sender, f"k{event_id}", 1, 0, "lost")

    return make
