"""The only room that knows kopf: its watch of ChatClusters fills the cache and says which one to look at. Nothing else.

It runs in a thread and an event loop of its own. As it ends it cancels every task of its loop that it did not know when
it began, and what it takes for fatal, such as an error within a watch, is for us a reason to begin anew.

Children are watched by ``watches``: kopf keeps a task and a memory for each object, and there are thirty of them for
each ChatCluster. No handler writes, and kopf keeps nothing in the objects: no finalizers, no annotations, no state.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import kopf

from chatcluster_operator.kube import backoff
from chatcluster_operator.reconciler import Reconciler
from chatcluster_operator.spec import GROUP, PLURAL, VERSION

log = logging.getLogger(__name__)

ENDING = 2.0
"""Seconds for its thread to end; then it ends with the process."""

News = Callable[[str | None, tuple[str, str], dict[str, Any]], None]
"""What happened (``DELETED``, or anything else) to a ChatCluster (namespace, name), and as it is."""


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


def registry_for(news: News) -> kopf.OperatorRegistry:
    """The watch of ChatClusters."""
    registry = kopf.OperatorRegistry()

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
        news(type, (namespace or "", name), dict(body))

    return registry


async def watched(reconciler: Reconciler, namespaces: Sequence[str]) -> None:
    """News of ChatClusters in these namespaces (none given: in all), until cancelled."""
    for attempt in itertools.count():
        began = time.monotonic()
        thread = _Thread(reconciler, namespaces)
        try:
            error = await thread.ended
        finally:
            await thread.end()
        log.error("kopf failed, and is begun anew: %r", error)
        await asyncio.sleep(backoff(0 if time.monotonic() - began > 60 else attempt))


def _left_behind(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a task of kopf's raised and nobody asked it for: ``watched`` tells why kopf ended."""
    log.info("kopf: %s: %r", context.get("message"), context.get("exception"))


class _Thread:
    """kopf, once."""

    def __init__(self, reconciler: Reconciler, namespaces: Sequence[str]) -> None:
        self._ours = asyncio.get_running_loop()
        self._reconciler = reconciler
        self._namespaces = namespaces
        self._theirs: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._over = False
        self.ended: asyncio.Future[BaseException | None] = self._ours.create_future()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self._thread.start()

    async def end(self) -> None:
        """Tells it to, and waits for a moment."""
        self._over = True
        if self._theirs is not None:
            with suppress(RuntimeError):  # it ended
                self._theirs.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join, ENDING)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._operate())
        except BaseException as failure:
            error = failure
        self._tell(self._done, error)

    async def _operate(self) -> None:
        self._theirs = asyncio.get_running_loop()
        self._theirs.set_exception_handler(_left_behind)
        if self._over:
            return
        await kopf.operator(
            registry=registry_for(lambda *news: self._tell(self._heard, *news)),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop,
        )

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the process ends
            self._ours.call_soon_threadsafe(what, *arguments)

    # -- in our thread ------------------------------------------------------------------------------------

    def _done(self, error: BaseException | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error)

    def _heard(self, kind: str | None, key: tuple[str, str], raw: dict[str, Any]) -> None:
        if kind == "DELETED":
            self._reconciler.cache.forget(key, raw["metadata"]["uid"])
        else:
            self._reconciler.cache.tell(key, raw)
        self._reconciler.look(key)


__all__ = ["watched"]
