"""The persister over the embedded log, store and caches: what it leaves is a function of the log, whatever happens."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatcluster.backends.memory import MemoryBus, MemoryBuses, MemoryReadCursors, MemoryTails
from chatcluster.backends.sqlite import SqliteLog, SqliteStore
from chatcluster.core.cursor import START
from chatcluster.core.envelope import ROUTERS_TOPIC, Changed, Nudge
from chatcluster.core.ids import Minter, first_id
from chatcluster.core.materialise import ChannelState, Item, Output, Thresholds, apply
from chatcluster.core.metrics import Counter, Metrics
from chatcluster.core.proof import covers
from chatcluster.core.records import (
    CHECK,
    DEAD_LETTERS,
    DEDUPE_WINDOW,
    INBOX,
    MAX_AGE,
    MESSAGES,
    READS,
    RETRY,
    AliasRecord,
    ChannelRecord,
    DeadLetter,
    EditRecord,
    EventRecord,
    MemberRecord,
    MessageRecord,
    ReadFlush,
    Reference,
    RouteRecord,
    TickRecord,
    channel_key,
    channel_timeline,
    decode_log,
    decode_reference,
    encode,
    inbox_timeline,
)
from chatcluster.core.rows import AnyRow, EventRow, MemberRow, ReadCursorRow, RouteRow, TimelineRow, VerdictRow
from chatcluster.ports import Batch, Delivery, Entry, Failure, Fenced, Full, Receipt, Report, TailEntry, Unavailable
from chatcluster.services.persister import PersisterService, PersisterSettings
from chatcluster.services.persister.loading import previous
from chatcluster.services.persister.stage import Stage
from chatcluster.services.persister.writing import Patience, TailWriter

Jump = Callable[[Coroutine[Any, Any, None]], None]
SETTINGS = PersisterSettings(inbox_fanout_limit=4, inbox_fanout_floor=3, append_chunk=3)
LIMITS = Thresholds(4, 3)
PARTITIONS = {MESSAGES: 2, INBOX: 2}
DEEP = b"\x81\xa1a" * 5_000 + b"\xc0"
"""Nested deeper than any decoder goes."""


class Time:
    """The loop's time, which a test may step forward."""

    def __init__(self) -> None:
        self.ahead = 0

    def now(self) -> int:
        return 1_790_000_000_000 + self.ahead + int(asyncio.get_running_loop().time() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


async def stop(*tasks: asyncio.Task[None]) -> None:
    """End them. Raises what ended one of them before."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


class Killed(Exception):
    """The process died here."""


class Fuse:
    """Kills the persister at the n-th effect on anything outside it, before, in the midst of or after it."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.mode = 0
        self.down: set[str] = set()

    def burn(self, what: str) -> int | None:
        """None to go on; else how to die: 0 before, 1 in the midst, 2 after."""
        if what in self.down:
            raise Unavailable(what)
        if self.left is None:
            return None
        self.left -= 1
        if self.left >= 0:
            return None
        self.left = None
        return self.mode


def place(row: AnyRow) -> tuple[Any, ...] | None:
    """The key of a row that a replay has to write again just as it was."""
    match row:
        case TimelineRow():
            return row.timeline, row.offset
        case VerdictRow():
            return row.channel, row.sender, row.client_id, row.offset
        case MemberRow():
            return row.channel, row.user, row.offset
        case RouteRow():
            return "route", row.channel, row.offset
        case EventRow():
            return "event", row.channel, row.id
    return None


class FusedStore:
    def __init__(self, store: SqliteStore, fuse: Fuse, written: dict[tuple[Any, ...], AnyRow]) -> None:
        self._store = store
        self._fuse = fuse
        self._written = written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, rows: Sequence[AnyRow]) -> None:
        for row in rows:  # the store keeps the first of them: a difference would not be seen there
            if (key := place(row)) is not None:
                assert self._written.setdefault(key, row) == row
        died = self._fuse.burn("store")
        if died == 0:
            raise Killed
        await self._store.write(rows if died is None or died == 2 else rows[1::2])  # rows may be applied in any order
        if died is not None:
            raise Killed


