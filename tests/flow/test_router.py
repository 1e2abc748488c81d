"""The router's rules of safety, one by one: a log and a store that the test holds in its hand, the rest in memory.

The same service on the real backends with the persister behind it: ``test_router_platform``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatcluster.backends.memory.bus import MemoryBuses
from chatcluster.backends.memory.dedupe import MemoryDedupe
from chatcluster.backends.memory.read_cursors import MemoryReadCursors
from chatcluster.backends.memory.tails import MemoryTails
from chatcluster.backends.memory.workers import MemoryWorkers
from chatcluster.core.envelope import ROUTERS_TOPIC, Changed, Live, Read, Typing
from chatcluster.core.frames import (
    Ack,
    Answer,
    ChannelAdd,
    ChannelJoin,
    ChannelLeave,
    ChannelMembers,
    ChannelRemove,
    ChannelUpdate,
    Delete,
    Edit,
    ErrorFrame,
    History,
    React,
    ReadUpTo,
    Reply,
    Request,
    Send,
    Sync,
    Type,
)
from chatcluster.core.ids import CLOCK_BOUND, MAX_ID, first_id, id_time
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import (
    CHECK,
    MAX_AGE,
    PLAIN,
    RETRY,
    EditRecord,
    LogRecord,
    MessageRecord,
    Record,
    Role,
    Route,
    decode_log,
    inbox_timeline,
)
from chatcluster.core.rows import Membership, StoredChannel, StoredMessage, TimelineRow, VerdictRow
from chatcluster.ports import (
    Bus,
    Caller,
    Committed,
    Delivery,
    Failure,
    Fenced,
    Full,
    Lease,
    Lost,
    Receipt,
    Report,
    Unavailable,
)
from chatcluster.services.router.drafts import content_digest
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

    def ask(self, request: Request, user: str = "ann", *, session: str = "s", system: bool = False) -> str:
        """Submit; the name under which the answer stands in ``answers``."""
        self.count += 1
        name = getattr(request, "rid", None) or f"#{self.count}"

        def done(answer: Answer) -> None:
            assert name not in self.answers, f"answered twice: {name}"
            self.answers[name] = answer

        self.router.submit(Caller("t", user, session, system), request, done)
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


_rid = iter(range(1, 1 << 30))


def send(channel: str = "small", body: str = "hello", client_id: str | None = None, **more: Any) -> Send:
    rid = f"r{next(_rid)}"
    return Send(rid, channel, client_id or f"c-{rid}", body, **more)


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


@pytest.fixture
def play(jump: Jump, loop_clock: Any) -> Callable[..., None]:
    """Runs a scene against a router on jumping time."""

    def run(scene: Callable[[World], Awaitable[None]], **settings: Any) -> None:
        async def main() -> None:
            async with running(World(loop_clock, RouterSettings(**settings))) as world:
                await scene(world)

        jump(main())

    return run


# -- the path --------------------------------------------------------------------------------------


def test_a_send_is_told_to_every_member_and_acked_when_durable(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.hold = True
        name = world.ask(send(body="hi", data={"a": 1}))
        await world.settle()

        assert world.answers == {}, "acked before the log reported"
        assert sorted(d.topic for d in world.live()) == [f"u:t/{user}" for user in ("ann", "bob", "cat")]
        record = world.log.sent[0]
        assert isinstance(record, MessageRecord)
        assert (record.tenant, record.channel, record.actor, record.body, record.data, record.flag) == (
            "t", "small", "ann", "hi", {"a": 1}, PLAIN,
        )  # fmt: skip
        assert all(d.envelope == Live(record) for d in world.live())

        world.log.report(0)
        ack = world.answers[name]
        assert isinstance(ack, Ack)
        assert (ack.id, ack.channel, ack.duplicate) == (str(record.id), "small", False)

    play(scene)


def test_a_large_channel_is_told_on_its_own_topic_only(play: Any) -> None:
    async def scene(world: World) -> None:
        assert code(await world.answer(send("large"))) == "Ack"
        assert [d.topic for d in world.live()] == ["c:t/large"]

    play(scene)


def test_sends_of_a_session_keep_their_order_and_an_answer_sorts_after_its_question(play: Any) -> None:
    async def scene(world: World) -> None:
        names = [world.ask(send(body=str(n))) for n in range(50)]
        await world.until(lambda: len(world.answers) == 50)
        ids = [int(world.answers[name].id) for name in names]  # type: ignore[union-attr]
        assert ids == sorted(set(ids))
        assert [r.body for r in world.log.sent if isinstance(r, MessageRecord)] == [str(n) for n in range(50)]

        ahead = first_id(world.clock.now() + 3_000)  # another router's clock is ahead
        answer = await world.answer(send(after=str(ahead)))
        assert isinstance(answer, Ack)
        assert int(answer.id) > ahead

    play(scene, send_burst=100)


def test_sends_keep_their_order_while_their_channel_is_loaded_and_an_edit_is_checked(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.message("small", 77, "ann")
        world.store.slow = 0.2
        world.ask(send(body="one"))
        world.ask(Edit("e1", "small", "77", "ce1", "two"))
        world.ask(send(body="three"))
        world.ask(Edit("e2", "small", "77", "ce2", "four"))
        world.ask(send(body="five"))
        other = world.ask(send(body="other"), "bob", session="s2")
        await world.until(lambda: len(world.answers) == 6)
        bodies = [record.body for record in world.log.sent if isinstance(record, MessageRecord | EditRecord)]
        assert [body for body in bodies if body != "other"] == ["one", "two", "three", "four", "five"]
        assert bodies.index("other") < bodies.index("two"), "one session's edit held up another session"
        assert code(world.answers[other]) == "Ack"
        ids = [record.id for record in world.log.sent]
        assert ids == sorted(ids)

    play(scene)


def test_who_comes_just_before_the_channel_is_loaded_stays_behind_who_waited(play: Any) -> None:
    async def scene(world: World) -> None:
        members = world.store.members

        async def late(*args: Any, **more: Any) -> Any:
            rows = await members(*args, **more)
            world.ask(send(body="two"))
            return rows

        world.store.slow = 0.1
        world.store.members = late  # type: ignore[method-assign]
        world.ask(send(body="one"))
        await world.until(lambda: len(world.answers) == 2)
        assert [record.body for record in world.log.sent if isinstance(record, MessageRecord)] == ["one", "two"]

    play(scene)


def test_news_that_come_while_a_channel_is_read_are_not_overwritten_by_what_was_read(play: Any) -> None:
    async def scene(world: World) -> None:
        members = world.store.members

        async def old(*args: Any, **more: Any) -> Any:
            rows = await members(*args, **more)
            world.store.members = members  # type: ignore[method-assign]
            world.store.remove("small", "bob")
            news = Changed("t", "small", world.store.channels["small"].version)
            world.router._cache.follow([Delivery(ROUTERS_TOPIC, news)])
            return rows

        world.store.members = old  # type: ignore[method-assign]
        assert code(await world.answer(send(), "bob")) == "no_such_channel"
        assert world.log.records == []

    play(scene)


def test_one_flight_loads_a_channel_for_all_who_wait(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.slow = 0.1
        for n in range(20):
            world.ask(send(), "ann" if n % 2 else "bob", session=f"s{n}")
        await world.until(lambda: len(world.answers) == 20)
        assert world.store.reads.count("channel") <= 2

    play(scene)


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (send(body=""), "body_empty"),
        (send(body="ä" * 9), "body_too_long"),
        (send(body="a" * 17), "body_too_long"),
        (send(client_id="x" * 65), "bad_client_id"),
        (send(client_id="a\nb"), "bad_client_id"),
        (Send("r-empty", "small", "", "body"), "bad_client_id"),
        (send(after="x"), "bad_request"),
        (send(reply_to="-1"), "bad_request"),
        (Edit("r-edit", "small", "1", "c", ""), "body_empty"),
    ],
)
def test_bad_input_has_one_named_error_and_no_effect(play: Any, request_: Request, wanted: str) -> None:
    async def scene(world: World) -> None:
        answer = await world.answer(request_)
        assert isinstance(answer, ErrorFrame)
        assert (answer.code, answer.retryable, answer.rid) == (wanted, False, request_.rid)  # type: ignore[union-attr]
        assert (world.log.records, world.live()) == ([], [])

    play(scene, max_body_bytes=16)


def test_bodies_up_to_the_limit_in_bytes_pass(play: Any) -> None:
    async def scene(world: World) -> None:
        for body in ("ä" * 8, "a" * 16, "😀" * 4):
            assert code(await world.answer(send(body=body))) == "Ack"

    play(scene, max_body_bytes=16)


def test_each_user_has_a_rate(play: Any) -> None:
    async def scene(world: World) -> None:
        answers = [await world.answer(send()) for _ in range(4)]
        assert [code(answer) for answer in answers] == ["Ack", "Ack", "Ack", "rate_limited"]
        refused = answers[-1]
        assert isinstance(refused, ErrorFrame)
        assert refused.retryable
        assert isinstance(refused.retry_after_ms, int)
        assert 0 < refused.retry_after_ms <= 1_000
        assert code(await world.answer(send(), "bob")) == "Ack"
        assert code(await world.answer(send(), "ann", system=True)) == "Ack"
        await asyncio.sleep(refused.retry_after_ms / 1_000)
        assert code(await world.answer(send())) == "Ack"
        assert len(world.log.records) == 6

    play(scene, send_burst=3, sends_per_second=1)


# -- refusals before anything is published ---------------------------------------------------------


def test_a_stalled_log_refuses_before_anything_is_claimed_or_published(play: Any) -> None:
    async def scene(world: World) -> None:
        again = send(client_id="same")
        world.log.age = 1.1
        answer = await world.answer(again)
        assert isinstance(answer, ErrorFrame)
        assert (answer.code, answer.retryable) == ("overloaded", True)
        assert isinstance(answer.retry_after_ms, int)
        assert (world.log.records, world.live()) == ([], [])
        world.log.age = 0.9
        ack = await world.answer(send(client_id="same", body="another"))
        assert code(ack) == "Ack", "the refused send had claimed its client_id"

    play(scene)


def test_a_log_that_stalls_during_the_claim_refuses_before_anything_is_published(play: Any) -> None:
    async def scene(world: World) -> None:
        claim = world.dedupe.claim

        async def slowly(claims: Any) -> Any:
            world.log.age = 2.0
            return await claim(claims)

        world.dedupe.claim = slowly  # type: ignore[method-assign]
        assert code(await world.answer(send())) == "overloaded"
        assert (world.log.records, world.live()) == ([], [])

    play(scene)


def test_a_full_log_refuses_and_nothing_of_it_is_published(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.full = True
        answer = await world.answer(send())
        assert isinstance(answer, ErrorFrame)
        assert (answer.code, answer.retryable) == ("overloaded", True)
        await world.settle()
        assert world.live() == []

    play(scene)


def test_what_is_in_flight_is_bounded(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.hold = True
        names = [world.ask(send()) for _ in range(8)]
        await world.settle()
        assert [code(world.answers[name]) for name in names[5:]] == ["overloaded"] * 3
        assert len(world.log.records) == 5
        assert len(world.live()) == 15
        for offset in range(5):
            world.log.report(offset)
        assert [code(world.answers[name]) for name in names[:5]] == ["Ack"] * 5
        world.log.hold = False
        assert code(await world.answer(send())) == "Ack"

    play(scene, max_in_flight=5)


def test_arrivals_are_bounded(play: Any) -> None:
    async def scene(world: World) -> None:
        names = [world.ask(send()) for _ in range(5)]
        assert [code(world.answers[name]) for name in names[3:]] == ["overloaded"] * 2
        await world.until(lambda: len(world.answers) == 5)
        assert [code(world.answers[name]) for name in names[:3]] == ["Ack"] * 3

    play(scene, max_arrivals=3)


# -- reports ---------------------------------------------------------------------------------------


def test_a_record_void_by_age_is_never_acked(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.late = MAX_AGE + 1
        answer = await world.answer(send(client_id="x"))
        assert isinstance(answer, ErrorFrame)
        assert (answer.code, answer.retryable) == ("unknown_outcome", True)
        world.log.late = 0
        assert code(await world.answer(send(client_id="y"))) == "Ack"

    play(scene)


def test_a_record_just_within_the_age_is_acked(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.late = MAX_AGE
        assert code(await world.answer(send())) == "Ack"

    play(scene)


def test_a_failed_report_and_a_missing_one_are_of_unknown_outcome(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.hold = True
        failed, missing = world.ask(send()), world.ask(send())
        await world.settle()
        world.log.report(0, Failure("leader lost"))
        assert code(world.answers[failed]) == "unknown_outcome"
        await asyncio.sleep(9.9)
        assert missing not in world.answers
        await asyncio.sleep(1.0)
        assert code(world.answers[missing]) == "unknown_outcome"
        world.log.report(1)  # late: must not answer a second time
        await world.settle()

    play(scene, report_deadline=10.0)


# -- dedupe ----------------------------------------------------------------------------------------


def test_a_repeat_of_a_durable_send_is_acked_with_the_first_id(play: Any) -> None:
    async def scene(world: World) -> None:
        first = await world.answer(send(client_id="x"))
        await world.settle()
        again = await world.answer(send(client_id="x"))
        assert isinstance(first, Ack)
        assert isinstance(again, Ack)
        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.id == first.id
        assert len(world.log.records) == 1

    play(scene)


@pytest.mark.parametrize("settled", [True, False])
def test_other_content_under_the_same_client_id_is_a_conflict(play: Any, settled: bool) -> None:
    async def scene(world: World) -> None:
        world.log.hold = not settled
        world.ask(send(client_id="x", body="one"))
        await world.settle()
        before = len(world.live())
        for other in (send(client_id="x", body="two"), send(client_id="x", body="one", data={"a": 1})):
            answer = await world.answer(other)
            assert isinstance(answer, ErrorFrame)
            assert (answer.code, answer.retryable) == ("id_conflict", False)
        assert (len(world.log.records), len(world.live())) == (1, before)

    play(scene)


def test_client_ids_of_users_and_channels_are_their_own(play: Any) -> None:
    async def scene(world: World) -> None:
        answers = [
            await world.answer(send(client_id="x", body="one")),
            await world.answer(send(client_id="x", body="two"), "bob"),
            await world.answer(send("pair", client_id="x", body="three")),
        ]
        assert [code(answer) for answer in answers] == ["Ack"] * 3

    play(scene)


def verdict(world: World, offset: int, winner: int | None, *, digest: int | None = None) -> None:
    record = world.log.sent[offset]
    own = record.digest if digest is None else digest
    world.store.rows.append(
        VerdictRow(
            "t", record.channel, record.actor, record.client_id, offset, record.id, winner, world.clock.now(), own
        )
    )


def test_a_pending_young_claim_goes_on_with_its_id_and_waits_for_the_verdict(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.hold = True
        first = world.ask(send(client_id="x"))
        await world.settle()
        await asyncio.sleep(5)
        again = world.ask(send(client_id="x"))
        await world.settle()
        one, two = world.log.sent
        assert two.id == one.id
        assert two.flag == CHECK
        world.log.report(0)
        world.log.report(1)
        assert isinstance(world.answers[first], Ack)
        await asyncio.sleep(1)
        assert again not in world.answers, "acked without the verdict"
        verdict(world, 0, one.id)
        await world.until(lambda: again in world.answers)
        ack = world.answers[again]
        assert isinstance(ack, Ack)
        assert (ack.id, ack.duplicate) == (str(one.id), True)

    play(scene)


def test_a_pending_old_claim_gets_a_new_id_flagged_and_the_winner_is_acked(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.hold = True
        world.ask(send(client_id="x"))
        await world.settle()
        await asyncio.sleep(31)
        world.log.hold = False
        world.log.age = 0.0
        again = world.ask(send(client_id="x"))
        await world.settle()
        one, two = world.log.sent
        assert two.id > one.id
        assert two.flag == CHECK
        verdict(world, 0, one.id)
        verdict(world, 1, one.id)
        await world.until(lambda: again in world.answers)
        ack = world.answers[again]
        assert isinstance(ack, Ack)
        assert (ack.id, ack.duplicate) == (str(one.id), True)

    play(scene)


def test_a_silent_dedupe_sends_on_flagged_and_acks_what_the_verdict_says(play: Any) -> None:
    async def scene(world: World) -> None:
        async def silent(claims: Any) -> Any:
            raise Unavailable("down")

        claim, world.dedupe.claim = world.dedupe.claim, silent  # type: ignore[method-assign]
        name = world.ask(send())
        await world.settle()
        (record,) = world.log.sent
        assert record.flag == CHECK
        assert len(world.live()) == 3, "sends go on live without dedupe"
        assert name not in world.answers
        verdict(world, 0, record.id)
        await world.until(lambda: name in world.answers)
        ack = world.answers[name]
        assert isinstance(ack, Ack)
        assert (ack.id, ack.duplicate) == (str(record.id), False)
        world.dedupe.claim = claim  # type: ignore[method-assign]
        await asyncio.sleep(1.1)
        assert code(await world.answer(send())) == "Ack"
        assert world.log.sent[-1].flag == PLAIN

    play(scene)


def test_a_flagged_send_without_a_verdict_or_with_a_void_one_is_of_unknown_outcome(play: Any) -> None:
    async def scene(world: World) -> None:
        never = world.ask(send(client_id="x", retry=True))
        void = world.ask(send(client_id="y", retry=True))
        await world.until(lambda: len(world.log.records) == 2)
        verdict(world, 1, None)
        await world.until(lambda: void in world.answers)
        assert code(world.answers[void]) == "unknown_outcome"
        assert never not in world.answers
        await world.until(lambda: never in world.answers, 11)
        assert code(world.answers[never]) == "unknown_outcome"

    play(scene)


def test_a_retry_is_answered_by_the_verdict_rows_even_with_dedupe_wiped(play: Any) -> None:
    async def scene(world: World) -> None:
        first = await world.answer(send(client_id="x"))
        assert isinstance(first, Ack)
        verdict(world, 0, int(first.id))
        world.dedupe.wipe()
        heard = len(world.live())
        again = await world.answer(send(client_id="x", retry=True))
        assert isinstance(again, Ack)
        assert (again.id, again.duplicate) == (first.id, True)
        assert len(world.log.records) == 1
        assert len(world.live()) == heard
        conflict = await world.answer(send(client_id="x", retry=True, body="other"))
        assert (code(conflict), len(world.log.records)) == ("id_conflict", 1)

    play(scene)


def test_a_retry_without_verdict_rows_is_produced_flagged_and_the_winner_acked(play: Any) -> None:
    async def scene(world: World) -> None:
        # The first attempt is in the log, its rows are not yet in the store, and dedupe says nothing.
        first = await world.answer(send(client_id="x"))
        assert isinstance(first, Ack)
        name = world.ask(send(client_id="x", retry=True))
        await world.until(lambda: len(world.log.records) == 2)
        one, two = world.log.sent
        assert (two.flag, two.id > one.id) == (RETRY, True)
        verdict(world, 0, one.id)
        verdict(world, 1, one.id)
        await world.until(lambda: name in world.answers)
        ack = world.answers[name]
        assert isinstance(ack, Ack)
        assert (ack.id, ack.duplicate) == (first.id, True)

    play(scene)


def test_a_verdict_for_other_content_is_a_conflict(play: Any) -> None:
    async def scene(world: World) -> None:
        name = world.ask(send(client_id="x", retry=True))
        await world.until(lambda: len(world.log.records) == 1)
        world.store.rows.append(VerdictRow("t", "small", "ann", "x", -5, 5, 5, world.clock.now(), 12345))
        verdict(world, 0, 5)
        await world.until(lambda: name in world.answers)
        assert code(world.answers[name]) == "id_conflict"

    play(scene)


def test_verdicts_beyond_the_horizon_do_not_answer_a_retry(play: Any) -> None:
    async def scene(world: World) -> None:
        request = send(client_id="x", retry=True)
        old = world.clock.now() - 2 * 86_400_000
        world.store.rows.append(VerdictRow("t", "small", "ann", "x", 0, 5, 5, old, content_digest(request)))
        world.ask(request)
        await world.until(lambda: len(world.log.records) == 1)

    play(scene)


# -- who may ---------------------------------------------------------------------------------------


REQUESTS: list[Callable[[str], Request]] = [
    send,
    lambda c: send(c, retry=True),
    lambda c: Edit("q-edit", c, "1", "c", "b"),
    lambda c: Delete("q-delete", c, "1", "c"),
    lambda c: React("q-react", c, "1", "c", "x"),
    lambda c: ReadUpTo(c, "1", "q-read"),
    lambda c: History("q-history", c),
    lambda c: Sync("q-sync", channels={c: "AAAA"}),
    lambda c: ChannelUpdate("q-update", c, "n"),
    lambda c: ChannelAdd("q-add", c, ["eve"]),
    lambda c: ChannelRemove("q-remove", c, ["ann"]),
    lambda c: ChannelJoin("q-join", c),
    lambda c: ChannelLeave("q-leave", c),
    lambda c: ChannelMembers("q-members", c),
]


@pytest.mark.parametrize("make", REQUESTS)
def test_unknown_malformed_and_forbidden_channels_have_the_very_same_answer(play: Any, make: Any) -> None:
    async def scene(world: World) -> None:
        seen = []
        world.store.message("small", 1, "ann")
        for channel in ("small", "large", "pair", "nosuch", "", "{x}:*", "a\nb", "t/small", "x" * 128):
            request = make(channel)
            answer = await world.answer(request, "eve")
            assert isinstance(answer, ErrorFrame)
            seen.append((answer.code, answer.message, answer.retryable, answer.field, answer.retry_after_ms))
            world.answers.clear()
        assert seen[0][0] == "no_such_channel"
        assert set(seen) == {seen[0]}
        assert (world.log.records, world.heard) == ([], [])

    play(scene)


def test_a_removed_member_is_cut_off_at_once_by_the_news(play: Any) -> None:
    async def scene(world: World) -> None:
        for channel in ("small", "large"):
            assert code(await world.answer(send(channel), "bob")) == "Ack"
            world.store.remove(channel, "bob")
            version = world.store.channels[channel].version
            world.buses.subscriber("persister").publish([ROUTERS_TOPIC], Changed("t", channel, version))
            await world.settle()
            world.heard.clear()
            assert code(await world.answer(send(channel), "bob")) == "no_such_channel"
            assert code(await world.answer(send(channel), "ann")) == "Ack"
            assert "u:t/bob" not in [d.topic for d in world.live()]

    play(scene)


def test_a_removed_member_is_cut_off_within_five_seconds_when_the_news_is_lost(play: Any) -> None:
    async def scene(world: World) -> None:
        for channel in ("small", "large"):
            assert code(await world.answer(send(channel), "bob")) == "Ack"
            world.store.remove(channel, "bob")
            await asyncio.sleep(5.01)
            assert code(await world.answer(send(channel), "bob")) == "no_such_channel"

    play(scene)


def test_a_stale_channel_is_read_again_behind_the_send(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(send())
        world.store.remove("small", "cat")
        await asyncio.sleep(3.5)
        reads = len(world.store.reads)
        world.store.slow = 0.5
        name = world.ask(send())
        await world.settle()
        assert name in world.answers, "a send waited for a read of a channel that was fresh enough"
        assert len(world.store.reads) == reads + 1
        await asyncio.sleep(1.1)
        world.heard.clear()
        await world.answer(send())
        assert [d.topic for d in world.live()] == ["u:t/ann", "u:t/bob"]

    play(scene)


def test_direct_channels_are_read_once(play: Any) -> None:
    async def scene(world: World) -> None:
        for _ in range(5):
            assert code(await world.answer(send("pair"))) == "Ack"
            await asyncio.sleep(10)
        assert world.store.reads.count("channel") == 1

    play(scene)


def test_lost_news_drop_what_is_cached(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(send(), "bob")
        world.store.remove("small", "bob")
        cache = world.router._cache
        cache.follow([Lost(None)])
        assert code(await world.answer(send(), "bob")) == "no_such_channel"

    play(scene)


def test_who_was_just_added_is_not_refused(play: Any) -> None:
    async def scene(world: World) -> None:
        for channel in ("small", "large"):
            await world.answer(send(channel))
            world.store.add(channel, "dan")
            await asyncio.sleep(0.6)
            assert code(await world.answer(send(channel), "dan")) == "Ack"
        assert code(await world.answer(send("new"))) == "no_such_channel"
        world.store.put("new", {"ann": "owner"})
        await asyncio.sleep(0.6)
        assert code(await world.answer(send("new"))) == "Ack"

    play(scene)


def test_guessing_costs_one_read_per_moment(play: Any) -> None:
    async def scene(world: World) -> None:
        for n in range(30):
            await world.answer(send(), f"stranger{n}")
        assert world.store.reads.count("channel") <= 2

    play(scene, negative=1_000.0)


def test_with_the_store_down_cached_channels_go_on_and_unknown_ones_are_unavailable(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(send())
        await world.answer(send("large"))
        world.store.down = True
        await asyncio.sleep(60)
        assert code(await world.answer(send())) == "Ack"
        assert code(await world.answer(send("large"))) == "Ack"
        answer = await world.answer(send("pair"))
        assert isinstance(answer, ErrorFrame)
        assert (answer.code, answer.retryable) == ("unavailable", True)
        world.store.down = False
        assert code(await world.answer(send("pair"))) == "Ack"

    play(scene)


def test_a_silent_store_says_no_to_nobody(play: Any) -> None:
    """Who was added a moment ago is told to come again, and neither is a stranger told anything else."""

    async def scene(world: World) -> None:
        for channel in ("small", "large"):
            await world.answer(send(channel))
            world.store.add(channel, "newcomer")
        world.store.down = True
        await asyncio.sleep(60)
        for channel in ("small", "large", "nosuch"):
            for user in ("newcomer", "stranger"):
                for request in (send(channel), ChannelLeave(f"leave {channel} {user}", channel)):
                    answer = await world.answer(request, user)
                    assert isinstance(answer, ErrorFrame)
                    assert (answer.code, answer.retryable) == ("unavailable", True)
        world.store.down = False
        for channel in ("small", "large"):
            assert code(await world.answer(send(channel), "newcomer")) == "Ack"
            assert code(await world.answer(send(channel), "stranger")) == "no_such_channel"

    play(scene)


def test_a_system_caller_is_above_membership(play: Any) -> None:
    async def scene(world: World) -> None:
        assert code(await world.answer(send(), "robot", system=True)) == "Ack"
        assert code(await world.answer(send("large"), "robot", system=True)) == "Ack"
        assert code(await world.answer(send("nosuch"), "robot", system=True)) == "no_such_channel"

    play(scene)


# -- edits, deletes, reactions ---------------------------------------------------------------------


def test_an_edit_carries_what_the_whole_message_needs_and_sorts_after_it(play: Any) -> None:
    async def scene(world: World) -> None:
        target = first_id(world.clock.now() + 2_000)
        world.store.message("small", target, "ann", reply_to=7)
        assert code(await world.answer(Edit("e", "small", str(target), "c1", "new", {"x": 1}))) == "Ack"
        (record,) = world.log.sent
        assert isinstance(record, EditRecord)
        assert record.id > target
        assert (record.message_id, record.body, record.data) == (target, "new", {"x": 1})
        assert (record.author, record.author_client_id, record.reply_to) == ("ann", f"c{target}", 7)
        assert len(world.live()) == 3

    play(scene)


def test_who_may_change_a_message(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.message("small", 10, "bob")
        tries: list[tuple[str, Request, str]] = [
            ("ann", Edit("a1", "small", "10", "a1", "x"), "forbidden"),
            ("bob", Edit("a2", "small", "10", "a2", "x"), "Ack"),
            ("cat", React("a3", "small", "10", "a3", "+"), "Ack"),
            ("cat", Delete("a4", "small", "10", "a4"), "Ack"),
            ("ann", Delete("a5", "small", "10", "a5"), "Ack"),
        ]
        for user, request, wanted in tries:
            assert code(await world.answer(request, user)) == wanted, request
        world.store.message("small", 11, "ann")
        assert code(await world.answer(Delete("a6", "small", "11", "a6"), "bob")) == "forbidden"
        world.store.message("pair", 12, "ann")
        assert code(await world.answer(Delete("a7", "pair", "12", "a7"), "bob")) == "forbidden"
        assert code(await world.answer(Delete("a8", "pair", "12", "a8"), "ann")) == "Ack"

    play(scene)


def test_a_message_that_is_not_stored_is_asked_for_again_only_while_it_may_come(play: Any) -> None:
    async def scene(world: World) -> None:
        young, old, made_up = first_id(world.clock.now()), first_id(world.clock.now() - 60_000), MAX_ID
        await world.tails.commit("messages", {0: Committed(1, world.clock.now())})
        for event_id, retryable in ((young, True), (old, False), (made_up, False)):
            answer = await world.answer(Edit(f"e{event_id}", "small", str(event_id), f"c{event_id}", "x"))
            assert isinstance(answer, ErrorFrame)
            assert (answer.code, answer.retryable) == ("no_such_message", retryable)
        world.store.message("large", old, "ann")
        assert code(await world.answer(Edit("f", "small", str(old), "f", "x"))) == "no_such_message", (
            "of another channel"
        )
        assert world.log.records == []

    play(scene)


def test_a_deleted_message_is_no_more_but_its_repeated_delete_is_acked(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.message("small", 10, "ann")
        first = await world.answer(Delete("d1", "small", "10", "x"))
        assert isinstance(first, Ack)
        verdict(world, 0, int(first.id))
        world.store.message("small", 10, "ann", deleted=True)
        for again in (Delete("d2", "small", "10", "x"), Delete("d3", "small", "10", "x", retry=True)):
            ack = await world.answer(again)
            assert isinstance(ack, Ack)
            assert (ack.id, ack.duplicate) == (first.id, True)
        for request in (
            Edit("d4", "small", "10", "y", "b"),
            React("d5", "small", "10", "z", "+"),
            Delete("d6", "small", "10", "other"),
        ):
            answer = await world.answer(request)
            assert isinstance(answer, ErrorFrame)
            assert (answer.code, answer.retryable) == ("no_such_message", False)
        assert len(world.log.records) == 1

    play(scene)


# -- worker numbers, clocks, sleep -----------------------------------------------------------------


class HandWorkers:
    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.error: Exception | None = None
        self.ttl = 30.0
        self.number = 3
        self.skew: int | None = None

    async def lease(self, holder: str) -> Lease:
        if self.error is not None:
            raise self.error
        return Lease(self.number, 0, self.clock.monotonic() + self.ttl, self.skew)


def test_a_clock_that_leaves_the_others_mints_nothing_until_it_is_back(jump: Jump, loop_clock: Any) -> None:
    async def main() -> None:
        world = World(loop_clock, RouterSettings())
        workers = world.workers = HandWorkers(loop_clock)
        workers.skew = -5_000  # the bound is allowed
        async with running(world):
            first = await world.answer(send())
            assert isinstance(first, Ack)
            for skew in (3_600_000, -5_500):
                workers.skew = skew
                await asyncio.sleep(12)
                answer = await world.answer(send(client_id=f"c{skew}"))
                assert isinstance(answer, ErrorFrame)
                assert (answer.code, answer.retryable) == ("unavailable", True)
            workers.skew = 0
            await asyncio.sleep(12)
            second = await world.answer(send(client_id="back"))
            assert isinstance(second, Ack)
            assert id_time(int(second.id)) < loop_clock.now() + CLOCK_BOUND

    jump(main())


def test_a_fenced_router_refuses_and_mints_again_with_another_number(jump: Jump, loop_clock: Any) -> None:
    async def main() -> None:
        world = World(loop_clock, RouterSettings())
        workers = world.workers = HandWorkers(loop_clock)
        async with running(world):
            first = await world.answer(send())
            assert isinstance(first, Ack)
            workers.error = Fenced("taken")
            await asyncio.sleep(6)
            answer = await world.answer(send())
            assert isinstance(answer, ErrorFrame)
            assert (answer.code, answer.retryable) == ("unavailable", True)
            workers.error, workers.number = None, 1
            await asyncio.sleep(2)
            again = await world.answer(send())
            assert isinstance(again, Ack)
            assert int(again.id) > int(first.id)
            assert int(again.id) >> 12 & 1023 == 1

    jump(main())


def test_minting_stops_a_margin_before_the_lease_ends(jump: Jump, loop_clock: Any) -> None:
    async def main() -> None:
        world = World(loop_clock, RouterSettings(lease_margin=2.0))
        workers = world.workers = HandWorkers(loop_clock)
        async with running(world):
            workers.error = Unavailable("silent")
            await asyncio.sleep(27.9)
            assert code(await world.answer(send())) == "Ack"
            await asyncio.sleep(0.2)
            assert code(await world.answer(send())) == "unavailable"
            assert len(world.log.records) == 1

    jump(main())


def test_a_backward_clock_is_loud_and_never_makes_a_duplicate(play: Any) -> None:
    async def scene(world: World) -> None:
        first = await world.answer(send())
        world.clock.skew = -3_600_000
        assert code(await world.answer(send())) == "unavailable"
        world.clock.skew = -4_000
        again = await world.answer(send())
        assert isinstance(first, Ack)
        assert isinstance(again, Ack)
        assert int(again.id) > int(first.id)
        assert len(world.log.records) == 2

    play(scene)


def test_a_forged_after_does_not_push_the_clock(play: Any) -> None:
    async def scene(world: World) -> None:
        assert code(await world.answer(send(after=str(MAX_ID)))) == "unavailable"
        ack = await world.answer(send())
        assert isinstance(ack, Ack)
        assert id_time(int(ack.id)) <= world.clock.now()

    play(scene)


def test_who_slept_drops_what_waited_before_acting_on_it(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(send())
        name = world.ask(send(client_id="slept"))
        asyncio.get_running_loop().offset += 10.5  # type: ignore[attr-defined]
        await world.until(lambda: name in world.answers)
        assert code(world.answers[name]) == "unavailable"
        assert len(world.log.records) == 1
        assert len(world.live()) == 3
        again = await world.answer(send(client_id="slept", body="another"))
        assert code(again) == "Ack", "what was dropped had claimed its client_id"

    play(scene, report_deadline=60.0)


def test_stopping_answers_everything(jump: Jump, loop_clock: Any) -> None:
    async def main() -> None:
        world = World(loop_clock, RouterSettings())
        async with running(world):
            await world.answer(send())
            world.log.hold = True
            produced = world.ask(send())
            await world.settle()
            world.store.slow = 5.0
            parked = world.ask(send("pair"))
            checked = world.ask(Edit("e", "large", "1", "c", "b"))
            read = world.ask(History("h", "pair"))
            await world.settle()
            queued = world.ask(send())
        codes = {name: code(world.answers[name]) for name in (produced, parked, checked, read, queued)}
        assert codes[produced] == "unknown_outcome"
        assert codes[parked] == codes[checked] == "unavailable"
        assert {codes[read], codes[queued]} <= {"unavailable", "unknown_outcome"}
        world.log.report(1)
        assert code(world.answers[produced]) == "unknown_outcome"
        late = world.ask(send())
        assert code(world.answers[late]) == "unavailable"

    jump(main())


# -- read and typing -------------------------------------------------------------------------------


def test_read_cursors_go_forward_never_beyond_the_head_and_are_told(play: Any) -> None:
    async def scene(world: World) -> None:
        for event_id in (10, 20):
            world.store.message("small", event_id, "ann")
        reply = await world.answer(ReadUpTo("small", "20", "q1"), "bob")
        assert isinstance(reply, Reply)
        assert reply.read == "20"
        await world.settle()
        told = [d for d in world.heard if isinstance(d.envelope, Read)]
        assert sorted(d.topic for d in told) == ["u:t/ann", "u:t/bob", "u:t/cat"]
        assert all(
            (d.envelope.user, d.envelope.message_id) == ("bob", 20) for d in told if isinstance(d.envelope, Read)
        )
        back = await world.answer(ReadUpTo("small", "10", "q2"), "bob")
        assert isinstance(back, Reply)
        assert back.read == "20"
        await world.settle()
        assert len([d for d in world.heard if isinstance(d.envelope, Read)]) == 3
        assert code(await world.answer(ReadUpTo("small", "21", "q3"), "bob")) == "cursor_ahead"
        quiet = await world.answer(ReadUpTo("small", "20"), "ann")
        assert isinstance(quiet, Reply)

    play(scene)


def test_reads_in_large_channels_are_told_to_own_devices_only(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.message("large", 10, "ann")
        await world.answer(ReadUpTo("large", "10", "q1"), "bob")
        await world.settle()
        assert [d.topic for d in world.heard] == ["u:t/bob"]

    play(scene)


def test_a_message_acked_here_may_be_read_before_it_is_stored(play: Any) -> None:
    async def scene(world: World) -> None:
        ack = await world.answer(send())
        assert isinstance(ack, Ack)
        assert code(await world.answer(ReadUpTo("small", ack.id, "q"), "bob")) == "Reply"

    play(scene)


def test_typing_is_told_to_the_others_seldom_and_only_by_members(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(send())
        world.heard.clear()
        for _ in range(3):
            world.ask(Type("small"))
        world.ask(Type("small"), "eve")
        world.ask(Type("unknown"))
        await world.settle()
        told = [(d.topic, d.envelope) for d in world.heard]
        assert told == [("u:t/bob", Typing("small", "ann")), ("u:t/cat", Typing("small", "ann"))]
        await asyncio.sleep(2.5)
        world.ask(Type("small"))
        await world.settle()
        assert len(world.heard) == 2
        await asyncio.sleep(0.5)
        world.ask(Type("small"))
        await world.settle()
        assert len(world.heard) == 4

    play(scene)


def test_typing_is_shed_before_a_message_is_delayed(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(send())
        world.heard.clear()
        for _ in range(5):
            world.ask(send())
        world.ask(Type("small"))
        await world.settle()
        assert len(world.live()) == 15
        assert len(world.heard) == 15

    play(scene, typing_backlog=4)


# -- history ---------------------------------------------------------------------------------------


def test_history_pages_both_ways(play: Any) -> None:
    async def scene(world: World) -> None:
        for event_id in range(1, 8):
            world.store.message("small", event_id, "ann")
        await world.tails.commit("messages", {0: Committed(1, world.clock.now())})

        async def ids(**more: Any) -> tuple[list[str], Any, Any]:
            reply = await world.answer(History(f"q{next(_rid)}", "small", **more))
            assert isinstance(reply, Reply)
            assert isinstance(reply.messages, list)
            return [message.id for message in reply.messages], reply.more, reply.complete

        assert await ids(limit=3) == (["5", "6", "7"], True, True)
        assert await ids(limit=3, before="5") == (["2", "3", "4"], True, True)
        assert await ids(limit=3, before="2") == (["1"], False, True)
        assert await ids(limit=3, after="2") == (["3", "4", "5"], True, True)
        assert await ids(limit=3, after="4") == (["5", "6", "7"], False, True)
        await asyncio.sleep(8)
        assert (await ids())[2] is False
        for limit in (0, -1, 101):
            assert code(await world.answer(History(f"q{next(_rid)}", "small", limit=limit))) == "bad_limit"
        assert code(await world.answer(History("both", "small", before="1", after="1"))) == "bad_request"

    play(scene)


def test_identical_history_reads_share_a_flight_and_requests_are_bounded(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(History("warm", "small"))
        world.store.reads.clear()
        world.store.slow = 0.5
        names = [world.ask(History(f"h{n}", "small")) for n in range(12)]
        await world.until(lambda: len(world.answers) == 13)
        codes = [code(world.answers[name]) for name in names]
        assert codes == ["Reply"] * 10 + ["overloaded"] * 2
        assert world.store.reads.count("history") == 1

    play(scene, max_reads=10)
