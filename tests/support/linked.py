"""Internal links on real TCP: routers that note what they get, a gateway's link to them, servers that misbehave."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise
from typing import Any, Literal

import msgspec

from chatcluster.app.clock import SystemClock
from chatcluster.backends.links.router import RouterLink
from chatcluster.backends.links.router_server import serve_router
from chatcluster.backends.links.serving import LinkServer
from chatcluster.backends.links.settings import LinkServerSettings, LinkSettings
from chatcluster.backends.links.wire import Challenge, Cutter, Facts, Hello, Welcome, decode_from_client, encode
from chatcluster.core.frames import Ack, Answer, ErrorFrame, History, Reply, Request, Send
from chatcluster.core.metrics import Metrics
from chatcluster.core.placement import ranked
from chatcluster.ports import Caller

PATIENCE = 20.0
QUICK: dict[str, Any] = {"heartbeat": 0.1, "silence": 2.0, "resolve_interval": 0.1, "connect_timeout": 2.0}


async def until(true: Callable[[], Any]) -> None:
    """Wait for it."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def value(metrics: Metrics, name: str) -> float:
    """The sum of a metric over its labels."""
    found = [metric.source for metric in metrics if metric.name == name]
    assert found, name
    return sum(one() if callable(one) else one.value for one in found)  # type: ignore[union-attr]


class JumpyClock(SystemClock):
    """The machine's time, and the seconds that a test says it slept."""

    __slots__ = ("slept",)

    def __init__(self) -> None:
        self.slept = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.slept


class Places(msgspec.Struct):
    """What a router tells of the log."""

    epoch: str = "e1"
    count: int = 12

    def partitions(self, topic: str) -> int:
        return self.count


class Taking:
    """A router that notes what it gets. ``delay``: seconds until its answer; None: when ``release`` is called."""

    def __init__(self, name: str, seen: list[tuple[str, str, str]]) -> None:
        self.name = name
        self.seen = seen
        self.delay: Callable[[], float] | None = lambda: 0.0
        self.kept: list[Callable[[], None]] = []

    def submit(self, caller: Caller, request: Request, done: Callable[[Answer], None]) -> None:
        rid = request.rid  # type: ignore[union-attr]
        assert rid is not None
        self.seen.append(("taken", self.name, rid))

        def answer() -> None:
            self.seen.append(("answered", self.name, rid))
            sent = isinstance(request, Send)
            done(Ack(rid, request.channel, "1", "2026-01-01T00:00:00Z", False) if sent else Reply(rid))  # type: ignore[union-attr]

        if self.delay is None:
            self.kept.append(answer)
        elif (seconds := self.delay()) > 0:
            asyncio.get_running_loop().call_later(seconds, answer)
        else:
            answer()

    def release(self) -> None:
        """Answer everything kept."""
        kept, self.kept = self.kept, []
        for answer in kept:
            answer()


