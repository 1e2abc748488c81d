"""Hello with cursors of every kind: nothing missed, nothing twice, and what it costs."""

from __future__ import annotations

import asyncio
import random

import pytest

from chatcluster.core.codes import Close
from chatcluster.core.frames import ChannelSummary, Limits, Mark, Resume, Resync, Welcome
from chatcluster.core.ids import id_time
from chatcluster.core.records import channel_timeline, inbox_timeline

TENANT = "acme"


def inbox(user: str) -> str:
    return inbox_timeline(TENANT, user)


async def store(world, count: int, user: str = "alice", *, tail: bool = True) -> list[int]:
    """Durable messages; returns their inbox offsets."""
    offsets = []
    for number in range(count):
        await world.durable(world.say(body=str(number)), user, tail=tail)
        offsets.append(world.offset)
    return offsets


def bodies(client) -> list[int]:
    return [int(event.message.body) for event in client.events("message")]


# -- cursors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize(("at", "missed"), [(9, []), (4, [5, 6, 7, 8, 9])])
def test_a_tail_that_covers_costs_no_read_of_the_store(jump, open_world, active, at, missed):
    async def main():
        async with open_world() as world:
            offsets = await store(world, 10)
            if active:
                await world.connect("alice")
            world.store.reads.clear()
            before = world.count("resume_store_reads_total")
            cursor = world.cursor(offsets[at])
            alice = await world.connect("alice", Resume(cursor))
            assert world.store.reads == []
            assert world.count("resume_store_reads_total") == before
            assert alice.welcome.resumed is True
            assert alice.welcome.inbox == cursor
            assert bodies(alice) == missed
            assert alice.ids(live=True) == []
            # The order on the wire: welcome, what was missed, mark C.
            assert isinstance(alice.link.frames[0], Welcome)
            assert isinstance(alice.link.frames[-1], Mark)
            again = await world.connect("alice", alice.saved())
            assert bodies(again) == []

    jump(main())


def test_many_resumes_at_once_share_their_reads(jump, open_world):
    async def main():
        async with open_world() as world:
            users = [f"user{n}" for n in range(100)]
            for user in users:
                await world.durable(world.say(body="1"), user)
            reads = []
            read = world.tails.read

            async def counted(positions):
                reads.append(len(positions))
                return await read(positions)

            world.tails.read = counted
            clients = [world.client(user) for user in users]
            for client in clients:
                client.hello(resume=Resume(world.cursor(-1, user=client.user)))
            await world.until(lambda: all(client.of(Welcome) for client in clients))
            assert all(bodies(client) == [1] for client in clients)
            assert sum(reads) >= 100
            assert len(reads) <= 5
            assert world.store.reads == []

    jump(main())


@pytest.mark.parametrize("active", [False, True])
def test_without_a_tail_the_store_answers(jump, open_world, active):
    async def main():
        async with open_world(page=3) as world:
            offsets = await store(world, 10, tail=False)
            if active:
                await world.connect("alice")
            alice = await world.connect("alice", Resume(world.cursor(offsets[1])))
            assert alice.welcome.resumed is True
            assert bodies(alice) == [2, 3, 4, 5, 6, 7, 8, 9]
            assert world.count("resume_store_reads_total") > 0

    jump(main())


def test_a_short_tail_is_completed_from_the_store(jump, open_world):
    async def main():
        async with open_world() as world:
            offsets = await store(world, 5, tail=False)
            await store(world, 5)
            alice = await world.connect("alice", Resume(world.cursor(offsets[1])))
            assert bodies(alice) == [2, 3, 4, 0, 1, 2, 3, 4]

    jump(main())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (lambda world: world.cursor(1005, epoch="e0"), "epoch"),
        (lambda world: world.cursor(1005, user="bob"), "bad_cursor"),
        (lambda world: "nonsense", "bad_cursor"),
        (lambda world: world.cursor(999_999), "ahead"),
    ],
)
def test_a_cursor_that_cannot_be_continued_is_answered_with_resync(jump, open_world, text, reason):
    async def main():
        async with open_world() as world:
            await store(world, 10)
            alice = await world.connect("alice", Resume(text(world)))
            assert alice.welcome.resumed is False
            assert alice.resyncs() == [("inbox", reason)]
            assert bodies(alice) == []
            again = await world.connect("alice", Resume(alice.welcome.inbox))
            assert again.welcome.resumed is True
            await store(world, 1)
            await asyncio.sleep(6)
            assert bodies(alice) == bodies(again) == [0]

    jump(main())


