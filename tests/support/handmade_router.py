"""One router in a test's hand: its log reports when the test says so, its store has the rows that the test wrote.

Bus, tails, dedupe and leases are those of the memory backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from chatcluster.backends.memory.bus import MemoryBuses
from chatcluster.backends.memory.dedupe import MemoryDedupe
from chatcluster.backends.memory.read_cursors import MemoryReadCursors
from chatcluster.backends.memory.tails import MemoryTails
from chatcluster.backends.memory.workers import MemoryWorkers
from chatcluster.core.envelope import Live
from chatcluster.core.frames import Answer, ErrorFrame, Request, Send
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import LogRecord, Record, Role, Route, decode_log, inbox_timeline
from chatcluster.core.rows import Membership, StoredChannel, StoredMessage, TimelineRow, VerdictRow
from chatcluster.ports import Bus, Caller, Delivery, Failure, Full, Receipt, Report, Unavailable
from chatcluster.services.router.service import RouterService
from chatcluster.services.router.settings import RouterSettings

Jump = Callable[[Coroutine[Any, Any, None]], None]


class HandLog:
    """A log whose reports the test holds back, delays or spoils."""

    epoch = "e1"

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.records: list[LogRecord] = []
        self.reports: list[Report | None] = []
        self.hold = False
        self.full = False
        self.late = 0  # ms added to append times
        self.age = 0.0

    def partitions(self, topic: str) -> int:
        return 1

    def partition_of(self, topic: str, key: str) -> int:
        return 0

    def append(self, topic: str, key: str, value: bytes, report: Report) -> None:
        if self.full:
            raise Full
        self.records.append(decode_log(value))
        self.reports.append(report)
        if not self.hold:
            asyncio.get_running_loop().call_soon(self.report, len(self.records) - 1)

    def append_to(self, topic: str, partition: int, value: bytes, report: Report) -> None:
        raise AssertionError("routers append by key")

    def stalled(self) -> float:
        return self.age

    def report(self, offset: int, result: Receipt | Failure | None = None) -> None:
        report, self.reports[offset] = self.reports[offset], None
        assert report is not None
        report(result or Receipt(0, offset, self._clock.now() + self.late))

    @property
    def sent(self) -> list[Record]:
        return [record for record in self.records if isinstance(record, Record)]


class HandStore:
    """The few rows a test writes down. ``down``: nothing is answered."""

    def __init__(self) -> None:
        self.channels: dict[str, StoredChannel] = {}
        self.members_of: dict[str, dict[str, Membership]] = {}
        self.stored: dict[int, StoredMessage] = {}
        self.rows: list[VerdictRow] = []
        self.lines: dict[str, list[TimelineRow]] = {}
        self.down = False
        self.slow = 0.0
        self.reads: list[str] = []
        self.version = 0

    def put(self, channel: str, members: dict[str, Role], *, kind: str = "group", route: Route = "inbox") -> None:
        self.version += 1
        self.members_of[channel] = {user: Membership(user, role, self.version) for user, role in members.items()}
        self._channel(channel, kind, route)

    def remove(self, channel: str, user: str) -> None:
        self.version += 1
        self.members_of[channel][user] = Membership(user, None, self.version)
        self._channel(channel, self.channels[channel].kind, self.channels[channel].route)

    def add(self, channel: str, user: str, role: Role = "member") -> None:
        self.version += 1
        self.members_of[channel][user] = Membership(user, role, self.version)
        self._channel(channel, self.channels[channel].kind, self.channels[channel].route)

    def _channel(self, channel: str, kind: Any, route: Route) -> None:
        count = sum(1 for row in self.members_of[channel].values() if row.role)
        self.channels[channel] = StoredChannel(channel, kind, "name", "ann", 0, count, route, -1, None, self.version)

    def message(self, channel: str, event_id: int, sender: str, **more: Any) -> None:
        self.stored[event_id] = StoredMessage(event_id, channel, 0, sender, f"c{event_id}", "body", **more)

    async def _answer(self, what: str) -> None:
        self.reads.append(what)
        if self.slow:
            await asyncio.sleep(self.slow)
        if self.down:
            raise Unavailable("down")

    async def channel(self, tenant: str, channel: str) -> StoredChannel | None:
        await self._answer("channel")
        return self.channels.get(channel) if tenant == "t" else None

    async def members(self, tenant: str, channel: str, *, after: str, limit: int) -> Sequence[Membership]:
        await self._answer("members")
        rows = sorted(self.members_of[channel].values(), key=lambda row: row.user)
        return [row for row in rows if row.role is not None and row.user > after][:limit]

    async def memberships(
        self, tenant: str, channel: str, users: Sequence[str], *, at: int | None = None
    ) -> Mapping[str, Membership]:
        await self._answer("memberships")
        rows = self.members_of.get(channel, {})
        return {user: rows[user] for user in users if user in rows}

    async def messages(self, tenant: str, channel: str, ids: Sequence[int]) -> Mapping[int, StoredMessage]:
        await self._answer("messages")
        return {i: self.stored[i] for i in ids if i in self.stored and self.stored[i].channel == channel}

    async def verdicts(self, tenant: str, channel: str, sender: str, client_id: str) -> Sequence[VerdictRow]:
        await self._answer("verdicts")
        return [row for row in self.rows if (row.channel, row.sender, row.client_id) == (channel, sender, client_id)]

    async def heads(self, tenant: str, channels: Sequence[str]) -> Mapping[str, int]:
        await self._answer("heads")
        heads: dict[str, int] = {}
        for row in self.stored.values():
            if row.channel in channels:
                heads[row.channel] = max(row.id, heads.get(row.channel, 0))
        return heads

    async def history(
        self, tenant: str, channel: str, *, before: int | None, after: int | None, limit: int
    ) -> Sequence[StoredMessage]:
        await self._answer("history")
        rows = sorted((row for row in self.stored.values() if row.channel == channel), key=lambda row: row.id)
        rows = [row for row in rows if (before is None or row.id < before) and (after is None or row.id > after)]
        return rows[:limit] if after is not None else rows[-limit:]

    async def timeline(self, timeline: str, *, after: int, limit: int) -> Sequence[TimelineRow]:
        await self._answer("timeline")
        return [row for row in self.lines.get(timeline, []) if row.offset > after][:limit]

    async def newest(self, timelines: Sequence[str]) -> Mapping[str, TimelineRow]:
        await self._answer("newest")
        return {line: self.lines[line][-1] for line in timelines if self.lines.get(line)}

    async def read_cursors(self, tenant: str, user: str, channels: Sequence[str]) -> Mapping[str, int]:
        await self._answer("read_cursors")
        return {}


class World:
    """One router, and what is around it."""

    def __init__(self, clock: Any, settings: RouterSettings) -> None:
        self.clock = clock
        self.log = HandLog(clock)
        self.store = HandStore()
        self.buses = MemoryBuses()
        self.dedupe = MemoryDedupe(clock=clock)
        self.tails = MemoryTails(clock=clock)
        self.workers: Any = MemoryWorkers(clock=clock, floor=0)
        self.heard: list[Delivery] = []
        self.ear: Bus = self.buses.subscriber("ear")
        self.answers: dict[str, Answer] = {}
        self.count = 0
        self.settings = settings
        self.metrics = Metrics()
        self.store.put("small", {"ann": "owner", "bob": "member", "cat": "admin"})
        self.store.put("pair", {"ann": "member", "bob": "member"}, kind="direct")
        self.store.put("large", {"ann": "owner", "bob": "member"}, route="channel")
        self.router: RouterService

    def make(self) -> None:
        self.router = RouterService(
            log=self.log,
            bus=self.buses.subscriber("router"),
            store=self.store,  # type: ignore[arg-type]
            dedupe=self.dedupe,
            cursors=MemoryReadCursors(),
            tails=self.tails,
            workers=self.workers,
            clock=self.clock,
            metrics=self.metrics,
            settings=self.settings,
        )

    def ask(
        self, request: Request, user: str = "ann", *, session: str = "s", system: bool = False, tenant: str = "t"
    ) -> str:
        """Submit; the name under which the answer stands in ``answers``."""
        self.count += 1
        name = getattr(request, "rid", None) or f"#{self.count}"

        def done(answer: Answer) -> None:
            assert name not in self.answers, f"answered twice: {name}"
            self.answers[name] = answer

        self.router.submit(Caller(tenant, user, session, system), request, done)
        return name

    async def answer(self, request: Request, user: str = "ann", **more: Any) -> Answer:
        """Submit and wait."""
        name = self.ask(request, user, **more)
        await self.until(lambda: name in self.answers)
        return self.answers[name]

    async def until(self, true: Callable[[], bool], limit: float = 60.0) -> None:
        for _ in range(int(limit * 1_000)):
            if true():
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"it did not come true within {limit} s; answers: {self.answers}")

    async def settle(self) -> None:
        """Let everything run that can run now."""
        for _ in range(20):
            await asyncio.sleep(0)

    def live(self) -> list[Delivery]:
        return [delivery for delivery in self.heard if isinstance(delivery.envelope, Live)]


rids = iter(range(1, 1 << 30))


def send(channel: str = "small", body: str = "hello", client_id: str | None = None, **more: Any) -> Send:
    rid = f"r{next(rids)}"
    return Send(rid, channel, client_id or f"c-{rid}", body, **more)


def verdict(world: World, offset: int, winner: int | None, *, digest: int | None = None) -> None:
    record = world.log.sent[offset]
    own = record.digest if digest is None else digest
    world.store.rows.append(
        VerdictRow(
            "t", record.channel, record.actor, record.client_id, offset, record.id, winner, world.clock.now(), own
        )
    )


def code(answer: Answer) -> str:
    return answer.code if isinstance(answer, ErrorFrame) else type(answer).__name__


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    """The router and an ear on every user's and channel's topic."""
    world.make()
    users = ("ann", "bob", "cat", "dan", "eve")
    await world.ear.subscribe([inbox_timeline("t", user) for user in users] + ["c:t/large"])

    async def listen() -> None:
        async for batch in world.ear.listen():
            world.heard.extend(item for item in batch if isinstance(item, Delivery))

    ear = asyncio.create_task(listen())
    service = asyncio.create_task(world.router.run())
    try:
        await world.settle()
        yield world
    finally:
        for task in (service, ear):
            task.cancel()
        await asyncio.gather(service, ear, return_exceptions=True)
