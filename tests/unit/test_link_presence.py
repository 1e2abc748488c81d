"""The link to presence nodes: each user belongs to one of them, and visible sets follow who comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from chatcluster.backends.links.presence import PresenceLink
from chatcluster.backends.links.presence_server import MAX_WATCHES, serve_presence
from chatcluster.backends.links.settings import LinkServerSettings, LinkSettings
from chatcluster.core.envelope import Presence, PresenceChange
from chatcluster.core.metrics import Metrics
from chatcluster.core.placement import place
from chatcluster.ports import Beat, Unavailable
from jumping import LoopClock, run_to_end
from piped import PipeLoop

PORTS = {"a": 7101, "b": 7102}
USERS = [f"user-{number}" for number in range(20)]


def run(main: Coroutine[Any, Any, None]) -> None:
    run_to_end(main, PipeLoop)


class Node:
    """A presence node that notes what it is told. Everybody is online since ``since``."""

    def __init__(self) -> None:
        self.since = 1
        self.beats: list[Beat] = []
        self.sets: dict[str, list[str]] = {}
        self.most = 0
        self.running = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def beat(self, gateway: str, beats: Sequence[Beat]) -> None:
        self.beats += beats

    async def watch(self, gateway: str, session: str, tenant: str, users: Sequence[str]) -> Sequence[PresenceChange]:
        self.sets[session] = list(users)
        self.running += 1
        self.most = max(self.most, self.running)
        await self.gate.wait()
        self.running -= 1
        return [PresenceChange(user, "online", self.since) for user in users]

    def forget(self, gateway: str, sessions: Sequence[str]) -> None:
        for session in sessions:
            self.sets.pop(session, None)


class World:
    """Two nodes, and a gateway's link to them."""

    def __init__(self) -> None:
        self.nodes = {name: Node() for name in PORTS}
        self.metrics = Metrics()
        self.link: PresenceLink
        self.servers: dict[str, Any] = {}
        self._stacks: dict[str, AsyncExitStack] = {}

    @asynccontextmanager
    async def open(self, names: str = "ab") -> AsyncIterator[World]:
        for name in names:
            await self.start(name)
        settings = LinkSettings(addresses=tuple(f"127.0.0.1:{port}" for port in PORTS.values()))
        async with PresenceLink.open(settings, name="g", clock=LoopClock(), metrics=self.metrics) as self.link:
            try:
                await asyncio.sleep(0.5)
                yield self
            finally:
                for name in list(self._stacks):
                    await self.stop(name)

    async def start(self, name: str) -> None:
        self.nodes[name].sets.clear()  # it knows nothing
        stack = self._stacks[name] = AsyncExitStack()
        settings = LinkServerSettings(listen=f"127.0.0.1:{PORTS[name]}")
        self.servers[name] = await stack.enter_async_context(
            serve_presence(self.nodes[name], settings, name=name, metrics=Metrics(), clock=LoopClock())
        )

    async def stop(self, name: str) -> None:
        await self._stacks.pop(name).aclose()

    def watched(self, session: str = "s") -> dict[str, set[str]]:
        return {name: set(self.nodes[name].sets.get(session, ())) for name in PORTS}


def split(users: Sequence[str]) -> dict[str, set[str]]:
    return {name: {user for user in users if place(f"t/{user}", PORTS) == name} for name in PORTS}


def test_beats_and_sets_are_split_by_user_and_the_answers_are_one() -> None:
    async def main() -> None:
        async with World().open() as world:
            changes = await world.link.watch("g", "s", "t", USERS)
            assert sorted(change.user for change in changes) == sorted(USERS)
            assert world.watched() == split(USERS)
            world.link.beat("g", [Beat("t", user, "s-" + user, "online") for user in USERS])
            await asyncio.sleep(0.1)
            beaten = {name: {beat.user for beat in world.nodes[name].beats} for name in PORTS}
            assert beaten == split(USERS)

    run(main())