class FusedTails:
    def __init__(self, tails: MemoryTails, fuse: Fuse) -> None:
        self._tails = tails
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tails, name)

    async def commit(self, *args: Any) -> None:
        if "tails" in self._fuse.down:
            raise Unavailable("tails")
        await self._tails.commit(*args)

    async def append(self, entries: Sequence[tuple[str, TailEntry]]) -> None:
        died = self._fuse.burn("tails")
        if died == 0:
            raise Killed
        await self._tails.append(entries if died is None or died == 2 else entries[: len(entries) // 2])
        if died is not None:
            raise Killed


class FusedLog:
    def __init__(self, log: SqliteLog, fuse: Fuse) -> None:
        self._log = log
        self._fuse = fuse
        self.full = 0  # refuse so many appends
        self.fail = 0  # lose so many appends

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, topic: str, key: str, value: bytes, report: Report) -> None:
        if self.full:
            self.full -= 1
            raise Full("full")
        if topic == INBOX and self.fail:
            self.fail -= 1
            asyncio.get_running_loop().call_soon(report, Failure("lost"))
            return
        died = self._fuse.burn("log")
        if died == 0:
            raise Killed
        self._log.append(topic, key, value, report)
        if died is not None:
            raise Killed


class World:
    """A data folder, its caches, and the persister that comes back whenever it is killed."""

    def __init__(self, folder: Path, log: SqliteLog, store: SqliteStore, time: Time) -> None:
        self.folder = folder
        self.log = log
        self.store = store
        self.time = time
        self.tails = MemoryTails(clock=time)
        self.buses = MemoryBuses()
        self.cursors = MemoryReadCursors()
        self.metrics = Metrics()
        self.fuse = Fuse()
        self.fused_log = FusedLog(log, self.fuse)
        self.fuses: list[tuple[int, int]] = []
        self.deaths = 0
        self.written: dict[tuple[Any, ...], AnyRow] = {}
        self.minter = Minter(1)
        self.reader: Any = log

    def persister(self, group: str = "p", inbox: str = "", settings: PersisterSettings = SETTINGS) -> PersisterService:
        return PersisterService(
            log=self.fused_log,  # type: ignore[arg-type]
            reader=self.reader,
            messages=self.log.consumer(group, MESSAGES),
            inbox=self.log.consumer(inbox or group, INBOX),
            store=FusedStore(self.store, self.fuse, self.written),  # type: ignore[arg-type]
            tails=FusedTails(self.tails, self.fuse),  # type: ignore[arg-type]
            bus=self.buses.subscriber("persister"),
            cursors=self.cursors,
            clock=self.time,
            metrics=self.metrics,
            settings=settings,
        )

    async def supervise(self) -> None:
        while True:
            self.fuse.left, self.fuse.mode = self.fuses.pop(0) if self.fuses else (None, 0)
            try:
                await self.persister().run()
            except* Killed:
                self.deaths += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.supervise())
        try:
            yield
        finally:
            await stop(task)

    def id(self) -> int:
        return self.minter.mint(self.time.now())

    async def append(self, *records: EventRecord | bytes) -> list[int]:
        """Append in order; the offsets."""
        loop = asyncio.get_running_loop()
        receipts: list[asyncio.Future[Receipt]] = []
        for record in records:
            future: asyncio.Future[Receipt] = loop.create_future()
            raw = record if isinstance(record, bytes) else encode(record)
            key = "t/c" if isinstance(record, bytes) else channel_key(record.tenant, record.channel)
            self.log.append(MESSAGES, key, raw, future.set_result)  # type: ignore[arg-type]
            receipts.append(future)
        return [(await receipt).offset for receipt in receipts]

    async def ends(self, topic: str) -> dict[int, int]:
        return {at: await self.log.end(topic, at) for at in range(self.log.partitions(topic))}

    async def drained(self) -> None:
        """Everything that stands in the log now, and what it gives rise to, is written."""
        for topic in ("messages", "messages", "inbox"):
            ends = await self.ends(topic)
            for _ in range(10_000):
                done = await self.tails.committed(topic)  # type: ignore[arg-type]
                if all(done[at].offset >= end if at in done else end == 0 for at, end in ends.items()):
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(f"{topic} is not done: {done} of {ends}")

    async def entries(self, topic: str) -> list[list[Entry]]:
        return [list(await self.log.read(topic, at, 0, 100_000)) for at in range(self.log.partitions(topic))]

    async def timeline(self, timeline: str) -> list[TimelineRow]:
        return list(await self.store.timeline(timeline, after=START, limit=100_000))

    async def told(self, user: str) -> list[EventRecord]:
        return [row.record for row in await self.timeline(inbox_timeline("t", user))]

    def count(self, name: str, **labels: str) -> float:
        return sum(
            metric.source.value
            for metric in self.metrics
            if metric.name == name and labels.items() <= metric.labels.items() and isinstance(metric.source, Counter)
        )

    def gauge(self, name: str) -> float:
        return sum(m.source() for m in self.metrics if m.name == name and callable(m.source))

    # records of channel "c"

    def created(self, *users: str, channel: str = "c") -> ChannelRecord:
        members: Any = [(user, "member") for user in users]
        return ChannelRecord("t", channel, self.id(), users[0], "", 0, 0, "created", "group", None, members)

    def say(self, actor: str, key: str, flag: Any = 0, channel: str = "c") -> MessageRecord:
        return MessageRecord("t", channel, self.id(), actor, key, 1, flag, f"{actor}: {key}")

    def member(self, user: str, change: Any, channel: str = "c") -> MemberRecord:
        return MemberRecord("t", channel, self.id(), "a", "", 0, 0, user, change)


@asynccontextmanager
async def a_world(folder: Path) -> AsyncIterator[World]:
    time = Time()
    async with (
        SqliteLog.open(folder, clock=time, metrics=Metrics(), partitions=PARTITIONS) as log,
        SqliteStore.open(folder, clock=time, metrics=Metrics()) as store,
    ):
        yield World(folder, log, store, time)


def dump(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    with sqlite3.connect(folder / "store.db") as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in tables}
    connection.close()
    found["timelines"] = [row for row in found["timelines"] if row[0].startswith("c:")]  # inboxes: by their own log
    return found


async def expected(world: World) -> tuple[list[AnyRow], dict[str, list[tuple[str, int, int]]]]:
    """What the log means, record by record from its beginning: rows, and (channel, source, id) per user in order."""
    rows: list[AnyRow] = []
    inboxes: dict[str, list[tuple[str, int, int]]] = {}
    for entries in await world.entries(MESSAGES):
        states: dict[str, ChannelState] = {}
        verdicts: dict[tuple[str, str, str], list[VerdictRow]] = {}
        ids: set[tuple[str, int]] = set()
        for entry in entries:
            try:
                record = decode_log(entry.value)
            except msgspec.DecodeError:
                continue
            if isinstance(record, TickRecord):
                continue
            state = states.setdefault(entry.key, ChannelState(record.tenant, record.channel))
            if state.members is None:
                raise AssertionError("the model keeps everybody")
            earlier = verdicts.setdefault((entry.key, record.actor, record.client_id), [])
            item = Item(entry.offset, entry.time, entry.value, record, earlier, (entry.key, record.id) in ids)
            out = Output()
            if apply(state, item, LIMITS, out):
                ids.add((entry.key, record.id))
            rows += out.rows
            rows += out.timeline
            for _, value in out.references:
                reference = decode_reference(value)
                place = (reference.record.channel, reference.source, reference.record.id)
                inboxes.setdefault(reference.user, []).append(place)
    return rows, inboxes


