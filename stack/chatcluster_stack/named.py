"""A stack by name: its servers and the platform on them, kept in its run folder so that later commands find it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from chatcluster_stack import ports
from chatcluster_stack.partitions import Partitions, partitions
from chatcluster_stack.platform import PORTS, Platform, Roles, unlimited, why_not
from chatcluster_stack.processes import Group, Node, together
from chatcluster_stack.servers import group, run_folder

STEP = 10
"""Ports of each kind of server."""
USUAL = ("redis2", "kafka3", "cassandra")


class Unknown(Exception):
    """No stack, or no process, of this name; the text lists what there is."""


class Record(msgspec.Struct, frozen=True):
    """``stack.json``: first port by kind of server, and the roles."""

    servers: dict[str, int]
    roles: Roles | None = None


class Stack:
    """Groups of servers under one name and, with ``roles``, the platform."""

    def __init__(self, name: str, record: Record) -> None:
        self.name = name
        self.record = record
        via = None if record.roles is None else record.roles.via
        self.servers: dict[str, Group] = {
            kind: group(kind, name, base=base, via=via) for kind, base in record.servers.items()
        }
        self.groups = dict(self.servers)
        """Servers first: the order in which they start."""
        self._platform: Platform | None = None
        if record.roles is not None:
            self._platform = Platform(run_folder(name) / "platform", record.roles, self.servers)
            self.groups["platform"] = self._platform

    @classmethod
    def described(cls, name: str, kinds: Sequence[str], *, first_port: int, roles: Roles | None = None) -> Stack:
        """A stack not started yet: each kind on ten ports of its own from ``first_port``."""
        return cls(name, Record({kind: first_port + STEP * place for place, kind in enumerate(kinds)}, roles))

    @classmethod
    def recorded(cls, name: str) -> Stack:
        """The stack that was started under this name. Raises ``Unknown``."""
        try:
            return cls(name, msgspec.json.decode((run_folder(name) / "stack.json").read_bytes(), type=Record))
        except FileNotFoundError:
            raise Unknown(f"no stack named {name!r} was started") from None

    @property
    def nodes(self) -> dict[str, Node]:
        """Every process by name."""
        return {name: node for one in self.groups.values() for name, node in one.nodes.items()}

    def node(self, name: str) -> Node:
        """One process. Raises ``Unknown``."""
        if name not in self.nodes:
            raise Unknown(f"no process {name!r}; there are {', '.join(self.nodes)}")
        return self.nodes[name]

    @property
    def platform(self) -> Platform:
        """The roles. Raises ``Unknown`` where the stack is servers alone."""
        if self._platform is None:
            raise Unknown(f"stack {self.name!r} has servers alone")
        return self._platform

    def targets(self) -> dict[str, str]:
        """Where every process listens to which others connect, by name; of a Redis Cluster and sentinels none."""
        found: dict[str, str] = {}
        for kind, servers in self.servers.items():
            if kind.rstrip("23") in ("redis", "kafka", "cassandra"):
                found |= dict(zip(servers.nodes, servers.address.split(","), strict=True))
        if self.record.roles is not None:
            roles = self.record.roles
            found |= {
                name: roles.listen(name) for role in ("router", "presence", "gateway") for name in roles.names(role)
            }
        return found

    # -- the platform, for tests ------------------------------------------------------------------------

    @property
    def urls(self) -> list[str]:
        """Of the gateways' sockets."""
        return self.platform.urls

    @property
    def key(self) -> bytes:
        """What tokens are signed with."""
        return self.platform.key

    @property
    def api(self) -> str:
        """``http://host:port`` of the server API."""
        return self.platform.api

    @property
    def api_key(self) -> str:
        """Its bearer key."""
        return self.platform.api_key

    def ready(self) -> bool:
        """Whether every process runs and answers, and every role is ready."""
        return all(node.answers() for node in self.nodes.values())

    def problems(self) -> dict[str, str]:
        """What is wrong, by name; empty when all is well."""
        found = {name: "down" for name, node in self.nodes.items() if node.pid is None}
        for name in self.platform.nodes if self._platform else ():
            if name not in found and (why := why_not(self.platform.management(name))) is not None:
                found[name] = why
        return found

    # -- running ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts what does not run; recorded first, so that ``stop`` finds what a failure left."""
        run_folder(self.name).mkdir(parents=True, exist_ok=True)
        (run_folder(self.name) / "stack.json").write_bytes(msgspec.json.encode(self.record))
        together(lambda servers: servers.start(), self.servers.values())
        if self._platform is not None:
            self._platform.start()

    def heal(self) -> None:
        """Wakes what is paused, starts what is down, and waits until all answer."""
        down = [node for node in self.nodes.values() if node.pid is None]
        for node in self.nodes.values():
            node.resume()
        for node in down:
            node.start(wait=False)
        for node in self.nodes.values():
            node.wait_ready()
        if down and self._platform is not None:
            self._platform.describe()

    def stop(self, *, wipe: bool = False) -> None:
        """Ends every process, the platform's first; data stays unless wiped."""
        if self._platform is not None:
            self._platform.stop(wipe=wipe)
        together(lambda servers: servers.stop(wipe=wipe), list(self.servers.values()))


@contextmanager
def platform(
    name: str,
    kinds: Sequence[str] = USUAL,
    *,
    first_port: int | None = None,
    settings: Mapping[str, str] | None = None,
    without_limits: bool = False,
    **roles: Any,
) -> Iterator[Stack]:
    """A whole platform for the time of the block; nothing of it is left afterwards.

    ``kinds``: servers. ``settings``: environment of all roles. ``roles``: more fields of ``Roles``, such as
    ``gateways=3``, ``own={"router-1": {...}}``, ``via={"redis-1": "127.0.0.1:1234"}``. Calls block.
    """
    servers = STEP * len(kinds)
    if first_port is None:
        first_port = ports.block(range(servers + PORTS), first=12_000, step=200)
    environment = unlimited(settings) if without_limits else dict(settings or {})
    asked = Roles(base=first_port + servers, settings=environment, **roles)
    stack = Stack.described(name, kinds, first_port=first_port, roles=asked)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop(wipe=True)
        shutil.rmtree(run_folder(name), ignore_errors=True)


@contextmanager
def partitioned(
    name: str, kinds: Sequence[str] = USUAL, *, settings: Mapping[str, str] | None = None, **roles: Any
) -> Iterator[tuple[Stack, Partitions]]:
    """The same with a proxy before each process that others connect to: ``partitions.cut("router-1")``."""
    first_port = ports.block(range(STEP * len(kinds) + PORTS), first=12_000, step=200)
    asked = Roles(base=first_port + STEP * len(kinds), **roles)
    where = Stack.described(name, kinds, first_port=first_port, roles=asked).targets()
    with (
        partitions(where) as between,
        platform(name, kinds, first_port=first_port, settings=settings, via=between.via, **roles) as stack,
    ):
        yield stack, between
