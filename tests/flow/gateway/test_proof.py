"""The proof on a running gateway: what the bus loses, doubles or invents, and what tails and store may do."""

from __future__ import annotations

import asyncio
import random

from chatcluster.core.cursor import decode_cursor
from chatcluster.core.envelope import Live
from chatcluster.core.frames import Follow, Mark
from chatcluster.core.ids import CLOCK_BOUND, id_time
from chatcluster.core.records import MAX_AGE, AliasRecord, DeleteRecord, EditRecord, inbox_timeline
from chatcluster.ports import Lost, TailEntry

TENANT = "acme"


def inbox(user: str) -> str:
    return inbox_timeline(TENANT, user)


async def talk(world, count: int, *users: str, gap: float = 0.05, lag: float = 0.2, nudge: bool = True) -> list[int]:
    """``count`` messages, each live at once and durable ``lag`` seconds later, in the order of the log."""
    waiting = []
    ids = []
    for number in range(count):
        record = world.say(body=str(number))
        ids.append(record.id)
        world.live(record, *users)
        waiting.append((world.clock.monotonic() + lag, record))
        await asyncio.sleep(gap)
        while waiting and waiting[0][0] <= world.clock.monotonic():
            await world.durable(waiting.pop(0)[1], *users, nudge=nudge)
    for _, record in waiting:
        await world.durable(record, *users, nudge=nudge)
    return ids


# -- repairs ----------------------------------------------------------------------------------------------


def test_without_the_bus_everything_arrives_within_five_seconds(jump, open_world):
    async def main():
        async with open_world() as world:
            world.buses.drop = lambda topic, envelope: True
            alice, bob = await world.connect("alice"), await world.connect("bob")
            record = world.say()
            await world.durable(record, "alice", "bob")
            assert await world.until(lambda: alice.ids() == bob.ids() == [record.id]) <= 5.0
            assert alice.ids(live=False) == [record.id]
            more = [world.say(), world.say()]
            for one in more:
                await world.durable(one, "alice", "bob")
            # The topic is active now.
            assert await world.until(lambda: len(alice.ids()) == len(bob.ids()) == 3) <= 1.2
            assert world.count("repaired_total") == 6

    jump(main())


def test_half_of_the_bus_lost_is_made_up_once_each(jump, open_world):
    async def main():
        chance = random.Random(7)
        async with open_world() as world:
            world.buses.drop = lambda topic, envelope: chance.random() < 0.5
            clients = [await world.connect(user) for user in ("alice", "alice", "bob")]
            ids = await talk(world, 100, "alice", "bob")
            await asyncio.sleep(6)
            for client in clients:
                assert sorted(client.ids()) == ids
                assert 20 < len(client.ids(live=True)) < 80
                assert client.mark.pending == []
            assert world.sessions.hub.pending == 0

    jump(main())


