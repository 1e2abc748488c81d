"""The only room that knows kopf: its watches fill the cache and say which cluster to look at. Nothing else.

No handler writes, and kopf keeps nothing in the objects: no finalizers, no annotations, no state.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
from collections.abc import Iterator
from typing import Any

import kopf

from chatcluster_operator.names import MANAGER
from chatcluster_operator.reconciler import KINDS, Reconciler
from chatcluster_operator.render import OPTIONAL
from chatcluster_operator.spec import GROUP, PLURAL, VERSION

_PLURALS = {
    "ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps", "Service": "services",
    "Pod": "pods", "Deployment": "deployments", "StatefulSet": "statefulsets", "Job": "jobs",
    "PodDisruptionBudget": "poddisruptionbudgets", "NetworkPolicy": "networkpolicies", "Ingress": "ingresses",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
}  # fmt: skip


class _Backoffs:
    """For ever, with jitter: an API server that is away for long ends no operator (kopf's own list does)."""

    def __iter__(self) -> Iterator[float]:
        return (random.uniform(0.5, 1.0) * min(30.0, 2.0**n) for n in (min(n, 5) for n in itertools.count()))


def settings_for(settings: kopf.OperatorSettings) -> None:
    """What is known to matter, each with its reason."""
    settings.posting.enabled = False  # events are ours, one per change
    settings.posting.loggers = False
    settings.peering.standalone = True  # the Lease elects; equal priorities would pause all
    settings.scanning.disabled = True  # no cluster-wide list of namespaces and definitions needed
    settings.networking.error_backoffs = _Backoffs()
    settings.networking.enforce_retry_after = True
    settings.networking.request_timeout = 30
    settings.watching.server_timeout = 300
    settings.watching.inactivity_timeout = 70  # a stream without even a bookmark is dead
    # No limit: every worker waits for all indices, so with more objects of a kind than workers a start never ends.
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 0.1  # a worker for each object, but for a moment
    settings.persistence.finalizer = f"{GROUP}/unused"
    settings.persistence.consistency_timeout = 0  # kopf writes nothing that it would have to wait for


def registry_for(reconciler: Reconciler) -> kopf.OperatorRegistry:
    """The watches: ChatClusters, and what carries our labels."""
    registry = kopf.OperatorRegistry()
    cache = reconciler.cache

    @kopf.on.login(registry=registry)
    async def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        ours = kopf.login_with_service_account(**arguments)
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
        if ours is None or not host or not port:
            return ours or kopf.login_with_kubeconfig(**arguments)
        # Where the client speaks to as well; kopf's own is a name, and a cluster's DNS may be away.
        return dataclasses.replace(ours, server=f"https://{f'[{host}]' if ':' in host else host}:{port}")

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings_for(settings)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def cluster(
        type: str | None,  # noqa: A002 - kopf's name
        body: kopf.Body,
        namespace: str | None,
        name: str,
        **_: Any,
    ) -> None:
        key = (namespace or "", name)
        if type == "DELETED":
            cache.clusters.pop(key, None)
        else:
            cache.clusters[key] = dict(body)
        reconciler.look(key)

    ours = {"app.kubernetes.io/managed-by": MANAGER}

    def watched(group: str, version: str, plural: str, api: str, kind: str) -> None:
        def put(body: kopf.Body, namespace: str | None, labels: kopf.Labels, *, gone: bool) -> None:
            instance = labels.get("app.kubernetes.io/instance")
            if instance is None or namespace is None:
                return
            thing = {**dict(body), "apiVersion": api, "kind": kind}
            key = (namespace, instance)
            cache.put(key, thing, gone=gone)
            if key in cache.clusters:
                reconciler.look(key)

        # As an index, since kopf calls no handler before all indices are filled: no look sees half of a cluster.
        @kopf.index(group, version, plural, labels=ours, id=f"{plural}-seen", registry=registry)
        async def seen(body: kopf.Body, namespace: str | None, labels: kopf.Labels, **_: Any) -> dict[str, str]:
            put(body, namespace, labels, gone=False)
            return {}

        @kopf.on.event(group, version, plural, labels=ours, id=f"{plural}-gone", registry=registry)
        async def gone(
            type: str | None,  # noqa: A002 - kopf's name
            body: kopf.Body,
            namespace: str | None,
            labels: kopf.Labels,
            **_: Any,
        ) -> None:
            if type == "DELETED":
                put(body, namespace, labels, gone=True)

    for kind, api in KINDS.items():
        if kind not in OPTIONAL:
            group, _, version = api.rpartition("/")
            watched(group, version, _PLURALS[kind], api, kind)
    return registry


__all__ = ["registry_for", "settings_for"]