async def check(world: World) -> None:
    """The store is the log's picture, timelines have neither holes nor doubles, tails are cuts of them."""
    rows, inboxes = await expected(world)
    with TemporaryDirectory() as other:
        async with SqliteStore.open(other, clock=world.time, metrics=Metrics()) as store:
            await store.write(rows)
            want = dump(Path(other))
    got = dump(world.folder)
    assert got == want
    users = {reference.user for part in await world.entries(INBOX) for reference in map(_reference, part)}
    assert users == set(inboxes)
    for user, places in inboxes.items():
        stored = await world.timeline(inbox_timeline("t", user))
        found = [(row.record.channel, row.source, row.record.id) for row in stored]
        assert sorted(found) == sorted(places)
        for channel in {place[0] for place in places}:
            assert [p for p in found if p[0] == channel] == [p for p in places if p[0] == channel]
    channels = [channel_timeline("t", channel) for channel in CHANNELS]
    for timeline in channels + [inbox_timeline("t", user) for user in users]:
        stored = await world.timeline(timeline)
        assert [row.prev for row in stored] == [START, *(row.offset for row in stored)][: len(stored)]
        (tail,) = await world.tails.read([(timeline, START)])
        if tail is not None and covers(START, tail):
            assert [(e.offset, e.prev, e.source, e.record.id) for e in tail] == [
                (row.offset, row.prev, row.source, row.record.id) for row in stored
            ]


def _reference(entry: Entry) -> Any:
    return decode_reference(entry.value)


# -- histories and deaths


USERS = ("a", "b", "x", "y", "z")
CHANNELS = ("c", "d")
step = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(USERS), st.sampled_from(["k1", "k2"]), st.sampled_from([0, 0, 1, 2])),
    st.tuples(st.just("add"), st.sampled_from(USERS)),
    st.tuples(st.just("remove"), st.sampled_from(USERS)),
    st.tuples(st.just("route"), st.sampled_from(["inbox", "channel"])),
    st.tuples(st.just("edit"), st.sampled_from(USERS)),
    st.tuples(st.just("again"), st.integers(1, 4)),
    st.tuples(st.just("late")),
    st.tuples(st.just("wait"), st.sampled_from([20_000, 61_000, DEDUPE_WINDOW])),
    st.tuples(st.just("corrupt")),
    st.tuples(st.just("drain")),
    st.tuples(st.just("wipe")),
)
histories = st.lists(st.tuples(st.sampled_from(CHANNELS), step), min_size=1, max_size=40)
deaths = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 2)), max_size=6)


