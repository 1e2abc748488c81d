"""The platform's own roles as processes: routers, persisters, presences and gateways on servers that run."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from chatcluster.app.bench.subject import UNLIMITED, Description
from chatcluster.app.tokens import API_KEY, SIGNING_KEY, ensure_secrets, read_key
from chatcluster_stack import ports
from chatcluster_stack.processes import Group, Node, NotReady, inherited

LINK_KEY = "link.key"
_ROLES = ("router", "persister", "presence", "gateway")
# Of the ports of a platform: ten of each, so at most nine processes of a role.
_LISTEN = {"gateway": 0, "router": 10, "presence": 20}
_MANAGEMENT = {"gateway": 30, "router": 40, "presence": 50, "persister": 60}
PORTS = 70
_PROBE = 2.0
"""Seconds for an answer of a management address."""

_GROUPED = {"batch_rows": 10, "batches_in_flight": 64}
"""For ``commitlog_sync: group`` (a single Cassandra's): each partition of a batch waits for the disk with a writer of
its own, so that a batch of many is as late as its last one (docs/cassandra.md)."""


class Roles(msgspec.Struct, frozen=True, kw_only=True):
    """How many of each role, on which ports, with which settings."""

    base: int
    """First of ``PORTS`` ports."""
    routers: int = 2
    persisters: int = 2
    presences: int = 1
    gateways: int = 2
    settings: dict[str, str] = {}
    """Environment of every process: settings as ``CHATCLUSTER_SECTION__KEY``, or anything else."""
    own: dict[str, dict[str, str]] = {}
    """The same for one process (``gateway-1``) or one role (``gateway``); the process's goes before the role's."""
    via: dict[str, str] = {}
    """Process (``redis-1``, ``router-2``) to the ``host:port`` that all others are told instead: a proxy's."""
    demo: bool = True
    """Whether gateway-1 has the demo's users."""

    def names(self, role: str) -> list[str]:
        """Its processes."""
        return [f"{role}-{i}" for i in range(1, getattr(self, f"{role}s") + 1)]

    def listen(self, name: str) -> str:
        """Where a gateway listens for clients, a router or presence for links."""
        return self._address(_LISTEN, name)

    def told(self, name: str) -> str:
        """Where others are told that it listens."""
        return self.via.get(name, self.listen(name))

    def management(self, name: str) -> str:
        """Probes, metrics and, of routers, the server API."""
        return self._address(_MANAGEMENT, name)

    def _address(self, offsets: Mapping[str, int], name: str) -> str:
        role, _, number = name.rpartition("-")
        return f"127.0.0.1:{self.base + offsets[role] + int(number)}"

    def ports(self) -> list[int]:
        """All that the processes listen on."""
        found = [self.listen(name) for role in _LISTEN for name in self.names(role)]
        found += [self.management(name) for role in _MANAGEMENT for name in self.names(role)]
        return [int(address.rpartition(":")[2]) for address in found]


def unlimited(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """``settings`` and no limit of rate: load comes from one address and few users, as no attack does."""
    return {**UNLIMITED, **(settings or {})}


class Platform(Group):
    """The roles' processes. ``servers``: the groups they need, by kind."""

    def __init__(self, folder: Path, roles: Roles, servers: Mapping[str, Group]) -> None:
        self.folder = folder
        self.roles = roles
        self.config = folder / "platform.toml"
        self.bench = folder / "bench.json"
        """For ``chatcluster bench SCENARIO --platform FILE``."""
        self._servers = servers
        nodes = [self._node(name) for role in _ROLES for name in roles.names(role)]
        super().__init__(nodes, ",".join(roles.listen(name) for name in roles.names("gateway")))

    # -- where things are -----------------------------------------------------------------------------

    @property
    def urls(self) -> list[str]:
        """Of the gateways' sockets."""
        return [f"ws://{self.roles.told(name)}" for name in self.roles.names("gateway")]

    @property
    def page(self) -> str:
        """Of the demo, at gateway-1."""
        return f"http://{self.roles.listen('gateway-1')}/"

    @property
    def api(self) -> str:
        """Of the server API, at router-1."""
        return f"http://{self.roles.management('router-1')}"

    @property
    def key(self) -> bytes:
        """What tokens are signed with."""
        return read_key(self.folder / SIGNING_KEY)

    @property
    def api_key(self) -> str:
        """Bearer key of the server API, for the tenant ``default``."""
        return (self.folder / API_KEY).read_text().strip()

    def management(self, name: str) -> str:
        """``http://host:port`` of a process's probes and metrics."""
        return f"http://{self.roles.management(name)}"

    # -- running --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Migrates, starts what does not run, returns when all are ready. The servers run already."""
        if all(node.pid is None for node in self.nodes.values()):
            ports.check(self.roles.ports())
        self.write()
        self.migrate()
        for node in self.nodes.values():
            node.start(wait=False)
        for node in self.nodes.values():
            node.wait_ready()
        self.describe()

    def stop(self, *, wipe: bool = False) -> None:
        """Ends every process: first gateways, so that nobody asks a router that is gone."""
        for role in reversed(_ROLES):
            names = self.roles.names(role)
            for name in names:  # all are told, then all are waited for
                if not wipe:
                    self.nodes[name].ask_to_leave()
            for name in names:
                node = self.nodes[name]
                node.wipe() if wipe else node.term()

    def write(self) -> None:
        """Secrets, made once, and the settings of all roles."""
        ensure_secrets(self.folder)
        link = self.folder / LINK_KEY
        if not link.exists():
            link.touch(0o600)
            link.write_text(secrets.token_urlsafe(32) + "\n")
        lines = []
        for section, values in self._sections().items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
        self.config.write_text("\n".join(lines))

    def migrate(self) -> None:
        """``chatcluster migrate``. Raises ``NotReady`` with what it said."""
        command = [sys.executable, "-m", "chatcluster", "migrate", "--config", str(self.config)]
        environment = {**inherited(), **self.roles.settings}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise NotReady(f"migrate failed: {(done.stdout + done.stderr).strip()[-600:]}")

    def describe(self) -> None:
        """Writes ``bench.json`` with the pids of now."""
        stages: dict[str, list[int]] = {}
        servers = [node for group in self._servers.values() for node in group.nodes.values()]
        for node in [*self.nodes.values(), *servers]:
            if (pid := node.pid) is not None:
                stages.setdefault(node.name.rpartition("-")[0], []).append(pid)
        description = Description(
            urls=self.urls,
            api=self.api,
            signing_key=str(self.folder / SIGNING_KEY),
            api_key=str(self.folder / API_KEY),
            management=[self.management(name) for name in self.nodes],
            stages=stages,
            messaging=["gateway", "router"],
            kafka=",".join(self._kafka()),
        )
        self.bench.write_bytes(msgspec.json.format(msgspec.json.encode(description)))

    # -- settings -------------------------------------------------------------------------------------

    def _sections(self) -> dict[str, dict[str, object]]:
        roles = self.roles
        brokers, cassandra = self._kafka(), self._addresses("cassandra")
        copies = 3 if len(brokers) >= 3 else 1
        link = str(self.folder / LINK_KEY)
        return {
            "process": {"grace": 15.0},
            "auth": {"secret_file": str(self.folder / SIGNING_KEY)},
            "api": {"keys_file": str(self.folder / API_KEY)},
            "redis": self._redis(),
            "kafka": {
                "bootstrap_servers": brokers,
                "message_partitions": 8,
                "inbox_partitions": 8,
                "other_partitions": 2,
                "replication_factor": copies,
                "min_insync_replicas": 2 if copies == 3 else 1,
            },
            "cassandra": {
                "contact_points": [address.rpartition(":")[0] for address in cassandra],
                "port": int(cassandra[0].rpartition(":")[2]),
                "replication_factor": 3 if len(cassandra) >= 3 else 1,
                **({} if len(cassandra) >= 3 else _GROUPED),
            },
            "routers": {"addresses": [roles.told(name) for name in roles.names("router")], "secret_file": link},
            "presences": {"addresses": [roles.told(name) for name in roles.names("presence")], "secret_file": link},
            "link": {"secret_file": link, "leaving": 8.0},
            # Leaving takes seconds here, not a minute: no balancer has to notice, and few are connected.
            "gateway": {"drain_propagation": 0.5, "drain_notice": 0.5, "drain_deadline": 8.0},
        }

    def _redis(self) -> dict[str, object]:
        if "redis_cluster" in self._servers:
            return {"mode": "cluster", "cluster": self._addresses("redis_cluster")}
        if "redis_sentinel" in self._servers:
            master, _, sentinel = self._servers["redis_sentinel"].address.partition("@")
            return {"shards": [master], "sentinels": [sentinel]}
        # A router that is started again after its Redis was waits for one lease: here a third of the default.
        return {"shards": self._addresses("redis"), "lease": 30.0}

    def _kafka(self) -> list[str]:
        return self._addresses("kafka")

    def _addresses(self, what: str) -> list[str]:
        """The servers' addresses, a proxy's where there is one."""
        for kind, group in self._servers.items():
            if kind.rstrip("23") == what:
                return [self.roles.via.get(f"{what}-{i}", one) for i, one in enumerate(group.address.split(","), 1)]
        raise NotReady(f"a platform needs {what}; there are {', '.join(self._servers) or 'no servers'}")

    def _node(self, name: str) -> Node:
        role, roles = name.rpartition("-")[0], self.roles
        command = [sys.executable, "-m", "chatcluster", role, "--config", str(self.config)]
        command += ["--management", roles.management(name)]
        environment = {"CHATCLUSTER_PROCESS__NAME": name, "PYTHONUNBUFFERED": "1", **roles.settings}
        if role == "gateway":
            command += ["--listen", roles.listen(name)]
            command += ["--demo"] if roles.demo and name == "gateway-1" else []
        elif role in _LISTEN:
            environment["CHATCLUSTER_LINK__LISTEN"] = roles.listen(name)
        environment.update({**roles.own.get(role, {}), **roles.own.get(name, {})})
        ready = self._ready(name)
        return Node(name, command, self.folder / name, environment=environment, ready=ready, patience=120)

    def _ready(self, name: str) -> Callable[[], bool]:
        return lambda: why_not(self.management(name)) is None


def why_not(management: str) -> str | None:
    """What ``/readyz`` says is wrong; None: ready."""
    try:
        with urllib.request.urlopen(f"{management}/readyz", timeout=_PROBE):  # noqa: S310  an address of ours
            return None
    except urllib.error.HTTPError as error:
        lines = error.read().decode(errors="replace").splitlines()
        return "; ".join(line for line in lines if not line.endswith(": ok"))
    except OSError as error:
        return str(getattr(error, "reason", error))


def scraped(management: str) -> dict[str, float]:
    """Metrics of a process by name, summed over their labels; empty when it does not answer."""
    try:
        with urllib.request.urlopen(f"{management}/metrics", timeout=_PROBE) as answer:  # noqa: S310
            text = answer.read().decode(errors="replace")
    except OSError:
        return {}
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0].removeprefix("chatcluster_")
            found[name] = found.get(name, 0.0) + float(value)
    return found
