"""The Cassandra store beside its twin: the same rows, whatever their order, give the same reads."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import pytest
from cassandra import ConsistencyLevel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cassandra_tables
from chatcluster.backends.cassandra import CassandraStore
from chatcluster.backends.cassandra.buckets import LEVELS, MINUTES, bucket_at, covers, end, start
from chatcluster.backends.cassandra.index import Flights
from chatcluster.backends.sqlite import SqliteStore
from chatcluster.core.ids import EPOCH, first_id
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import AliasRecord, RouteRecord
from chatcluster.core.rows import (
    ChannelRow,
    DeleteRow,
    EditRow,
    EventRow,
    MemberRow,
    MessageRow,
    ReactionRow,
    ReadCursorRow,
    RevocationRow,
    RouteRow,
    TimelineRow,
    UserChannelRow,
    VerdictRow,
)
from chatcluster.ports import Unavailable

DAY = 86_400_000
EDGE = bucket_at(EPOCH + 4_000 * DAY, 1)
"""A bucket of 10 days; rows stand around its start."""
TIMES = [start(EDGE) + shift for shift in (-25 * DAY, -DAY, -3_000, -1, 0, 1, 2_500, 200_000, DAY, 9 * DAY, 10 * DAY)]
PEOPLE = ("amy", "bob")
NEXT = count(time.time_ns())


class Now:
    def __init__(self):
        self.ahead = 0.0

    def now(self):
        return time.time_ns() // 1_000_000

    def monotonic(self):
        return time.monotonic() + self.ahead


@pytest.fixture
def server(request):
    return cassandra_tables.address(request)


@pytest.fixture
def table_settings(server):
    return cassandra_tables.emptied(server)


def row(tenant, kind, number, version, user):
    """Rows whose content is a function of key and version, as those of a persister are. ``number``: a time."""
    key = first_id(TIMES[number]) + number
    late = first_id(TIMES[version]) + 7
    offset = 10 * version
    route = RouteRecord(tenant, "c", key, "u", "", 0, 0, "inbox", version)
    alias = AliasRecord(tenant, "c", late, "u", "", 0, 0, 1)
    # The time of a timeline's row hardly goes back: 3 s at most.
    when = TIMES[version] - (2_900 if version % 3 == 0 else 0)
    return {
        "message": lambda: MessageRow(tenant, "c", key, offset, "u", f"x{number}", f"m{version}", {"v": version}),
        "edit": lambda: EditRow(tenant, "c", key, late, f"e{version}", {"v": version} if version % 2 else None),
        "delete": lambda: DeleteRow(tenant, "c", key, late),
        "reaction": lambda: ReactionRow(tenant, "c", key, user, "👍", late + (user == "amy"), version % 2 == 0),
        "member": lambda: MemberRow(
            tenant, "c", user, offset, None if version % 3 == 0 else "member", 4_998 + version + (user == "amy")
        ),
        "channel": lambda: ChannelRow(tenant, "c", offset, "group", f"n{version}", "amy", 1),
        "route": lambda: RouteRow(tenant, "c", offset, "inbox" if version % 2 else "channel", None),
        "user": lambda: UserChannelRow(tenant, user, f"c{number}", offset, None if version % 3 == 0 else "member"),
        "event": lambda: EventRow(tenant, "c", key + 1_000, offset, route),
        "read": lambda: ReadCursorRow(tenant, user, "c", late),
        "revocation": lambda: RevocationRow(tenant, user, TIMES[version]),
        "timeline": lambda: TimelineRow(tenant, f"u:{tenant}/{user}", offset, offset - 10, 1, alias, when),
        "verdict": lambda: VerdictRow(tenant, "c", user, "x", offset, late, late if version % 2 else None, when, 1),
    }[kind]()  # fmt: skip


KINDS = [
    "message", "edit", "delete", "reaction", "member", "channel", "route", "user", "event", "read", "revocation",
    "timeline", "verdict",
]  # fmt: skip


async def everything(store, tenant):
    """What every read says, pages of several sizes and starts among them."""
    ids = [first_id(at) + number for number, at in enumerate(TIMES)]
    said = [
        await store.channel(tenant, "c"),
        [await store.memberships(tenant, "c", PEOPLE, at=at) for at in (None, 20, 40)],
        await store.members(tenant, "c", after="", limit=9),
        await store.members(tenant, "c", after="", limit=1),
        [sorted(await store.member_rows(tenant, "c", below=below), key=lambda row: row.user) for below in (30, 990)],
        [await store.newest_member_row(tenant, "c", below=below) for below in (31, 990)],
        [await store.route(tenant, "c", below=below) for below in (30, 990)],
        [await store.channels_of(tenant, user, after="", limit=9) for user in PEOPLE],
        [await store.channels_of(tenant, user, after="c1", limit=1) for user in PEOPLE],
        await store.has_events(tenant, [("c", one + more) for one in ids for more in (0, 1_000)]),
        await store.messages(tenant, "c", ids),
        await store.heads(tenant, ["c", "d"]),
        [await store.count_after(tenant, "c", one, limit=limit) for one in ids for limit in (2, 99)],
        [await store.read_cursors(tenant, user, ["c"]) for user in PEOPLE],
        sorted((one for one in await store.revocations() if one.tenant == tenant), key=lambda row: row.user),
        await store.newest([f"u:{tenant}/{user}" for user in PEOPLE]),
        [await store.verdicts(tenant, "c", user, "x") for user in PEOPLE],
    ]
    for limit in (1, 3, 99):
        said += [await store.history(tenant, "c", before=None, after=None, limit=limit)]
        said += [await store.history(tenant, "c", before=one, after=None, limit=limit) for one in ids]
        said += [await store.history(tenant, "c", before=None, after=one, limit=limit) for one in ids]
        said += [
            await store.timeline(f"u:{tenant}/{user}", after=after, limit=limit)
            for user in PEOPLE
            for after in (-1, 0, 10, 25, 30, 50, 60, 95)
        ]
    return said


numbers = st.integers(0, len(TIMES) - 1)
marks = st.lists(st.tuples(st.sampled_from(KINDS), numbers, numbers, st.sampled_from(PEOPLE)), min_size=1, max_size=40)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(marks=marks, seed=st.integers(0, 1000), hot=st.booleans())
def test_shuffled_and_repeated_rows_read_as_from_sqlite(table_settings, marks, seed, hot):
    chance = random.Random(seed)
    tenant = f"t{next(NEXT)}"
    rows = [row(tenant, *mark) for mark in marks]
    # Append times follow offsets: a writer's rows of one timeline come in this order, replays in any.
    shuffled = rows + chance.sample(rows, len(rows) // 2)
    chance.shuffle(shuffled)
    cut = chance.randrange(len(shuffled) + 1)

    async def main():
        folder = tempfile.mkdtemp()
        clock = Now()
        one = cassandra_tables.changed(table_settings, hot_rows=2) if hot else table_settings
        try:
            async with SqliteStore.open(folder, clock=Now(), metrics=Metrics()) as twin:
                await twin.write(rows)
                expected = await everything(twin, tenant)
            async with (
                CassandraStore.open(one, clock=clock, metrics=Metrics()) as store,
                CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as zombie,
            ):
                await store.write(shuffled[:cut])
                clock.ahead += 100  # widths just recorded are used from now on
                await zombie.write(shuffled[cut:])
                await store.write(rows)
                found = await everything(store, tenant)
                await zombie.write(rows[:5])
                again = await everything(zombie, tenant)
        finally:
            shutil.rmtree(folder)
        for told, said, repeated in zip(expected, found, again, strict=True):
            assert told == said
            assert told == repeated

    asyncio.run(main())


def test_buckets_nest_and_cover_every_moment_once():
    chance = random.Random(1)
    for _ in range(500):
        moment = chance.randrange(EPOCH, EPOCH * 3)
        for level in range(LEVELS):
            bucket = bucket_at(moment, level)
            assert covers(bucket, moment)
            assert end(bucket) - start(bucket) == MINUTES[level] * 60_000
            assert bucket_at(start(bucket), level) == bucket
            assert bucket_at(end(bucket), level) != bucket
            if level:
                outer = bucket_at(moment, level - 1)
                assert start(outer) <= start(bucket)
                assert end(bucket) <= end(outer)


def test_a_reader_with_a_cached_index_finds_a_bucket_made_a_moment_ago(table_settings):
    async def main():
        tenant = "fresh"
        alias = AliasRecord(tenant, "c", 1, "u", "", 0, 0, 1)
        now = time.time_ns() // 1_000_000
        async with (
            CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as writer,
            CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as reader,
        ):
            for at, moment in enumerate((now - 30 * DAY, now - 11 * DAY, now)):
                await writer.write(
                    [
                        TimelineRow(tenant, "u:fresh/a", 10 + at, 9 + at, 1, alias, moment),
                        MessageRow(tenant, "c", first_id(moment), at, "u", f"x{at}", "b"),
                    ]
                )
                assert (await reader.newest(["u:fresh/a"]))["u:fresh/a"].offset == 10 + at
                assert len(await reader.timeline("u:fresh/a", after=-1, limit=9)) == at + 1
                assert await reader.heads(tenant, ["c"]) == {"c": first_id(moment)}
                assert len(await reader.history(tenant, "c", before=None, after=None, limit=9)) == at + 1

    asyncio.run(main())


class At(Now):
    """A wall clock that stands still."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def now(self):
        return self.at


