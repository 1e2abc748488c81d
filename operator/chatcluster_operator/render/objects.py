"""What every child has: its head, and how it is put together. Pure."""

from __future__ import annotations

from typing import Any

from chatcluster_operator.names import Cluster

Object = dict[str, Any]


def child(
    cluster: Cluster,
    kind: str,
    api: str,
    what: str,
    component: str = "",
    *,
    annotations: dict[str, str] | None = None,
    **body: Any,
) -> Object:
    """A child named after its ChatCluster, owned by it, and found by its labels."""
    metadata: Object = {
        "name": cluster.child(what),
        "namespace": cluster.namespace,
        "labels": cluster.labels(component),
        "ownerReferences": [cluster.owner()],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **body}
