"""The link to routers on a network in memory: whoever comes, goes or freezes, each request is answered once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.backends.links.router import RouterLink
from chatcluster.backends.links.router_server import serve_router
from chatcluster.backends.links.settings import LinkServerSettings, LinkSettings
from chatcluster.core.frames import Ack, Answer, ErrorFrame, History, Reply, Request, Send
from chatcluster.core.metrics import Metrics
from chatcluster.core.placement import ranked
from chatcluster.ports import Caller, Misconfigured
from jumping import LoopClock, run_to_end
from piped import PipeLoop

PORTS = {"a": 7001, "b": 7002, "c": 7003}


def run(main: Coroutine[Any, Any, None]) -> None:
    run_to_end(main, PipeLoop)


class Places(msgspec.Struct):
    """What a router tells of the log."""

    epoch: str = "e1"
    count: int = 12

    def partitions(self, topic: str) -> int:
        return self.count


class Taking:
    """A router that notes what it gets and answers after ``delay`` seconds (None: never)."""

    def __init__(self, name: str, seen: list[tuple[str, str, str]]) -> None:
        self.name = name
        self.delay: float | None = 0.03
        self.seen = seen

    def submit(self, caller: Caller, request: Request, done: Callable[[Answer], None]) -> None:
        rid = request.rid  # type: ignore[union-attr]
        assert rid is not None
        self.seen.append(("taken", self.name, rid))

        def answer() -> None:
            self.seen.append(("answered", self.name, rid))
            sent = isinstance(request, Send)
            done(Ack(rid, request.channel, "1", "2026-01-01T00:00:00Z", False) if sent else Reply(rid))  # type: ignore[union-attr]

        if self.delay == 0:
            answer()
        elif self.delay is not None:
            asyncio.get_running_loop().call_later(self.delay, answer)


class World:
    """Some routers, and one gateway's link to all of them."""

    def __init__(self, **settings: Any) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self.routers = {name: Taking(name, self.seen) for name in PORTS}
        self.answers: dict[str, list[Answer]] = {}
        self.requests: dict[str, tuple[Caller, Request]] = {}
        self.metrics = Metrics()
        self.link: RouterLink
        self.servers: dict[str, Any] = {}
        self.leaving: list[asyncio.Task[None]] = []
        self._stacks: dict[str, AsyncExitStack] = {}
        self._settings = LinkSettings(
            addresses=tuple(f"127.0.0.1:{port}" for port in PORTS.values()), **{"max_in_flight": 500, **settings}
        )

    @asynccontextmanager
    async def open(self, names: str = "") -> AsyncIterator[World]:
        for name in names:
            await self.start(name)
        async with RouterLink.open(self._settings, name="g", clock=LoopClock(), metrics=self.metrics) as self.link:
            try:
                await asyncio.sleep(0.5 if names else 0)
                yield self
            finally:
                for task in self.leaving:
                    task.cancel()
                await asyncio.gather(*self.leaving, return_exceptions=True)
                for name in list(self.servers):
                    await self.stop(name)
        assert all(len(answers) == 1 for answers in self.answers.values())
        assert self.answers.keys() == self.requests.keys()

    async def start(self, name: str, **places: Any) -> None:
        if name in self.servers:
            return
        stack = self._stacks[name] = AsyncExitStack()
        self.servers[name] = await stack.enter_async_context(
            serve_router(
                self.routers[name],
                Places(**places),
                LinkServerSettings(listen=f"127.0.0.1:{PORTS[name]}"),
                name=name,
                clock=LoopClock(),
                metrics=Metrics(),
            )
        )

    async def stop(self, name: str) -> None:
        if self.servers.pop(name, None) is not None:
            await self._stacks.pop(name).aclose()

    def send(self, session: str = "s", channel: str = "x") -> str:
        rid = str(len(self.requests))
        return self._submit(session, Send(rid, channel, "c" + rid, "hello"))

    def read(self, session: str = "s", channel: str = "x") -> str:
        return self._submit(session, History(str(len(self.requests)), channel))

    def _submit(self, session: str, request: Send | History) -> str:
        caller = Caller("t", "u" + session, session)
        self.requests[request.rid] = (caller, request)
        answers = self.answers.setdefault(request.rid, [])
        self.link.submit(caller, request, answers.append)
        return request.rid

    def code(self, rid: str) -> str:
        (answer,) = self.answers[rid]
        return answer.code if isinstance(answer, ErrorFrame) else type(answer).__name__

    def taken(self, rid: str) -> list[str]:
        return [router for what, router, which in self.seen if what == "taken" and which == rid]

    def count(self, name: str) -> float:
        return next(metric.source.value for metric in self.metrics if metric.name == name)  # type: ignore[union-attr]


