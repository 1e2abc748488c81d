"""The only room that knows kopf: its watch of ChatClusters fills the cache and says which one to look at. Nothing else.

Children are watched by ``watches``: kopf keeps a task and a memory for each object, and there are thirty of them for
each ChatCluster. No handler writes, and kopf keeps nothing in the objects: no finalizers, no annotations, no state.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
from collections.abc import Iterator
from typing import Any

import kopf

from chatcluster_operator.reconciler import Reconciler
from chatcluster_operator.spec import GROUP, PLURAL, VERSION


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
    settings.watching.inactivity_timeout = 100  # a stream without even a bookmark (every 60 to 75 s) is dead
    # No limit: with one, a start with more ChatClusters than workers took long, and with indices never ended.
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 0.1  # a worker for each object, but for a moment
    settings.persistence.finalizer = f"{GROUP}/unused"
    settings.persistence.consistency_timeout = 0  # kopf writes nothing that it would have to wait for


def registry_for(reconciler: Reconciler) -> kopf.OperatorRegistry:
    """The watch of ChatClusters."""
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
            cache.forget(key, body["metadata"]["uid"])
        else:
            cache.tell(key, dict(body))
        reconciler.look(key)

    return registry


__all__ = ["registry_for", "settings_for"]
