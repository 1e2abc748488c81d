"""Large channels: who may follow, where it begins, and what ends it."""

from __future__ import annotations

import asyncio

import pytest

from chatcluster.core.codes import Close
from chatcluster.core.cursor import decode_cursor
from chatcluster.core.envelope import Live, Nudge
from chatcluster.core.frames import Follow, Limits, Mark, Reply, Resume, Unfollow
from chatcluster.core.ids import id_time
from chatcluster.core.records import channel_timeline, inbox_timeline

TENANT = "acme"


def bodies(client) -> list[str]:
    return [event.message.body for event in client.events("message")]


async def following(world, user: str = "alice", channel: str = "big", cursor: str | None = None):
    client = await world.connect(user)
    client.say(Follow("f", channel, cursor))
    await world.until(lambda: bool(client.of(Reply)) or bool(client.errors()))
    return client


async def speak(world, body: str, *, durable: bool = True, live: bool = True, channel: str = "big"):
    record = world.say(channel=channel, body=body)
    if live:
        world.live(record, large=True)
    if durable:
        await world.durable(record, large=True, nudge=True)
    await asyncio.sleep(0.1)
    return record


# -- who may -----------------------------------------------------------------------------------------


def test_a_member_follows_and_gets_live_and_durable(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await following(world)
            (reply,) = alice.of(Reply)
            assert (reply.rid, reply.channel, reply.route) == ("f", "big", "channel")
            assert decode_cursor(reply.cursor, "c:acme/big").offset == -1
            await speak(world, "1")
            await speak(world, "2", live=False)
            assert bodies(alice) == ["1", "2"]
            assert [(event.live, event.timeline) for event in alice.events()] == [
                (True, "channel:big"),
                (False, "channel:big"),
            ]
            await asyncio.sleep(5)
            assert decode_cursor(alice.mark.channels["big"], "c:acme/big").offset == world.source
            alice.say(Follow("g", "big"))  # again: where it stands
            assert decode_cursor(alice.of(Reply)[1].cursor, "c:acme/big").offset == world.source

    jump(main())


@pytest.mark.parametrize("channel", ["unknown", "big", "was", "c:x/y", "a\nb"])
def test_whoever_is_no_member_learns_nothing(jump, open_world, channel):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "bob")
            world.enlarge("was", "alice")
            world.role("alice", None, channel="was")
            alice = await following(world, channel=channel)
            assert alice.errors() == ["no_such_channel"]
            record = world.say(channel=channel)
            world.publish([channel_timeline(TENANT, channel)], Live(record))
            await asyncio.sleep(1)
            assert alice.events() == []
            assert alice.handler.follows is None
            await asyncio.sleep(30)
            assert channel_timeline(TENANT, channel) not in world.sessions.hub.topics

    jump(main())


def test_follows_are_limited(jump, open_world):
    async def main():
        async with open_world(limits=Limits(follow=2)) as world:
            alice = await world.connect("alice")
            for channel in ("a", "b", "c"):
                world.enlarge(channel, "alice")
                alice.say(Follow(channel, channel))
            await asyncio.sleep(1)
            assert [reply.rid for reply in alice.of(Reply)] == ["a", "b"]
            assert alice.errors() == ["too_many"]
            alice.say(Unfollow("u", "a"))
            alice.say(Follow("c", "c"))
            await asyncio.sleep(1)
            assert [reply.rid for reply in alice.of(Reply)] == ["a", "b", "u", "c"]

    jump(main())


def test_many_who_follow_at_once_share_the_reads(jump, open_world):
    async def main():
        async with open_world() as world:
            users = [f"user{n}" for n in range(50)]
            world.enlarge("big", *users)
            clients = [await world.connect(user) for user in users]
            world.store.reads.clear()
            for client in clients:
                client.say(Follow("f", "big"))
            await asyncio.sleep(1)
            assert all(client.of(Reply) for client in clients)
            assert world.store.reads.count("memberships") == 1
            assert world.store.reads.count("channel") == 1
            assert world.store.reads.count("timeline") == 0
            second = await world.connect("user7")
            world.store.reads.clear()
            second.say(Follow("f", "big"))
            await asyncio.sleep(0.1)
            assert second.of(Reply)
            assert "memberships" not in world.store.reads  # his is known here

    jump(main())