def entry(name, offset, moment):
    alias = AliasRecord("t", "c", offset, "u", "", 0, 0, 1)
    return TimelineRow("t", name, offset, offset - 1, offset, alias, moment)


async def offsets(store, name, after=-1, limit=99):
    return [row.offset for row in await store.timeline(name, after=after, limit=limit)]


@asynccontextmanager
async def at_one_time(settings, *clocks):
    """Stores, one for each clock."""
    async with AsyncExitStack() as stack:
        opened = [CassandraStore.open(settings, clock=clock, metrics=Metrics()) for clock in clocks]
        yield [await stack.enter_async_context(one) for one in opened]


def test_a_row_whose_time_goes_back_over_the_edge_of_its_bucket_is_found_by_who_read_the_index_before(table_settings):
    async def main():
        clock = At(start(EDGE) + 2_000)
        async with at_one_time(table_settings, clock, clock) as (writer, reader):
            await writer.write([entry("u:t/back", 10, start(EDGE) + 1_000)])
            assert await offsets(reader, "u:t/back") == [10]
            await writer.write([entry("u:t/back", 11, start(EDGE) - 1_000), entry("u:t/back", 12, start(EDGE) + 2_000)])
            assert await offsets(reader, "u:t/back", after=10) == [11, 12]

    asyncio.run(main())


