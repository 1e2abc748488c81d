"""Who may do what, as far as the router knows: members, strangers, those just removed or added; changes of messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from chatcluster.core.envelope import ROUTERS_TOPIC, Changed
from chatcluster.core.frames import (
    Ack,
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
    Request,
    Sync,
)
from chatcluster.core.ids import MAX_ID, first_id
from chatcluster.core.records import MAX_AGE, EditRecord
from chatcluster.ports import Committed, Failure, Lost
from chatcluster.services.router import channels
from handmade_router import World, code, send, verdict

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


def test_a_removed_member_of_a_busy_channel_is_cut_off_within_five_seconds_too(play: Any) -> None:
    async def scene(world: World) -> None:
        assert code(await world.answer(send("large"), "bob")) == "Ack"
        world.store.remove("large", "bob")
        for _ in range(6):
            await asyncio.sleep(1)
            assert code(await world.answer(send("large"))) == "Ack"
        assert code(await world.answer(send("large"), "bob")) == "no_such_channel"

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
        for channel in ("small", "large"):
            assert code(await world.answer(send(channel), "bob")) == "Ack"
            world.store.remove(channel, "bob")
            world.router._cache.follow([Lost(None)])
            assert code(await world.answer(send(channel))) == "Ack"
            assert code(await world.answer(send(channel), "bob")) == "no_such_channel"

    play(scene)


def test_who_was_just_added_is_not_refused(play: Any) -> None:
    async def scene(world: World) -> None:
        for channel in ("small", "large"):
            await world.answer(send(channel))
            assert code(await world.answer(send(channel), "dan")) == "no_such_channel"
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
        for n in range(30):
            await world.answer(send(f"no/channel{n}"))
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
        assert code(await world.answer(send(), "robot", system=True)) == "Ack"
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


def test_what_is_known_of_channels_is_bounded(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_MAX_ABSENT", 2)

    async def scene(world: World) -> None:
        cache = world.router._cache
        for channel in ("small", "pair", "large", "small"):
            assert code(await world.answer(send(channel))) == "Ack"
        for user in ("bob", "eve", "ann"):
            await world.answer(send("large"), user)
        for channel in ("one", "two", "three"):
            assert code(await world.answer(send(channel))) == "no_such_channel"
        assert (len(cache._states), len(cache._roles), len(cache._absent)) == (2, 2, 2)
        world.store.slow = 0.5
        names = [world.ask(send(channel), session=channel) for channel in ("four", "five", "six")]
        await world.until(lambda: all(name in world.answers for name in names))
        assert [code(world.answers[name]) for name in names] == ["no_such_channel", "no_such_channel", "overloaded"]

    play(scene, max_channels=2, max_memberships=2, max_loads=2)


# -- members and names -----------------------------------------------------------------------------


def test_who_may_change_a_channel(play: Any) -> None:
    async def scene(world: World) -> None:
        tries: list[tuple[str, bool, Request, str]] = [
            ("cat", False, ChannelRemove("c1", "small", ["ann"]), "forbidden"),
            ("cat", False, ChannelRemove("c2", "small", ["bob", "ann"]), "forbidden"),
            ("bob", False, ChannelRemove("c3", "small", ["cat"]), "forbidden"),
            ("bob", False, ChannelUpdate("c4", "small", "x"), "forbidden"),
            ("bob", False, ChannelAdd("c5", "small", ["dan"]), "forbidden"),
            ("ann", False, ChannelAdd("c6", "pair", ["dan"]), "forbidden"),
            ("ann", False, ChannelLeave("c7", "pair"), "forbidden"),
            ("robot", True, ChannelJoin("c8", "pair"), "forbidden"),
            ("ann", False, ChannelJoin("c9", "pair"), "Reply"),
            ("bob", False, ChannelJoin("c10", "small"), "Reply"),
        ]
        for user, system, request, wanted in tries:
            assert code(await world.answer(request, user, system=system)) == wanted, request
        assert world.log.records == []

    play(scene)


def test_a_change_that_did_not_become_durable_is_no_success(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.age = 1.5
        assert code(await world.answer(ChannelUpdate("stalled", "small", "x"))) == "overloaded"
        assert world.log.records == []
        world.log.age, world.log.late = 0.0, MAX_AGE + 1
        assert code(await world.answer(ChannelUpdate("late", "small", "x"))) == "unknown_outcome"
        world.log.late, world.log.hold = 0, True
        waiting = world.ask(ChannelUpdate("waiting", "small", "x"))
        await world.until(lambda: len(world.log.records) == 2)
        world.store.down = True
        world.log.report(1)
        await asyncio.sleep(1)
        assert waiting not in world.answers, "it is durable, whatever became of the store"
        world.store.down = False
        await world.until(lambda: waiting in world.answers, 1)
        assert code(world.answers[waiting]) == "Reply"
        failed, silent = (
            world.ask(ChannelUpdate("failed", "small", "x")),
            world.ask(ChannelUpdate("silent", "small", "x")),
        )
        await world.until(lambda: len(world.log.records) == 4)
        world.log.report(2, Failure("down"))
        await world.until(lambda: failed in world.answers, 1)
        assert code(world.answers[failed]) == "unknown_outcome"
        await world.until(lambda: silent in world.answers, 25)
        assert code(world.answers[silent]) == "unknown_outcome"

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
