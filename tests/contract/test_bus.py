"""Port Bus: at most once, in order, says when it lost."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from chatcluster.backends.memory import MemoryBuses
from chatcluster.core.envelope import Nudge
from chatcluster.ports import Delivery, Lost


async def following(bus):
    """The next batch."""
    async with aclosing(bus.listen()) as batches:
        return await anext(batches)


async def heard(bus, count):
    """The next ``count`` items: a network cuts batches as it likes."""
    items = []
    async with asyncio.timeout(20), aclosing(bus.listen()) as batches:
        async for batch in batches:
            items += batch
            if len(items) >= count:
                return items
    return items


def test_each_subscriber_of_a_topic_gets_the_envelopes_in_order(jump, make_buses):
    async def main():
        async with make_buses() as buses:
            speaker, one, two = (buses.subscriber(name) for name in ("speaker", "one", "two"))
            await one.subscribe(["a"])
            await one.subscribe(["a"])
            await two.subscribe(["a", "b"])
            for offset in range(100):
                speaker.publish(["a", "nobody", "b"], Nudge(offset))
            assert await heard(one, 100) == [Delivery("a", Nudge(offset)) for offset in range(100)]
            got = await heard(two, 200)
            for topic in "ab":
                assert [item.envelope.offset for item in got if item.topic == topic] == list(range(100))

    jump(main())


def test_what_was_subscribed_is_heard_from_the_return_on(jump, make_buses):
    async def main():
        async with make_buses() as buses:
            bus = buses.subscriber("one")
            for number in range(50):
                await bus.subscribe([f"t{number}"])
                bus.publish([f"t{number}"], Nudge(number))
                assert await heard(bus, 1) == [Delivery(f"t{number}", Nudge(number))]

    jump(main())


def test_a_waiting_listener_is_woken(jump, make_buses):
    async def main():
        async with make_buses() as buses:
            bus = buses.subscriber("one")
            await bus.subscribe(["a"])
            waiting = asyncio.create_task(heard(bus, 5))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            for offset in range(5):
                bus.publish(["a"], Nudge(offset))
            assert [delivery.envelope.offset for delivery in await waiting] == list(range(5))

    jump(main())


def test_unsubscribed_topics_stay_silent(jump, make_buses):
    async def main():
        async with make_buses() as buses:
            bus = buses.subscriber("one")
            await bus.subscribe(["a", "b"])
            await bus.unsubscribe(["a", "never"])
            bus.publish(["a", "b"], Nudge(1))
            bus.publish(["a", "b"], Nudge(2))
            assert [delivery.topic for delivery in await heard(bus, 2)] == ["b", "b"]

    jump(main())


def test_clogged_buffer_is_dropped_and_told_and_harms_nobody_else(jump, make_buses):
    async def main():
        async with make_buses(buffer=10) as buses:
            slow, quick = buses.subscriber("slow"), buses.subscriber("quick")
            await slow.subscribe(["a"])
            await quick.subscribe(["a"])
            got = []
            for offset in range(25):
                quick.publish(["a"], Nudge(offset))
                got += await heard(quick, 1)
            assert [delivery.envelope.offset for delivery in got] == list(range(25))
            batch = await following(slow)
            assert batch[0] == Lost(None)
            assert len(batch) <= 10
            assert batch[-1].envelope.offset == 24, "after the loss it goes on"
            quick.publish(["a"], Nudge(25))
            assert await heard(slow, 1) == [Delivery("a", Nudge(25))]

    jump(main())


def test_a_closed_subscriber_hears_nothing_and_the_others_go_on(jump, make_buses):
    async def main():
        async with make_buses() as buses:
            bus, other = buses.subscriber("one"), buses.subscriber("other")
            await bus.subscribe(["a", "b"])
            await other.subscribe(["a"])
            bus.close()
            other.publish(["b", "a"], Nudge(1))
            assert await heard(other, 1) == [Delivery("a", Nudge(1))]

    jump(main())


# -- in this process only ----------------------------------------------------------------------------


def test_in_this_process_the_same_envelope_comes_once_per_batch_and_topic(jump):
    async def main():
        buses = MemoryBuses()
        one, two = buses.subscriber("one"), buses.subscriber("two")
        await one.subscribe(["a", "b"])
        await two.subscribe(["b"])
        first, second = Nudge(1), Nudge(2)
        one.publish(["a", "b", "nobody"], first)
        one.publish(["b"], second)
        assert await following(one) == [Delivery("a", first), Delivery("b", first), Delivery("b", second)]
        assert (await following(two))[0].envelope is first

    jump(main())


def test_the_drop_hook_loses_without_a_word(jump):
    async def main():
        buses = MemoryBuses()
        bus = buses.subscriber("one")
        await bus.subscribe(["a", "b"])
        buses.drop = lambda topic, envelope: topic == "a" and envelope.offset == 1
        for offset in range(3):
            bus.publish(["a", "b"], Nudge(offset))
        buses.drop = None
        got = [(delivery.topic, delivery.envelope.offset) for delivery in await following(bus)]
        assert got == [("a", 0), ("b", 0), ("b", 1), ("a", 2), ("b", 2)]

    jump(main())


def test_in_this_process_a_closed_subscriber_leaves_nothing_behind(jump):
    async def main():
        buses = MemoryBuses()
        bus = buses.subscriber("one")
        await bus.subscribe(["a"])
        bus.close()
        assert buses.table == {}

    jump(main())