class World:
    """Routers by one letter each, and one gateway's link to all of them. On leaving: each request has one answer."""

    def __init__(self, names: str = "ab", *, server: dict[str, Any] | None = None, **settings: Any) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self.ports = {name: free_port() for name in names}
        self.routers = {name: Taking(name, self.seen) for name in names}
        self.servers: dict[str, LinkServer] = {}
        self.server_metrics = Metrics()
        self.answers: dict[str, list[Answer]] = {}
        self.requests: dict[str, tuple[Caller, Request]] = {}
        self.metrics = Metrics()
        self.clock = JumpyClock()
        self.link: RouterLink
        self.leaving: list[asyncio.Task[None]] = []
        self._stacks: dict[str, AsyncExitStack] = {}
        self._server = {"heartbeat": 0.1, "silence": 2.0, "leaving": 5.0, **(server or {})}
        addresses = tuple(f"127.0.0.1:{port}" for port in self.ports.values())
        self.settings = LinkSettings(**{"addresses": addresses, **QUICK, **settings})

    @asynccontextmanager
    async def open(self, names: str = "") -> AsyncIterator[World]:
        async with AsyncExitStack() as stack:
            for name in names:
                await self.start(name)
            stack.push_async_callback(self._stop_all)
            self.link = await stack.enter_async_context(
                RouterLink.open(self.settings, name="g", clock=self.clock, metrics=self.metrics)
            )
            await self.connected(names)
            yield self
        assert all(len(answers) == 1 for answers in self.answers.values())
        assert self.answers.keys() == self.requests.keys()
        assert self.link._open == 0
        assert not self.link._lanes

    async def connected(self, names: str) -> None:
        """Wait until exactly these can be used."""
        await until(lambda: {name for name, peer in self.link.peers.items() if not peer.leaving} == set(names))

    async def start(self, name: str, *, places: Places | None = None, **settings: Any) -> None:
        if name in self.servers:
            return
        stack = self._stacks[name] = AsyncExitStack()
        self.servers[name] = await stack.enter_async_context(
            serve_router(
                self.routers[name],
                places or Places(),
                LinkServerSettings(listen=f"127.0.0.1:{self.ports[name]}", **{**self._server, **settings}),
                name=name,
                metrics=self.server_metrics,
            )
        )

    async def stop(self, name: str) -> None:
        """As a process that dies: connections are cut, nobody listens."""
        if self.servers.pop(name, None) is not None:
            await self._stacks.pop(name).aclose()

    async def _stop_all(self) -> None:
        for task in self.leaving:
            task.cancel()
        await asyncio.gather(*self.leaving, return_exceptions=True)
        for name in list(self.servers):
            await self.stop(name)

    def cut(self, name: str) -> None:
        """Its connections break; it lives."""
        for guest in list(self.servers[name]._guests):
            guest.end("cut")

    def say_goodbye(self, name: str) -> asyncio.Task[None]:
        self.leaving.append(asyncio.create_task(self.servers[name].goodbye()))
        return self.leaving[-1]

    # -- requests ----------------------------------------------------------------------------------------

    def send(self, session: str = "s", channel: str = "x", body: str = "hello") -> str:
        rid = str(len(self.requests))
        return self.submit(session, Send(rid, channel, "c" + rid, body))

    def read(self, session: str = "s", channel: str = "x") -> str:
        return self.submit(session, History(str(len(self.requests)), channel))

    def submit(self, session: str, request: Send | History) -> str:
        caller = Caller("t", "u" + session, session)
        self.requests[request.rid] = (caller, request)
        answers = self.answers.setdefault(request.rid, [])
        self.link.submit(caller, request, answers.append)
        return request.rid

    async def answered(self, *rids: str) -> None:
        """Wait for the answers (of all, if none is named)."""
        await until(lambda: all(self.answers[rid] for rid in (rids or self.requests)))

    def code(self, rid: str) -> str:
        (answer,) = self.answers[rid]
        return answer.code if isinstance(answer, ErrorFrame) else type(answer).__name__

    def codes(self) -> Counter[str]:
        return Counter(self.code(rid) for rid in self.requests)

    def codes_so_far(self) -> Counter[str]:
        return Counter(self.code(rid) for rid in self.requests if self.answers[rid])

    def taken(self, rid: str) -> list[str]:
        return [router for what, router, which in self.seen if what == "taken" and which == rid]

    def first(self, channel: str, names: Iterable[str]) -> str:
        """The router of a channel among these."""
        return ranked(f"t/{channel}", list(names))[0]

    def channel_of(self, name: str, names: str) -> str:
        """A channel that belongs to this router."""
        return next(channel for n in range(1000) if self.first(channel := f"x{n}", names) == name)

    # -- what must be true at the end --------------------------------------------------------------------

    def check(self) -> None:
        """No send was doubled, refused ones arrived nowhere, lanes kept their order over all routers."""
        at: dict[tuple[str, str], int] = {}
        taken: Counter[str] = Counter()
        where: dict[str, str] = {}
        for number, (what, router, rid) in enumerate(self.seen):
            at.setdefault((what, rid), number)
            taken[rid] += what == "taken"
            where[rid] = router
        lanes: dict[tuple[str, str, str], list[str]] = {}
        acked: dict[tuple[str, str], list[str]] = {}
        for rid, (caller, request) in self.requests.items():
            code = self.code(rid)
            if not isinstance(request, Send):
                assert taken[rid] <= 2
                assert code in {"Reply", "unavailable", "overloaded"}
                continue
            assert taken[rid] <= 1, "a send was doubled"
            assert code in {"Ack", "unavailable", "overloaded", "unknown_outcome"}
            if code in {"unavailable", "overloaded"}:
                assert not taken[rid], "a router got what was refused"
            if taken[rid]:
                lanes.setdefault((where[rid], caller.session, request.channel), []).append(rid)
            if code == "Ack":
                acked.setdefault((caller.session, request.channel), []).append(rid)
        for rids in lanes.values():
            assert all(at["taken", earlier] < at["taken", later] for earlier, later in pairwise(rids)), "out of order"
        for rids in acked.values():
            for earlier, later in pairwise(rids):
                assert at["taken", earlier] < at["taken", later], "a send was overtaken"
                if where[earlier] != where[later]:
                    assert at["answered", earlier] < at["taken", later], "a send overtook one at another router"


async def churn(world: World, seed: int, steps: int) -> None:
    """A random schedule: requests, routers that come, leave, die, break and are slow."""
    chance = random.Random(seed)
    for router in world.routers.values():
        router.delay = lambda: chance.choice((0.0, 0.0, 0.001, 0.005, 0.05))
    for _ in range(steps):
        for _ in range(chance.randrange(12)):
            ask = world.send if chance.random() < 0.8 else world.read
            ask(chance.choice("pq"), chance.choice("xyz"))
        name = chance.choice(list(world.ports))
        match chance.randrange(12):
            case 0:
                await world.stop(name)
            case 1 if name in world.servers:
                world.say_goodbye(name)
            case 2 if name in world.servers:
                world.cut(name)
            case 3 | 4 | 5:
                if name in world.servers and world.servers[name].leaving:
                    await world.stop(name)
                await world.start(name)
            case _:
                pass
        await asyncio.sleep(chance.choice((0.0, 0.0, 0.001, 0.01, 0.06)))


# -- servers that misbehave -------------------------------------------------------------------------------

Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@asynccontextmanager
async def misbehaving(port: int, talk: Conversation) -> AsyncIterator[list[int]]:
    """A server that does what ``talk`` does with each connection. Yields the connections' count as a list."""
    count: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count.append(1)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await talk(reader, writer)
        tasks.discard(task)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield count
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


CHALLENGE = encode(Challenge(1, "router", "odd", b"n" * 16, True, b"i" * 16))
WELCOME = encode(Welcome(b"", Facts("e1", {})))


async def shake_hands(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: Literal["router", "presence"] = "router"
) -> None:
    """A server's side, as far as it goes."""
    writer.write(encode(Challenge(1, kind, "odd", b"n" * 16, True, b"i" * 16)))
    cutter = Cutter()
    while True:
        for body in cutter.feed(await reader.read(4096)):
            assert isinstance(decode_from_client(body), Hello)
            writer.write(WELCOME)
            return