def test_a_bucket_that_the_log_began_before_our_clock_did_is_found_by_who_read_the_index_before(table_settings):
    async def main():
        clock = At(end(EDGE) - 1_000)
        async with at_one_time(table_settings, clock, clock) as (writer, reader):
            await writer.write([entry("u:t/next", 10, end(EDGE) - 1_000)])
            assert await offsets(reader, "u:t/next") == [10]
            await writer.write([entry("u:t/next", 11, end(EDGE) + 1_000)])
            assert await offsets(reader, "u:t/next", after=10) == [11]

    asyncio.run(main())


def test_rows_written_again_into_an_older_bucket_are_found_within_half_a_minute(table_settings):
    """As by a replay after a loss."""

    async def main():
        clock = At(start(EDGE) + DAY)
        async with at_one_time(table_settings, clock, clock) as (writer, reader):
            await writer.write([entry("u:t/old", 10, start(EDGE) + DAY)])
            assert await offsets(reader, "u:t/old") == [10]
            await writer.write([entry("u:t/old", 9, start(EDGE) - 5 * DAY)])
            clock.ahead += 31
            assert await offsets(reader, "u:t/old") == [9, 10]

    asyncio.run(main())


@pytest.mark.parametrize("calls", [[[20, 30, 50]], [[50], [20, 30]]], ids=["at once", "the higher first"])
def test_a_page_skips_nothing_where_buckets_overlap_in_offsets(table_settings, calls):
    """A bucket's first offset is that of its lowest row, whichever is written first."""

    async def main():
        clock = At(start(EDGE) + DAY)
        moments = {20: start(EDGE) + DAY, 30: start(EDGE) - DAY, 50: start(EDGE) + DAY}
        async with at_one_time(table_settings, clock, clock) as (writer, reader):
            for call in calls:
                await writer.write([entry("u:t/first", offset, moments[offset]) for offset in call])
            assert await offsets(reader, "u:t/first", limit=1) == [20]
            assert await offsets(reader, "u:t/first", after=20, limit=1) == [30]

    asyncio.run(main())


