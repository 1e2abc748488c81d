"""Port Store: a picture of the log that replays do not change, whatever the order of the rows."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcluster.backends.sqlite import SqliteStore, WrongSchema
from chatcluster.core.ids import EPOCH
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import AliasRecord, ChannelRecord, MemberRecord, MessageRecord, RouteRecord
from chatcluster.core.rows import (
    ChannelRow,
    DeleteRow,
    EditRow,
    EventRow,
    MemberRow,
    Membership,
    MessageRow,
    ReactionRow,
    ReadCursorRow,
    RevocationRow,
    RouteRow,
    StoredChannel,
    StoredMessage,
    TimelineRow,
    UserChannelRow,
    VerdictRow,
)
from chatcluster.ports import Unavailable

BIG = (1 << 62) + 12345
NASTY = 'nul \0 quote " back \\ \U0001f600 é \u202e \x1f \ufffe end'


def message(number, *, channel="c", tenant="t", offset=None, body=None, data=None, reply_to=None):
    offset = number if offset is None else offset
    return MessageRow(tenant, channel, number, offset, "u", f"x{number}", body or f"b{number}", data, reply_to)


def record_of(row):
    """The record as a timeline shows it: digest and flag stay in the log and the verdict."""
    return MessageRecord(
        row.tenant, row.channel, row.id, row.sender, row.client_id, 0, 0, row.body, row.data, row.reply_to
    )


def test_history_pages_both_ways_and_keeps_tenants_and_channels_apart(jump, loop_clock, open_store):
    async def main():
        async with open_store(clock=loop_clock) as store:
            await store.write([message(BIG + n) for n in range(200)])
            await store.write([message(BIG + 1, tenant="other", body="secret"), message(BIG + 2, channel="d")])

            async def ids(before=None, after=None, limit=3):
                found = await store.history("t", "c", before=before, after=after, limit=limit)
                return [one.id - BIG for one in found]

            assert await ids() == [197, 198, 199]
            assert await ids(before=BIG + 100) == [97, 98, 99]
            assert await ids(after=BIG + 100) == [101, 102, 103]
            assert await ids(after=BIG + 100, before=BIG + 102) == [101]
            assert await ids(after=BIG + 199) == []
            assert await ids(limit=500) == list(range(200))
            [other] = await store.history("other", "c", before=None, after=None, limit=9)
            assert other.body == "secret"
            assert await store.heads("t", ["c", "d", "none"]) == {"c": BIG + 199, "d": BIG + 2}
            assert await store.count_after("t", "c", BIG + 189, limit=100) == 10
            assert await store.count_after("t", "c", BIG, limit=100) == 100
            many = await store.messages("t", "c", [BIG + n for n in range(-5, 300)])
            assert sorted(many) == [BIG + n for n in range(200)]

    jump(main())


def test_any_text_and_data_come_back_as_they_were(jump, loop_clock, open_store):
    async def main():
        async with open_store(clock=loop_clock) as store:
            data = {"a": [1, None, {"b": 2.5}], "n\0": NASTY, "raw": "é" * 3000}
            row = message(5, body=NASTY, data=data, reply_to=BIG)
            await store.write([row, EditRow("t", "c", 6, 9, NASTY + "2", {"x": 1}), message(6)])
            await store.write([TimelineRow("t", "u:t/a", 3, -1, 5, record_of(row))])
            first, second = await store.history("t", "c", before=None, after=None, limit=9)
            assert first == StoredMessage(5, "c", 5, "u", "x5", NASTY, data, BIG)
            assert (second.body, second.data, second.edit_id) == (NASTY + "2", {"x": 1}, 9)
            assert await store.timeline("u:t/a", after=-1, limit=9) == [
                TimelineRow("t", "u:t/a", 3, -1, 5, record_of(row))
            ]
            odd = message(7, channel="c\0d")
            await store.write([odd])
            assert await store.heads("t", ["c\0d", "c"]) == {"c\0d": 7, "c": 6}, "NUL does not end a name"

    jump(main())


def test_edits_deletes_and_reactions_are_applied(jump, loop_clock, open_store):
    async def main():
        async with open_store(clock=loop_clock) as store:
            await store.write([EditRow("t", "c", 1, 20, "new"), EditRow("t", "c", 1, 10, "older")])
            await store.write([EditRow("t", "c", 1, 15, "older, and late")])
            await store.write([message(1, data={"k": 1}), message(2), message(3)])
            await store.write([DeleteRow("t", "c", 2, 30), EditRow("t", "c", 2, 31, "after its delete", {"d": 1})])
            await store.write(
                [
                    ReactionRow("t", "c", 3, "zoe", "👍", 40, False),
                    ReactionRow("t", "c", 3, "amy", "👍", 41, False),
                    ReactionRow("t", "c", 3, "amy", "❤", 39, False),
                    ReactionRow("t", "c", 3, "bob", "👍", 43, True),
                    ReactionRow("t", "c", 3, "bob", "👍", 42, False),
                ]
            )
            one, two, three = await store.history("t", "c", before=None, after=None, limit=9)
            assert (one.body, one.data, one.edit_id) == ("new", None, 20)
            assert (two.body, two.data, two.deleted) == ("", None, True)
            assert three.reactions == {"❤": ["amy"], "👍": ["zoe", "amy"]}
            assert list(three.reactions) == ["❤", "👍"]
            await store.write([message(2), ReactionRow("t", "c", 3, "amy", "❤", 50, True)])
            again = await store.messages("t", "c", [2, 3])
            assert again[2].deleted, "a delete is sticky"
            assert list(again[3].reactions) == ["👍"]

    jump(main())


def test_timelines_refer_to_events_and_hydrate_them(jump, loop_clock, open_store):
    async def main():
        async with open_store(clock=loop_clock) as store:
            written = message(7, body="hi")
            member = MemberRecord("t", "c", 8, "u", "", 0, 0, "v", "add", "member", "channel", 4)
            alias = AliasRecord("t", "c", 9, "u", "x7", 5, 0, 7)
            await store.write([written, EventRow("t", "c", 8, 80, member)])
            rows = [
                TimelineRow("t", "u:t/v", 10, -1, 70, record_of(written)),
                TimelineRow("t", "u:t/v", 12, 10, 80, member),
                TimelineRow("t", "u:t/v", 15, 12, 90, alias),
            ]
            await store.write([*rows, TimelineRow("t", "c:t/c", 80, -1, 80, member)])
            await store.write([EditRow("t", "c", 7, 99, "edited")])
            assert await store.timeline("u:t/v", after=-1, limit=9) == rows, "the first body, not the edit"
            assert await store.timeline("u:t/v", after=10, limit=1) == rows[1:2]
            assert await store.timeline("u:t/v", after=15, limit=1) == []
            timelines = [f"u:t/none{n}" for n in range(600)] + ["u:t/v", "c:t/c"]
            newest = await store.newest(timelines)
            assert newest == {"u:t/v": rows[2], "c:t/c": TimelineRow("t", "c:t/c", 80, -1, 80, member)}
            assert await store.has_events("t", [("c", 7), ("c", 8), ("c", 9), ("d", 7)]) == {("c", 7): 7, ("c", 8): 80}

    jump(main())


def test_channel_members_and_route_as_of_an_offset(jump, loop_clock, open_store):
    async def main():
        async with open_store(clock=loop_clock) as store:
            assert await store.channel("t", "c") is None
            await store.write(
                [
                    ChannelRow("t", "c", 10, "group", "first", "amy", 111),
                    *(MemberRow("t", "c", user, 10, "member", at + 1) for at, user in enumerate(("amy", "bob", "zoe"))),
                ]
            )
            assert await store.channel("t", "c") == StoredChannel(
                "c", "group", "first", "amy", 111, 3, "inbox", -1, None, 10
            )
            await store.write(
                [
                    MemberRow("t", "c", "bob", 20, None, 2),
                    RouteRow("t", "c", 30, "channel", None),
                    MemberRow("t", "c", "bob", 40, "admin", 3),
                    RouteRow("t", "c", 50, "inbox", 30),
                    MemberRow("t", "d", "bob", 60, "owner", 1),
                ]
            )
            assert await store.channel("t", "c") == StoredChannel(
                "c", "group", "first", "amy", 111, 3, "inbox", 50, 30, 50
            )
            bob = Membership("bob", "admin", 40)
            assert await store.memberships("t", "c", ["bob", "nobody"]) == {"bob": bob}
            assert await store.memberships("t", "c", ["bob"], at=39) == {"bob": Membership("bob", None, 20)}
            assert await store.memberships("t", "c", ["bob"], at=40) == {"bob": bob}
            assert await store.memberships("t", "c", ["bob"], at=9) == {}
            assert [one.user for one in await store.members("t", "c", after="", limit=2)] == ["amy", "bob"]
            assert [one.user for one in await store.members("t", "c", after="bob", limit=2)] == ["zoe"]
            folded = {row.user: (row.offset, row.role) for row in await store.member_rows("t", "c", below=40)}
            assert folded == {"amy": (10, "member"), "bob": (20, None), "zoe": (10, "member")}
            assert (await store.newest_member_row("t", "c", below=40)) == MemberRow("t", "c", "bob", 20, None, 2)
            assert (await store.newest_member_row("t", "c", below=11)).count == 3
            assert await store.newest_member_row("t", "c", below=10) is None
            assert await store.route("t", "c", below=50) == RouteRow("t", "c", 30, "channel", None)
            assert await store.route("t", "c", below=51) == RouteRow("t", "c", 50, "inbox", 30)
            assert await store.route("t", "c", below=30) is None
            await store.write([MemberRow("t", "c", "bob", 70, None, 2)])
            assert [one.user for one in await store.members("t", "c", after="", limit=9)] == ["amy", "zoe"]

    jump(main())


def test_users_verdicts_cursors_and_revocations(jump, loop_clock, open_store):
    async def main():
        async with open_store(clock=loop_clock) as store:
            verdicts = [VerdictRow("t", "c", "u", "x", 9 - n, n, None if n else 5, n, BIG) for n in range(3)]
            await store.write(
                [
                    *(UserChannelRow("t", "u", channel, 5, "member") for channel in ("b", "a", "gone", "c")),
                    UserChannelRow("t", "u", "gone", 9, None),
                    UserChannelRow("t", "u", "gone", 7, "owner"),
                    *verdicts,
                    VerdictRow("t", "c", "u", "y", 1, 1, 1, 1, 1),
                    ReadCursorRow("t", "u", "a", 7),
                    ReadCursorRow("t", "u", "a", 3),
                    RevocationRow("t", "u", 100),
                    RevocationRow("t", "u", 50),
                ]
            )
            assert [row.channel for row in await store.channels_of("t", "u", after="", limit=2)] == ["a", "b"]
            assert await store.channels_of("t", "u", after="b", limit=9) == [UserChannelRow("t", "u", "c", 5, "member")]
            assert await store.verdicts("t", "c", "u", "x") == verdicts[::-1]
            assert await store.read_cursors("t", "u", ["a", "b"]) == {"a": 7}
            assert await store.revocations() == [RevocationRow("t", "u", 100)]

    jump(main())


def test_what_has_versions_goes_forward_and_never_back(jump, loop_clock, open_store):
    async def main():
        async with open_store(clock=loop_clock) as store:
            member = MemberRecord("t", "c", 8, "u", "", 0, 0, "v", "add", "member", "channel", 4)
            for version in (5, 9, 7):  # each in a call of its own: the middle one is newest, the last comes late
                await store.write(
                    [
                        ReadCursorRow("t", "u", "a", version),
                        RevocationRow("t", "u", version),
                        ChannelRow("t", "c", version, "group", f"n{version}", "u", 1),
                        UserChannelRow("t", "u", "c", version, "owner" if version == 9 else "member"),
                        message(3, offset=14 - version, body=f"b{version}"),
                        EventRow("t", "c", 8, 14 - version, member),
                    ]
                )
            assert await store.read_cursors("t", "u", ["a"]) == {"a": 9}
            assert await store.revocations() == [RevocationRow("t", "u", 9)]
            assert (await store.channel("t", "c")).name == "n9"
            assert [row.role for row in await store.channels_of("t", "u", after="", limit=9)] == ["owner"]
            assert (await store.messages("t", "c", [3]))[3].body == "b9"
            assert await store.has_events("t", [("c", 3), ("c", 8)]) == {("c", 3): 5, ("c", 8): 5}  # the lowest offset

    jump(main())


def test_channels_left_and_messages_not_there_yet_hide_none_of_the_others(jump, loop_clock, open_store):
    """However many stand in the way of a page. What belongs to a message may be stored before it."""

    async def main():
        async with open_store(clock=loop_clock) as store:
            await store.write([UserChannelRow("t", "u", f"a{n:02}", n, None) for n in range(60)])
            await store.write([UserChannelRow("t", "u", f"b{n}", n, "member") for n in range(3)])
            for limit in (2, 9):
                found = await store.channels_of("t", "u", after="", limit=limit)
                assert [row.channel for row in found] == ["b0", "b1", "b2"][:limit]
            await store.write([message(BIG)])
            await store.write([EditRow("t", "c", BIG + n, BIG + 1_000 + n, "new", None) for n in range(1, 151)])
            assert await store.heads("t", ["c"]) == {"c": BIG}
            await store.write([message(BIG + 151)])
            assert await store.count_after("t", "c", BIG - 1, limit=2) == 2
            assert await store.count_after("t", "c", BIG, limit=2) == 1
            for edge in ({"before": None, "after": BIG - 1}, {"before": BIG + 152, "after": None}):
                page = await store.history("t", "c", **edge, limit=2)
                assert [one.id for one in page] == [BIG, BIG + 151]

    jump(main())


def test_a_timeline_that_stands_before_its_events_is_not_shown_without_them(jump, loop_clock, open_store):
    async def main():
        async with open_store(clock=loop_clock) as store:
            said = message(7)
            member = MemberRecord("t", "c", 8, "u", "", 0, 0, "v", "add", "member", "channel", 4)
            await store.write([TimelineRow("t", "u:t/v", 10, -1, 70, record_of(said))])
            await store.write([TimelineRow("t", "u:t/w", 10, -1, 80, member)])
            for timeline in ("u:t/v", "u:t/w"):
                with pytest.raises(Unavailable):
                    await store.timeline(timeline, after=-1, limit=9)
                with pytest.raises(Unavailable):
                    await store.newest([timeline])
            await store.write([said, EventRow("t", "c", 8, 80, member)])
            assert [row.record.id for row in await store.timeline("u:t/v", after=-1, limit=9)] == [7]
            assert [row.record.id for row in await store.timeline("u:t/w", after=-1, limit=9)] == [8]

    jump(main())


# -- replays ------------------------------------------------------------------------------------------

ids = st.integers(1, 4)
small = st.integers(1, 6)
users = st.sampled_from(["amy", "bob"])


def _row(kind, number, version, user):
    """Rows whose content is a function of key and version, as those of a persister are."""
    route = RouteRecord("t", "c", 100 + number, "u", "", 0, 0, "inbox", version)
    alias = AliasRecord("t", "c", version, "u", "", 0, 0, 1)
    return {
        "message": lambda: message(number, offset=version, body=f"m{version}"),
        "edit": lambda: EditRow("t", "c", number, version, f"e{version}", {"v": version} if version % 2 else None),
        "delete": lambda: DeleteRow("t", "c", number, version),
        "reaction": lambda: ReactionRow("t", "c", number, user, "👍", version * 2 + (user == "amy"), version % 2 == 0),
        "member": lambda: MemberRow("t", "c", user, version, None if version % 3 == 0 else "member", version),
        "channel": lambda: ChannelRow("t", "c", version, "group", f"n{version}", "amy", 1),
        "route": lambda: RouteRow("t", "c", version, "inbox" if version % 2 else "channel", None),
        "user": lambda: UserChannelRow("t", user, f"c{number}", version, None if version % 3 == 0 else "member"),
        "event": lambda: EventRow("t", "c", 100 + number, version, route),
        "read": lambda: ReadCursorRow("t", user, "c", version),
        "revocation": lambda: RevocationRow("t", user, version),
        "timeline": lambda: TimelineRow("t", f"u:t/{user}", version, version - 1, 1, alias),
        "verdict": lambda: VerdictRow("t", "c", user, "x", version, version, version, version, 1),
    }[kind]()  # fmt: skip


KINDS = [
    "message",
    "edit",
    "delete",
    "reaction",
    "member",
    "channel",
    "route",
    "user",
    "event",
    "read",
    "revocation",
    "timeline",
    "verdict",
]
rows = st.lists(st.builds(_row, st.sampled_from(KINDS), ids, small, users), min_size=1, max_size=40)


async def everything(store):
    """What every read says."""
    people = ("amy", "bob")
    return [
        await store.history("t", "c", before=None, after=None, limit=99),
        await store.channel("t", "c"),
        [await store.memberships("t", "c", people, at=at) for at in (None, 2, 4)],
        await store.members("t", "c", after="", limit=9),
        [sorted(await store.member_rows("t", "c", below=below), key=lambda row: row.user) for below in (3, 9)],
        [await store.route("t", "c", below=below) for below in (3, 9)],
        [await store.channels_of("t", user, after="", limit=9) for user in people],
        await store.has_events("t", [("c", n) for n in (*range(6), *range(100, 106))]),
        [await store.read_cursors("t", user, ["c"]) for user in people],
        sorted(await store.revocations(), key=lambda row: row.user),
        [await store.timeline(f"u:t/{user}", after=-1, limit=99) for user in people],
        await store.newest([f"u:t/{user}" for user in people]),
        [await store.verdicts("t", "c", user, "x") for user in people],
    ]


@settings(max_examples=25, deadline=None)
@given(rows=rows, seed=st.integers(0, 1000))
def test_replayed_rows_in_any_order_give_the_same_reads(rows, seed):
    class Still:
        def now(self):
            return EPOCH

        def monotonic(self):
            return 0.0

    chance = random.Random(seed)

    async def picture(parts):
        folder = tempfile.mkdtemp()
        try:
            async with SqliteStore.open(folder, clock=Still(), metrics=Metrics()) as store:
                for part in parts:
                    await store.write(part)
                return await everything(store)
        finally:
            shutil.rmtree(folder)

    async def main():
        shuffled = rows + chance.sample(rows, len(rows) // 2)
        chance.shuffle(shuffled)
        cut = chance.randrange(len(shuffled) + 1)
        assert await picture([rows]) == await picture([shuffled[:cut], shuffled[cut:], rows[:3]])

    asyncio.run(main())


# -- crashes, refusals ------------------------------------------------------------------------------------


def test_written_rows_survive_a_crash(jump, loop_clock, tmp_path):
    """The files as they stand when write() has returned are those a killed process leaves behind."""

    async def main():
        async with SqliteStore.open(tmp_path / "live", clock=loop_clock, metrics=Metrics()) as store:
            await store.write([message(n) for n in range(1, 300)])
            shutil.copytree(tmp_path / "live", tmp_path / "crashed")
        async with SqliteStore.open(tmp_path / "crashed", clock=loop_clock, metrics=Metrics()) as store:
            assert len(await store.history("t", "c", before=None, after=None, limit=999)) == 299

    jump(main())


def test_a_write_that_fails_is_unavailable_and_the_next_one_works(jump, loop_clock, tmp_path):
    async def main():
        async with SqliteStore.open(tmp_path, clock=loop_clock, metrics=Metrics()) as store:
            pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
            store._writer.execute(f"PRAGMA max_page_count={pages}")  # the disk is full
            with pytest.raises(Unavailable):
                await store.write([message(n, body="x" * 9000) for n in range(1, 50)])
            store._writer.execute("PRAGMA max_page_count=1000000")
            assert await store.heads("t", ["c"]) == {}
            await store.write([message(1)])
            assert await store.heads("t", ["c"]) == {"c": 1}

    jump(main())


def test_rows_that_wait_are_bounded_and_one_that_cannot_be_stored_stops_nobody(jump, loop_clock, tmp_path):
    async def main():
        async with SqliteStore.open(tmp_path, clock=loop_clock, metrics=Metrics(), max_rows=10) as store:
            first = asyncio.create_task(store.write([message(n) for n in range(1, 51)]))  # alone it may be larger
            await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await store.write([message(99)])
            await first
            async with asyncio.timeout(30):
                with pytest.raises(Unavailable):
                    await store.write([message(1 << 63)])
            for number in range(100, 130):
                await store.write([message(number)])
            assert await store.heads("t", ["c"]) == {"c": 129}

    jump(main())


def test_it_is_read_while_written_and_its_write_ahead_log_stays_bounded(jump, loop_clock, tmp_path):
    async def main():
        async with SqliteStore.open(tmp_path, clock=loop_clock, metrics=Metrics()) as store:
            for number in range(60):
                await store.write([message(number * 50 + n + 1, body="x" * 10_000) for n in range(50)])
                assert await store.heads("t", ["c"]) == {"c": number * 50 + 50}
                await asyncio.sleep(0.6)
            assert (Path(tmp_path) / "store.db-wal").stat().st_size < 32 * 1024 * 1024

    jump(main())


def test_another_schema_version_is_refused_by_name(jump, loop_clock, tmp_path):
    async def main():
        async with SqliteStore.open(tmp_path, clock=loop_clock, metrics=Metrics()):
            pass
        connection = sqlite3.connect(tmp_path / "store.db")
        connection.execute("PRAGMA user_version=7")
        connection.close()
        with pytest.raises(WrongSchema, match="version 7"):
            async with SqliteStore.open(tmp_path, clock=loop_clock, metrics=Metrics()):
                pass

    jump(main())


def test_a_big_channel_is_paged(jump, loop_clock, open_store):
    async def main():
        async with open_store(clock=loop_clock) as store:
            created = ChannelRecord("t", "c", 1, "u", "", 0, 0, "created", "group", "n", [])
            await store.write([EventRow("t", "c", 1, 1, created)])
            await store.write([MemberRow("t", "c", f"u{n:05}", 2 + n, "member", n + 1) for n in range(5000)])
            after, seen = "", 0
            while page := await store.members("t", "c", after=after, limit=700):
                assert page[0].user == f"u{seen:05}"
                seen += len(page)
                after = page[-1].user
            assert seen == 5000
            assert len(await store.member_rows("t", "c", below=10**9)) == 5000
            assert len(await store.memberships("t", "c", [f"u{n:05}" for n in range(4900, 5100)])) == 100

    jump(main())
