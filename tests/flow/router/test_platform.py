"""The router with the persister behind it, on memory bus, tails and dedupe and the SQLite log and store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatcluster.backends.memory.bus import MemoryBuses
from chatcluster.backends.memory.dedupe import MemoryDedupe
from chatcluster.backends.memory.read_cursors import MemoryReadCursors
from chatcluster.backends.memory.tails import MemoryTails
from chatcluster.backends.memory.workers import MemoryWorkers
from chatcluster.backends.sqlite import SqliteLog, SqliteStore
from chatcluster.core.cursor import START, Cursor, encode_cursor
from chatcluster.core.frames import (
    Ack,
    Answer,
    ChannelAdd,
    ChannelCreate,
    ChannelJoin,
    ChannelLeave,
    ChannelMembers,
    ChannelRemove,
    ChannelSummary,
    ChannelUpdate,
    Delete,
    Edit,
    ErrorFrame,
    History,
    ListChannels,
    React,
    ReadUpTo,
    Reply,
    Request,
    Send,
    Sync,
)
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import INBOX, MESSAGES, channel_timeline, inbox_timeline
from chatcluster.core.rows import MemberRow
from chatcluster.core.wire import rfc3339
from chatcluster.ports import Caller
from chatcluster.services.persister.service import PersisterService
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.router.changes import direct_id, group_id
from chatcluster.services.router.service import RouterService
from chatcluster.services.router.settings import RouterSettings

Jump = Callable[[Coroutine[Any, Any, None]], None]
_rid = iter(range(1, 1 << 30))


def rid() -> str:
    return f"r{next(_rid)}"


class Platform:
    """What a test asks of it. ``clients``: the requests of one user after another."""

    def __init__(self, router: RouterService, store: SqliteStore, log: SqliteLog, clock: Any, dedupe: MemoryDedupe):
        self.router = router
        self.store = store
        self.log = log
        self.clock = clock
        self.dedupe = dedupe

    async def ask(self, request: Request, user: str = "ann", *, tenant: str = "t", system: bool = False) -> Answer:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.router.submit(Caller(tenant, user, f"s-{user}", system), request, answered.set_result)
        return await asyncio.wait_for(answered, 60)

    async def reply(self, request: Request, user: str = "ann", **more: Any) -> Reply:
        answer = await self.ask(request, user, **more)
        assert isinstance(answer, Reply), answer
        return answer

    async def refused(self, request: Request, user: str = "ann", **more: Any) -> str:
        answer = await self.ask(request, user, **more)
        assert isinstance(answer, ErrorFrame), answer
        return answer.code

    async def send(self, channel: str, body: str, user: str = "ann", **more: Any) -> Ack:
        answer = await self.ask(Send(rid(), channel, more.pop("client_id", rid()), body, **more), user)
        assert isinstance(answer, Ack), answer
        return answer

    async def group(self, *members: str, by: str = "ann", name: str = "group") -> str:
        reply = await self.reply(ChannelCreate(rid(), rid(), "group", list(members), name), by)
        assert isinstance(reply.channel, str)
        return reply.channel

    async def stored(self, channel: str, event_id: str) -> None:
        """Wait until the persister has written it."""
        for _ in range(2_000):
            if await self.store.has_events("t", [(channel, int(event_id))]):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{event_id} was never stored")

    async def bodies(self, channel: str, user: str = "ann") -> list[str]:
        reply = await self.reply(History(rid(), channel), user)
        assert isinstance(reply.messages, list)
        return [message.body for message in reply.messages]

    async def summaries(self, user: str = "ann", **more: Any) -> dict[str, ChannelSummary]:
        reply = await self.reply(ListChannels(rid(), **more), user)
        assert isinstance(reply.channels, list)
        return {summary.id: summary for summary in reply.channels}


@asynccontextmanager
async def platform(path: Path, clock: Any, **settings: Any) -> AsyncIterator[Platform]:
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        log = await stack.enter_async_context(SqliteLog.open(path, clock=clock, metrics=metrics))
        store = await stack.enter_async_context(SqliteStore.open(path, clock=clock, metrics=metrics))
        buses, tails, cursors = MemoryBuses(), MemoryTails(clock=clock), MemoryReadCursors()
        dedupe = MemoryDedupe(clock=clock)
        persister = PersisterService(
            log=log,
            reader=log,
            messages=log.consumer("stage1", MESSAGES),
            inbox=log.consumer("stage2", INBOX),
            store=store,
            tails=tails,
            bus=buses.subscriber("persister"),
            cursors=cursors,
            clock=clock,
            metrics=metrics,
            settings=PersisterSettings(inbox_fanout_limit=20, inbox_fanout_floor=10),
        )
        router = RouterService(
            log=log,
            bus=buses.subscriber("router"),
            store=store,
            dedupe=dedupe,
            cursors=cursors,
            tails=tails,
            workers=MemoryWorkers(clock=clock, floor=0),
            clock=clock,
            metrics=metrics,
            settings=RouterSettings(sends_per_second=1_000, send_burst=1_000, **settings),
        )
        tasks = [asyncio.create_task(persister.run()), asyncio.create_task(router.run())]
        try:
            await asyncio.sleep(0.1)
            yield Platform(router, store, log, clock, dedupe)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def play(jump: Jump, loop_clock: Any, tmp_path: Path) -> Callable[..., None]:
    def run(scene: Callable[[Platform], Awaitable[None]], **settings: Any) -> None:
        async def main() -> None:
            async with platform(tmp_path, loop_clock, **settings) as p:
                await scene(p)

        jump(main())

    return run


# -- channels -----------------------------------------------------------------------------------------


def test_a_created_group_can_be_used_at_once_by_all_its_members(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob", "cat")
        for user in ("ann", "bob", "cat"):
            await p.send(channel, f"from {user}", user)
        assert await p.refused(Send(rid(), channel, "c", "x"), "eve") == "no_such_channel"
        members = (await p.reply(ChannelMembers(rid(), channel), "bob")).members
        assert isinstance(members, list)
        assert [(m.user, m.role) for m in members] == [("ann", "owner"), ("bob", "member"), ("cat", "member")]

    play(scene)


def test_a_repeated_create_is_the_same_channel_and_other_content_a_conflict(play: Any) -> None:
    async def scene(p: Platform) -> None:
        first = await p.reply(ChannelCreate(rid(), "x", "group", ["bob"], "n"))
        p.dedupe.wipe()
        again = await p.reply(ChannelCreate(rid(), "x", "group", ["bob"], "n"))
        assert again.channel == first.channel
        for other in (["cat"], ["bob", "cat"]):
            assert await p.refused(ChannelCreate(rid(), "x", "group", other, "n")) == "id_conflict"
        assert await p.refused(ChannelCreate(rid(), "x", "group", ["bob"], "m")) == "id_conflict"
        assert (await p.reply(ChannelCreate(rid(), "x", "group", ["ann"], "n"), "bob")).channel != first.channel
        assert await p.refused(ChannelCreate(rid(), "", "group", ["bob"])) == "bad_client_id"
        assert await p.refused(ChannelCreate(rid(), "y", "group", ["b\nob"])) == "bad_request"

    play(scene)


def test_a_direct_channel_is_one_for_its_two_users_for_ever(play: Any) -> None:
    async def scene(p: Platform) -> None:
        one = (await p.reply(ChannelCreate(rid(), "x", "direct", ["bob"]))).channel
        two = (await p.reply(ChannelCreate(rid(), "y", "direct", ["ann"]), "bob")).channel
        three = (await p.reply(ChannelCreate(rid(), "z", "direct", ["bob", "ann"]))).channel
        assert one == two == three
        assert isinstance(one, str)
        elsewhere = (await p.reply(ChannelCreate(rid(), "x", "direct", ["bob"]), tenant="u")).channel
        assert elsewhere != one
        for members in ([], ["ann"], ["bob", "cat"], ["ann", "bob", "cat"]):
            assert await p.refused(ChannelCreate(rid(), "w", "direct", members)) == "bad_request"
        for system in (False, True):
            for request in (
                ChannelAdd(rid(), one, ["cat"]),
                ChannelRemove(rid(), one, ["bob"]),
                ChannelRemove(rid(), one, ["ann"]),
                ChannelUpdate(rid(), one, "name"),
                ChannelLeave(rid(), one),
            ):
                assert await p.refused(request, system=system) == "forbidden", request
        await p.send(one, "hello")
        await p.send(one, "hello too", "bob")
        assert (await p.summaries())[one].peer == "bob"
        assert (await p.summaries("bob"))[one].peer == "ann"

    play(scene)


def test_channels_of_other_people_have_other_ids() -> None:
    groups = [("t", "ann", "bc"), ("t", "annb", "c"), ("tann", "b", "c"), ("u", "ann", "bc"), ("t", "bob", "bc")]
    assert len({group_id(*of) for of in groups}) == len(groups)
    pairs = [("t", "ann", "bob"), ("t", "annb", "ob"), ("tann", "b", "ob"), ("u", "ann", "bob")]
    assert len({direct_id(*of) for of in pairs}) == len(pairs)
    assert direct_id("t", "bob", "ann") == direct_id("t", "ann", "bob")


def test_tenants_share_nothing(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        assert await p.refused(Send(rid(), channel, "c", "x"), "ann", tenant="u") == "no_such_channel"
        assert await p.refused(History(rid(), channel), "ann", tenant="u", system=True) == "no_such_channel"

    play(scene)


def test_added_members_may_send_at_once_and_removed_ones_not(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        assert await p.refused(Send(rid(), channel, "c", "x"), "cat") == "no_such_channel"
        await p.reply(ChannelAdd(rid(), channel, ["cat", "dan", "bob"]))
        await p.reply(ChannelAdd(rid(), channel, ["cat"]))
        for user in ("cat", "dan"):
            await p.send(channel, "hi", user)
        await p.reply(ChannelRemove(rid(), channel, ["cat", "nobody"]))
        assert await p.refused(Send(rid(), channel, "c", "x"), "cat") == "no_such_channel"
        assert await p.refused(History(rid(), channel), "cat") == "no_such_channel"
        await p.reply(ChannelLeave(rid(), channel), "dan")
        assert await p.refused(Send(rid(), channel, "c", "x"), "dan") == "no_such_channel"
        await p.reply(ChannelAdd(rid(), channel, ["cat"]))
        await p.send(channel, "back", "cat")
        assert set(await p.summaries("cat")) == {channel}
        assert set(await p.summaries("dan")) == set()

    play(scene)


def test_only_owners_and_admins_change_a_group(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob", "cat")
        for request in (
            ChannelAdd(rid(), channel, ["dan"]),
            ChannelRemove(rid(), channel, ["cat"]),
            ChannelRemove(rid(), channel, ["ann"]),
            ChannelUpdate(rid(), channel, "mine"),
        ):
            assert await p.refused(request, "bob") == "forbidden"
        await p.reply(ChannelUpdate(rid(), channel, "ours"))
        assert (await p.summaries("bob"))[channel].name == "ours"
        assert await p.refused(ChannelUpdate(rid(), channel)) == "bad_request"
        await p.reply(ChannelJoin(rid(), channel), "bob")
        assert await p.refused(ChannelJoin(rid(), channel), "eve") == "no_such_channel"

    play(scene)


def test_system_callers_add_in_bulk_and_the_channel_becomes_large(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        users = [f"user{n:04}" for n in range(1_000)]
        await p.reply(ChannelAdd(rid(), channel, users), "robot", system=True)
        stored = await p.store.channel("t", channel)
        assert stored is not None
        assert stored.members == 1_002
        await p.send(channel, "hi", "user0999")
        for _ in range(200):
            if (await p.summaries())[channel].route == "channel":
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(6)
        ack = await p.send(channel, "hi all", "user0500")
        await p.stored(channel, ack.id)
        row = (await p.store.newest([channel_timeline("t", channel)]))[channel_timeline("t", channel)]
        assert row.record.id == int(ack.id)
        await p.reply(ChannelRemove(rid(), channel, ["user0500"]))
        assert await p.refused(Send(rid(), channel, "c", "x"), "user0500") == "no_such_channel"
        names, page = [], None
        while True:
            reply = await p.reply(ChannelMembers(rid(), channel, page))
            assert isinstance(reply.members, list)
            names += [m.user for m in reply.members]
            if not isinstance(reply.page, str):
                break
            page = reply.page
        assert names == sorted({*users, "ann", "bob"} - {"user0500"})

    play(scene)


def held(store: SqliteStore) -> asyncio.Semaphore:
    """Members are written in as many rounds as this is released for."""
    rounds, write = asyncio.Semaphore(0), store.write

    async def late(rows: Any) -> None:
        if any(isinstance(row, MemberRow) for row in rows):
            await rounds.acquire()
        await write(rows)

    store.write = late  # type: ignore[method-assign]
    return rounds


async def added(p: Platform, channel: str, users: list[str]) -> None:
    """By the server's side."""
    await p.reply(ChannelAdd(rid(), channel, users), "robot", system=True)


