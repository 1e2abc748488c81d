"""ChatClusters for tests."""

from __future__ import annotations

import copy
from typing import Any

SPEC: dict[str, Any] = {
    "version": "1.0.0",
    "auth": {"secretRef": {"name": "tokens", "key": "secret"}},
    "dependencies": {
        "redis": {"mode": "sharded", "endpoints": ["redis-1:6379", "redis-2:6379"]},
        "kafka": {"bootstrapServers": ["kafka:9092"], "topics": {"messages": {"partitions": 16}}},
        "cassandra": {"contactPoints": ["cassandra"], "keyspace": "chat"},
    },
    "gateway": {"replicas": 2},
    "router": {"replicas": 2},
}


def changed(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one field of it another; a value of None takes it away."""
    found = copy.deepcopy(spec)
    at = found
    *above, last = path.split(".")
    for part in above:
        at = at.setdefault(part, {})
    if value is None:
        at.pop(last, None)
    else:
        at[last] = value
    return found


def cluster(namespace: str, name: str = "main", **spec: Any) -> dict[str, Any]:
    """The object."""
    return {
        "apiVersion": "chatcluster.dev/v1",
        "kind": "ChatCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**copy.deepcopy(SPEC), **spec},
    }


def path_of(namespace: str, name: str = "main") -> str:
    """Where the API has it."""
    return f"/apis/chatcluster.dev/v1/namespaces/{namespace}/chatclusters/{name}"