def test_a_shorter_bucket_is_not_used_before_every_reader_asks_for_it(table_settings):
    async def main():
        begin = start(EDGE) + DAY
        later = begin + 6 * 60_000
        clock = At(begin)
        hot = cassandra_tables.changed(table_settings, hot_rows=5)
        async with at_one_time(hot, clock, clock, clock) as (writer, other, reader):
            await writer.write([entry("u:t/hot", 0, begin)])
            assert await offsets(reader, "u:t/hot") == [0]
            await writer.write([entry("u:t/hot", offset, begin) for offset in range(1, 10)])
            await writer.write([entry("u:t/hot", 10, later)])
            await other.write([entry("u:t/hot", 11, later)])
            assert await offsets(reader, "u:t/hot") == list(range(12)), "a reader need not have heard of the width"
            clock.ahead += 100
            assert await offsets(reader, "u:t/hot") == list(range(12))
            await writer.write([entry("u:t/hot", 12, later)])
            assert await offsets(reader, "u:t/hot") == list(range(13)), "one that has heard of it keeps no index"
            assert len(await reader._index.buckets("u:t/hot")) == 2

    asyncio.run(main())


def test_a_read_may_ask_a_second_node_and_a_write_does_not(table_settings):
    async def main():
        async with CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as store:
            session = store._link._statements.session
            execute, futures = session.execute_async, []

            def noted(*given, **options):
                futures.append(execute(*given, **options))
                return futures[-1]

            session.execute_async = noted
            await store.verdicts("t", "c", "u", "x")
            await store.write([UserChannelRow("t", "amy", "c", 1, "member")])
            read, write = futures[0], futures[-1]
            assert read._spec_execution_plan.delay == table_settings.speculative_delay
            assert not hasattr(write._spec_execution_plan, "delay")

    asyncio.run(main())