def pipes(port: int) -> list[Any]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PipeLoop)
    return [here for here, _ in loop.ends if here.port == port and not here.closed]


def first(channel: str, names: str) -> str:
    return ranked(f"t/{channel}", list(names))[0]


# -- the property -------------------------------------------------------------------------------------------

WAITS = st.sampled_from([0.0, 0.0, 0.0005, 0.0015, 0.0025, 0.0025, 0.01, 0.01, 0.3, 0.3, 1.5, 5.0])
ASKING = st.tuples(st.sampled_from(["send", "send", "read"]), st.sampled_from("pq"), st.sampled_from("xy"), WAITS)
COMING = st.tuples(
    st.sampled_from(["start", "stop", "goodbye", "goodbye", "cut", "freeze", "thaw"]),
    st.sampled_from("abc"),
    st.just(""),
    WAITS,
)
SLOWER = st.tuples(st.just("delay"), st.sampled_from("abc"), st.sampled_from([0, 0.003, 0.05, 2.0, None]), WAITS)
OPERATIONS = st.one_of(ASKING, ASKING, ASKING, COMING, COMING, SLOWER)
"""What, who or where, and the seconds until the next."""


async def act(world: World, what: str, one: str, other: Any) -> None:
    if what == "send":
        world.send(one, other)
    elif what == "read":
        world.read(one, other)
    elif what == "start":
        await world.start(one)
    elif what == "stop":
        await world.stop(one)
    elif what == "goodbye":
        if one in world.servers:
            world.leaving.append(asyncio.create_task(world.servers[one].goodbye()))
    elif what == "delay":
        world.routers[one].delay = other
    else:
        for end in pipes(PORTS[one]):
            if what == "cut":
                end.cut()
            else:
                end.freeze(what == "freeze")
                end.other.freeze(what == "freeze")


@given(st.lists(OPERATIONS, min_size=15, max_size=60), st.sampled_from(["", "a", "ab", "ab", "abc"]))
def test_each_request_is_answered_once_none_is_doubled_lanes_keep_their_order(
    operations: list[tuple[str, str, Any, float]], names: str
) -> None:
    async def main() -> None:
        world = World()
        async with world.open(names):
            for operation in operations:
                await act(world, *operation[:3])
                if operation[3]:
                    await asyncio.sleep(operation[3])
            await asyncio.sleep(60)  # deadlines
            assert not world.link._lanes
            assert world.link._open == 0
        check(world)

    run(main())


def check(world: World) -> None:
    taken = Counter(rid for what, _, rid in world.seen if what == "taken")
    at: dict[tuple[str, str], int] = {}
    for number, (what, _, rid) in enumerate(world.seen):
        at.setdefault((what, rid), number)
    lanes: dict[tuple[str, str], list[str]] = {}
    for rid, (caller, request) in world.requests.items():
        code = world.code(rid)
        if isinstance(request, Send):
            assert taken[rid] <= 1, "a send was doubled"
            assert code in {"Ack", "unavailable", "overloaded", "unknown_outcome"}
            if code in {"unavailable", "overloaded"}:
                assert not taken[rid], "a router got what was refused"
            if code == "Ack":
                lanes.setdefault((caller.session, request.channel), []).append(rid)
        else:
            assert taken[rid] <= 2
            assert code in {"Reply", "unavailable", "overloaded"}
    routers = {rid: router for what, router, rid in world.seen if what == "taken"}
    for rids in lanes.values():
        for earlier, later in pairwise(rids):
            assert at["taken", earlier] < at["taken", later], "a send was overtaken"
            if routers[earlier] != routers[later]:
                assert at["answered", earlier] < at["taken", later], "a send overtook one at another router"


# -- one by one -----------------------------------------------------------------------------------------------


def test_a_loop_turn_is_one_write() -> None:
    async def main() -> None:
        async with World().open("a") as world:
            (pipe,) = pipes(PORTS["a"])
            written: list[bytes] = []
            write = pipe.write
            pipe.write = lambda data: (written.append(data), write(data))
            for _ in range(100):
                world.send()
            await asyncio.sleep(0.1)
            assert sum(len(data) > 20 for data in written) == 1
            assert all(world.code(rid) == "Ack" for rid in world.requests)

    run(main())


