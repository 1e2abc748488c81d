"""Real Redis: single nodes, a cluster of three, a group watched by sentinels."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from chatcluster_stack import fetch, ports
from chatcluster_stack.processes import Group, Node, wait_for

MASTER = "chatcluster"
"""Name of the sentinels' master."""


def standalone(folder: Path, port: int, *, count: int = 1, extra: Sequence[str] = (), password: str = "") -> Group:
    """``redis-1`` … on 127.0.0.1, 127.0.0.2, …: independent of each other."""
    lines = [*extra, *([f"requirepass {password}"] if password else [])]
    nodes = [_node(folder, f"redis-{i}", f"127.0.0.{i}", port, lines, password) for i in range(1, count + 1)]
    return _Redis(nodes, ",".join(f"127.0.0.{i}:{port}" for i in range(1, count + 1)), [port])


def cluster(folder: Path, port: int) -> Group:
    """``redis-cluster-1..3``: three masters without replicas; their bus listens at ``port`` + 10,000."""
    nodes = []
    for i in (1, 2, 3):
        lines = ["cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-node-timeout 2000"]
        lines += [f"cluster-announce-ip 127.0.0.{i}", "cluster-require-full-coverage no"]
        nodes.append(_node(folder, f"redis-cluster-{i}", f"127.0.0.{i}", port, lines))
    return _Cluster(nodes, f"127.0.0.1:{port}", [port, port + 10_000])


def sentinel(folder: Path, port: int, sentinel_port: int) -> Group:
    """``redis-ha-1`` (first master), ``redis-ha-2``, ``redis-ha-3`` and ``sentinel-1..3``."""
    nodes = [_node(folder, "redis-ha-1", "127.0.0.1", port, ["replica-announce-ip 127.0.0.1"])]
    for i in (2, 3):
        lines = [f"replicaof 127.0.0.1 {port}", "repl-diskless-sync-delay 0", f"replica-announce-ip 127.0.0.{i}"]
        nodes.append(_node(folder, f"redis-ha-{i}", f"127.0.0.{i}", port, lines))
    nodes += [_sentinel(folder, i, port, sentinel_port) for i in (1, 2, 3)]
    return _Sentinel(nodes, f"{MASTER}@127.0.0.1:{sentinel_port}", [port, sentinel_port])


def command(address: str, port: int, *words: str, password: str = "") -> str:
    """What ``redis-cli`` answers."""
    asked = ["redis-cli", "-h", address, "-p", str(port), *words]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", **({"REDISCLI_AUTH": password} if password else {})}
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=10, env=environment)
    return done.stdout.strip()


class _Redis(Group):
    def __init__(self, nodes: Sequence[Node], address: str, wanted: Sequence[int]) -> None:
        super().__init__(nodes, address)
        self._wanted = wanted

    def start(self) -> None:
        fetch.redis()
        if all(node.pid is None for node in self.nodes.values()):
            ports.check(self._wanted)
        super().start()


class _Cluster(_Redis):
    def start(self) -> None:
        super().start()
        port = int(self.address.rpartition(":")[2])
        if "cluster_state:ok" not in command("127.0.0.1", port, "cluster", "info"):
            members = [f"127.0.0.{i}:{port}" for i in (1, 2, 3)]
            command("127.0.0.1", port, "--cluster", "create", *members, "--cluster-replicas", "0", "--cluster-yes")
        for i in (1, 2, 3):
            wait_for(_says(f"127.0.0.{i}", port, "cluster_state:ok", "cluster", "info"), timeout=20, what="cluster")


class _Sentinel(_Redis):
    def start(self) -> None:
        super().start()
        port = int(self.address.rpartition(":")[2])
        for i in (1, 2, 3):
            wait_for(
                _says(f"127.0.0.{i}", port, "OK 3 usable", "sentinel", "ckquorum", MASTER), timeout=20, what="quorum"
            )
        wait_for(_says("127.0.0.1", port, "num-slaves\n2", "sentinel", "master", MASTER), timeout=20, what="replicas")


def _says(address: str, port: int, wanted: str, *words: str) -> Callable[[], bool]:
    return lambda: wanted in command(address, port, *words)


def _node(folder: Path, name: str, address: str, port: int, lines: Sequence[str], password: str = "") -> Node:
    home = folder / name
    settings = [f"bind {address}", f"port {port}", "protected-mode no", "daemonize no", f"dir {home / 'data'}"]
    settings += ['save ""', "appendonly yes", "appendfsync everysec", 'logfile ""', *lines]

    def prepare() -> None:
        conf = home / "redis.conf"
        conf.write_text("\n".join(settings) + "\n")
        conf.chmod(0o600)

    ready = _says(address, port, "PONG", "ping")
    if password:
        ready = lambda: "PONG" in command(address, port, "ping", password=password)  # noqa: E731
    return Node(name, ["redis-server", str(home / "redis.conf")], home, prepare=prepare, ready=ready)


def _sentinel(folder: Path, i: int, port: int, sentinel_port: int) -> Node:
    home = folder / f"sentinel-{i}"
    conf = home / "data" / "sentinel.conf"  # the sentinel writes what it learns into it
    settings = [f"bind 127.0.0.{i}", f"port {sentinel_port}", f"dir {home / 'data'}", "protected-mode no"]
    settings += [f"sentinel announce-ip 127.0.0.{i}", f"sentinel monitor {MASTER} 127.0.0.1 {port} 2"]
    settings += [f"sentinel down-after-milliseconds {MASTER} 1500", f"sentinel failover-timeout {MASTER} 5000"]
    settings += [f"sentinel parallel-syncs {MASTER} 1"]

    def prepare() -> None:
        if not conf.exists():
            conf.write_text("\n".join(settings) + "\n")

    ready = _says(f"127.0.0.{i}", sentinel_port, "PONG", "ping")
    return Node(f"sentinel-{i}", ["redis-server", str(conf), "--sentinel"], home, prepare=prepare, ready=ready)