def test_a_hot_channel_gets_shorter_buckets_and_loses_nothing(table_settings):
    """Also with a second writer that has not heard of them."""

    async def main():
        tenant = "hot"
        hot = cassandra_tables.changed(table_settings, hot_rows=50)
        begin = start(EDGE) + DAY
        clock = Now()
        async with (
            CassandraStore.open(hot, clock=clock, metrics=Metrics()) as writer,
            CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as stale,
        ):
            ids = []
            for minute in range(60):
                rows = []
                for second in range(0, 60, 2):
                    moment = begin + minute * 60_000 + second * 1_000
                    offset = 1_000 + minute * 60 + second
                    ids.append(first_id(moment))
                    message = MessageRow(tenant, "c", first_id(moment), offset, "u", f"x{offset}", "b")
                    alias = AliasRecord(tenant, "c", first_id(moment), "u", "", 0, 0, 1)
                    rows += [message, TimelineRow(tenant, "c:hot/c", offset, offset - 1, offset, alias, moment)]
                await writer.write(rows)
                clock.ahead += 60
                if minute % 7 == 0:
                    await stale.write(rows)
            index = await writer._index.buckets("m:hot/c")
            assert len(index) > 5, "an hour in one bucket would be too much"
            for store in (writer, stale):
                found = await store.history(tenant, "c", before=None, after=None, limit=5_000)
                assert [one.id for one in found] == ids
                paged, before = [], None
                while page := await store.history(tenant, "c", before=before, after=None, limit=97):
                    paged[:0] = [one.id for one in page]
                    before = page[0].id
                assert paged == ids
                offsets, after = [], -1
                while page := await store.timeline("c:hot/c", after=after, limit=61):
                    offsets += [one.offset for one in page]
                    after = offsets[-1]
                assert len(offsets) == len(ids)
                assert offsets == sorted(set(offsets))
                assert await store.count_after(tenant, "c", ids[100], limit=9_999) == len(ids) - 101
                assert await store.heads(tenant, ["c"]) == {"c": ids[-1]}
                assert (await store.newest(["c:hot/c"]))["c:hot/c"].offset == offsets[-1]
                assert len(await store.messages(tenant, "c", ids)) == len(ids)
                assert len(await store.has_events(tenant, [("c", one) for one in ids])) == len(ids)

    asyncio.run(main())


def test_a_large_channel_is_sliced_and_read_as_one(table_settings):
    async def main():
        async with CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as store:
            names = [f"u{number:05}" for number in range(5_600)]
            await store.write([MemberRow("t", "big", name, 10 + at, "member", at + 1) for at, name in enumerate(names)])
            left = names[:50]
            await store.write([MemberRow("t", "big", name, 9_000 + at, None, 5_500) for at, name in enumerate(left)])
            found, after = [], ""
            while page := await store.members("t", "big", after=after, limit=333):
                found += [one.user for one in page]
                after = found[-1]
            assert found == names[50:]
            assert len(await store.member_rows("t", "big", below=9_000)) == 5_600
            some = await store.memberships("t", "big", names[:3] + names[-3:])
            assert [some[name].role for name in names[:3] + names[-3:]] == [None] * 3 + ["member"] * 3
            assert (await store.memberships("t", "big", names[:1], at=100))[names[0]].role == "member"

    asyncio.run(main())


def test_many_members_are_asked_for_as_one_by_one(table_settings):
    """More than one read takes, in all slices; joined, left and joined again; as of each offset."""

    async def main():
        async with CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as store:
            names = [f"u{number:04}" for number in range(450)]
            for turn, role in ((0, "member"), (1, None), (2, "admin")):
                some = names[:: turn + 1]
                rows = [
                    MemberRow("t", "many", name, 1_000 * turn + at, role, 4_900 if at % 3 else 5_100)
                    for at, name in enumerate(some)
                ]
                await store.write(rows)
            for at in (None, 100, 1_050, 2_050):
                alone = [await store.memberships("t", "many", [name], at=at) for name in names]
                together = await store.memberships("t", "many", [*names, "nobody", *names[:9]], at=at)
                assert together == {name: one for found in alone for name, one in found.items()}
                assert len(together) == (101 if at == 100 else 450)

    asyncio.run(main())


@asynccontextmanager
async def two(settings, **others):
    """Who writes, with these settings otherwise, and who reads meanwhile."""
    async with (
        CassandraStore.open(cassandra_tables.changed(settings, **others), clock=Now(), metrics=Metrics()) as writer,
        CassandraStore.open(settings, clock=Now(), metrics=Metrics()) as reader,
    ):
        yield writer, reader


