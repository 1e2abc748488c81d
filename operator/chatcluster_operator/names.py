"""Names and labels of everything that belongs to a ChatCluster."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from chatcluster_operator.group import GROUP

Component = Literal["gateway", "router", "persister", "presence"]
COMPONENTS: tuple[Component, ...] = ("persister", "router", "presence", "gateway")
"""In the order of an upgrade: who reads the log understands it before anybody writes it anew."""

MANAGER = "chatcluster-operator"
"""Field manager, and the value of ``app.kubernetes.io/managed-by``."""

REVISION = f"{GROUP}/revision"
"""Label of a gateway's Deployment and its pods: the hash of the pod template."""
TEMPLATE = f"{GROUP}/template"
"""Annotation of another component's Deployment: the hash of the pod template that it was last given."""
CONFIG_HASH = f"{GROUP}/config-hash"
SECRETS_HASH = f"{GROUP}/secrets-hash"
VERSION = f"{GROUP}/version"
HASH = f"{GROUP}/applied-hash"
"""Annotation of a child: the hash of what was applied, so that a second pass knows that nothing is new."""

COST = "controller.kubernetes.io/pod-deletion-cost"
"""Annotation of a pod, read by its controller: of those that are ready the cheapest is ended first."""

SOCKETS, MANAGEMENT, LINK = 8080, 8081, 8090
"""Ports: of clients, of probes with metrics (and a router's server API), of links from gateways."""


@dataclass(frozen=True)
class Cluster:
    """Which ChatCluster."""

    namespace: str
    name: str
    uid: str = ""

    def child(self, what: str) -> str:
        """The name of a child."""
        return f"{self.name}-{what}"

    def labels(self, component: str = "") -> dict[str, str]:
        """Of a child: the inventory by which children that are not wanted any more are found."""
        found = self.selector(component)
        found["app.kubernetes.io/managed-by"] = MANAGER
        found["app.kubernetes.io/part-of"] = "chatcluster"
        return found

    def selector(self, component: str = "") -> dict[str, str]:
        """The labels that select pods; never changed, as selectors cannot be."""
        found = {"app.kubernetes.io/name": "chatcluster", "app.kubernetes.io/instance": self.name}
        if component:
            found["app.kubernetes.io/component"] = component
        return found

    def owner(self) -> dict[str, Any]:
        """The owner reference of every child: deleting the ChatCluster takes them along."""
        return {
            "apiVersion": f"{GROUP}/v1",
            "kind": "ChatCluster",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


def hash_of(what: object) -> str:
    """Of anything that is JSON, 10 hexadecimal characters."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:10]