def test_a_cursor_of_a_gateway_that_is_ahead_is_honoured(jump, open_world):
    async def main():
        async with open_world() as world:
            await store(world, 3)
            first = await world.connect("alice")
            world.buses.drop = lambda topic, envelope: True
            offsets = await store(world, 3)
            # This gateway has not looked yet; another one has, and its client comes here.
            second = await world.connect("alice", Resume(world.cursor(offsets[1])))
            assert second.welcome.resumed is True
            assert second.resyncs() == []
            assert bodies(second) == [2]
            assert bodies(first) == [0, 1, 2]

    jump(main())


def test_a_tail_that_is_behind_the_topic_is_not_enough(jump, open_world):
    async def main():
        async with open_world() as world:
            first = await world.connect("alice")
            offsets = await store(world, 5)
            await store(world, 2, tail=False)  # a fail-over ate the tail's end
            world.bus.lose()
            await world.until(lambda: len(first.ids()) == 7)
            second = await world.connect("alice", Resume(world.cursor(offsets[2])))
            assert bodies(second) == [3, 4, 0, 1]
            await asyncio.sleep(6)
            assert bodies(second) == [3, 4, 0, 1]

    jump(main())


def test_what_is_heard_before_the_first_cursor_is_known_stays_not_pending(jump, open_world):
    async def main():
        async with open_world() as world:
            record = world.say()
            newest = world.store.newest

            async def raced(timelines):
                world.live(record, "alice")
                await world.durable(record, "alice")
                await asyncio.sleep(0.1)
                return await newest(timelines)

            world.store.newest = raced
            alice = await world.connect("alice", Resume())
            world.store.newest = newest
            assert alice.mark.pending == []
            assert world.sessions.hub.pending == 0

    jump(main())


def test_too_far_behind_is_answered_with_resync(jump, open_world):
    async def main():
        async with open_world(resume_events=50, page=20) as world:
            offsets = await store(world, 150)
            alice = await world.connect("alice", Resume(world.cursor(offsets[0])))
            assert alice.welcome.resumed is False
            assert alice.resyncs() == [("inbox", "too_far_behind")]
            assert bodies(alice) == []
            near = await world.connect("alice", Resume(world.cursor(offsets[110])))
            assert near.welcome.resumed is True
            assert len(bodies(near)) == 39

    jump(main())


def test_a_new_device_starts_where_the_inbox_is(jump, open_world):
    async def main():
        async with open_world() as world:
            offsets = await store(world, 10)
            alice = await world.connect("alice")
            assert alice.welcome.resumed is False
            assert alice.resyncs() == []
            assert bodies(alice) == []
            again = await world.connect("alice", Resume(alice.welcome.inbox))
            assert again.welcome.resumed is True
            assert world.sessions.hub.topics[inbox("alice")].cursor == offsets[-1]

    jump(main())


# -- joining a stream ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_joining_in_mid_stream_has_no_hole_and_no_repeat(jump, open_world, seed):
    async def main():
        chance = random.Random(seed)
        async with open_world(linger=0.5) as world:
            world.buses.drop = lambda topic, envelope: chance.random() < 0.3
            ids: list[int] = []
            got: dict[int, list[int]] = {}
            done = asyncio.Event()

            async def stream():
                waiting = []
                for number in range(400):
                    record = world.say(body=str(number))
                    ids.append(record.id)
                    world.live(record, "alice")
                    waiting.append(record)
                    await asyncio.sleep(chance.random() * 0.02)
                    while len(waiting) > chance.randrange(1, 8):
                        await world.durable(waiting.pop(0), "alice", tail=chance.random() < 0.8, nudge=True)
                    if chance.random() < 0.02:
                        world.tails.wipe()
                for record in waiting:
                    await world.durable(record, "alice", nudge=True)
                done.set()

            async def device(name: int):
                # Rejoins all the time with what it saved, like a phone in a tunnel.
                seen = got[name] = []
                resume = Resume(world.cursor(-1))
                while True:
                    client = await world.connect("alice", resume, device=f"d{name}")
                    assert client.welcome.resumed is True
                    last = done.is_set()
                    await asyncio.sleep(8 if last else chance.random() * 0.5)
                    events = client.events("message")
                    assert len({event.id for event in events}) == len(events)
                    seen.extend(int(event.id) for event in events)
                    resume = client.saved()
                    client.gone()
                    if last:
                        assert client.mark.pending == []
                        return
                    await asyncio.sleep(chance.random() * 1.0)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(stream())
                for name in range(4):
                    tasks.create_task(device(name))
            for seen in got.values():
                assert sorted(set(seen)) == ids

    jump(main())


