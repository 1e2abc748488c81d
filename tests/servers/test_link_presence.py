"""The link to presence nodes over real TCP: split by user, told anew when nodes come and go, never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from chatcluster.backends.links.presence import PresenceLink
from chatcluster.backends.links.presence_server import serve_presence
from chatcluster.backends.links.serving import LinkServer
from chatcluster.backends.links.settings import LinkServerSettings, LinkSettings
from chatcluster.core.envelope import Presence, PresenceChange
from chatcluster.core.metrics import Metrics
from chatcluster.core.placement import place
from chatcluster.ports import Beat, Unavailable
from linked import QUICK, JumpyClock, free_port, misbehaving, shake_hands, until, value

USERS = [f"u{n}" for n in range(20)]


class Node:
    """A presence node that remembers. ``blind``: its store does not answer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.beats: list[Beat] = []
        self.sets: dict[str, list[str]] = {}
        self.watches = 0
        self.blind = False
        self.slow: asyncio.Event | None = None

    def beat(self, gateway: str, beats: Sequence[Beat]) -> None:
        assert gateway == "g"
        self.beats += beats

    async def watch(self, gateway: str, session: str, tenant: str, users: Sequence[str]) -> Sequence[PresenceChange]:
        assert (gateway, tenant) == ("g", "t")
        self.watches += 1
        self.sets[session] = list(users)
        if self.slow is not None:
            await self.slow.wait()
        if self.blind:
            raise Unavailable("the store is gone")
        return [PresenceChange(user, "online", 7) for user in users]

    def forget(self, gateway: str, sessions: Sequence[str]) -> None:
        assert gateway == "g"
        for session in sessions:
            self.sets.pop(session, None)

    @property
    def watched(self) -> dict[str, list[str]]:
        """Visible sets that have anybody."""
        return {session: users for session, users in self.sets.items() if users}


class World:
    """Presence nodes by one letter each, and one gateway's link."""

    def __init__(self, names: str = "ab") -> None:
        self.ports = {name: free_port() for name in names}
        self.nodes = {name: Node(name) for name in names}
        self.metrics = Metrics()
        self.servers: dict[str, LinkServer] = {}
        self.link: PresenceLink
        self.news: list[Presence] = []
        self._stacks: dict[str, AsyncExitStack] = {}

    @asynccontextmanager
    async def open(self, names: str = "") -> AsyncIterator[World]:
        async with AsyncExitStack() as stack:
            for name in names:
                await self.start(name)
            stack.push_async_callback(self._stop_all)
            addresses = tuple(f"127.0.0.1:{port}" for port in self.ports.values())
            settings = LinkSettings(addresses=addresses, **QUICK)
            self.link = await stack.enter_async_context(
                PresenceLink.open(settings, name="g", clock=JumpyClock(), metrics=self.metrics)
            )
            self.link.told = self.news.append
            await self.connected(names)
            yield self

    async def start(self, name: str) -> None:
        stack = self._stacks[name] = AsyncExitStack()
        settings = LinkServerSettings(listen=f"127.0.0.1:{self.ports[name]}", heartbeat=0.1, silence=2.0, leaving=5.0)
        self.servers[name] = await stack.enter_async_context(
            serve_presence(self.nodes[name], settings, name=name, metrics=Metrics())
        )

    async def stop(self, name: str) -> None:
        """It dies, and knows nothing when it comes back."""
        del self.servers[name]
        await self._stacks.pop(name).aclose()
        self.nodes[name].sets.clear()

    async def _stop_all(self) -> None:
        for name in list(self.servers):
            await self.stop(name)

    async def connected(self, names: str) -> None:
        await until(lambda: {name for name, peer in self.link.peers.items() if not peer.leaving} == set(names))

    def parts(self, users: Sequence[str], names: str) -> dict[str, list[str]]:
        """Whose users they are."""
        split: dict[str, list[str]] = {}
        for user in users:
            split.setdefault(place(f"t/{user}", names), []).append(user)
        return split

    def holds(self, sets: dict[str, list[str]], names: str) -> Callable[[], bool]:
        """Whether these nodes have exactly these sets, each its part."""
        wanted: dict[str, dict[str, list[str]]] = {name: {} for name in names}
        for session, users in sets.items():
            for name, part in self.parts(users, names).items():
                wanted[name][session] = part
        return lambda: all(self.nodes[name].watched == wanted[name] for name in names)


async def test_heartbeats_go_to_the_node_of_their_user() -> None:
    async with World().open("ab") as world:
        world.link.beat("g", [Beat("t", user, "s" + user, "online") for user in USERS])
        await until(lambda: sum(len(node.beats) for node in world.nodes.values()) == len(USERS))
        for name, part in world.parts(USERS, "ab").items():
            assert [beat.user for beat in world.nodes[name].beats] == part


async def test_many_heartbeats_are_cut_into_frames() -> None:
    async with World("a").open("a") as world:
        beats = [Beat("tenant" * 5, f"user-{n}" * 10, f"session-{n}" * 5, "online") for n in range(30_000)]
        world.link.beat("g", beats)
        await until(lambda: len(world.nodes["a"].beats) == len(beats))
        assert world.nodes["a"].beats == beats


