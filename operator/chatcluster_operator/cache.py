"""What the watches told last of ChatClusters and their children, in whatever order they told it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from chatcluster_operator.observed import Child, trimmed

Key = tuple[str, str]
"""Namespace and name of a ChatCluster."""
Object = Mapping[str, Any]


@dataclass
class Cache:
    """What the watches told last."""

    clusters: dict[Key, Object] = field(default_factory=dict)
    _children: dict[Key, dict[Child, tuple[int, bytes]]] = field(default_factory=dict)
    """Version and JSON: a tenth of what objects take, and read only when one looks."""

    def tell(self, key: Key, raw: Object) -> None:
        """A ChatCluster as it is, or was before what is known of it already."""
        known = self.clusters.get(key)
        head = raw["metadata"]
        if known is None or known["metadata"]["uid"] != head["uid"] or _version(known) <= _version(raw):
            self.clusters[key] = {**raw, "metadata": {name: head[name] for name in head if name != "managedFields"}}

    def forget(self, key: Key, uid: str) -> None:
        """This ChatCluster is no more; another one of its name may be."""
        if key in self.clusters and self.clusters[key]["metadata"]["uid"] == uid:
            del self.clusters[key]

    def put(self, key: Key, thing: Object) -> bool:
        """A child as it is, or was; whether it became another in anything that counts."""
        mine = self._children.setdefault(key, {})
        child, version = Child.of(thing), _version(thing)
        before = mine.get(child)
        if before is not None and version < before[0]:
            return False  # what we wrote was answered sooner than the watch told of what was there before
        raw = msgspec.json.encode(trimmed(thing))
        mine[child] = version, raw
        return before is None or before[1] != raw

    def drop(self, key: Key, child: Child, version: int) -> bool:
        """A child went; whether that was the one known."""
        mine = self._children.get(key, {})
        if child not in mine or mine[child][0] > version:
            return False
        del mine[child]
        if not mine:
            del self._children[key]
        return True

    def children(self, key: Key) -> dict[Child, Object]:
        """Of a cluster."""
        return {child: msgspec.json.decode(raw) for child, (_, raw) in self._children.get(key, {}).items()}

    def strangers(self, kind: str, namespace: str | None, seen: set[tuple[Key, str]]) -> list[tuple[Key, Child]]:
        """Children of a kind that are known, and not among those seen."""
        return [
            (key, child)
            for key, mine in self._children.items()
            if namespace in (None, key[0])
            for child in mine
            if child.kind == kind and (key, child.name) not in seen
        ]


def _version(thing: Object) -> int:
    # Versions are compared as numbers, as Kubernetes promises since 1.35 and keeps to since its beginning.
    return int(thing["metadata"].get("resourceVersion") or 0)