def test_who_sees_a_switch_as_the_version_finds_the_members_before_it(table_settings):
    """The offset of a switch is a version too: seen before the members of its round, those would be missed for good."""

    async def main():
        async with two(table_settings, batch_rows=1) as (writer, reader):
            send = writer._link.send

            async def late(writes, key):
                await asyncio.sleep({"member": 0.3, "change": 0.15}.get(writes[0][0], 0.0))
                await send(writes, key)

            await writer.write([
                ChannelRow("torn", "s", 1, "group", "n", "amy", 1),
                *[MemberRow("torn", "s", user, 1, "member", 2) for user in ("amy", "bob")],
            ])  # fmt: skip
            writer._link.send = late
            rows = [MemberRow("torn", "s", "bob", 10, None, 1), RouteRow("torn", "s", 11, "inbox", None)]
            writing = asyncio.create_task(writer.write(rows))
            while (await reader.channel("torn", "s")).version < 11:
                pass
            assert [one.user for one in await reader.members("torn", "s", after="", limit=9)] == ["amy"]
            await writing

    asyncio.run(main())


def test_who_sees_a_version_finds_its_members(table_settings):
    """A router keeps what it read until the version changes: a channel seen before its members would stay empty."""

    async def main():
        tenant, users = "torn", ("amy", "bob", "cid")
        async with two(table_settings, batch_rows=1) as (writer, reader):
            send = writer._link.send

            async def late(writes, key):
                # By how late others are, what says the version would be first in every order but the right one.
                await asyncio.sleep({"member": 0.3, "change": 0.15, "user_channel": 0.3}.get(writes[0][0], 0.0))
                await send(writes, key)

            writer._link.send = late
            for offset, present in ((10, users[:2]), (20, users)):
                new = present[offset // 20 * 2 :]
                rows = [MemberRow(tenant, "c", user, offset, "member", len(present)) for user in new]
                rows += [UserChannelRow(tenant, row.user, "c", offset, "member") for row in rows]
                if offset == 10:
                    rows.insert(0, ChannelRow(tenant, "c", offset, "group", "n", "amy", 1))
                writing = asyncio.create_task(writer.write(rows))
                seen = None
                while seen is None or seen.version < offset:
                    seen = await reader.channel(tenant, "c")
                assert seen.members == len(present)
                assert [one.user for one in await reader.members(tenant, "c", after="", limit=9)] == list(present)
                for user in present:
                    assert await reader.channels_of(tenant, user, after="", limit=9)
                await writing

    asyncio.run(main())


def test_a_channel_made_between_the_questions_about_it_is_seen_whole(table_settings):
    """Its rows are asked for at the same time: the answer about changes may be older than the channel."""

    async def main():
        rows = [ChannelRow("made", "c", 10, "group", "n", "amy", 1), MemberRow("made", "c", "amy", 10, "owner", 1)]
        async with (
            CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as writer,
            CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as reader,
        ):
            ask, asked = reader._link.ask, asyncio.Event()

            async def between(name, *values, **options):
                if name == "channel":
                    await asyncio.wait_for(asked.wait(), 20)
                    await writer.write(rows)
                found = await ask(name, *values, **options)
                if name == "change":
                    asked.set()
                return found

            reader._link.ask = between
            assert (await reader.channel("made", "c")).members == 1

    asyncio.run(main())


def test_a_mark_of_slices_without_a_row_is_no_member(table_settings):
    """A fold as of an offset before the rows of a large channel: its first slice may hold the mark alone."""

    async def main():
        async with CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as store:
            await store.write([MemberRow("t", "mark", "amy", 90, "member", 5_001)])
            assert await store.member_rows("t", "mark", below=90) == []
            assert [one.user for one in await store.members("t", "mark", after="", limit=9)] == ["amy"]

    asyncio.run(main())


def test_rows_of_one_partition_are_one_batch_and_of_many_are_not(table_settings):
    """A server applies those of a partition as one mutation; a batch over partitions is as many as it has."""

    async def main():
        async with two(table_settings, batch_rows=10) as (writer, _):
            send, sent = writer._link.send, []

            async def counted(writes, key):
                sent.append([name for name, _ in writes])
                await send(writes, key)

            writer._link.send = counted
            record = AliasRecord("one", "c", first_id(TIMES[3]), "u", "", 0, 0, 1)
            await writer.write([TimelineRow("one", "one/c", at, at - 1, at, record, TIMES[3]) for at in range(150)])
            assert [len(names) for names in sent if "timeline" in names] == [150]
            sent.clear()
            await writer.write([UserChannelRow("one", f"u{at}", "c", 1, "member") for at in range(45)])
            assert sorted(map(len, sent)) == [5, 10, 10, 10, 10]

    asyncio.run(main())


def test_a_row_larger_than_a_batch_is_written(table_settings):
    async def main():
        async with CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as store:
            await store.write(
                [MessageRow("t", "wide", n, n, "u", f"x{n}", "é" * 32_000, {"k": "v" * 100_000}) for n in range(5)]
            )
            found = await store.history("t", "wide", before=None, after=None, limit=9)
            assert [len(one.body) for one in found] == [32_000] * 5

    asyncio.run(main())


@pytest.mark.parametrize("pause", [0.0, 0.6], ids=["at once", "slowly"])
def test_who_sees_a_position_of_a_timeline_finds_all_before_it(table_settings, pause):
    """A gateway that reads while a round is written moves a user's cursor: beyond a hole, what fills it is lost."""

    async def main():
        async with two(table_settings, batch_bytes=700) as (writer, reader):
            send, pieces = writer._link.send, []

            async def late(writes, key):
                # The lower the later, which every order but the right one would show.
                offsets = [int.from_bytes(values[2], "big") for name, values in writes if name == "timeline"]
                await asyncio.sleep(0.01 * (40 - min(offsets, default=40)))
                await send(writes, key)
                pieces.append(len(offsets))

            page = reader._page_of

            async def slow(timeline, bucket, low, limit):
                found = await page(timeline, bucket, low, limit)
                await asyncio.sleep(pause)
                return found

            reader._page_of = slow
            writer._link.send = late
            timelines = [f"u:whole/{user}" for user in ("amy", "bob", "cid")]
            rows = []
            for at in range(20):
                record = AliasRecord("whole", "c", first_id(TIMES[3]) + at, "u", "", 0, 0, 1)
                when = TIMES[3] if at < 10 else TIMES[5]  # in the bucket before, and in that after
                rows += [TimelineRow("whole", name, at, at - 1, at, record, when) for name in timelines]
            writing = asyncio.create_task(writer.write(rows))
            reads = []
            while not writing.done():
                reads += [asyncio.create_task(reader.timeline(name, after=-1, limit=99)) for name in timelines]
                await asyncio.sleep(0.05)
            for read in reads:
                seen = [row.offset for row in await read]
                assert seen == list(range(len(seen)))
            await writing
            assert 1 < max(pieces) < 10, "a timeline is more than one piece, and a piece more than one row"
            for name in timelines:
                assert len(await reader.timeline(name, after=-1, limit=99)) == 20

    asyncio.run(main())


def test_verdicts_outlive_the_log_by_a_day(table_settings):
    """A record that comes again, as long as the log has it, must find what became of it."""

    async def main():
        async with CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as store:
            await store.write([VerdictRow("t", "c", "u", "x", 1, first_id(TIMES[3]), None, TIMES[3], 1)])
            [(left,)] = store._link._statements.session.execute("SELECT TTL(verdict) FROM sends")
            kept = (table_settings.log_retention_hours + 24) * 3600
            assert kept - 600 < left <= kept

    asyncio.run(main())


def test_rows_are_not_written_before_their_buckets_are_in_the_index(table_settings):
    """Readers follow the index: a row that is visible and not found would be passed over."""

    async def main():
        async with two(table_settings, batch_rows=1) as (writer, _):
            send, order = writer._link.send, []

            async def slow(writes, key):
                name = writes[0][0]
                order.append(f"{name} sent")
                await asyncio.sleep(0.1 if name == "bucket" else 0)
                await send(writes, key)
                order.append(f"{name} there")

            writer._link.send = slow
            record = AliasRecord("early", "c", first_id(TIMES[3]), "u", "", 0, 0, 1)
            await writer.write([
                MessageRow("early", "c", first_id(TIMES[3]), 1, "u", "x", "b"),
                TimelineRow("early", "u:early/a", 1, 0, 1, record, TIMES[3]),
            ])  # fmt: skip
            last = max(at for at, what in enumerate(order) if what == "bucket there")
            assert last < min(order.index("message sent"), order.index("timeline sent"))

    asyncio.run(main())


def test_an_index_that_could_not_be_written_is_written_with_the_rows_that_come_again(table_settings):
    async def main():
        async with two(table_settings) as (writer, reader):
            send, failed = writer._link.send, []

            async def fails_once(writes, key):
                if not failed:
                    failed.append([name for name, _ in writes])
                    raise Unavailable("cut")
                await send(writes, key)

            writer._link.send = fails_once
            rows = [
                MessageRow("again", "c", first_id(TIMES[3]), 1, "u", "x", "b"),
                MemberRow("again", "c", "amy", 2, "member", 5_001),
            ]
            with pytest.raises(Unavailable):
                await writer.write(rows)
            await writer.write(rows)
            assert set(failed[0]) == {"bucket", "sliced"}
            assert await reader.heads("again", ["c"]) == {"c": first_id(TIMES[3])}
            assert [one.user for one in await reader.members("again", "c", after="", limit=9)] == ["amy"]

    asyncio.run(main())


def test_the_driver_is_asked_for_so_many_at_a_time(table_settings):
    """Each of them for a quorum: what was written is seen by every later read."""

    async def main():
        small = cassandra_tables.changed(table_settings, reads_in_flight=3, batches_in_flight=2, batch_rows=1)
        async with CassandraStore.open(small, clock=Now(), metrics=Metrics()) as store:
            session = store._link._statements.session
            execute, levels, most, running = session.execute_async, set(), [], []

            def counted(*given, **options):
                future = execute(*given, **options)
                levels.add(future.message.consistency_level)
                running.append(future)
                running[:] = [one for one in running if not one._event.is_set()]
                most.append(len(running))
                return future

            session.execute_async = counted
            await asyncio.gather(*(store.verdicts("t", "c", "u", f"x{n}") for n in range(60)))
            assert max(most) <= 3
            assert len(most) == 60
            most.clear()
            await store.write([UserChannelRow("t", f"u{at}", "c", 1, "member") for at in range(60)])
            assert max(most) <= 2
            await store.write([UserChannelRow("t", "amy", f"c{at}", 1, "member") for at in range(9)])
            assert levels == {ConsistencyLevel.LOCAL_QUORUM}

    asyncio.run(main())


def test_who_does_not_wait_for_a_read_holds_up_nobody(table_settings):
    async def main():
        async with CassandraStore.open(table_settings, clock=Now(), metrics=Metrics()) as store:
            reads = [asyncio.create_task(store.verdicts("t", "c", "u", f"x{n}")) for n in range(40)]
            await asyncio.sleep(0)
            for read in reads[::2]:
                read.cancel()
            time.sleep(0.5)  # noqa: ASYNC251 - all answers come in one turn
            async with asyncio.timeout(3):
                assert await asyncio.gather(*reads[1::2]) == [[]] * 20

    asyncio.run(main())


async def test_a_read_that_has_begun_is_not_joined():
    """It may have passed the row that the newcomer has just written."""
    flights, begun, gates = Flights(), [], [asyncio.Event(), asyncio.Event()]

    async def read():
        number = len(begun)
        begun.append(number)
        await gates[number].wait()
        return number

    first = asyncio.create_task(flights.share("k", read))
    while not begun:  # noqa: ASYNC110
        await asyncio.sleep(0)
    others = [asyncio.create_task(flights.share("k", read)) for _ in range(5)]
    await asyncio.sleep(0)
    for gate in gates:
        gate.set()
    assert await first == 0
    assert await asyncio.gather(*others) == [1] * 5, "they share the next one"