def test_a_follow_without_a_store_may_be_asked_again(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await world.connect("alice")
            world.store.down = True
            alice.say(Follow("1", "big"))
            await asyncio.sleep(1)
            assert alice.errors() == ["unavailable"]
            world.store.down = False
            alice.say(Follow("2", "big"))
            await asyncio.sleep(1)
            assert [reply.rid for reply in alice.of(Reply)] == ["2"]

    jump(main())


# -- cursors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("active", [True, False])
def test_a_follow_continues_from_its_cursor(jump, open_world, tail, active):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice", "bob")
            if active:
                await following(world, "bob")
            records = [world.say(channel="big", body=str(n)) for n in range(6)]
            sources = [await world.durable(record, large=True, tail=tail) for record in records]
            cursor = world.cursor(sources[2], channel="big")
            alice = await following(world, cursor=cursor)
            await asyncio.sleep(6)
            assert alice.of(Reply)[0].cursor == cursor
            assert bodies(alice) == ["3", "4", "5"]
            assert decode_cursor(alice.mark.channels["big"], "c:acme/big").offset == sources[-1]

    jump(main())


def test_cursors_that_cannot_be_continued(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await following(world, cursor=world.cursor(5, channel="other"))
            assert alice.errors() == ["bad_cursor"]
            for reason, cursor in (
                ("epoch", world.cursor(5, channel="big", epoch="e0")),
                ("ahead", world.cursor(99999, channel="big")),
            ):
                alice = await following(world, cursor=cursor)
                assert alice.resyncs() == [("channel:big", reason)]
                assert decode_cursor(alice.of(Reply)[0].cursor, "c:acme/big").epoch == "e1"
                record = await speak(world, "1")
                assert alice.ids() == [record.id]

    jump(main())


def test_unfollow_ends_it_and_what_was_told_is_still_decided(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await following(world)
            lost = await speak(world, "1", durable=False)
            kept = await speak(world, "2", durable=False)
            alice.say(Unfollow("u", "big"))
            await world.durable(kept, large=True, nudge=True)
            await speak(world, "3")
            assert bodies(alice) == ["1", "2"]
            again = await world.connect("alice")
            await speak(world, "x", live=False, durable=False)
            world.sessions.marks.send(alice.handler, [alice.handler.inbox])
            assert set(alice.mark.pending) == {str(lost.id), str(kept.id)}
            assert again.mark.pending == []
            await world.settle(id_time(kept.id) + 100_000)
            await asyncio.sleep(5)
            assert [event.message_id for event in alice.events("retracted")] == [str(lost.id)]
            assert alice.mark.pending == []

    jump(main())


def test_what_a_session_waits_to_have_decided_goes_with_it(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await following(world)
            await speak(world, "1", durable=False)
            alice.say(Unfollow("u", "big"))
            await asyncio.sleep(0.1)
            assert list(world.sessions.hub.claimants) == [alice.handler]
            alice.gone()
            assert not world.sessions.hub.claimants

    jump(main())


def test_who_leaves_is_followed_by_nothing(jump, open_world):
    async def main():
        async with open_world(linger=15.0) as world:
            world.enlarge("big", "alice", "bob")
            alice, bob = await following(world, "alice"), await following(world, "bob")
            alice.gone()
            alice.clear()
            written = []
            alice.link.write = written.append
            await speak(world, "1")
            assert (written, bodies(bob)) == ([], ["1"])
            bob.gone()
            await asyncio.sleep(30)
            assert world.sessions.hub.topics == {}

    jump(main())


def test_a_slow_consumer_of_a_large_channel_that_is_cut_by_a_write_harms_nobody(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice", "bob", "eve")
            alice, bob, eve = [await following(world, user) for user in ("alice", "bob", "eve")]

            def cut(wire):
                bob.link.close(Close.SLOW_CONSUMER, "slow")
                bob.gone()

            bob.link.write = cut
            await speak(world, "1")
            await speak(world, "2")
            assert bodies(alice) == bodies(eve) == ["1", "2"]

    jump(main())


def test_unfollow_while_on_the_way_is_heeded(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await world.connect("alice")
            alice.say(Follow("f", "big"))
            alice.say(Unfollow("u", "big"))
            await asyncio.sleep(1)
            assert {reply.rid for reply in alice.of(Reply)} == {"f", "u"}
            await speak(world, "1")
            assert bodies(alice) == []

    jump(main())


# -- removal ---------------------------------------------------------------------------------------------


def test_own_remove_ends_everything_behind_it(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice", "bob")
            alice, bob = await following(world, "alice"), await following(world, "bob")
            second = await following(world, "alice")
            await speak(world, "1")
            # One batch of the tail: before, the removal, behind it.
            await world.durable(world.say(channel="big", body="2"), large=True)
            world.role("alice", None, channel="big", offset=world.source + 1)
            await world.durable(world.member("alice", "remove", channel="big"), large=True)
            await world.durable(world.say(channel="big", body="3"), large=True, nudge=True)
            await asyncio.sleep(1)
            await speak(world, "4")
            for client in (alice, second):
                assert bodies(client) == ["1", "2"]
                assert client.handler.follows is None
            assert bodies(bob) == ["1", "2", "3", "4"]
            assert len(bob.events("member")) == 1
            alice.say(Follow("g", "big"))
            await asyncio.sleep(1)
            assert alice.errors() == ["no_such_channel"]  # the membership known here went with it

    jump(main())


def test_own_remove_that_only_the_inbox_has_brought_ends_it_too(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await following(world)
            await world.durable(world.member("alice", "remove", channel="big", route="channel"), "alice", nudge=True)
            await asyncio.sleep(0.1)
            assert len(alice.events("member")) == 1
            await speak(world, "1")
            assert bodies(alice) == []
            world.role("alice", None, channel="big")
            alice.say(Follow("g", "big"))
            await asyncio.sleep(1)
            assert alice.errors() == ["no_such_channel"]  # the membership known here went with it

    jump(main())


def test_without_the_bus_a_removal_ends_it_within_five_seconds(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await following(world)
            await asyncio.sleep(20)
            await world.durable(world.member("alice", "remove", channel="big", route="channel"), "alice", large=True)
            await asyncio.sleep(5)
            await speak(world, "1")
            assert bodies(alice) == []

    jump(main())


def test_an_old_removal_does_not_end_a_newer_membership(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await world.connect("alice")
            remove = world.member("alice", "remove", channel="big", route="channel")
            source = world.event(remove)
            world.source += 5
            world.role("alice", "member", channel="big")  # added again since
            alice.say(Follow("f", "big"))
            await asyncio.sleep(1)
            # The inbox is late with the old removal.
            world.source, newest = source - 1, world.source
            await world.durable(remove, "alice", nudge=True)
            world.source = newest
            await asyncio.sleep(1)
            await speak(world, "1")
            assert len(alice.events("member")) == 1
            assert bodies(alice) == ["1"]

    jump(main())


def test_a_removal_during_the_follow_is_heeded(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice", "bob")
            await following(world, "bob")
            alice = await world.connect("alice")
            memberships = world.store.memberships

            async def raced(tenant, channel, users, *, at=None):
                found = await memberships(tenant, channel, users, at=at)
                await world.durable(world.member("alice", "remove", channel="big"), large=True, nudge=True)
                await asyncio.sleep(0.5)
                return found

            world.store.memberships = raced
            alice.say(Follow("f", "big"))
            await asyncio.sleep(2)
            await speak(world, "1")
            assert bodies(alice) == []

    jump(main())


def test_a_catch_up_stops_at_the_own_remove(jump, open_world):
    async def main():
        async with open_world(page=2) as world:
            world.enlarge("big", "alice", "bob")
            await following(world, "bob")
            start = world.source
            for n in range(3):
                await world.durable(world.say(channel="big", body=str(n)), large=True, nudge=True)
            alice = await world.connect("alice")
            collect = world.sessions.follows._catchup.collect

            async def raced(topic, after):
                # Between the check of the membership and the reads.
                await world.durable(world.member("alice", "remove", channel="big"), large=True, nudge=True)
                await world.durable(world.say(channel="big", body="secret"), large=True, nudge=True)
                await asyncio.sleep(0.5)
                return await collect(topic, after)

            world.sessions.follows._catchup.collect = raced
            alice.say(Follow("f", "big", world.cursor(start, channel="big")))
            await asyncio.sleep(2)
            assert bodies(alice) == ["0", "1", "2"]
            assert alice.handler.follows is None

    jump(main())


def test_a_catch_up_goes_on_past_an_old_removal(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            start = world.source
            await world.durable(world.say(channel="big", body="0"), large=True)
            await world.durable(world.member("alice", "remove", channel="big"), large=True)
            await world.durable(world.member("alice", "add", channel="big"), large=True)
            world.role("alice", "member", channel="big")
            await world.durable(world.say(channel="big", body="1"), large=True)
            alice = await following(world, cursor=world.cursor(start, channel="big"))
            await asyncio.sleep(1)
            await speak(world, "2")
            assert bodies(alice) == ["0", "1", "2"]

    jump(main())


def test_a_catch_up_goes_on_past_the_removal_of_somebody_else(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice", "bob")
            start = world.source
            await world.durable(world.say(channel="big", body="0"), large=True)
            await world.durable(world.member("bob", "remove", channel="big"), large=True)
            await world.durable(world.say(channel="big", body="1"), large=True)
            alice = await following(world, cursor=world.cursor(start, channel="big"))
            await asyncio.sleep(1)
            await speak(world, "2")
            assert bodies(alice) == ["0", "1", "2"]

    jump(main())


# -- the route ---------------------------------------------------------------------------------------------


def test_a_channel_that_grew_large_is_followed_from_its_switch(jump, open_world):
    async def main():
        async with open_world() as world:
            world.role("alice", "member", channel="big")
            alice = await world.connect("alice")
            before = world.say(channel="big", body="before")
            world.live(before, "alice")
            await world.durable(before, "alice")
            switch = world.switch("channel", "big")
            world.store.large["big"] = ("channel", world.source + 1)
            await world.durable(switch, "alice", large=True)
            # Behind the switch, before anybody here follows.
            await world.durable(world.say(channel="big", body="behind"), large=True)
            world.publish([inbox_timeline(TENANT, "alice")], Nudge(world.offset))
            await asyncio.sleep(1)
            await speak(world, "live")
            assert bodies(alice) == ["before", "behind", "live"]
            assert [event.to for event in alice.events("route")] == ["channel"]
            assert [event.timeline for event in alice.events("route")] == ["inbox"]

    jump(main())


def test_a_channel_that_shrank_is_read_to_its_switch_and_left(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await following(world)
            await world.durable(world.say(channel="big", body="1"), large=True)
            world.store.large["big"] = ("inbox", world.source + 1)
            await world.durable(world.switch("inbox", "big"), "alice", large=True, nudge=True)
            await asyncio.sleep(1)
            assert bodies(alice) == ["1"]
            assert {event.timeline for event in alice.events("route")} == {"inbox", "channel:big"}
            assert alice.handler.follows is None
            await speak(world, "2")
            assert bodies(alice) == ["1"]
            # And large again: the inbox says so.
            world.store.large["big"] = ("channel", world.source + 1)
            await world.durable(world.switch("channel", "big"), "alice", large=True, nudge=True)
            await asyncio.sleep(1)
            await speak(world, "3")
            assert bodies(alice) == ["1", "3"]

    jump(main())


def test_who_was_removed_while_the_channel_was_small_is_no_member_when_it_is_large_again(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice", "bob")
            alice, bob = await following(world, "alice"), await following(world, "bob")
            world.store.large["big"] = ("inbox", world.source + 1)
            await world.durable(world.switch("inbox", "big"), "alice", "bob", large=True, nudge=True)
            await asyncio.sleep(1)
            alice.gone()
            world.role("alice", None, channel="big", offset=world.source + 1)
            await world.durable(world.member("alice", "remove", channel="big"), "alice", "bob", nudge=True)
            world.store.large["big"] = ("channel", world.source + 1)
            await world.durable(world.switch("channel", "big"), "bob", large=True, nudge=True)
            await asyncio.sleep(1)
            alice = await following(world, "alice")
            assert alice.errors() == ["no_such_channel"]
            await speak(world, "secret")
            assert (bodies(alice), bodies(bob)) == ([], ["secret"])

    jump(main())


def test_a_switch_back_and_forth_that_the_channel_tells_late_leaves_no_hole(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await following(world)
            back, forth = world.switch("inbox", "big"), world.switch("channel", "big")
            large = channel_timeline(TENANT, "big")
            for record in (back, forth):
                source = world.event(record)
                world.offset += 1
                await world._place(inbox_timeline(TENANT, "alice"), world.offset, source, record, True, True)
            await asyncio.sleep(0.5)
            for record in (back, forth):
                source = world.store.events[("big", record.id)]
                await world._place(large, source, source, record, True, True)
            await asyncio.sleep(0.5)
            await speak(world, "1")
            assert bodies(alice) == ["1"]

    jump(main())


def test_being_added_to_a_large_channel_begins_to_follow_it(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "bob")
            alice = await world.connect("alice")
            world.role("alice", "member", channel="big", offset=world.source + 1)
            await world.durable(world.member("alice", "add", channel="big", route="channel"), "alice", large=True)
            await asyncio.sleep(6)
            await speak(world, "1")
            assert bodies(alice) == ["1"]

    jump(main())


def test_following_by_itself_stops_at_the_limit(jump, open_world):
    async def main():
        async with open_world(limits=Limits(follow=1)) as world:
            world.enlarge("a", "alice")
            world.enlarge("b", "alice")
            alice = await following(world, channel="a")
            await world.durable(world.switch("channel", "b"), "alice", large=True, nudge=True)
            await asyncio.sleep(1)
            await speak(world, "1", channel="b")
            assert bodies(alice) == []
            assert len(alice.events("route")) == 1

    jump(main())


def test_a_switch_that_a_resume_brings_is_followed(jump, open_world):
    async def main():
        async with open_world() as world:
            world.role("alice", "member", channel="big")
            world.store.large["big"] = ("channel", world.source + 1)
            await world.durable(world.switch("channel", "big"), "alice", large=True)
            await world.durable(world.say(channel="big", body="behind"), large=True)
            alice = await world.connect("alice", Resume(world.cursor(-1)))
            await asyncio.sleep(1)
            await speak(world, "live")
            assert bodies(alice) == ["behind", "live"]

    jump(main())


def test_a_resume_of_a_channel_that_shrank_meanwhile_ends_at_its_switch(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            start = world.source
            await world.durable(world.say(channel="big", body="1"), large=True)
            world.store.large["big"] = ("inbox", world.source + 1)
            last = await world.durable(world.switch("inbox", "big"), "alice", large=True)
            alice = await world.connect("alice", Resume(world.cursor(-1), {"big": world.cursor(start, channel="big")}))
            await asyncio.sleep(1)
            assert bodies(alice) == ["1"]
            marks = [mark for mark in alice.of(Mark) if isinstance(mark.channels, dict)]
            assert decode_cursor(marks[-1].channels["big"], "c:acme/big").offset == last
            await speak(world, "2")
            assert bodies(alice) == ["1"]

    jump(main())
