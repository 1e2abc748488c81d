"""Groups of servers by kind, in a run folder and on a block of free ports: what tests and the stack start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from chatcluster_stack import fetch, ports
from chatcluster_stack.cassandra import cassandra
from chatcluster_stack.kafka import kafka
from chatcluster_stack.processes import Group
from chatcluster_stack.redis import cluster, sentinel, standalone

# Offsets in a block of ports. A cluster's nodes take + 10,000, too.
_OFFSETS: dict[str, list[int]] = {
    "redis": [0],
    "redis2": [0],
    "redis_cluster": [0, 10_000],
    "redis_sentinel": [0, 1],
    "kafka": [0, 1, 2],
    "kafka3": [0, 1, 2],
    "cassandra": [0, 1, 2],
    "cassandra3": [0, 1, 2, 3, 4],
}
_KINDS: dict[str, Callable[[Path, int], Group]] = {
    "redis": standalone,
    "redis2": lambda folder, base: standalone(folder, base, count=2),
    "redis_cluster": cluster,
    "redis_sentinel": lambda folder, base: sentinel(folder, base, base + 1),
    "kafka": lambda folder, base: kafka(folder, base, base + 2),
    "kafka3": lambda folder, base: kafka(folder, base, base + 2, count=3),
    "cassandra": lambda folder, base: cassandra(folder, base, base + 1, base + 2),
    "cassandra3": lambda folder, base: cassandra(folder, base, base + 1, base + 2, count=3),
}
KINDS = tuple(_KINDS)


def run_folder(stack: str) -> Path:
    """Where a stack of this name keeps data, logs and pids."""
    return fetch.cache() / "run" / stack


def group(kind: str, stack: str, *, base: int | None = None, via: Mapping[str, str] | None = None) -> Group:
    """A group of one of ``KINDS``, not started yet; without ``base`` on a block of ports free now.

    ``via``: brokers (``kafka-1``) to the addresses that they tell their clients: proxies'.
    """
    folder, base = run_folder(stack) / kind, ports.block(_OFFSETS[kind]) if base is None else base
    told = {int(name[6:]): address for name, address in (via or {}).items() if name.startswith("kafka-")}
    if told and kind in {"kafka", "kafka3"}:
        return kafka(folder, base, base + 2, count=3 if kind == "kafka3" else 1, advertised=told)
    return _KINDS[kind](folder, base)
