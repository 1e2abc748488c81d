"""Read cursors, typing, history."""

from __future__ import annotations

import asyncio
from typing import Any

from chatcluster.core.envelope import Read, Typing
from chatcluster.core.frames import Ack, History, ReadUpTo, Reply, Type
from chatcluster.ports import Committed
from handmade_router import World, code, rids, send

# -- read and typing -------------------------------------------------------------------------------


def test_read_cursors_go_forward_never_beyond_the_head_and_are_told(play: Any) -> None:
    async def scene(world: World) -> None:
        for event_id in (10, 20):
            world.store.message("small", event_id, "ann")
        reply = await world.answer(ReadUpTo("small", "20", "q1"), "bob")
        assert isinstance(reply, Reply)
        assert reply.read == "20"
        await world.settle()
        told = [d for d in world.heard if isinstance(d.envelope, Read)]
        assert sorted(d.topic for d in told) == ["u:t/ann", "u:t/bob", "u:t/cat"]
        assert all(
            (d.envelope.user, d.envelope.message_id) == ("bob", 20) for d in told if isinstance(d.envelope, Read)
        )
        back = await world.answer(ReadUpTo("small", "10", "q2"), "bob")
        assert isinstance(back, Reply)
        assert back.read == "20"
        await world.settle()
        assert len([d for d in world.heard if isinstance(d.envelope, Read)]) == 3
        await world.answer(ReadUpTo("small", "20", "q4"), "bob")
        await world.settle()
        assert len([d for d in world.heard if isinstance(d.envelope, Read)]) == 3
        assert code(await world.answer(ReadUpTo("small", "21", "q3"), "bob")) == "cursor_ahead"
        quiet = await world.answer(ReadUpTo("small", "20"), "ann")
        assert isinstance(quiet, Reply)

    play(scene)


def test_reads_in_large_channels_are_told_to_own_devices_only(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.message("large", 10, "ann")
        await world.answer(ReadUpTo("large", "10", "q1"), "bob")
        await world.settle()
        assert [d.topic for d in world.heard] == ["u:t/bob"]

    play(scene)


def test_a_read_cursor_that_only_the_store_remembers_does_not_go_back(play: Any) -> None:
    async def scene(world: World) -> None:
        async def remembered(*_: Any) -> dict[str, int]:
            return {"small": 20}

        for event_id in (10, 20):
            world.store.message("small", event_id, "ann")
        world.store.read_cursors = remembered  # type: ignore[method-assign]
        reply = await world.answer(ReadUpTo("small", "10", "q"), "bob")
        assert isinstance(reply, Reply)
        assert reply.read == "20"
        await world.settle()
        assert world.heard == []

    play(scene)


def test_reads_are_told_to_the_others_in_small_channels_only(play: Any) -> None:
    async def scene(world: World) -> None:
        for channel in ("small", "pair"):
            world.store.message(channel, 10, "ann")
            await world.answer(ReadUpTo(channel, "10", channel), "bob")
        await world.settle()
        assert [(d.topic, d.envelope.channel) for d in world.heard if isinstance(d.envelope, Read)] == [
            ("u:t/bob", "small"),
            ("u:t/ann", "pair"),
            ("u:t/bob", "pair"),
        ]

    play(scene, receipt_members=2)


def test_a_message_acked_here_may_be_read_before_it_is_stored(play: Any) -> None:
    async def scene(world: World) -> None:
        ack = await world.answer(send())
        assert isinstance(ack, Ack)
        assert code(await world.answer(ReadUpTo("small", ack.id, "q"), "bob")) == "Reply"

    play(scene)


def test_typing_is_told_to_the_others_seldom_and_only_by_members(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(send())
        world.heard.clear()
        for _ in range(3):
            world.ask(Type("small"))
        world.ask(Type("small"), "eve")
        world.ask(Type("unknown"))
        await world.settle()
        told = [(d.topic, d.envelope) for d in world.heard]
        assert told == [("u:t/bob", Typing("small", "ann")), ("u:t/cat", Typing("small", "ann"))]
        await world.answer(History("warm", "pair"))
        world.ask(Type("pair"))
        await world.settle()
        assert world.heard.pop().envelope == Typing("pair", "ann"), "another channel is another matter"
        await asyncio.sleep(2.5)
        world.ask(Type("small"))
        await world.settle()
        assert len(world.heard) == 2
        await asyncio.sleep(0.5)
        world.ask(Type("small"))
        await world.settle()
        assert len(world.heard) == 4

    play(scene)


def test_typing_is_shed_before_a_message_is_delayed(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(send())
        world.heard.clear()
        for _ in range(5):
            world.ask(send())
        world.ask(Type("small"))
        await world.settle()
        assert len(world.live()) == 15
        assert len(world.heard) == 15

    play(scene, typing_backlog=4)


# -- history ---------------------------------------------------------------------------------------


def test_history_pages_both_ways(play: Any) -> None:
    async def scene(world: World) -> None:
        for event_id in range(1, 8):
            world.store.message("small", event_id, "ann")
        await world.tails.commit("messages", {0: Committed(1, world.clock.now())})

        async def ids(**more: Any) -> tuple[list[str], Any, Any]:
            reply = await world.answer(History(f"q{next(rids)}", "small", **more))
            assert isinstance(reply, Reply)
            assert isinstance(reply.messages, list)
            return [message.id for message in reply.messages], reply.more, reply.complete

        assert await ids(limit=3) == (["5", "6", "7"], True, True)
        assert await ids(limit=3, before="5") == (["2", "3", "4"], True, True)
        assert await ids(limit=3, before="2") == (["1"], False, True)
        assert await ids(limit=3, after="2") == (["3", "4", "5"], True, True)
        assert await ids(limit=3, after="4") == (["5", "6", "7"], False, True)
        await asyncio.sleep(8)
        assert (await ids())[2] is False
        for limit in (0, -1, 101):
            assert code(await world.answer(History(f"q{next(rids)}", "small", limit=limit))) == "bad_limit"
        assert code(await world.answer(History("both", "small", before="1", after="1"))) == "bad_request"

    play(scene)


def test_a_request_that_fails_here_is_answered_and_the_next_one_too(play: Any) -> None:
    async def scene(world: World) -> None:
        history = world.store.history

        async def broken(*args: Any, **more: Any) -> Any:
            world.store.history = history  # type: ignore[method-assign]
            raise ValueError

        world.store.history = broken  # type: ignore[method-assign]
        assert code(await world.answer(History("q1", "small"))) == "unavailable"
        assert code(await world.answer(History("q2", "small"))) == "Reply"

    play(scene)


def test_identical_history_reads_share_a_flight_and_requests_are_bounded(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(History("warm", "small"))
        world.store.reads.clear()
        world.store.slow = 0.5
        names = [world.ask(History(f"h{n}", "small")) for n in range(12)]
        await world.until(lambda: len(world.answers) == 13)
        codes = [code(world.answers[name]) for name in names]
        assert codes == ["Reply"] * 10 + ["overloaded"] * 2
        assert world.store.reads.count("history") == 1

    play(scene, max_reads=10)