async def play(world: World, history: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
    written: list[EventRecord] = []
    waiting: list[EventRecord | bytes] = [world.created("a", "b", "x", channel=channel) for channel in CHANNELS]
    for channel, (what, *args) in history:
        record: EventRecord | bytes | None = None
        if what == "say":
            record = world.say(args[0], args[1], args[2], channel)
        elif what in ("add", "remove"):
            record = world.member(args[0], what, channel)
        elif what == "route":
            record = RouteRecord("t", channel, world.id(), "", "", 0, 0, args[0])
        elif what == "edit":
            record = EditRecord("t", channel, world.id(), args[0], f"e{world.id()}", 1, 0, 5, "new")
        elif what == "again" and written:
            record = written[-min(args[0], len(written))]
        elif what == "late":
            minted = first_id(world.time.now() - MAX_AGE - 1_000)
            record = msgspec.structs.replace(world.say("a", "k1", 0, channel), id=minted)
        elif what == "corrupt":
            record = b"\xc1"
        elif what in ("wait", "drain", "wipe"):
            await world.append(*waiting)
            waiting = []
            if what == "wait":
                world.time.ahead += args[0]
            elif what == "drain":
                await world.drained()
            else:
                world.tails.wipe()
        if record is not None:
            waiting.append(record)
            if not isinstance(record, bytes):
                written.append(record)
    await world.append(*waiting)
    await world.drained()


@given(histories, deaths)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_death_between_any_two_steps_changes_nothing(
    jump: Jump, history: list[tuple[str, tuple[Any, ...]]], fuses: list[tuple[int, int]]
) -> None:
    async def main(folder: Path) -> None:
        async with a_world(folder) as world:
            world.fuses = list(fuses)
            async with world.running():
                await play(world, history)
            assert world.deaths or not any(at == 0 for at, _ in fuses[:1])  # the fuse burns
            await check(world)

    with TemporaryDirectory() as folder:
        jump(main(Path(folder)))


def flow(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[Jump, Path], None]:
    """A test in a fresh world on jumping time."""

    def run(jump: Jump, tmp_path: Path) -> None:
        async def main() -> None:
            async with a_world(tmp_path) as world:
                await test(world)

        jump(main())

    run.__name__ = test.__name__
    return run


# -- what a crash cannot be asked about


@flow
async def test_two_persisters_at_once_write_the_same(world: World) -> None:
    await world.append(world.created("a", "b", "x"), *(world.say("a", f"k{n % 5}") for n in range(20)))
    zombie = asyncio.create_task(world.persister().run())
    await asyncio.sleep(0)  # it has been started, its consumers are fenced by the next ones
    async with world.running():
        await world.append(world.member("b", "remove"), *(world.say("a", f"l{n % 5}") for n in range(20)))
        await world.drained()
        other = asyncio.create_task(world.persister("q").run())  # another group reads everything again
        await asyncio.sleep(20)
        await world.drained()
        await stop(other, zombie)
    await check(world)


@flow
async def test_a_replay_after_later_joins_and_leaves_fans_out_as_of_the_position(world: World) -> None:
    await world.append(world.created("a", "b"), world.say("a", "k1"))
    await world.append(
        world.member("x", "add"), world.say("a", "k2"), world.member("b", "remove"), world.say("a", "k3")
    )
    async with world.running():
        await world.drained()
    before = len(await world.timeline(inbox_timeline("t", "b")))
    again = asyncio.create_task(world.persister("from the start").run())  # rows beyond every record exist by now
    await asyncio.sleep(30)
    await stop(again)

    await check(world)
    assert before == len(await world.timeline(inbox_timeline("t", "b"))) == 5  # created, k1, x, k2, its own remove


@flow
async def test_references_appended_again_are_told_once_also_by_a_new_owner(world: World) -> None:
    await world.append(world.created("a", "b"), *(world.say("a", f"k{n}") for n in range(9)))
    async with world.running():
        await world.drained()
    before = sum(map(len, await world.entries(INBOX)))
    again = asyncio.create_task(world.persister("from the start", inbox="p").run())  # only stage 1 starts anew
    await asyncio.sleep(30)
    await stop(again)
    assert sum(map(len, await world.entries(INBOX))) == 2 * before
    await check(world)


@flow
async def test_a_repeat_of_an_event_changes_nothing_whoever_reads_it(world: World) -> None:
    add = world.member("x", "add")
    await world.append(world.created("a", "b"), add, world.member("x", "remove"))
    async with world.running():
        await world.drained()
    await world.append(add)  # of a producer that did not hear its report
    async with world.running():
        await world.append(add, world.say("a", "k"))
        await world.drained()
    assert [type(record) for record in await world.told("x")] == [MemberRecord, MemberRecord]
    assert [member.user for member in await world.store.members("t", "c", after="", limit=9)] == ["a", "b"]


@flow
async def test_whether_an_event_is_a_repeat_does_not_hang_on_where_rounds_are_cut(world: World) -> None:
    for channel, cut in (("c", False), ("d", True)):
        add = world.member("b", "add", channel)
        records = [world.created("a", "b", channel=channel), add, world.member("b", "remove", channel), add]
        async with world.running():
            for some in [[one] for one in records] if cut else [records]:
                await world.append(*some)
                await world.drained()
        # The first one changed nothing and left no row: nothing tells the second one from a first one.
        members = await world.store.members("t", channel, after="", limit=9)
        assert [member.user for member in members] == ["a", "b"], channel
    await check(world)


@flow
async def test_members_of_a_large_channel_are_asked_for_as_of_the_position(world: World) -> None:
    async with world.running():
        await world.append(world.created("a", "b", "x", "y"))
        await world.drained()
        await asyncio.sleep(1)
        world.fuse.left, world.fuse.mode = 0, 2  # dies with the rows written, and nothing else
        await world.append(world.member("b", "remove"))
        await world.drained()
    assert world.deaths == 1
    await check(world)
    assert isinstance((await world.told("b"))[-1], MemberRecord)


@flow
async def test_a_store_that_is_down_delays_and_loses_nothing(world: World) -> None:
    world.fuse.down = {"store"}
    async with world.running():
        await world.append(world.created("a", "b"), world.say("a", "k1"))
        await asyncio.sleep(300)
        assert not await world.told("a")
        assert world.count("persister_retries_total") >= 60
        assert not (await world.tails.committed("messages"))
        world.fuse.down = set()
        await asyncio.sleep(SETTINGS.retry_cap + 2)
        assert len(await world.told("a")) == 2


@flow
async def test_nothing_refers_to_what_is_not_stored(world: World) -> None:
    async def tail() -> int:
        (entries,) = await world.tails.read([(inbox_timeline("t", "b"), START)])
        return len(entries or ())

    await world.append(world.created("a", "b"))
    async with world.running():
        await world.drained()
        before, told = await world.ends(INBOX), await tail()
        world.fuse.down = {"store"}
        await world.append(world.say("a", "k"))
        await asyncio.sleep(10)
        assert await world.ends(INBOX) == before, "step 2 begins after step 1"

        # The message's rows are written; the store goes down again before those of the inboxes are.
        append = world.fused_log.append

        def then_down(topic: str, key: str, value: bytes, report: Report) -> None:
            if topic == INBOX:
                world.fuse.down = {"store"}
            append(topic, key, value, report)

        world.fused_log.append = then_down  # type: ignore[method-assign]
        world.fuse.down = set()
        await asyncio.sleep(10)
        assert await world.ends(INBOX) != before
        assert await tail() == told, "step 3 begins after step 2"
        world.fused_log.append = append  # type: ignore[method-assign]
        world.fuse.down = set()
        await world.drained()
        assert await tail() == told + 1
    await check(world)


@flow
async def test_what_is_not_written_is_not_committed(world: World) -> None:
    await world.append(world.created("a", "b"))
    async with world.running():
        await world.drained()
        world.fuse.down = {"store"}
        await world.append(world.say("a", "k"))
        await asyncio.sleep(10)
    world.fuse.down = set()
    async with world.running():
        await asyncio.sleep(10)
        assert [record.client_id for record in await world.told("b")][-1] == "k"
    await check(world)


@flow
async def test_tails_that_are_down_delay_nothing_and_are_filled_afterwards(world: World) -> None:
    world.fuse.down = {"tails"}
    async with world.running():
        await world.append(world.created("a", "b"), world.say("a", "k1"))
        await asyncio.sleep(3)
        assert len(await world.told("a")) == 2
        world.fuse.down = set()
        await world.append(world.say("a", "k2"))
        await world.drained()
    (tail,) = await world.tails.read([(inbox_timeline("t", "a"), START)])
    assert tail is not None
    assert covers(START, tail)
    assert len(tail) == 3


@flow
async def test_appends_refused_or_lost_are_made_again(world: World) -> None:
    world.fused_log.full = 3
    world.fused_log.fail = 2
    async with world.running():
        await world.append(world.created("a", "b"), world.say("a", "k1"), world.say("a", "k2"))
        await world.drained()
    assert world.fused_log.full == world.fused_log.fail == 0
    kinds = [type(record).__name__ for record in await world.told("a")]
    assert sorted(kinds) == ["ChannelRecord", "MessageRecord", "MessageRecord"]


@flow
async def test_what_cannot_be_read_is_a_dead_letter_and_the_partition_goes_on(world: World) -> None:
    alias = AliasRecord("t", "c", world.id(), "a", "", 0, 0, 5)
    said = world.say("a", "k0")
    bad: list[EventRecord | bytes] = [b"\xc1", b"", alias, encode(world.say("a", "k0", channel="elsewhere"))]
    bad += [msgspec.structs.replace(said, **{name: 1 << 63}) for name in ("id", "digest", "reply_to")]
    bad += [msgspec.structs.replace(said, id=-1), EditRecord("t", "c", world.id(), "a", "e", 1, 0, 1 << 63, "new")]
    bad.append(encode(msgspec.structs.replace(said, data={"a": None})).replace(b"\x81\xa1a\xc0", DEEP))
    await world.append(world.created("a", "b"), *bad, world.say("a", "k1"))
    others = encode(Reference("t", "b", 1, said))
    endless = encode(Reference("t", "a", 1, msgspec.structs.replace(said, id=1 << 63)))
    for nonsense in (b"nonsense", others, endless):
        world.log.append(INBOX, "t/a", nonsense, lambda _: None)
    async with world.running():
        await world.drained()
    async with world.running():  # whoever comes next meets them where it reads back
        await world.append(world.say("a", "k2"))
        await world.drained()
    letters = [
        msgspec.msgpack.decode(e.value, type=DeadLetter) for part in await world.entries(DEAD_LETTERS) for e in part
    ]
    assert [letter.value for letter in letters if letter.topic == MESSAGES] == [
        record if isinstance(record, bytes) else encode(record) for record in bad
    ]
    assert [letter.value for letter in letters if letter.topic == INBOX] == [b"nonsense", others, endless]
    assert all(letter.reason and letter.key for letter in letters)
    assert world.count("persister_dead_letters_total") == len(bad) + 3
    assert len(await world.told("a")) == 3


@flow
async def test_what_a_reader_is_given_beyond_the_position_is_no_repeat(world: World) -> None:
    class Aged:
        """The log's oldest records are gone, so a reader gets later ones in their place."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.log, name)

        async def read(self, topic: str, partition: int, start: int, limit: int) -> Sequence[Entry]:
            return await world.log.read(topic, partition, max(start, 4) if topic == INBOX else start, limit)

    await world.append(world.created("a", "b"), *(world.say("a", f"k{n}") for n in range(4)))
    async with world.running():
        await world.drained()
    world.reader = Aged()
    await world.append(*(world.say("a", f"l{n}") for n in range(4)))
    async with world.running():
        await world.drained()
    assert len(await world.told("a")) == len(await world.told("b")) == 9


@flow
async def test_a_proposal_that_the_log_refuses_is_made_again_by_the_next_event(world: World) -> None:
    append = world.fused_log.append
    refused = 0

    def full(topic: str, key: str, value: bytes, report: Report) -> None:
        nonlocal refused
        if topic == MESSAGES and not refused:
            refused += 1
            raise Full("full")
        append(topic, key, value, report)

    world.fused_log.append = full  # type: ignore[method-assign]
    async with world.running():
        await world.append(world.created("a", "b", "x", "y"))
        await world.drained()
        await asyncio.sleep(1)
        assert refused
        await world.append(world.say("a", "k"))
        await world.drained()
    stored = await world.store.channel("t", "c")
    assert stored is not None
    assert stored.route == "channel"


@flow
async def test_a_channel_renamed_under_a_new_owner_keeps_what_it_is(world: World) -> None:
    await world.append(msgspec.structs.replace(world.created("a", "b"), kind="direct"))
    async with world.running():
        await world.drained()
    before = await world.store.channel("t", "c")
    rename = ChannelRecord("t", "c", world.id(), "b", "", 0, 0, "renamed", "group", "new", [])
    async with world.running():
        await world.append(world.say("a", "k"))  # which needs the members alone
        await world.drained()
        await world.append(rename)
        await world.drained()
    after = await world.store.channel("t", "c")
    assert before is not None
    assert after is not None
    assert (after.name, after.kind, after.creator, after.created) == ("new", "direct", "a", before.created)


@flow
async def test_what_is_remembered_is_bounded_and_the_least_lately_used_goes(world: World) -> None:
    names = ["c0", "c1", "c2", "c3"]
    for name in names:
        await world.append(world.created("a", f"u-{name}", channel=name))
    small = msgspec.structs.replace(SETTINGS, channels=2, users=2)
    service = world.persister(settings=small)
    task = asyncio.create_task(service.run())
    for name in ("c0", "c1", "c0", "c2", "c0", "c3", "c0"):
        await world.append(world.say("a", f"k{world.id()}", channel=name))
        await world.drained()
    first, second = (stage._work._partitions for stage in service._stages)  # type: ignore[attr-defined]
    assert all(len(memory.states) <= 2 for memory in first.values())
    assert any(list(memory.states)[-1] == "t/c0" for memory in first.values())
    assert all(memory.members == sum(state.held for state in memory.states.values()) for memory in first.values())
    assert all(len(memory.newest) <= 2 for memory in second.values())
    await stop(task)

    few = msgspec.structs.replace(SETTINGS, members=3)
    service = world.persister("few", settings=few)
    task = asyncio.create_task(service.run())
    await asyncio.sleep(30)
    for memory in service._stages[0]._work._partitions.values():  # type: ignore[attr-defined]
        assert memory.members == sum(state.held for state in memory.states.values()) <= 3
    await stop(task)


@flow
async def test_tails_that_are_away_cost_the_oldest_entries_over_the_bound(world: World) -> None:
    small = msgspec.structs.replace(SETTINGS, tail_backlog=3)
    fused = FusedTails(world.tails, world.fuse)
    writer = TailWriter(tails=fused, metrics=world.metrics, settings=small, stage=INBOX)  # type: ignore[arg-type]
    entries = [("i:t/a", TailEntry(n, n - 1, n, world.say("a", f"k{n}"))) for n in range(7)]
    world.fuse.down = {"tails"}
    for entry in entries[:5]:
        await writer.append([entry])
    world.fuse.down = set()
    await writer.append(entries[5:6])
    (tail,) = await world.tails.read([("i:t/a", START)])
    assert [entry.offset for entry in tail or ()] == [2, 3, 4, 5]
    assert world.count("persister_tail_entries_dropped_total") == 2
    world.tails.wipe()
    await writer.append(entries[6:])  # alone: what was taken waits no more
    (tail,) = await world.tails.read([("i:t/a", START)])
    assert [entry.offset for entry in tail or ()] == [6]

    async def never(entries: Any) -> None:
        await asyncio.Event().wait()

    fused.append = never  # type: ignore[method-assign]
    async with asyncio.timeout(SETTINGS.tail_patience + 1):  # the log waits for no cache
        await writer.append(entries[6:])


# -- a stage and its group


class Group:
    """A consumer that is moved about by the test: what it owns, and what comes."""

    def __init__(self) -> None:
        self.owns: dict[int, int] = {}
        self.coming: asyncio.Queue[list[Batch]] = asyncio.Queue()
        self.committed: dict[int, int] = {}
        self.silent = False
        self.fades = False

    async def fetch(self) -> list[Batch]:
        return await self.coming.get()

    def owned(self) -> Mapping[int, int]:
        return self.owns

    async def commit(self, positions: Mapping[int, int]) -> None:
        if self.silent:
            raise Unavailable("no coordinator")
        if not positions.keys() <= self.owns.keys():
            self.silent = self.fades
            raise Fenced("not all are owned")
        self.committed.update(positions)

    async def brings(self, *places: tuple[int, int]) -> None:
        """One record at each (partition, offset), in one fetch; done when it returns."""
        self.coming.put_nowait([Batch(MESSAGES, at, [Entry(offset, 1_000, "", b"")]) for at, offset in places])
        await asyncio.sleep(2)


class Notes:
    """A ``Work`` that notes what is asked of it."""

    def __init__(self) -> None:
        self.found: list[tuple[Any, ...]] = []

    async def begin(self, partition: int, offset: int, time: int) -> None:
        self.found.append(("begin", partition, offset))

    def forget(self, partition: int) -> None:
        self.found.append(("forget", partition))

    async def process(self, batches: Sequence[Batch]) -> None:
        self.found += [("do", batch.partition, batch.entries[0].offset) for batch in batches]

    def take(self) -> list[tuple[Any, ...]]:
        found, self.found = self.found, []
        return found


@asynccontextmanager
async def a_stage(world: World, group: Group) -> AsyncIterator[Notes]:
    notes = Notes()
    stage = Stage(
        topic="messages",
        consumer=group,
        reader=world.log,
        work=notes,
        tails=world.tails,
        clock=world.time,
        metrics=world.metrics,
        settings=SETTINGS,
        patience=Patience(metrics=world.metrics, settings=SETTINGS),
    )
    task = asyncio.create_task(stage.run())
    try:
        yield notes
    finally:
        await stop(task)


@flow
async def test_what_is_remembered_of_a_partition_ends_when_it_may_have_been_anothers(world: World) -> None:
    group = Group()
    async with a_stage(world, group) as notes:
        group.owns = {0: 1, 1: 1}
        await group.brings((0, 5), (1, 7))
        assert notes.take() == [("begin", 0, 5), ("begin", 1, 7), ("do", 0, 5), ("do", 1, 7)]
        await group.brings((0, 6))
        assert notes.take() == [("do", 0, 6)]
        group.owns = {0: 2, 1: 1}  # it was another's, who did some of it
        await group.brings((0, 9))
        assert notes.take() == [("forget", 0), ("begin", 0, 9), ("do", 0, 9)]
        await group.brings((0, 8))  # read again
        assert notes.take() == [("forget", 0), ("begin", 0, 8), ("do", 0, 8)]
        group.owns = {1: 1}
        await group.brings((0, 9), (1, 8))  # fetched before it was lost
        assert notes.take() == [("forget", 0), ("do", 1, 8)]


@flow
async def test_a_commit_refused_for_one_partition_is_made_for_the_others(world: World) -> None:
    group = Group()
    async with a_stage(world, group):
        group.owns = {0: 1, 1: 1}
        await group.brings((0, 5), (1, 7))
        assert group.committed == {0: 6, 1: 8}
        group.silent = True
        await group.brings((0, 6), (1, 8))
        assert group.committed == {0: 6, 1: 8}
        group.silent = False
        await asyncio.sleep(1)
        assert group.committed == {0: 7, 1: 9}
        group.silent = True
        await group.brings((0, 7), (1, 9))
        group.owns = {1: 1}  # lost before it could be committed
        group.silent, group.fades = False, True  # refused, and then no answer for the others either
        await asyncio.sleep(1)
        assert group.silent
        assert group.committed == {0: 7, 1: 9}
        group.silent = group.fades = False
        await asyncio.sleep(1)
        assert group.committed == {0: 7, 1: 10}


@flow
async def test_what_was_lost_to_others_is_no_lag_of_ours(world: World) -> None:
    group = Group()
    async with a_stage(world, group):
        group.owns = {0: 1, 1: 1}
        await group.brings((0, 0), (1, 0))
        for partition in (0, 1):
            world.log.append_to(MESSAGES, partition, encode(TickRecord(1)), lambda _: None)
            world.log.append_to(MESSAGES, partition, encode(TickRecord(1)), lambda _: None)
        await asyncio.sleep(2)
        assert world.gauge("persister_lag_records") == 2
        group.owns = {}  # there are more persisters than partitions: nothing is ever fetched again
        await asyncio.sleep(2)
        assert world.gauge("persister_lag_records") == world.gauge("persister_lag_seconds") == 0


class Finite:
    """A store that is asked a hundred times at most."""

    def __init__(self, store: SqliteStore) -> None:
        self.newest = store.newest
        self._store = store
        self._left = 100

    async def timeline(self, *args: Any, **limits: Any) -> Sequence[TimelineRow]:
        self._left -= 1
        assert self._left
        return await self._store.timeline(*args, **limits)


@pytest.mark.parametrize(
    ("stored", "below", "wanted"),
    [
        ({}, 5, START),
        ({3: START}, 5, 3),
        ({3: START, 9: 3}, 5, 3),
        ({3: START, 9: 7}, 5, 3),  # 7 is missing: a crash left it out
        ({3: START, 90_009: 90_007}, 90_005, 3),
        ({9: 7}, 5, START),
    ],
)
def test_the_row_before_a_position_is_found_whatever_a_crash_left_out(
    jump: Jump, tmp_path: Path, stored: dict[int, int], below: int, wanted: int
) -> None:
    async def main() -> None:
        async with a_world(tmp_path) as world:
            said = world.say("a", "k")
            alias = AliasRecord("t", "c", said.id, "a", "k", 1, 0, 5)
            await world.store.write([TimelineRow("t", "c:t/c", at, prev, at, alias) for at, prev in stored.items()])
            assert await previous(Finite(world.store), "c:t/c", below) == wanted  # type: ignore[arg-type]

    jump(main())


# -- first wins


@flow
async def test_append_times_decide_who_is_first_across_restarts(world: World) -> None:
    async def once(record: MessageRecord) -> int | None:
        (offset,) = await world.append(record)
        async with world.running():  # every record has its own persister
            await world.drained()
        rows = await world.store.verdicts("t", "c", "a", record.client_id)
        (winner,) = [row.winner for row in rows if row.offset == offset]
        return winner

    await world.append(world.created("a", "b"))
    first = world.say("a", "k")
    assert await once(first) == first.id
    world.time.ahead += DEDUPE_WINDOW
    assert await once(world.say("a", "k")) == first.id  # 10 min and a little: memory, read back
    world.time.ahead += DEDUPE_WINDOW + 2 * MAX_AGE
    second = world.say("a", "k")
    assert await once(second) == second.id  # nobody said that it repeats
    assert await once(world.say("a", "k", CHECK)) == first.id  # the lowest within 24 h
    assert await once(world.say("a", "k", RETRY)) == first.id
    world.time.ahead += 25 * 3_600_000
    third = world.say("a", "k", RETRY)
    assert await once(third) == third.id
    late = msgspec.structs.replace(world.say("a", "l"), id=first_id(world.time.now() - MAX_AGE - 2_000))
    assert await once(late) is None
    again = world.say("a", "l")
    assert await once(again) == again.id  # void is no winner
    long_ago = world.say("a", "m")
    assert await once(long_ago) == long_ago.id
    world.time.ahead += 20 * 3_600_000
    assert await once(world.say("a", "m", RETRY)) == long_ago.id  # beyond all memory: it said itself that it repeats


# -- routes


@flow
async def test_the_route_goes_up_and_down_with_the_members_and_nothing_falls_between(world: World) -> None:
    routers = world.buses.subscriber("router")
    await routers.subscribe([ROUTERS_TOPIC, channel_timeline("t", "c"), inbox_timeline("t", "a")])
    async with world.running():
        await world.append(world.created("a", "b", "x"), world.say("a", "k1"))
        await world.drained()
        await world.append(world.member("y", "add"))
        await world.drained()
        (offset,) = await world.append(world.say("a", "k2"))
        await world.drained()
        stored = await world.store.channel("t", "c")
        assert stored is not None
        assert (stored.route, stored.members) == ("channel", 4)
        assert [row.offset for row in await world.timeline(channel_timeline("t", "c"))] == [stored.route_offset, offset]
        await world.append(world.member("y", "remove"), world.member("x", "remove"))
        await world.drained()
        await world.append(world.say("a", "k3"))
        await world.drained()
    await check(world)
    kinds = [type(record).__name__.removesuffix("Record") for record in await world.told("a")]
    assert kinds == ["Channel", "Message", "Member", "Route", "Route", "Message"]
    told = await world.told("y")
    assert isinstance(told[-1], MemberRecord)
    assert told[-1].change == "remove"
    heard = await _heard(routers)
    versions = [envelope.version for _, envelope in heard if isinstance(envelope, Changed)]
    assert len(versions) >= 3  # created, added and switched, removed: at least one each
    assert versions == sorted(versions)
    for timeline in (channel_timeline("t", "c"), inbox_timeline("t", "a")):
        nudged = {envelope.offset for topic, envelope in heard if topic == timeline and isinstance(envelope, Nudge)}
        rows = await world.timeline(timeline)
        unheard = {row.offset for row in rows if not isinstance(row.record, MessageRecord)}  # live, that is
        assert nudged <= unheard
        assert max(nudged) == max(unheard)  # one rumour for all that a round brought


@flow
async def test_many_members_at_once_are_one_rumour_to_those_who_follow(world: World) -> None:
    followers = world.buses.subscriber("gateway")
    timeline = channel_timeline("t", "c")
    await followers.subscribe([timeline])
    await world.append(world.created("a", "b"), RouteRecord("t", "c", world.id(), "", "", 0, 0, "channel"))
    await world.append(*[world.member(f"u{number:02}", "add") for number in range(50)])
    async with world.running():
        await world.drained()
    await check(world)
    rows = await world.timeline(timeline)
    assert sum(isinstance(row.record, MemberRecord) for row in rows) == 50
    nudged = [envelope.offset for _, envelope in await _heard(followers) if isinstance(envelope, Nudge)]
    assert len(nudged) < 10  # one a round: all of it was waiting
    assert nudged[-1] == rows[-1].offset


async def _heard(bus: MemoryBus) -> list[tuple[str, Any]]:
    async for batch in bus.listen():
        return [(item.topic, item.envelope) for item in batch if isinstance(item, Delivery)]
    return []


# -- read cursors and ticks


@flow
async def test_read_cursors_are_flushed_and_never_beyond_the_head(world: World) -> None:
    said = world.say("a", "k1")
    async with world.running():
        await world.append(world.created("a", "b"), said)
        await world.drained()
        await world.cursors.advance(ReadCursorRow("t", "a", "c", said.id))
        coming = world.say("b", "k2")
        await world.cursors.advance(ReadCursorRow("t", "b", "c", coming.id))
        await asyncio.sleep(SETTINGS.read_flush_interval + 1)
        assert await world.store.read_cursors("t", "a", ["c"]) == {"c": said.id}
        assert await world.store.read_cursors("t", "b", ["c"]) == {}  # its message is not stored yet
        await world.append(coming)
        await asyncio.sleep(SETTINGS.read_flush_interval + 1)
        assert await world.store.read_cursors("t", "b", ["c"]) == {"c": coming.id}
        await world.cursors.advance(ReadCursorRow("t", "b", "c", world.id()))
        await asyncio.sleep(90)  # nothing of that id can come any more
        assert await world.store.read_cursors("t", "b", ["c"]) == {"c": coming.id}
        assert not await world.cursors.dirty(10)
    flushed = [msgspec.msgpack.decode(e.value, type=ReadFlush) for part in await world.entries(READS) for e in part]
    assert [(flush.user, flush.message_id) for flush in flushed] == [("a", said.id), ("b", coming.id), ("b", coming.id)]


@flow
async def test_read_cursors_that_cannot_be_asked_for_are_flushed_later(world: World) -> None:
    said = world.say("a", "k1")
    dirty = world.cursors.dirty

    async def away(limit: int) -> Sequence[ReadCursorRow]:
        raise Unavailable("cursors")

    world.cursors.dirty = away  # type: ignore[method-assign]
    async with world.running():
        await world.append(world.created("a", "b"), said)
        await world.drained()
        await world.cursors.advance(ReadCursorRow("t", "a", "c", said.id))
        await asyncio.sleep(SETTINGS.read_flush_interval + 1)
        world.cursors.dirty = dirty  # type: ignore[method-assign]
        await asyncio.sleep(SETTINGS.read_flush_interval + 1)
        assert await world.store.read_cursors("t", "a", ["c"]) == {"c": said.id}


@flow
async def test_a_hundred_changes_are_flushed_without_waiting(world: World) -> None:
    said = world.say("a", "k1")
    async with world.running():
        await world.append(world.created("a", "b"), said)
        await world.drained()
        await asyncio.sleep(SETTINGS.read_flush_interval)
        for number in range(SETTINGS.read_flush_count):
            await world.cursors.advance(ReadCursorRow("t", f"u{number}", "c", said.id))
        await asyncio.sleep(SETTINGS.read_poll_interval + 0.1)
        assert not await world.cursors.dirty(10)


@flow
async def test_a_log_that_is_full_misses_a_tick_and_nothing_else(world: World) -> None:
    append_to = world.log.append_to

    def full(*args: Any) -> None:
        raise Full("full")

    async with world.running():
        world.fused_log.append_to = full  # type: ignore[attr-defined]
        await asyncio.sleep(SETTINGS.tick_interval + 2)
        assert world.count("persister_ticks_failed_total") == 2
        world.fused_log.append_to = append_to  # type: ignore[attr-defined]
        await asyncio.sleep(SETTINGS.tick_interval)
        assert set(await world.tails.committed("messages")) == {0, 1}


@flow
async def test_log_time_moves_in_every_partition_while_nobody_speaks(world: World) -> None:
    async with world.running():
        await asyncio.sleep(SETTINGS.tick_interval + 2)
        first: Mapping[int, Any] = await world.tails.committed("messages")
        assert set(first) == {0, 1}
        world.tails.wipe()
        await asyncio.sleep(SETTINGS.tick_interval + 2)
        second = await world.tails.committed("messages")
        for partition in first:
            assert second[partition].log_time >= first[partition].log_time + 5_000
    assert not any(await world.entries(INBOX))