def test_what_is_pending_is_told_to_who_joins_and_proven_for_both(jump, open_world):
    async def main():
        async with open_world() as world:
            first = await world.connect("alice")
            record = world.say()
            world.live(record, "alice")
            await asyncio.sleep(0.1)
            second = await world.connect("alice", first.saved())
            assert second.ids(live=True) == [record.id]
            assert second.mark.pending == [str(record.id)]
            await world.durable(record, "alice", nudge=True)
            await asyncio.sleep(5)
            assert first.ids() == second.ids() == [record.id]
            assert first.mark.pending == second.mark.pending == []

    jump(main())


# -- what the client holds as pending ---------------------------------------------------------------------------


async def pending_client(world, record) -> Resume:
    """A client that got ``record`` live and saved that it is pending, on a gateway that is gone since."""
    alice = await world.connect("alice")
    return Resume(alice.welcome.inbox, {}, [str(record.id)])


def test_pending_of_another_connection_that_never_became_true_is_withdrawn(jump, open_world):
    async def main():
        async with open_world() as world:
            world.role("alice", "member", channel="other")
            lost = world.say()
            resume = await pending_client(world, lost)
            alice = await world.connect("alice", resume)
            assert alice.mark.pending == [str(lost.id)]
            await world.settle(id_time(lost.id) + 100_000, [0, 1, 2])
            await asyncio.sleep(10)
            await world.settle(id_time(lost.id), [3])
            await asyncio.sleep(5)
            assert alice.events("retracted") == []  # the fourth partition may be its own
            await world.settle(id_time(lost.id) + 100_000)
            await asyncio.sleep(5)
            assert [event.message_id for event in alice.events("retracted")] == [str(lost.id)]
            assert alice.mark.pending == []
            assert world.sessions.hub.claimants == {}

    jump(main())


def test_pending_of_another_connection_that_the_timeline_brings_is_proven(jump, open_world):
    async def main():
        async with open_world() as world:
            world.role("alice", "member")
            record = world.say()
            resume = await pending_client(world, record)
            early = await world.connect("alice", resume)
            await world.durable(record, "alice", nudge=True)
            late = await world.connect("alice", resume)
            await asyncio.sleep(1)
            assert world.sessions.hub.claimants == {}  # by the timeline alone, before anything is settled
            await world.settle(id_time(record.id) + 100_000)
            await asyncio.sleep(5)
            for client in (early, late):
                assert client.ids() == [record.id]
                assert client.events("retracted") == []
                assert client.mark.pending == []
            assert world.sessions.hub.claimants == {}

    jump(main())


def test_pending_of_another_connection_that_only_the_store_knows_is_kept(jump, open_world):
    async def main():
        async with open_world() as world:
            world.role("alice", "member")
            record = world.say()
            resume = await pending_client(world, record)
            alice = await world.connect("alice", resume)
            world.event(record)
            world.store.down = True
            await world.settle(id_time(record.id) + 100_000)
            await asyncio.sleep(10)
            assert len(world.sessions.hub.claimants) == 1
            world.store.down = False
            await asyncio.sleep(5)
            assert alice.events("retracted") == []
            assert world.sessions.hub.claimants == {}

    jump(main())


def test_pending_that_is_pending_here_too_is_not_told_twice(jump, open_world):
    async def main():
        async with open_world() as world:
            first = await world.connect("alice")
            record = world.say()
            world.live(record, "alice")
            await asyncio.sleep(0.1)
            resume = Resume(first.welcome.inbox, {}, [str(record.id)])
            second = await world.connect("alice", resume)
            assert second.ids() == []
            assert second.mark.pending == [str(record.id)]
            await world.settle(id_time(record.id) + 100_000)
            await asyncio.sleep(5)
            assert len(first.events("retracted")) == len(second.events("retracted")) == 1

    jump(main())


# -- trouble --------------------------------------------------------------------------------------------------------


def test_without_store_and_tail_a_cursor_is_welcome_and_gets_live(jump, open_world):
    async def main():
        async with open_world() as world:
            await world.connect("carol")  # the revocations are known
            offsets = await store(world, 5, tail=False)
            world.store.down = True
            alice = await world.connect("alice", Resume(world.cursor(offsets[2])))
            assert alice.welcome.resumed is True
            world.live(world.say(body="9"), "alice")
            await asyncio.sleep(1)
            assert bodies(alice) == [9]
            world.store.down = False
            await asyncio.sleep(6)
            assert bodies(alice) == [9, 3, 4]

    jump(main())