def test_a_set_is_replaced_everywhere_and_forgotten_everywhere() -> None:
    async def main() -> None:
        async with World().open() as world:
            await world.link.watch("g", "s", "t", USERS)
            (one,) = await world.link.watch("g", "s", "t", USERS[:1])
            await asyncio.sleep(0.1)
            assert one.user == USERS[0]
            assert world.watched() == split(USERS[:1])
            world.link.forget("g", ["s"])
            await asyncio.sleep(0.1)
            assert all("s" not in node.sets for node in world.nodes.values())

    run(main())


def test_a_watch_that_is_forgotten_at_once_stays_forgotten() -> None:
    async def main() -> None:
        async with World().open() as world:
            watching = asyncio.create_task(world.link.watch("g", "s", "t", USERS))
            await asyncio.sleep(0)
            world.link.forget("g", ["s"])  # in the same write
            await watching
            assert world.watched() == {"a": set(), "b": set()}

    run(main())


def test_sets_follow_the_nodes_and_what_changed_meanwhile_is_told() -> None:
    async def main() -> None:
        async with World().open() as world:
            told: list[Presence] = []
            world.link.told = told.append
            await world.link.watch("g", "s", "t", USERS)
            await world.link.watch("g", "r", "t", USERS)
            world.nodes["b"].since = 2
            await world.stop("a")
            await asyncio.sleep(1)
            assert world.watched()["b"] == set(USERS)
            moved = [change for presence in told for change in presence.changes["t"]]
            assert {change.user for change in moved} == set(USERS)
            assert len(moved) == len(USERS), "once for both sessions"
            assert {change.since for change in moved} == {2}
            world.link.beat("g", [Beat("t", user, "s", "online") for user in USERS])
            await world.start("a")
            await asyncio.sleep(5)
            assert world.watched() == split(USERS)
            assert world.watched("r") == split(USERS)

    run(main())


def test_without_a_node_a_watch_is_refused_and_remembered_and_beats_are_shed() -> None:
    async def main() -> None:
        async with World().open("") as world:
            with pytest.raises(Unavailable):
                await world.link.watch("g", "s", "t", USERS)
            world.link.beat("g", [Beat("t", "u", "s", "online")])
            world.link.forget("g", ["other"])
            assert "no presence is connected" in str(world.link.problems())
            await world.start("a")
            await asyncio.sleep(5)
            assert world.link.problems() is None
            assert world.watched()["a"] == set(USERS)

    run(main())


def test_a_node_that_does_not_answer_holds_nobody_for_long() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with World().open() as world:
            for node in world.nodes.values():
                node.gate.clear()
            begin = loop.time()
            assert await world.link.watch("g", "s", "t", USERS) == []
            assert loop.time() - begin < 5
            assert world.watched() == split(USERS)
            for node in world.nodes.values():
                node.gate.set()
            await asyncio.sleep(0.1)

    run(main())


def test_watches_of_one_gateway_are_bounded_and_none_is_forgotten() -> None:
    async def main() -> None:
        async with World().open("a") as world:
            node = world.nodes["a"]
            node.gate.clear()
            count = MAX_WATCHES * 2
            asking = [asyncio.create_task(world.link.watch("g", str(number), "t", ["u"])) for number in range(count)]
            for _ in range(100):  # in many writes: what is cut already is taken
                await asyncio.sleep(0.001)
            node.gate.set()
            await asyncio.gather(*asking)
            await asyncio.sleep(10)
            assert len(node.sets) == count
            assert node.running == 0

    run(main())


def test_a_node_that_leaves_is_left_at_once() -> None:
    async def main() -> None:
        async with World().open() as world:
            await world.link.watch("g", "s", "t", USERS)
            async with asyncio.timeout(1):
                await world.servers["a"].goodbye()
            await asyncio.sleep(0.5)
            assert world.watched()["b"] == set(USERS)

    run(main())