def test_what_was_written_is_unknown_what_was_not_goes_elsewhere() -> None:
    async def main() -> None:
        async with World().open("ab") as world:
            name = first("x", "ab")
            world.routers[name].delay = None
            sent, read = world.send(), world.read()
            await asyncio.sleep(0.01)
            late = world.send()  # not written: the loop does not turn before the cut
            world.link.peers[name].end("cut here")
            await asyncio.sleep(0.05)
            assert (world.code(sent), world.code(read), world.code(late)) == ("unknown_outcome", "Reply", "Ack")
            assert world.taken(late) == ["b" if name == "a" else "a"]
            assert world.count("link_retries_total") == 1
            answer = world.answers[sent][0]
            assert isinstance(answer, ErrorFrame)
            assert answer.retryable
            assert answer.rid == sent

    run(main())


def test_a_goodbye_refuses_nobody() -> None:
    async def main() -> None:
        async with World().open("ab") as world:
            for router in world.routers.values():
                router.delay = 0.03
            for number in range(300):
                world.send("s" + str(number % 7), "xyz"[number % 3])
                if number == 100:
                    world.leaving.append(asyncio.create_task(world.servers["a"].goodbye()))
                if number == 200:
                    assert world.leaving[0].done()
                    await world.stop("a")
                    await world.start("a")
                await asyncio.sleep(0.002)
            await asyncio.sleep(1)
            assert {world.code(rid) for rid in world.requests} == {"Ack"}
            assert world.count("link_broken_total") == 0
        check(world)

    run(main())


def test_a_lane_with_an_unanswered_send_waits_for_it_when_its_router_leaves() -> None:
    async def main() -> None:
        async with World().open("ab") as world:
            name = first("x", "ab")
            other = "b" if name == "a" else "a"
            world.routers[name].delay = 0.5
            early = world.send()
            await asyncio.sleep(0.01)
            world.leaving.append(asyncio.create_task(world.servers[name].goodbye()))
            await asyncio.sleep(0.01)
            late, another = world.send(), world.send(session="r")
            await asyncio.sleep(0.1)
            assert world.taken(another) == [other]
            assert world.taken(late) == []
            await asyncio.sleep(1)
            assert (world.taken(early), world.taken(late)) == ([name], [other])
            assert [world.code(rid) for rid in (early, late)] == ["Ack", "Ack"]

    run(main())


def test_who_waits_behind_a_leaving_router_is_not_overtaken_by_who_waits_for_any() -> None:
    async def main() -> None:
        async with World(grace=5.0).open("a") as world:
            world.routers["a"].delay = 0.2
            early = world.send()
            await asyncio.sleep(0.01)
            world.leaving.append(asyncio.create_task(world.servers["a"].goodbye()))
            await asyncio.sleep(0.01)
            rids = [world.send(), world.send(channel="y"), world.send()]
            await asyncio.sleep(0.5)
            await world.start("b")
            await asyncio.sleep(3)
            assert {world.code(rid) for rid in [early, *rids]} == {"Ack"}
            assert [rid for what, name, rid in world.seen if (what, name) == ("taken", "b") and rid != rids[1]] == [
                rids[0],
                rids[2],
            ]

    run(main())


def test_who_asks_again_while_a_connection_ends_comes_behind_what_was_not_written() -> None:
    async def main() -> None:
        async with World().open("ab") as world:
            name = first("x", "ab")
            world.routers[name].delay = None
            again: list[str] = []
            request = Send("first", "x", "k", "hello")
            world.link.submit(Caller("t", "us", "s"), request, lambda _: again.append(world.send()))
            await asyncio.sleep(0.01)
            unwritten = world.send()
            world.link.peers[name].end("cut here")
            await asyncio.sleep(0.1)
            other = "b" if name == "a" else "a"
            assert [rid for what, router, rid in world.seen if (what, router) == ("taken", other)] == [
                unwritten,
                *again,
            ]

    run(main())


def test_without_a_router_a_short_wait_then_no_at_once() -> None:
    async def main() -> None:
        async with World().open() as world:
            waiting = world.send()
            assert not world.answers[waiting]
            await asyncio.sleep(2)
            assert world.code(waiting) == "unavailable"
            at_once = world.send()
            assert world.code(at_once) == "unavailable"
            answer = world.answers[at_once][0]
            assert isinstance(answer, ErrorFrame)
            assert answer.retry_after_ms == 1000
            problem = world.link.problems()
            assert problem is not None
            assert "no router is connected" in problem
            await world.start("a")
            assert (await world.link.facts()).epoch == "e1"
            assert world.link.problems() is None
            assert (await world.link.facts()).partition_of("messages", "k") in range(12)

    run(main())


