"""The nodes of a Redis: which one serves a place, commands by the batch, and whether each is still the same.

A place is what a key belongs to (a timeline, a channel, a user's slice). All that belongs to one lives on one node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from chatcluster.backends.redis.access import FilePassword, credentials, read_password, tls_arguments
from chatcluster.backends.redis.lanes import AWAY, Command, Lane, ended, said, settled
from chatcluster.backends.redis.settings import RedisSettings, split
from chatcluster.core.metrics import Metrics
from chatcluster.core.placement import place as placed
from chatcluster.ports import Clock, Unavailable

log = logging.getLogger(__name__)

Address = tuple[str, int]
CLUSTER = "cluster"
PLACES = 100_000
"""Places whose node is remembered: to hash one anew costs 3 µs with two nodes."""


class Node:
    """One server that holds data. ``generation``: connections made under another one are to be made anew."""

    def __init__(self, name: str, address: Callable[[], Awaitable[Address]]) -> None:
        self.name = name
        self.address = address
        self.generation = 0
        self.identity: tuple[str, str] | None = None
        self.problem: str | None = "not yet connected"


class RedisShards:
    """All nodes, opened once per process and settings; ports are made on it."""

    def __init__(self, settings: RedisSettings, *, clock: Clock, metrics: Metrics) -> None:
        self.settings = settings
        self.prefix = settings.prefix
        self._clock = clock
        self.nodes: dict[str, Node] = {}
        self._lanes: dict[str, Lane] = {}
        self._cluster: RedisCluster | None = None
        self._sentinel: Sentinel | None = None
        self._stale = False
        self._everywhere: tuple[str, ...] = ()
        self._placed: dict[str, str] = {}
        self._gaps: list[Callable[[Node], None]] = []
        self._moves: list[Callable[[], None]] = []
        self._passwords = ""
        self._dropped = metrics.counter("redis_posts_dropped_total", "Writes nobody waits for, dropped over the bound.")
        self._failed = metrics.counter("redis_errors_total", "Commands that Redis did not answer or refused.")

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: RedisSettings, *, clock: Clock, metrics: Metrics) -> AsyncIterator[RedisShards]:
        """For the time of the block. Returns soon, connected or not; calls raise ``Unavailable`` meanwhile."""
        shards = cls(settings, clock=clock, metrics=metrics)
        shards._describe()
        with suppress(OSError):
            shards._passwords = read_password(settings.password_file)
        await shards._look()
        tasks = [asyncio.create_task(shards._watch(), name="redis-watch")]
        tasks += [asyncio.create_task(shards._write(lane), name="redis-posts") for lane in shards._lanes.values()]
        try:
            yield shards
        finally:
            await ended(tasks)
            for client in shards.clients():
                with suppress(RedisError, OSError):
                    await client.aclose()
            if shards._sentinel is not None:
                for one in shards._sentinel.sentinels:
                    with suppress(RedisError, OSError):
                        await one.aclose()

    def problems(self) -> str | None:
        """What is wrong with which nodes; None when all answer."""
        wrong = [f"{node.name}: {node.problem}" for node in self.nodes.values() if node.problem is not None]
        if not self.nodes:
            return "no node of the cluster answers"
        return "; ".join(wrong) or None

    def clients(self) -> Sequence[Any]:
        """redis-py's clients, one per node (a cluster: one for all)."""
        found = {id(lane.client): lane.client for lane in self._lanes.values()}
        return list(found.values())

    # -- places -----------------------------------------------------------------------------------------------

    def key(self, kind: str, place: str, rest: str = "") -> str:
        """The key of a kind at a place; the braces keep a cluster from tearing a place apart."""
        return f"{self.prefix}{kind}:{{{place}}}{rest}"

    def node_of(self, place: str) -> Node | None:
        """Where a place is served; None while a cluster's map is not known."""
        if self._cluster is None:
            return self.nodes[self._place(place)]
        try:
            found = self._cluster.get_node_from_key(self.key("", place))
        except RedisError:
            return None
        return None if found is None else self.nodes.get(found.name)

    def everywhere(self) -> Sequence[str]:
        """Places, one for each node (a cluster: two, which are likely to be apart)."""
        if self._cluster is not None:
            return ("everywhere-0", "everywhere-1")
        if not self._everywhere:
            found: dict[str, str] = {}
            number = 0
            while len(found) < len(self.nodes):
                found.setdefault(placed(f"everywhere-{number}", self.nodes), f"everywhere-{number}")
                number += 1
            self._everywhere = tuple(found.values())
        return self._everywhere

    def on_gap(self, told: Callable[[Node], None]) -> None:
        """``told`` when a node is not the one it was: its keys and what was published may be lost."""
        self._gaps.append(told)

    def on_move(self, told: Callable[[], None]) -> None:
        """``told`` when places may be served by other nodes than before (cluster)."""
        self._moves.append(told)

    def doubt(self) -> None:
        """A node said MOVED: look at the cluster's map again."""
        self._stale = True

    # -- commands ----------------------------------------------------------------------------------------------

    async def run(self, commands: Sequence[tuple[str, Command]]) -> list[Any]:
        """The answers of (place, command) in order; one pipeline per node, all at the same time.

        Where a node did not answer or refused, ``Unavailable`` stands in place of the answer. Raises nothing.
        """
        answers: list[Any] = [None] * len(commands)
        by_lane: dict[str, list[int]] = {}
        for index, (place, _) in enumerate(commands):
            by_lane.setdefault(self._served(place), []).append(index)
        size = self.settings.pipeline

        async def one(name: str, found: list[int]) -> None:
            # One after the other: commands of a place keep their order.
            for at in range(0, len(found), size):
                indexes = found[at : at + size]
                got = await self._pipe(name, [commands[index][1] for index in indexes])
                for index, answer in zip(indexes, got, strict=True):
                    answers[index] = answer
                if isinstance(got[-1], Unavailable):
                    # The rest is not tried: a call that fails ends soon.
                    for index in found[at + size :]:
                        answers[index] = got[-1]
                    return

        if len(by_lane) == 1:
            for name, found in by_lane.items():
                await one(name, found)
        else:
            await asyncio.gather(*(one(name, found) for name, found in by_lane.items()))
        return answers

    def together(self, places: Sequence[str], most: int) -> list[list[int]]:
        """Indexes of places whose keys one command may name: at most ``most`` of one node, and one in a cluster,

        where keys of one node stand in slots of their own.
        """
        if self._cluster is not None:
            return [[index] for index in range(len(places))]
        by_node: dict[str, list[int]] = {}
        for index, place in enumerate(places):
            by_node.setdefault(self._served(place), []).append(index)
        return [found[at : at + most] for found in by_node.values() for at in range(0, len(found), most)]

    async def ask(self, place: str, *command: Any) -> Any:
        """The answer to one command. Raises ``Unavailable``."""
        return settled((await self.run([(place, command)]))[0])

    def post(self, place: str, *command: Any) -> None:
        """Write some time soon, in order per node, best effort. Cannot block."""
        lane = self._lanes[CLUSTER if self._cluster is not None else self._place(place)]
        if len(lane.posts) >= self.settings.posts:
            self._dropped.add()
            return
        lane.posts.append((place, command))
        lane.wake.set()

    async def _write(self, lane: Lane) -> None:
        while True:
            await lane.wake.wait()
            lane.wake.clear()
            while lane.posts:
                await asyncio.sleep(0)  # what the same turn posts joins the batch
                batch = [lane.posts.popleft() for _ in range(min(len(lane.posts), self.settings.pipeline))]
                await self.run(batch)

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:  # a cluster's nodes come and go; the client is one
            lane = self._lanes[name] = Lane(name, self._lanes[CLUSTER].client, self.settings)
        return lane

    def _place(self, place: str) -> str:
        """The node of a place where nodes are fixed."""
        name = self._placed.get(place)
        if name is None:
            if len(self._placed) >= PLACES:
                self._placed.clear()
            name = self._placed[place] = placed(place, self.nodes)
        return name

    def _served(self, place: str) -> str:
        """The lane of a place."""
        if self._cluster is None:
            return self._placed.get(place) or self._place(place)
        node = self.node_of(place)
        return CLUSTER if node is None else node.name

    async def _pipe(self, name: str, commands: Sequence[Command]) -> list[Any]:
        node = self.nodes.get(name)
        if node is not None and node.problem is not None:
            return [Unavailable(f"redis {name}: {node.problem}")] * len(commands)
        answers = await self._lane(name).pipe(commands)
        failed = sum(isinstance(one, Exception) for one in answers)
        if failed:
            self._failed.add(failed)
            self._stale = True
        return answers

    # -- describing and watching -------------------------------------------------------------------------------

    def _describe(self) -> None:
        settings = self.settings
        how: dict[str, Any] = {
            "credential_provider": credentials(settings),
            "socket_connect_timeout": settings.connect_timeout,
            "socket_timeout": settings.timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            **tls_arguments(settings),
        }
        if settings.mode == "cluster":
            how["retry"] = Retry(NoBackoff(), 1)
            starts = [ClusterNode(*split(address)) for address in settings.cluster]
            self._cluster = RedisCluster(startup_nodes=starts, require_full_coverage=False, **how)
            self._lanes[CLUSTER] = Lane(CLUSTER, self._cluster, settings)
            return
        if settings.sentinels:
            secret = settings.sentinel_password_file
            entry = {"credential_provider": FilePassword("", secret) if secret else None}
            self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                [split(address) for address in settings.sentinels], sentinel_kwargs={**how, **entry}, **how
            )
        for name in settings.shards:
            self.nodes[name] = Node(name, self._address(name))
            if self._sentinel is not None:
                client = self._sentinel.master_for(name)
            else:
                host, port = split(name)
                client = Redis(host=host, port=port, **how)
            self._lanes[name] = Lane(name, client, settings)

    def _address(self, name: str) -> Callable[[], Awaitable[Address]]:
        async def address() -> Address:
            if self._sentinel is None:
                return split(name)
            try:
                host, port = await self._sentinel.discover_master(name)
            except (*AWAY, MasterNotFoundError) as error:
                raise ConnectionError(said(error)) from error
            return str(host), int(port)

        return address

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat)
            await self._renew_passwords()
            await self._look()

    async def _look(self) -> None:
        if self._cluster is not None:
            await self._look_at_map(self._cluster)
        await asyncio.gather(*(self._look_at(node) for node in list(self.nodes.values())))

    async def _look_at_map(self, cluster: RedisCluster) -> None:
        if not self._stale and self.nodes and self.problems() is None:
            return
        self._stale = False
        try:
            async with asyncio.timeout(self.settings.connect_timeout * 2):
                if self.nodes:
                    await cluster.nodes_manager.initialize()
                else:
                    await cluster.initialize()
        except AWAY:
            self._stale = True
            return
        masters = {node.name: node for node in cluster.get_primaries()}
        for name in [name for name in self.nodes if name not in masters]:
            del self.nodes[name]
        for name, found in masters.items():
            if name not in self.nodes:
                self.nodes[name] = Node(name, _fixed(found.host, int(found.port)))
        for told in self._moves:
            told()

    async def _look_at(self, node: Node) -> None:
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                if self._cluster is not None:
                    target = self._cluster.get_node(node_name=node.name)
                    if target is None:
                        return
                    info = await self._cluster.execute_command("INFO", "replication", target_nodes=target)
                    info = info.get(node.name, info)
                else:
                    info = await self._lanes[node.name].client.info("replication")
        except AWAY as error:
            self._is(node, said(error))
            return
        if info["role"] != "master":
            node.generation += 1
            self._is(node, "is no master")
            return
        identity = (str(info["master_replid"]), "")
        if node.identity is not None and node.identity != identity:
            log.warning("redis: %s is not the server that it was: its tails are doubted", node.name)
            node.generation += 1
            for told in self._gaps:
                told(node)
        node.identity = identity
        self._is(node, None)

    def _is(self, node: Node, problem: str | None) -> None:
        if problem == node.problem:
            return
        if problem is None:
            log.info("redis: %s answers", node.name)
        elif node.problem is None or node.identity is None:
            log.warning("redis: %s does not answer: %s", node.name, problem)
        node.problem = problem

    async def _renew_passwords(self) -> None:
        if not self.settings.password_file:
            return
        try:
            now = read_password(self.settings.password_file)
        except OSError:
            return
        if now != self._passwords:
            self._passwords = now
            log.info("redis: the password's file changed: connecting anew")
            for node in self.nodes.values():
                node.generation += 1
            for lane in self._lanes.values():
                if isinstance(lane.client, RedisCluster):
                    self._stale = True
                else:
                    await lane.client.connection_pool.disconnect(inuse_connections=False)


def _fixed(host: str, port: int) -> Callable[[], Awaitable[Address]]:
    async def address() -> Address:
        return host, port

    return address