def test_doubled_and_reordered_rumours_are_told_once(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            records = [world.say(body=str(n)) for n in range(10)]
            chance = random.Random(1)
            rumours = records * 3
            chance.shuffle(rumours)
            for record in rumours[:20]:
                world.live(record, "alice")
            await asyncio.sleep(0.01)
            for record in records:
                await world.durable(record, "alice", nudge=True)
            await asyncio.sleep(0.1)
            for record in rumours[20:]:
                world.live(record, "alice")
            await asyncio.sleep(5)
            assert sorted(alice.ids()) == [record.id for record in records]
            assert world.sessions.hub.pending == 0

    jump(main())


def test_a_nudge_repairs_at_once(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            await asyncio.sleep(20)
            record = world.say()
            await world.durable(record, "alice", nudge=True)
            assert await world.until(lambda: alice.ids() == [record.id]) < 0.1

    jump(main())


def test_tails_wiped_in_the_middle_lose_nothing(jump, open_world):
    async def main():
        async with open_world() as world:
            world.buses.drop = lambda topic, envelope: True
            alice = await world.connect("alice")
            first = world.say()
            await world.durable(first, "alice")
            await world.until(lambda: alice.ids() == [first.id])
            hidden = world.say()
            await world.durable(hidden, "alice")
            world.tails.wipe()
            last = world.say()
            await world.durable(last, "alice")  # the new tail's chain does not reach the cursor
            assert await world.until(lambda: len(alice.ids()) == 3) <= 5.1
            assert alice.ids() == [first.id, hidden.id, last.id]

    jump(main())


def test_a_tail_with_a_hole_is_not_believed(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            first, hidden, last = world.say(), world.say(), world.say()
            await world.durable(first, "alice", nudge=True)
            await asyncio.sleep(0.1)
            await world.durable(hidden, "alice", tail=False)
            await world.durable(last, "alice", nudge=True)
            await asyncio.sleep(0.2)
            assert alice.ids() == [first.id, hidden.id, last.id]

    jump(main())


def test_after_lost_the_store_is_asked_whatever_the_tail_says(jump, open_world):
    async def main():
        async with open_world() as world:
            alice, bob = await world.connect("alice"), await world.connect("bob")
            first = world.say()
            await world.durable(first, "alice", "bob", nudge=True)
            await asyncio.sleep(1)
            eaten = world.say()
            await world.durable(eaten, "alice", "bob", tail=False)  # a fail-over ate the tails' last entry
            await asyncio.sleep(6)
            assert alice.ids() == bob.ids() == [first.id]  # the tails say that there is nothing
            world.bus._buffer.append(Lost(frozenset({inbox("alice")})))
            world.live(world.say(), "carol", "alice")
            assert await world.until(lambda: eaten.id in alice.ids()) < 0.2
            assert eaten.id not in bob.ids()
            world.bus.lose()
            assert await world.until(lambda: eaten.id in bob.ids()) < 0.2

    jump(main())


def test_a_silently_eaten_last_entry_is_found_within_a_minute(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            first, eaten = world.say(), world.say()
            await world.durable(first, "alice", nudge=True)
            await asyncio.sleep(1)
            await world.durable(eaten, "alice", tail=False)
            assert 6 < await world.until(lambda: eaten.id in alice.ids(), 70) <= 60

    jump(main())


def test_a_topic_that_moves_is_proven_by_its_entries_alone(jump, open_world):
    """And what was eaten before one of them is found by it."""

    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            said = []
            world.store.reads.clear()
            for _ in range(20):
                said.append(world.say())
                await world.durable(said[-1], "alice")
                await asyncio.sleep(10)
            assert world.store.reads == []
            said.append(world.say())
            await world.durable(said[-1], "alice", tail=False)
            await asyncio.sleep(10)
            assert alice.ids() == [one.id for one in said[:-1]]
            said.append(world.say())
            await world.durable(said[-1], "alice")
            assert await world.until(lambda: said[-1].id in alice.ids(), 6) <= 5
            assert alice.ids() == [one.id for one in said]

    jump(main())


def test_idle_inboxes_without_a_tail_cost_few_reads(jump, open_world):
    async def main():
        async with open_world() as world:
            for n in range(100):
                await world.connect(f"user{n}")
            await asyncio.sleep(120)
            world.store.reads.clear()
            await asyncio.sleep(60)
            # 100 topics, at most two looks a minute each, those of one slot in one read.
            assert len(world.store.reads) <= 100
            assert set(world.store.reads) == {"newest"}

    jump(main())


def test_a_store_that_is_slow_does_not_delay_what_tails_prove(jump, open_world):
    async def main():
        async with open_world() as world:
            alice, bob = await world.connect("alice"), await world.connect("bob")
            first = world.say()
            await world.durable(first, "alice", nudge=True)
            await asyncio.sleep(1)

            async def slow(timelines):
                await asyncio.sleep(20)
                return {}

            world.store.newest = slow
            world.publish([inbox("bob")], Live(world.say()))
            await asyncio.sleep(3)  # bob's inbox has no tail: the store is being asked
            second = world.say()
            await world.durable(second, "alice")
            assert await world.until(lambda: second.id in alice.ids()) <= 5.1
            assert len(bob.ids()) == 1

    jump(main())


def test_aliases_are_told_as_withdrawn_in_favour_of_the_first(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            first, copy = world.say(), world.say()
            await world.durable(first, "alice")
            world.live(copy, "alice")
            await asyncio.sleep(0.1)
            alias = AliasRecord(TENANT, "room", copy.id, "bob", copy.client_id, 1, 0, first.id)
            await world.durable(alias, "alice", nudge=True)
            await asyncio.sleep(3)
            (event,) = alice.events("retracted")
            assert (event.message_id, event.of, event.live) == (str(copy.id), str(first.id), False)
            assert alice.mark.pending == []

    jump(main())


def test_edits_and_deletes_are_proven_like_messages(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            first = world.say()
            ids = [world.minter.mint(world.clock.now()) for _ in range(2)]
            edit = EditRecord(TENANT, "room", ids[0], "bob", "e", 1, 0, first.id, "new", None, "bob", "k")
            delete = DeleteRecord(TENANT, "room", ids[1], "bob", "d", 1, 0, first.id)
            for record in (first, edit, delete):
                world.live(record, "alice")
                await world.durable(record, "alice", nudge=True)
            await asyncio.sleep(5)
            assert [event.kind for event in alice.events()] == ["message", "edited", "deleted"]
            assert alice.mark.pending == []

    jump(main())


# -- marks ------------------------------------------------------------------------------------------------


def test_marks_are_rare_and_only_when_something_moved(jump, open_world):
    async def main():
        async with open_world(mark_interval=2.5, mark_first=0.25) as world:
            alice, bob = await world.connect("alice"), await world.connect("bob")
            await asyncio.sleep(5)
            alice.clear()
            bob.clear()
            await talk(world, 200, "alice", gap=0.05)  # 10 s
            await asyncio.sleep(5)
            assert 4 <= len(alice.of(Mark)) <= 6
            assert bob.of(Mark) == []
            last = world.store.rows[inbox("alice")][-1]
            cursor = decode_cursor(alice.mark.inbox, inbox("alice"))
            assert (cursor.epoch, cursor.offset, cursor.last_id) == ("e1", last.offset, last.record.id)

    jump(main())


def test_a_first_mark_comes_soon(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            await asyncio.sleep(10)
            alice.clear()
            await world.durable(world.say(), "alice", nudge=True)
            assert await world.until(lambda: bool(alice.of(Mark))) < 0.8

    jump(main())


def test_pending_lists_exactly_what_is_told_and_not_proven(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await world.connect("alice")
            alice.say(Follow("1", "big"))
            await asyncio.sleep(0.5)
            proven, open_, large = world.say(), world.say(), world.say(channel="big")
            world.live(proven, "alice")
            world.live(open_, "alice")
            world.live(large, large=True)
            await world.durable(proven, "alice", nudge=True)
            await asyncio.sleep(5)
            assert sorted(alice.mark.pending) == sorted([str(open_.id), str(large.id)])
            assert alice.mark.channels is not None
            late = await world.connect("alice")
            assert late.ids(live=True) == [open_.id]  # what is pending is told to who joins
            assert late.mark.pending == [str(open_.id)]
            await world.durable(open_, "alice", nudge=True)
            await asyncio.sleep(5)
            assert alice.mark.pending == [str(large.id)]
            assert late.mark.pending == []
            assert late.ids() == [open_.id]
            await world.durable(large, large=True, nudge=True)
            await asyncio.sleep(5)
            assert alice.mark.pending == []
            assert decode_cursor(alice.mark.channels["big"], "c:acme/big").offset == world.source

    jump(main())


# -- retracting --------------------------------------------------------------------------------------------


def test_what_never_became_durable_is_withdrawn_from_every_receiver(jump, open_world):
    async def main():
        async with open_world() as world:
            clients = [await world.connect(user) for user in ("alice", "alice", "bob")]
            lost = world.say()
            world.live(lost, "alice", "bob")
            await asyncio.sleep(0.01)
            late = await world.connect("bob")
            partition = world.log.partition_of("messages", "acme/room")
            others = [one for one in range(4) if one != partition]
            limit = id_time(lost.id) + MAX_AGE + CLOCK_BOUND
            # Neither the gateway's clock nor another partition's log time decides, nor its own a moment early.
            await asyncio.sleep(300)
            await world.settle(limit + 10_000, others)
            await world.settle(limit, [partition])
            await asyncio.sleep(10)
            assert all(client.events("retracted") == [] for client in clients)
            await world.settle(limit + 1, [partition])
            await asyncio.sleep(5)
            for client in (*clients, late):
                (event,) = client.events("retracted")
                assert (event.message_id, event.channel, event.timeline) == (str(lost.id), "room", "inbox")
                assert client.mark.pending == []
            assert world.sessions.hub.pending == 0
            assert world.count("retracted_total") == 2

    jump(main())


def test_what_is_stored_is_never_withdrawn_from_members(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            world.role("alice", "member")
            stored = world.say()
            world.live(stored, "alice")
            world.event(stored)  # stage 1 has it, the inbox not yet
            await asyncio.sleep(0.1)
            await world.settle(id_time(stored.id) + 100_000)
            await asyncio.sleep(5)
            assert alice.events("retracted") == []
            assert world.sessions.hub.pending == 0
            assert alice.mark.pending == []

    jump(main())


def test_what_is_stored_but_was_not_for_the_user_is_withdrawn(jump, open_world):
    async def main():
        async with open_world() as world:
            alice, bob, carol = [await world.connect(user) for user in ("alice", "bob", "carol")]
            world.role("bob", "member", offset=50)
            world.role("bob", None, offset=60)
            world.role("carol", "member", offset=50)
            world.role("carol", None, offset=500)  # left after the message
            stored = world.say()
            world.live(stored, "alice", "bob", "carol")
            world.event(stored)
            await asyncio.sleep(0.1)
            await world.settle(id_time(stored.id) + 100_000)
            await asyncio.sleep(5)
            assert len(alice.events("retracted")) == 1
            assert len(bob.events("retracted")) == 1
            assert carol.events("retracted") == []

    jump(main())


def test_a_store_that_does_not_answer_withdraws_nothing(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            lost = world.say()
            world.live(lost, "alice")
            await asyncio.sleep(0.1)
            world.store.down = True
            await world.settle(id_time(lost.id) + 100_000)
            await asyncio.sleep(30)
            assert alice.events("retracted") == []
            assert world.sessions.hub.pending == 1
            world.store.down = False
            await asyncio.sleep(5)
            assert len(alice.events("retracted")) == 1

    jump(main())


def test_an_entry_that_comes_while_the_row_is_looked_for_wins(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            record = world.say()
            world.live(record, "alice")
            await asyncio.sleep(0.1)

            async def missing(tenant, keys):
                await world.durable(record, "alice", nudge=True)
                await asyncio.sleep(1)
                return {}

            world.store.has_events = missing
            await world.settle(id_time(record.id) + 100_000)
            await asyncio.sleep(5)
            assert alice.events("retracted") == []

    jump(main())


def test_a_rumour_that_the_log_has_left_behind_is_not_told(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            old = world.say()
            await world.settle(id_time(old.id) + 100_000)
            await asyncio.sleep(5)
            world.live(old, "alice")
            await asyncio.sleep(1)
            assert alice.ids() == []
            assert world.sessions.hub.pending == 0

    jump(main())


# -- bounds -------------------------------------------------------------------------------------------------


def test_over_the_bound_events_come_durable_only_and_none_is_lost(jump, open_world):
    async def main():
        async with open_world(pending_per_topic=5) as world:
            alice, bob = await world.connect("alice"), await world.connect("bob")
            records = [world.say(body=str(n)) for n in range(8)]
            for record in records:
                world.live(record, "alice")
            await asyncio.sleep(0.1)
            assert alice.ids() == [record.id for record in records[:5]]
            assert world.count("live_refused_total") == 3
            for record in records:
                await world.durable(record, "alice", nudge=True)
            await asyncio.sleep(1)
            assert alice.ids() == [record.id for record in records]
            assert world.sessions.hub.pending == 0
            world.live(world.say(), "bob")
            await asyncio.sleep(0.1)
            assert len(bob.ids(live=True)) == 1

    jump(main())


def test_the_bound_over_all_topics_holds(jump, open_world):
    async def main():
        async with open_world(pending_total=2) as world:
            alice = await world.connect("alice")
            for user in ("alice", "bob", "carol", "dave"):
                await world.connect(user)
            for user in ("bob", "carol", "dave"):
                world.live(world.say(), user)
            world.live(world.say(), "alice")
            await asyncio.sleep(0.1)
            assert world.sessions.hub.pending == 2
            assert alice.ids() == []

    jump(main())


def test_pending_of_a_topic_that_is_left_is_forgotten(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            world.live(world.say(), "alice")
            await asyncio.sleep(0.1)
            assert world.sessions.hub.pending == 1
            alice.gone()
            await asyncio.sleep(30)
            assert world.sessions.hub.pending == 0

    jump(main())


def test_a_read_that_ends_after_its_topic_changes_nothing(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            record = world.say()
            world.live(record, "alice")
            timeline = world.store.timeline

            async def slow(key, *, after, limit):
                await asyncio.sleep(60)
                return await timeline(key, after=after, limit=limit)

            world.store.timeline = slow
            await world.durable(record, "alice", tail=False)
            await asyncio.sleep(6)
            alice.gone()
            await asyncio.sleep(120)
            assert world.sessions.hub.topics == {}
            assert world.sessions.hub.moved == {}
            assert world.sessions.hub.pending == 0

    jump(main())


def test_entries_at_or_before_the_cursor_are_not_told_again(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            record = world.say()
            await world.durable(record, "alice", nudge=True)
            await asyncio.sleep(1)
            topic = world.sessions.hub.topics[inbox("alice")]
            row = world.store.rows[topic.key][-1]
            world.sessions.prover.apply(topic, [TailEntry(row.offset, row.prev, row.source, row.record)])
            assert alice.ids() == [record.id]

    jump(main())
