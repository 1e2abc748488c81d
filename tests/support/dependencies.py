"""Redis, Kafka and Cassandra beside real nodes: on their bridge, where pods reach them. Small, and one of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatcluster_stack.cassandra import cassandra
from chatcluster_stack.kafka import kafka
from chatcluster_stack.processes import together
from chatcluster_stack.redis import standalone
from keeper import HUB


@contextmanager
def dependencies(folder: Path) -> Iterator[dict[str, Any]]:
    """``spec.dependencies`` of a ChatCluster, for the time of the block. The network is ours alone: ports are fixed,

    and servers that listen on every address listen to nobody else.
    """
    groups = [
        standalone(folder / "a", 6379, extra=[f"bind 127.0.0.1 {HUB}"]),
        standalone(folder / "b", 6380, extra=[f"bind 127.0.0.1 {HUB}"]),
        kafka(
            folder, 9092, 9094,
            advertised={1: f"{HUB}:9092"},
            extra={"listeners": "CLIENT://0.0.0.0:9092,INNER://127.0.0.1:9093,CONTROLLER://127.0.0.1:9094"},
        ),
        cassandra(
            folder, 9042, 7000, 7199,
            heap="384m",
            extra={"rpc_address": "0.0.0.0", "broadcast_rpc_address": HUB},
        ),
    ]  # fmt: skip
    try:
        together(lambda group: group.start(), groups)
        yield {
            "redis": {"mode": "sharded", "endpoints": [f"{HUB}:6379", f"{HUB}:6380"]},
            "kafka": {
                "bootstrapServers": [f"{HUB}:9092"],
                "topics": {"messages": {"partitions": 16}, "inbox": {"partitions": 8}},
                "replicationFactor": 1,
                "minInsyncReplicas": 1,
            },
            "cassandra": {"contactPoints": [HUB], "replicationFactor": 1},
        }
    finally:
        together(lambda group: group.stop(wipe=True), groups)