def test_a_new_device_without_a_store_is_told_to_try_later(jump, open_world):
    async def main():
        async with open_world(store_patience=5.0) as world:
            await world.connect("carol")
            world.store.down = True
            alice = await world.connect("alice")
            assert alice.errors() == ["unavailable"]
            assert alice.link.code is Close.TRY_LATER
            assert alice.of(Welcome) == []

    jump(main())


def test_whoever_leaves_during_the_reads_is_not_attached(jump, open_world):
    async def main():
        async with open_world() as world:
            await asyncio.sleep(0.1)  # the revocations are known
            offsets = await store(world, 5, tail=False)
            alice = world.client("alice")
            alice.hello(resume=Resume(world.cursor(offsets[0])))
            fresh = world.client("carol")  # nothing in the inbox: the quick way
            fresh.hello()
            await asyncio.sleep(0.0005)
            fresh.gone()
            assert fresh.of(Welcome) == []
            await asyncio.sleep(0.0005)
            alice.gone()
            await asyncio.sleep(1)
            assert alice.of(Welcome) == fresh.of(Welcome) == []
            assert not any(topic.registered() for topic in world.sessions.hub.topics.values())
            assert world.presence.beats == []

    jump(main())


# -- channels ----------------------------------------------------------------------------------------------------------


def summary(channel: str, head: str | None, route="channel") -> ChannelSummary:
    return ChannelSummary(channel, "group", None, head, None, 0, route, "member", 1000)


def test_a_new_device_follows_its_most_recent_large_channels(jump, open_world):
    async def main():
        async with open_world(limits=Limits(follow=2)) as world:
            await store(world, 1)
            for channel in ("old", "new", "newer"):
                world.enlarge(channel, "alice")
            world.router.channels = [
                summary("old", "1"),
                summary("newer", "30"),
                summary("small", "99", "inbox"),
                summary("new", "20"),
            ]
            alice = await world.connect("alice")
            assert set(alice.welcome.follow) == {"newer", "new"}
            await asyncio.sleep(1)
            for channel in ("old", "new", "newer"):
                world.live(world.say(channel=channel), large=True)
            await asyncio.sleep(0.1)
            assert {event.channel for event in alice.events()} == {"new", "newer"}
            assert {event.timeline for event in alice.events()} == {"channel:new", "channel:newer"}

    jump(main())


def test_channels_of_a_resume_continue_from_their_own_cursors(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            sources = [await world.durable(world.say(channel="big", body=str(n)), large=True) for n in range(5)]
            named = world.cursor(sources[1], channel="big")
            resume = Resume(
                world.cursor(-1),
                {"big": named, "gone": world.cursor(3, channel="gone"), "big2": "nonsense"},
            )
            world.enlarge("big2", "alice")
            alice = await world.connect("alice", resume)
            await asyncio.sleep(1)
            assert alice.welcome.follow["big"] == named
            assert set(alice.welcome.follow) == {"big", "big2"}
            assert bodies(alice) == [2, 3, 4]
            assert alice.resyncs() == [("channel:big2", "bad_cursor")]
            assert [frame for frame in alice.link.frames if isinstance(frame, Resync)]
            frames = [type(frame) for frame in alice.link.frames]
            assert frames[0] is Welcome
            live = world.say(channel="big", body="5")
            world.live(live, large=True)
            await asyncio.sleep(0.1)
            assert bodies(alice) == [2, 3, 4, 5]
            again = await world.connect("alice", alice.saved())
            await asyncio.sleep(1)
            assert bodies(again) == [5]

    jump(main())


def test_a_resume_follows_no_more_than_the_limit_and_no_name_that_could_be_part_of_a_key(jump, open_world):
    async def main():
        async with open_world(limits=Limits(follow=2)) as world:
            for channel in ("a", "b", "c"):
                world.enlarge(channel, "alice")
            cursors = {channel: world.cursor(-1, channel=channel) for channel in ("a", "b", "c")}
            many = await world.connect("alice", Resume(world.cursor(-1), cursors))
            assert set(many.welcome.follow) == {"a", "b"}
            world.enlarge("a/b", "alice")
            strange = await world.connect("alice", Resume(world.cursor(-1), {"a/b": world.cursor(-1, channel="a/b")}))
            assert strange.welcome.follow == {}
            assert channel_timeline(TENANT, "a/b") not in world.sessions.hub.topics

    jump(main())
