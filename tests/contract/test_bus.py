"""Port Bus: at most once, in order, says when it lost."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from chatcluster.core.envelope import Nudge
from chatcluster.ports import Delivery, Lost


async def following(bus):
    async with aclosing(bus.listen()) as batches:
        return await anext(batches)


def test_each_subscriber_of_a_topic_gets_the_same_envelope_in_order(jump, make_buses):
    async def main():
        buses = make_buses()
        speaker, one, two = (buses.subscriber(name) for name in ("speaker", "one", "two"))
        await one.subscribe(["a", "b"])
        await one.subscribe(["a"])
        await two.subscribe(["b"])
        first, second = Nudge(1), Nudge(2)
        speaker.publish(["a", "b", "nobody"], first)
        speaker.publish(["b"], second)
        assert await following(one) == [Delivery("a", first), Delivery("b", first), Delivery("b", second)]
        got = await following(two)
        assert got == [Delivery("b", first), Delivery("b", second)]
        assert got[0].envelope is first

    jump(main())


def test_a_waiting_listener_is_woken_once_per_batch(jump, make_buses):
    async def main():
        buses = make_buses()
        bus = buses.subscriber("one")
        await bus.subscribe(["a"])
        waiting = asyncio.create_task(following(bus))
        await asyncio.sleep(1)
        assert not waiting.done()
        for offset in range(5):
            bus.publish(["a"], Nudge(offset))
        assert [delivery.envelope.offset for delivery in await waiting] == list(range(5))

    jump(main())


def test_unsubscribed_topics_stay_silent(jump, make_buses):
    async def main():
        bus = make_buses().subscriber("one")
        await bus.subscribe(["a", "b"])
        await bus.unsubscribe(["a", "never"])
        bus.publish(["a", "b"], Nudge(1))
        assert [delivery.topic for delivery in await following(bus)] == ["b"]

    jump(main())


def test_clogged_buffer_is_dropped_and_told_and_harms_nobody_else(jump, make_buses):
    async def main():
        buses = make_buses(buffer=10)
        slow, quick = buses.subscriber("slow"), buses.subscriber("quick")
        await slow.subscribe(["a"])
        await quick.subscribe(["a"])
        got = []
        for offset in range(25):
            quick.publish(["a"], Nudge(offset))
            got += await following(quick)
        assert [delivery.envelope.offset for delivery in got] == list(range(25))
        batch = await following(slow)
        assert batch[0] == Lost(None)
        assert len(batch) <= 10
        assert batch[-1].envelope.offset == 24, "after the loss it goes on"
        quick.publish(["a"], Nudge(25))
        assert await following(slow) == [Delivery("a", Nudge(25))]

    jump(main())


def test_the_drop_hook_loses_without_a_word(jump, make_buses):
    async def main():
        buses = make_buses()
        bus = buses.subscriber("one")
        await bus.subscribe(["a", "b"])
        buses.drop = lambda topic, envelope: topic == "a" and envelope.offset == 1
        for offset in range(3):
            bus.publish(["a", "b"], Nudge(offset))
        buses.drop = None
        got = [(delivery.topic, delivery.envelope.offset) for delivery in await following(bus)]
        assert got == [("a", 0), ("b", 0), ("b", 1), ("a", 2), ("b", 2)]

    jump(main())


def test_a_closed_subscriber_leaves_nothing_behind(jump, make_buses):
    async def main():
        buses = make_buses()
        bus = buses.subscriber("one")
        await bus.subscribe(["a"])
        bus.close()
        assert buses.table == {}

    jump(main())