async def test_a_watch_is_split_and_its_answers_are_merged() -> None:
    async with World().open("ab") as world:
        changes = await world.link.watch("g", "s", "t", USERS)
        assert sorted(change.user for change in changes) == sorted(USERS)
        assert world.holds({"s": USERS}, "ab")()


async def test_a_replaced_set_leaves_no_part_behind() -> None:
    async with World().open("ab") as world:
        await world.link.watch("g", "s", "t", USERS)
        mine = world.parts(USERS, "ab")["a"][:1]
        await world.link.watch("g", "s", "t", mine)
        await until(world.holds({"s": mine}, "ab"))
        await world.link.watch("g", "s", "t", [])
        await until(world.holds({}, "ab"))


async def test_sets_move_when_a_node_goes_and_when_it_is_back() -> None:
    async with World().open("ab") as world:
        sets = {f"s{number}": USERS[number:] for number in range(120 // 8)}
        for session, users in sets.items():
            await world.link.watch("g", session, "t", users)
        await world.stop("a")
        await world.connected("b")
        await until(world.holds(sets, "b"))
        moved = set(world.parts(USERS, "ab")["a"])
        await until(
            lambda: moved <= {change.user for news in world.news for change in news.changes["t"]}
        )  # what changed meanwhile is told
        await world.start("a")
        await world.connected("ab")
        await until(world.holds(sets, "ab"))


async def test_a_goodbye_moves_them_too() -> None:
    async with World().open("ab") as world:
        await world.link.watch("g", "s", "t", USERS)
        await world.servers["a"].goodbye()
        await world.connected("b")
        await until(world.holds({"s": USERS}, "b"))
        assert value(world.metrics, "link_broken_total") == 0


async def test_forget_reaches_all_also_right_behind_a_watch() -> None:
    async with World().open("ab") as world:
        await world.link.watch("g", "s", "t", USERS)
        watching = asyncio.create_task(world.link.watch("g", "r", "t", USERS))
        await asyncio.sleep(0)
        world.link.forget("g", ["s", "r"])
        await watching
        await until(world.holds({}, "ab"))
        await world.stop("a")
        await world.connected("b")
        await asyncio.sleep(0.1)
        assert world.holds({}, "b")()  # nor are they told anew


async def test_nobody_there() -> None:
    async with World().open() as world:
        with pytest.raises(Unavailable):
            await world.link.watch("g", "s", "t", USERS)
        world.link.beat("g", [Beat("t", "u1", "s", "online")] * 3)
        world.link.forget("g", ["nobody"])
        assert value(world.metrics, "link_presence_shed_total") == 4
        await world.start("a")
        await world.connected("a")
        await until(world.holds({"s": USERS}, "a"))  # what was asked for then is told now


async def test_a_blind_node_answers_with_what_it_knows() -> None:
    async with World().open("ab") as world:
        world.nodes["a"].blind = True
        changes = await world.link.watch("g", "s", "t", USERS)
        assert sorted(change.user for change in changes) == sorted(world.parts(USERS, "ab")["b"])
        assert world.holds({"s": USERS}, "ab")()


async def test_a_node_that_is_lost_while_it_is_asked_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatcluster.backends.links.presence.ANSWER", 60.0)
    async with World().open("ab") as world:
        world.nodes["a"].slow = asyncio.Event()
        watching = asyncio.create_task(world.link.watch("g", "s", "t", USERS))
        await until(lambda: world.nodes["a"].watches)
        await world.stop("a")
        changes = await asyncio.wait_for(watching, 20)
        assert {change.user for change in changes} == set(world.parts(USERS, "ab")["b"])
        await until(world.holds({"s": USERS}, "b"))


async def test_a_slow_node_is_waited_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatcluster.backends.links.presence.ANSWER", 0.2)
    async with World().open("ab") as world:
        world.nodes["a"].slow = asyncio.Event()
        changes = await world.link.watch("g", "s", "t", USERS)
        assert {change.user for change in changes} == set(world.parts(USERS, "ab")["b"])
        world.nodes["a"].slow.set()


async def test_a_node_that_reads_nothing_is_shed_and_cut() -> None:
    async def frozen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer, kind="presence")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(60)

    world = World()
    async with misbehaving(world.ports["b"], frozen), world.open("a"):
        await until(lambda: "odd" in world.link.peers)
        peer = world.link.peers["odd"]
        most = 0
        beats = [Beat("t", f"user-{n}", "session" * 20, "online") for n in range(3_000)]
        while not peer.gone:
            world.link.beat("g", beats)
            if peer.transport is not None:
                most = max(most, peer.transport.get_write_buffer_size())
            await asyncio.sleep(0.005)
        assert value(world.metrics, "link_presence_shed_total") > 0
        assert most < world.link.settings.max_buffer + 1_000_000
        assert world.nodes["a"].beats
