"""The link to routers over real TCP: whatever breaks, each request is answered once and no send arrives twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from chatcluster.core.frames import Send
from chatcluster.ports import Caller
from linked import CHALLENGE, Places, World, churn, free_port, misbehaving, shake_hands, until, value


async def test_requests_are_answered_by_the_router_of_their_channel() -> None:
    async with World("abc").open("abc") as world:
        for number in range(300):
            world.send("s", f"x{number}")
            world.read("s", f"x{number}")
        await world.answered()
        for rid, (_, request) in world.requests.items():
            assert world.taken(rid) == [world.first(request.channel, "abc")]  # type: ignore[union-attr]
        assert world.codes() == {"Ack": 300, "Reply": 300}


# -- a connection that breaks ----------------------------------------------------------------------------


async def _at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts, and hangs up."""


async def _half_a_word(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(CHALLENGE[:9])
    await asyncio.sleep(0.02)


async def _after_a_challenge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(CHALLENGE)
    await reader.read(1)


async def _after_hands_were_shaken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await shake_hands(reader, writer)
    await asyncio.sleep(0.02)


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reader.read(1)


async def _garbage_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await shake_hands(reader, writer)
    writer.write(b"\x00\x00\x00\x02\xc1\xc1")
    await reader.read(1)


@pytest.mark.parametrize(
    "talk", [_at_once, _half_a_word, _after_a_challenge, _after_hands_were_shaken, _garbage, _garbage_later]
)
async def test_a_router_that_breaks_early_costs_no_send_twice(talk: Callable[..., Any]) -> None:
    world = World("ab")
    async with misbehaving(world.ports["b"], talk) as connections, world.open("a"):
        while len(connections) < 3:
            world.send("s", f"x{len(world.requests) % 20}")
            world.read("s", f"x{len(world.requests) % 20}")
            await asyncio.sleep(0.01)
        await world.answered()
        world.check()
        # Whoever hung up before hands were shaken got nothing.
        early = talk not in {_after_hands_were_shaken, _garbage_later}
        assert set(world.codes()) <= {"Ack", "Reply"} | (set() if early else {"unknown_outcome"})


async def test_written_is_unknown_reads_are_asked_once_more_unwritten_goes_elsewhere() -> None:
    async with World("ab").open("ab") as world:
        channel = world.channel_of("a", "ab")
        world.routers["a"].delay = None
        sent, read = world.send("s", channel), world.read("s", channel)
        await until(lambda: len(world.routers["a"].kept) == 2)
        unwritten, other = world.send("s", channel), world.send("r", channel)
        world.link.peers["a"].end("cut")  # in the loop turn of those two
        await world.answered()
        assert [world.code(rid) for rid in (sent, read, unwritten, other)] == ["unknown_outcome", "Reply", "Ack", "Ack"]
        assert [world.taken(rid) for rid in (sent, read, unwritten, other)] == [["a"], ["a", "b"], ["b"], ["b"]]
        assert value(world.metrics, "link_retries_total") == 1
        world.routers["a"].release()  # too late: nobody listens
        await asyncio.sleep(0.05)


async def test_a_read_is_asked_again_once_only() -> None:
    async with World("abc").open("abc") as world:
        for router in world.routers.values():
            router.delay = None
        read = world.read()
        for _ in range(2):
            await until(lambda: any(router.kept for router in world.routers.values()))
            (name,) = [name for name, router in world.routers.items() if router.kept]
            world.routers[name].kept.clear()
            world.cut(name)
        await world.answered()
        assert world.code(read) == "unavailable"
        assert len(world.taken(read)) == 2


async def test_answers_that_came_before_the_cut_count() -> None:
    async with World("a").open("a") as world:
        world.routers["a"].delay = None
        rids = [world.send() for _ in range(10)]
        await until(lambda: len(world.routers["a"].kept) == 10)
        for answer in world.routers["a"].kept[:6]:
            answer()
        await world.answered(*rids[:6])
        world.cut("a")
        await world.answered()
        assert [world.code(rid) for rid in rids] == ["Ack"] * 6 + ["unknown_outcome"] * 4


async def test_a_done_that_asks_again_and_ends_the_connection_is_called_once() -> None:
    async with World("ab").open("ab") as world:
        answers: list[Any] = []

        def done(answer: Any) -> None:
            answers.append(answer)
            world.send()
            for peer in list(world.link.peers.values()):
                peer.end("in the middle of its answers")

        for number in range(20):
            world.link.submit(Caller("t", "u", "s"), Send(f"r{number}", "x", f"c{number}", "hi"), done)
        await until(lambda: len(answers) >= 20)
        await world.connected("ab")
        await world.answered()
        assert len(answers) == 20


# -- order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_lanes_keep_their_order_whoever_comes_and_goes(seed: int) -> None:
    async def main() -> None:
        async with World("ab", grace=0.3, deadline=5.0).open("ab") as world:
            await churn(world, seed, 150)
            await world.answered()
            world.check()
            assert world.codes()["Ack"] > 20

    # The loop of the roles: asyncio's own (3.11) leaks a socket accepted in the turn in which its server closes.
    uvloop.run(main())


async def test_a_lane_waits_for_the_router_that_leaves_and_moves_in_order() -> None:
    async with World("ab").open("ab") as world:
        channel = world.channel_of("a", "ab")
        world.routers["a"].delay = None
        before = [world.send("s", channel) for _ in range(3)]
        await until(lambda: len(world.routers["a"].kept) == 3)
        leaving = world.say_goodbye("a")
        await world.connected("b")
        after, stranger = [world.send("s", channel) for _ in range(3)], world.send("r", channel)
        await world.answered(stranger)
        assert world.taken(stranger) == ["b"]
        assert [world.taken(rid) for rid in after] == [[], [], []]
        world.routers["a"].release()
        await world.answered()
        await leaving
        assert [world.taken(rid) for rid in before + after] == [["a"]] * 3 + [["b"]] * 3
        world.check()


# -- goodbye ---------------------------------------------------------------------------------------------


async def test_a_goodbye_under_load_refuses_nobody() -> None:
    async with World("ab").open("ab") as world:
        for router in world.routers.values():
            router.delay = lambda: 0.003
        for turn in range(6):
            name = "ab"[turn % 2]
            leaving = world.say_goodbye(name)
            while not leaving.done():
                for number in range(20):
                    world.send(f"s{number % 5}", f"x{number}")
                    world.read(f"s{number % 5}", f"x{number}")
                await asyncio.sleep(0.002)
            await world.stop(name)
            await world.start(name)
            await world.connected("ab")
        await world.answered()
        assert set(world.codes()) == {"Ack", "Reply"}
        assert value(world.metrics, "link_broken_total") == 0
        world.check()


# -- half-open, slow, nobody there -------------------------------------------------------------------------


async def test_half_open_is_cut_after_its_silence() -> None:
    world = World("ab", silence=0.5)

    async def freeze(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await asyncio.sleep(60)

    async with misbehaving(world.ports["b"], freeze), world.open("a"):
        await until(lambda: "odd" in world.link.peers)
        sent = world.send("s", next(f"x{n}" for n in range(99) if world.first(f"x{n}", ["a", "odd"]) == "odd"))
        read = world.read("s", world.requests[sent][1].channel)  # type: ignore[union-attr]
        await world.answered()
        assert (world.code(sent), world.code(read)) == ("unknown_outcome", "Reply")
        assert world.taken(read) == ["a"]


async def test_a_gateway_that_freezes_is_cut_by_the_router() -> None:
    async with World("a").open("a") as world:
        await world.stop("a")
        await world.start("a", silence=0.5, handshake=0.3)
        await world.connected("a")
        world.link.peers["a"]._beat.cancel()  # type: ignore[union-attr]
        await until(lambda: value(world.metrics, "link_broken_total") >= 2)


async def test_who_is_not_read_is_not_silent() -> None:
    """A router that makes a gateway wait does not take it for dead: it is not listening itself."""
    async with World("a", server={"silence": 0.4}).open("a") as world:
        (guest,) = world.servers["a"]._guests
        guest.busy(True)
        rid = world.send()
        await asyncio.sleep(1.0)
        assert not guest.gone
        assert not world.answers[rid]
        guest.busy(False)
        await world.answered()
        assert world.code(rid) == "Ack"


async def test_a_router_that_stops_reading_is_bounded() -> None:
    world = World("ab", silence=1.5, max_buffer=200_000, max_per_router=400)

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(60)

    async with misbehaving(world.ports["b"], deaf), world.open("a"):
        await until(lambda: "odd" in world.link.peers)
        peer: Any = world.link.peers["odd"]
        most = 0
        while not peer.gone:
            for number in range(20):
                world.send(f"s{number}", f"x{number}", "x" * 10_000)
            await asyncio.sleep(0.01)
            if not peer.gone:
                most = max(most, peer.transport.get_write_buffer_size())
        await world.answered()
        assert most < 1_000_000
        assert {"Ack", "overloaded", "unknown_outcome"} >= set(world.codes())
        assert world.codes()["overloaded"]
        assert world.codes()["unknown_outcome"] <= 400
        world.check()


async def test_in_flight_is_bounded_at_both_ends() -> None:
    async with World("a", max_in_flight=50, server={"max_in_flight": 30}).open("a") as world:
        world.routers["a"].delay = None
        for _ in range(70):
            world.send()
        await until(lambda: len(world.routers["a"].kept) == 30)
        await until(lambda: world.link._open == 30)
        world.routers["a"].release()
        await world.answered()
        assert world.codes() == {"Ack": 30, "overloaded": 40}


async def test_nobody_there_is_unavailable_after_the_grace() -> None:
    async with World("a", grace=0.3).open() as world:
        first = world.send()
        await asyncio.sleep(0)
        assert not world.answers[first]
        await world.answered()
        late = world.send()
        assert world.code(late) == "unavailable"
        assert world.code(first) == "unavailable"
        assert "a" not in world.link.peers
        assert "no router is connected" in (world.link.problems() or "")


async def test_who_waits_goes_out_in_order_when_a_router_comes() -> None:
    async with World("a", grace=15.0, max_waiting=100).open() as world:
        for number in range(120):
            world.send("pq"[number % 2], "xyz"[number % 3])
        assert world.codes_so_far() == {"unavailable": 20}
        await world.start("a")
        await world.answered()
        taken = [rid for what, _, rid in world.seen if what == "taken"]
        assert taken == [str(number) for number in range(100)]


async def test_the_deadline_answers_for_a_router_that_does_not() -> None:
    async with World("a", deadline=0.3).open("a") as world:
        world.routers["a"].delay = None
        sent, read = world.send(), world.read()
        await world.answered()
        assert (world.code(sent), world.code(read)) == ("unknown_outcome", "unavailable")
        world.routers["a"].release()  # late answers are nobody's
        world.routers["a"].delay = lambda: 0.0
        await world.answered(world.send())
        assert world.taken("2") == ["a"]


async def test_who_slept_drops_what_waited() -> None:
    async with World("ab", grace=15.0).open() as world:
        waiting = world.send()
        await asyncio.sleep(0.3)
        world.clock.slept += 60
        await world.answered()
        assert world.code(waiting) == "unavailable"
        await world.start("a")
        await world.start("b")
        await world.connected("ab")
        for router in world.routers.values():
            router.delay = None
        written = world.send()
        await until(lambda: any(router.kept for router in world.routers.values()))
        unwritten = world.send()
        world.clock.slept += 60
        await world.answered()
        assert (world.code(written), world.code(unwritten)) == ("unknown_outcome", "unavailable")
        assert world.taken(unwritten) == []
        await world.connected("ab")


# -- who is connected to -------------------------------------------------------------------------------------


async def test_a_router_of_another_log_is_refused() -> None:
    async with World("ab").open("a") as world:
        await world.start("b", places=Places(epoch="e2"))
        await until(lambda: value(world.metrics, "link_odd_routers_total") >= 2)
        assert set(world.link.peers) == {"a"}
        await world.stop("b")
        await world.start("b", places=Places(count=13))
        await until(lambda: value(world.metrics, "link_odd_routers_total") >= 4)
        assert set(world.link.peers) == {"a"}
        places = await world.link.facts()
        assert (places.epoch, places.partitions("messages")) == ("e1", 12)


async def test_names_are_looked_up() -> None:
    port = free_port()
    world = World("a", addresses=(f"dns:localhost:{port}",))
    world.ports["a"] = port
    async with world.open("a"):
        await world.answered(world.send())
        assert world.code("0") == "Ack"


async def test_an_address_that_vanished_is_drained() -> None:
    async with World("ab").open("ab") as world:
        channel = world.channel_of("a", "ab")
        world.routers["a"].delay = None
        before = world.send("s", channel)
        await until(lambda: world.routers["a"].kept)
        world.link._addresses = [one for one in world.link._addresses if one[1] != world.ports["a"]]
        await world.connected("b")
        after, other = world.send("s", channel), world.send("r", channel)
        await world.answered(other)
        assert not world.answers[after]
        world.routers["a"].release()
        await world.answered()
        await until(lambda: set(world.link.peers) == {"b"})
        assert [world.taken(rid) for rid in (before, after, other)] == [["a"], ["b"], ["b"]]
        assert world.codes() == {"Ack": 3}
        assert value(world.metrics, "link_broken_total") == 0


async def test_closing_answers_everybody() -> None:
    world = World("a")
    async with world.open("a"):
        world.routers["a"].delay = None
        written = world.send()
        await until(lambda: world.routers["a"].kept)
        unwritten = world.send()
    late = world.send()
    assert [world.code(rid) for rid in (written, unwritten, late)] == ["unknown_outcome", "unavailable", "unavailable"]