def test_waiting_for_an_import_does_not_ask_for_every_member_again_and_again(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        asked, memberships = 0, p.store.memberships

        async def counted(tenant: str, channel: str, users: Any, **more: Any) -> Any:
            nonlocal asked
            asked += len(users)
            return await memberships(tenant, channel, users, **more)

        p.store.memberships = counted  # type: ignore[method-assign]
        rounds = held(p.store)
        users = [f"user{n:04}" for n in range(1_000)]
        adding = asyncio.create_task(added(p, channel, users))
        await asyncio.sleep(5)  # at 250 ms a look
        assert not adding.done()
        for _ in users:
            rounds.release()
        await adding
        assert {user for user, one in (await memberships("t", channel, users)).items() if one.role} == set(users)
        # Who is one already, who the persister asks for as of the position, and one in each look.
        assert asked < 2_100

    play(scene)


def test_who_added_what_another_added_meanwhile_is_answered(play: Any) -> None:
    """Its last record changes nothing, so no version of the channel ever reaches it."""

    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        rounds = held(p.store)
        first = asyncio.create_task(added(p, channel, ["cat"]))
        await asyncio.sleep(1)  # a round of its own
        second = asyncio.create_task(added(p, channel, ["dan", "cat"]))
        await asyncio.sleep(1)
        assert not first.done()
        rounds.release()
        await first
        await asyncio.sleep(1)
        assert not second.done()  # the last of its users is a member, the other is not
        rounds.release()
        async with asyncio.timeout(2):
            await second
        found = await p.store.memberships("t", channel, ["cat", "dan"])
        stored = await p.store.channel("t", channel)
        assert stored is not None
        assert stored.version == max(one.offset for one in found.values())
        for user in found:
            await p.send(channel, "hi", user)

    play(scene)


def test_members_without_the_version_that_counts_them_are_no_answer(play: Any) -> None:
    """A store writes members first, then the version with their number: the limit goes by that number."""

    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        before, read = await p.store.channel("t", channel), p.store.channel

        async def early(tenant: str, channel: str) -> Any:
            return before

        p.store.channel = early  # type: ignore[method-assign]
        adding = asyncio.create_task(added(p, channel, ["cat", "dan"]))
        await asyncio.sleep(2)
        assert len(await p.store.memberships("t", channel, ["cat", "dan"])) == 2
        assert not adding.done()
        p.store.channel = read  # type: ignore[method-assign]
        async with asyncio.timeout(1):
            await adding

    play(scene)


def test_a_repeated_addition_to_a_full_channel_is_answered_and_one_more_refused(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        for _ in range(2):
            await p.reply(ChannelAdd(rid(), channel, ["cat", "dan"]))
        for more in (["eve"], ["cat", "eve"]):
            assert await p.refused(ChannelAdd(rid(), channel, more)) == "too_many"
        await p.reply(ChannelRemove(rid(), channel, ["cat"]))
        await p.reply(ChannelAdd(rid(), channel, ["eve"]))

    play(scene, max_members=4)


def test_additions_on_their_way_count_towards_the_limit_and_an_exact_fit_passes(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        rounds = held(p.store)
        first = asyncio.create_task(added(p, channel, [f"a{n}" for n in range(4)]))
        fits = asyncio.create_task(added(p, channel, [f"b{n}" for n in range(4)]))
        over = asyncio.create_task(p.refused(ChannelAdd(rid(), channel, ["eve"])))
        await asyncio.sleep(2)
        assert not first.done()
        assert not over.done()  # whether it is one too many is not known before these are stored
        for _ in range(9):
            rounds.release()
        await asyncio.gather(first, fits)
        assert await over == "too_many"
        stored = await p.store.channel("t", channel)
        assert stored is not None
        assert stored.members == 10
        for _ in range(2):  # nothing is on its way any more
            await p.reply(ChannelRemove(rid(), channel, ["a0"]))
            await added(p, channel, ["a0"])

    play(scene, max_members=10)


# -- messages ------------------------------------------------------------------------------------------


def test_history_edits_deletes_and_reactions_come_together(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        one, two = await p.send(channel, "one"), await p.send(channel, "two", "bob")
        await p.stored(channel, two.id)
        for request, user in (
            (Edit(rid(), channel, one.id, "e1", "ONE"), "ann"),
            (React(rid(), channel, one.id, "e2", "+"), "bob"),
            (Delete(rid(), channel, two.id, "e3"), "ann"),
        ):
            ack = await p.ask(request, user)
            assert isinstance(ack, Ack), ack
        await p.stored(channel, ack.id)
        await asyncio.sleep(1.5)  # positions are published every second
        reply = await p.reply(History(rid(), channel), "bob")
        assert isinstance(reply.messages, list)
        first, second = reply.messages
        assert (first.body, first.reactions, second.deleted) == ("ONE", {"+": ["bob"]}, True)
        assert (reply.more, reply.complete) == (False, True)
        assert await p.refused(Edit(rid(), channel, two.id, "e4", "x"), "bob") == "no_such_message"

    play(scene)


def test_an_edit_right_after_the_ack_passes_or_is_retryable(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        ack = await p.send(channel, "one")
        answer: Answer
        for _ in range(100):
            answer = await p.ask(Edit(rid(), channel, ack.id, "e", "two"))
            if isinstance(answer, Ack):
                break
            assert isinstance(answer, ErrorFrame)
            assert (answer.code, answer.retryable) == ("no_such_message", True)
            await asyncio.sleep(0.01)
        assert isinstance(answer, Ack)

    play(scene)


def test_a_retry_with_a_wiped_dedupe_is_one_message_with_the_first_id(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        first = await p.send(channel, "once", client_id="x")
        p.dedupe.wipe()
        at_once = await p.send(channel, "once", client_id="x", retry=True)
        await p.stored(channel, first.id)
        later = await p.send(channel, "once", client_id="x", retry=True)
        assert (first.duplicate, at_once.duplicate, later.duplicate) == (False, True, True)
        assert first.id == at_once.id == later.id
        assert await p.bodies(channel) == ["once"]
        conflict = Send(rid(), channel, "x", "other", retry=True)
        assert await p.refused(conflict) == "id_conflict"
        new = await p.send(channel, "never seen before", client_id="y", retry=True)
        assert not new.duplicate
        await p.stored(channel, new.id)
        assert await p.bodies(channel) == ["once", "never seen before"]

    play(scene)


# -- lists, read cursors ----------------------------------------------------------------------------------


def test_the_conversation_list_counts_and_pages(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channels = sorted([await p.group("bob", name=f"g{n}") for n in range(5)])
        acks = [await p.send(channels[0], f"{n}", "bob") for n in range(3)]
        await p.stored(channels[0], acks[-1].id)
        first = (await p.summaries())[channels[0]]
        assert (first.kind, first.head, first.read, first.unread) == ("group", acks[-1].id, None, 3)
        assert (first.role, first.members, first.route) == ("owner", 2, "inbox")
        reply = await p.reply(ReadUpTo(channels[0], acks[1].id, rid()))
        assert reply.read == acks[1].id
        first = (await p.summaries())[channels[0]]
        assert (first.read, first.unread) == (acks[1].id, 1)
        assert (await p.summaries("bob"))[channels[0]].read is None

        seen, page = [], None
        while True:
            reply = await p.reply(ListChannels(rid(), page))
            assert isinstance(reply.channels, list)
            assert len(reply.channels) <= 2
            seen += [summary.id for summary in reply.channels]
            if not isinstance(reply.page, str):
                break
            page = reply.page
        assert seen == channels
        assert await p.refused(ListChannels(rid(), "\udc80ä")) == "bad_request"

        await asyncio.sleep(10)
        since = rfc3339(p.clock.now() - 5_000)
        assert await p.summaries(changed_since=since) == {}
        ack = await p.send(channels[1], "new", "bob")
        await p.stored(channels[1], ack.id)
        assert set(await p.summaries(changed_since=since)) <= {channels[1]}

    play(scene, page=2)


# -- sync ------------------------------------------------------------------------------------------------------


async def synced(p: Platform, user: str, *, inbox: str | None = None, **channels: str) -> tuple[Reply, list[Any]]:
    """Everything after the cursors, page by page."""
    events: list[Any] = []
    while True:
        reply = await p.reply(Sync(rid(), inbox, dict(channels), limit=3), user)
        assert isinstance(reply.events, list)
        events += reply.events
        assert not isinstance(reply.cursors, type(None))
        if isinstance(reply.cursors.inbox, str):  # type: ignore[union-attr]
            inbox = reply.cursors.inbox  # type: ignore[union-attr]
        if isinstance(reply.cursors.channels, dict):  # type: ignore[union-attr]
            channels = reply.cursors.channels  # type: ignore[union-attr]
        if not reply.more:
            return reply, events


def start(p: Platform, timeline: str) -> str:
    return encode_cursor(Cursor(p.log.epoch, START, 0), timeline)


def test_sync_brings_the_inbox_page_by_page_and_ends(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        acks = [await p.send(channel, f"{n}") for n in range(10)]
        await p.stored(channel, acks[-1].id)
        await asyncio.sleep(1)
        reply, events = await synced(p, "bob", inbox=start(p, inbox_timeline("t", "bob")))
        assert [e.id for e in events if e.kind == "message"] == [ack.id for ack in acks]
        assert all(not event.live and event.timeline == "inbox" for event in events)
        assert reply.complete
        end = reply.cursors.inbox  # type: ignore[union-attr]
        reply, events = await synced(p, "bob", inbox=end)  # type: ignore[arg-type]
        assert events == []
        assert reply.cursors.inbox == end  # type: ignore[union-attr]

    play(scene)


def test_cursors_that_are_not_ours_are_refused(play: Any) -> None:
    async def scene(p: Platform) -> None:
        await p.group("bob")
        mine, other = inbox_timeline("t", "ann"), inbox_timeline("t", "bob")
        tries = [
            ("rubbish", "bad_cursor"),
            (start(p, other), "bad_cursor"),
            (encode_cursor(Cursor("another", START, 0), mine), "bad_cursor"),
            (encode_cursor(Cursor(p.log.epoch, 1 << 40, 0), mine), "bad_cursor"),
        ]
        for text, wanted in tries:
            assert await p.refused(Sync(rid(), text)) == wanted
        assert await p.refused(Sync(rid(), start(p, mine), limit=0)) == "bad_limit"

    play(scene)


def test_a_removed_member_syncs_a_large_channel_up_to_the_removal(play: Any) -> None:
    async def scene(p: Platform) -> None:
        users = [f"u{n}" for n in range(25)]
        channel = await p.group(*users)
        timeline = channel_timeline("t", channel)
        for _ in range(200):
            if (await p.summaries())[channel].route == "channel":
                break
            await asyncio.sleep(0.1)
        before = await p.send(channel, "before", "u3")
        await p.stored(channel, before.id)
        await p.reply(ChannelRemove(rid(), channel, ["u3"]))
        after = await p.send(channel, "after")
        await p.stored(channel, after.id)
        await asyncio.sleep(1)
        _, events = await synced(p, "u3", **{channel: start(p, timeline)})
        bodies = [event.message.body for event in events if event.kind == "message"]
        assert bodies == ["before"]
        whole = await p.reply(Sync(rid(), channels={channel: start(p, timeline)}), "u3")
        assert isinstance(whole.events, list)
        assert [event.message.body for event in whole.events if event.kind == "message"] == ["before"]  # type: ignore[union-attr]
        _, events = await synced(p, "u4", **{channel: start(p, timeline)})
        assert [event.message.body for event in events if event.kind == "message"] == ["before", "after"]
        assert await p.refused(Sync(rid(), channels={channel: start(p, timeline)}), "eve") == "no_such_channel"
        await p.reply(ChannelAdd(rid(), channel, ["u3"]))
        _, events = await synced(p, "u3", **{channel: start(p, timeline)})
        assert "after" in [event.message.body for event in events if event.kind == "message"]

    play(scene)


def test_who_reads_behind_a_silent_persister_is_told_so(play: Any) -> None:
    async def scene(p: Platform) -> None:
        channel = await p.group("bob")
        await p.send(channel, "x")
        await asyncio.sleep(2)
        assert (await p.reply(History(rid(), channel))).complete is True
        p.clock.skew = 20_000
        reply = await p.reply(History(rid(), channel))
        assert (reply.complete, reply.reason) == (False, "lagging")

    play(scene)