def test_the_only_router_restarts_within_the_grace() -> None:
    async def main() -> None:
        async with World(grace=3.0).open("a") as world:
            world.leaving.append(asyncio.create_task(world.servers["a"].goodbye()))
            await asyncio.sleep(0.01)
            await world.stop("a")
            rids = [world.send() for _ in range(5)]
            await asyncio.sleep(0.2)
            await world.start("a")
            await asyncio.sleep(3)
            assert {world.code(rid) for rid in rids} == {"Ack"}
            order = [rid for what, _, rid in world.seen if what == "taken"]
            assert order == rids

    run(main())


def test_half_open_is_noticed() -> None:
    async def main() -> None:
        async with World().open("ab") as world:
            name = first("x", "ab")
            for end in pipes(PORTS[name]):
                end.freeze(True)
                end.other.freeze(True)
            sent, read = world.send(), world.read()
            await asyncio.sleep(6)
            assert (world.code(sent), world.code(read)) == ("unknown_outcome", "Reply")
            assert world.taken(sent) == []
            assert world.taken(world.send()) == []
            await asyncio.sleep(0.1)

    run(main())


def test_a_silent_router_that_lives_is_answered_for_at_the_deadline() -> None:
    async def main() -> None:
        async with World(deadline=5.0).open("a") as world:
            world.routers["a"].delay = 8.0
            sent, read = world.send(), world.read()
            await asyncio.sleep(4)
            assert not world.answers[sent]
            await asyncio.sleep(2)
            assert (world.code(sent), world.code(read)) == ("unknown_outcome", "unavailable")
            await asyncio.sleep(5)  # its late answers change nothing

    run(main())


def test_a_slow_router_is_bounded_and_leaves_room_for_others() -> None:
    async def main() -> None:
        async with World(max_in_flight=100, max_per_router=60).open("ab") as world:
            name = first("x", "ab")
            world.routers[name].delay = None
            rids = [world.send() for _ in range(200)]
            assert sum(len(world.answers[rid]) for rid in rids) == 140
            assert {world.code(rid) for rid in rids[60:]} == {"overloaded"}
            channel = next(one for one in "yzwvut" if first(one, "ab") != name)
            assert not world.answers[world.send(channel=channel)]
            await asyncio.sleep(0.1)
            assert len(world.routers[name].seen) <= 62

    run(main())


def test_reads_go_to_the_next_router_when_theirs_is_over_its_share() -> None:
    async def main() -> None:
        async with World().open("ab") as world:
            for router in world.routers.values():
                router.delay = 1.0
            reads = [world.read() for _ in range(400)]
            await asyncio.sleep(0.1)
            where = Counter(router for rid in reads for router in world.taken(rid))
            assert min(where["a"], where["b"]) > 50
            assert first("x", "ab") == where.most_common(1)[0][0]
            await asyncio.sleep(2)

    run(main())


@pytest.mark.parametrize("places", [{"epoch": "e2"}, {"count": 13}])
def test_a_router_of_another_log_is_refused(places: dict[str, Any]) -> None:
    async def main() -> None:
        async with World().open("a") as world:
            await world.start("b", **places)
            await asyncio.sleep(3)
            assert list(world.link.peers) == ["a"]
            assert world.count("link_odd_routers_total") >= 1
            assert (await world.link.facts()).epoch == "e1"

    run(main())


def test_a_process_that_slept_drops_what_waited() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PipeLoop)
        async with World().open("ab") as world:
            written = world.send()
            await asyncio.sleep(0.005)
            unwritten, read = world.send(), world.read()
            loop.offset += 11  # frozen, before this turn's calls are written
            await asyncio.sleep(0.5)
            assert world.code(written) == "unknown_outcome"
            assert (world.code(unwritten), world.code(read)) == ("unavailable", "unavailable")
            assert (world.taken(unwritten), world.taken(read)) == ([], [])
            await asyncio.sleep(3)
            assert world.link.problems() is None

    run(main())


def test_one_router_by_two_addresses_is_one_router() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PipeLoop)
        async with World().open("a") as world:
            loop.listening[PORTS["b"]] = loop.listening[PORTS["a"]]
            for _ in range(50):
                world.send()
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            assert {world.code(rid) for rid in world.requests} == {"Ack"}
            assert world.count("link_broken_total") == 0
            del loop.listening[PORTS["b"]]
            await asyncio.sleep(1)

    run(main())


@pytest.mark.parametrize("address", ["router", "router:", ":80", "dns:router", "router:99999"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    async def main() -> None:
        settings = LinkSettings(addresses=(address,))
        with pytest.raises(Misconfigured, match="allowed: host:port"):
            async with RouterLink.open(settings, name="g", clock=LoopClock(), metrics=Metrics()):
                pass

    run(main())
