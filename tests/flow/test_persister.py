"""The persister over the embedded log, store and caches: what it leaves is a function of the log, whatever happens."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from chatcluster.backends.memory import MemoryBuses, MemoryReadCursors, MemoryTails
from chatcluster.backends.sqlite import SqliteLog, SqliteStore
from chatcluster.core.cursor import START
from chatcluster.core.ids import Minter, first_id
from chatcluster.core.materialise import ChannelState, Item, Output, Thresholds, apply
from chatcluster.core.metrics import Counter, Metrics
from chatcluster.core.proof import covers
from chatcluster.core.records import (
    DEDUPE_WINDOW,
    INBOX,
    MAX_AGE,
    MESSAGES,
    ChannelRecord,
    EditRecord,
    EventRecord,
    MemberRecord,
    MessageRecord,
    RouteRecord,
    TickRecord,
    channel_key,
    channel_timeline,
    decode_log,
    decode_reference,
    encode,
    inbox_timeline,
)
from chatcluster.core.rows import AnyRow, TimelineRow, VerdictRow
from chatcluster.ports import Entry, Failure, Full, Receipt, Report, TailEntry, Unavailable
from chatcluster.services.persister import PersisterService, PersisterSettings

Jump = Callable[[Coroutine[Any, Any, None]], None]
SETTINGS = PersisterSettings(inbox_fanout_limit=4, inbox_fanout_floor=3)
LIMITS = Thresholds(4, 3)
PARTITIONS = {MESSAGES: 2, INBOX: 2}


class Time:
    """The loop's time, which a test may step forward."""

    def __init__(self) -> None:
        self.ahead = 0

    def now(self) -> int:
        return 1_790_000_000_000 + self.ahead + int(asyncio.get_running_loop().time() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


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


class FusedStore:
    def __init__(self, store: SqliteStore, fuse: Fuse) -> None:
        self._store = store
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, rows: Sequence[AnyRow]) -> None:
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
        self.minter = Minter(1)

    def persister(self, group: str = "p") -> PersisterService:
        return PersisterService(
            log=self.fused_log,  # type: ignore[arg-type]
            reader=self.log,
            messages=self.log.consumer(group, MESSAGES),
            inbox=self.log.consumer(group, INBOX),
            store=FusedStore(self.store, self.fuse),  # type: ignore[arg-type]
            tails=FusedTails(self.tails, self.fuse),  # type: ignore[arg-type]
            bus=self.buses.subscriber("persister"),
            cursors=self.cursors,
            clock=self.time,
            metrics=self.metrics,
            settings=SETTINGS,
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
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and task.exception():
                raise task.exception()  # type: ignore[misc]

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
    max_examples=15,
    deadline=None,
    phases=(Phase.generate,),
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
            await check(world)

    with TemporaryDirectory() as folder:
        jump(main(Path(folder)))
