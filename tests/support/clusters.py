"""ChatClusters for tests."""

from __future__ import annotations

import copy
from typing import Any

from control_plane import ControlPlane

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


def secret(plane: ControlPlane, namespace: str, name: str = "tokens", value: str = "00" * 32) -> None:
    """The Secret that ``SPEC`` names."""
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"secret": value}}
    plane.apply(f"/api/v1/namespaces/{namespace}/secrets/{name}", body)


def conditions(plane: ControlPlane, namespace: str) -> dict[str, Any]:
    """Of the ChatCluster, by type."""
    status = plane.get(path_of(namespace)).get("status") or {}
    return {one["type"]: one for one in status.get("conditions") or ()}


def ready(plane: ControlPlane, namespace: str) -> bool:
    """Whether it is as its newest spec says."""
    found = conditions(plane, namespace).get("Ready", {})
    generation = plane.get(path_of(namespace))["metadata"]["generation"]
    return found.get("status") == "True" and found["observedGeneration"] == generation


def restricted_namespace(plane: ControlPlane, name: str) -> str:
    """It takes no pod that is not ``restricted``."""
    head = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    plane.apply(f"/api/v1/namespaces/{name}", {"apiVersion": "v1", "kind": "Namespace", "metadata": head})
    return name
