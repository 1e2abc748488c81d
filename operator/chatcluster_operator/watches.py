"""Lists and watches of children, one for each kind: they fill the cache and say which cluster to look at.

Not kopf's, which keeps a task and a memory for each object and never hears of what went while a watch was broken: here
a list that is begun anew also takes away what is not in it. A watch in which nothing comes for ``QUIET`` seconds, not
even a bookmark, is dead and begun anew; ``ages`` says for each how long ago it proved to be alive.

ChatClusters are watched by kopf (``handlers``); ``prove`` compares what it told with the server, once a minute.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import Any

from chatcluster_operator.cache import Key
from chatcluster_operator.kinds import CHILDREN, CLUSTER
from chatcluster_operator.kube import Kube, Trouble, backoff
from chatcluster_operator.names import MANAGER
from chatcluster_operator.observed import Child
from chatcluster_operator.reconciler import Reconciler
from chatcluster_operator.render import OPTIONAL

log = logging.getLogger(__name__)

QUIET = 100.0
"""Seconds: the server sends a bookmark every 60 to 75 s (a minute, and a quarter by chance)."""
LASTS = 240
"""Seconds after which the server is asked to end a watch, or up to half as much more: not all end at once."""
PROOF = 60.0
"""Seconds between two comparisons of the ChatClusters known with those of the server."""
GRACE = 5.0
"""Seconds within which news must have come."""
LABELS = f"app.kubernetes.io/managed-by={MANAGER}"


class Watches:
    """Of children, in these namespaces (none given: in all)."""

    def __init__(self, kube: Kube, reconciler: Reconciler, namespaces: Sequence[str] = ()) -> None:
        self._kube = kube
        self._reconciler = reconciler
        self._namespaces: Sequence[str | None] = list(namespaces) or [None]
        self._alive: dict[str, float] = {}
        self.lists = 0
        """Lists begun, the first ones among them."""
        self.missed = 0
        """ChatClusters of which kopf did not tell, found by comparing."""

    def ages(self) -> dict[str, float]:
        """Seconds since each watch proved to be alive, by kind (and namespace)."""
        now = time.monotonic()
        return {name: now - at for name, at in self._alive.items()}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            listed = []
            for kind, api in CHILDREN.items():
                if kind in OPTIONAL:
                    continue
                for namespace in self._namespaces:
                    first = asyncio.Event()
                    listed.append(first)
                    group.create_task(self._follow(api, kind, namespace, first))
            for first in listed:
                await first.wait()
            # No look before this sees half of a cluster.
            self._reconciler.synced.set()
            for namespace in self._namespaces:
                group.create_task(self._prove(namespace))

    # -- children -------------------------------------------------------------------------------------------

    async def _follow(self, api: str, kind: str, namespace: str | None, first: asyncio.Event) -> None:
        name = kind if namespace is None else f"{namespace}/{kind}"
        since, attempt = "", 0
        self._alive[name] = time.monotonic()
        while True:
            began = time.monotonic()
            try:
                if not since:
                    since = await self._list(api, kind, namespace)
                    self._alive[name] = time.monotonic()
                    first.set()
                since = await self._watch(api, kind, namespace, since, name)
                attempt = 0
            except Trouble as trouble:
                if trouble.status == 410:
                    since = ""
                if time.monotonic() - began > QUIET / 2:
                    attempt = 0  # it held for a while
                wait = 0.0 if trouble.status == 410 and attempt == 0 else backoff(attempt, trouble.retry_after)
                attempt += 1
                log.info("watch of %s: %s; again in %.1f s", name, trouble, wait)
                await asyncio.sleep(wait)

    async def _list(self, api: str, kind: str, namespace: str | None) -> str:
        self.lists += 1
        cache, seen, version = self._reconciler.cache, set(), ""
        async for things, version in self._kube.pages(api, kind, namespace, LABELS):  # noqa: B007 - the last one's
            for thing in things:
                key = self._put(api, kind, thing)
                if key is not None:
                    seen.add((key, thing["metadata"]["name"]))
        for key, child in cache.strangers(kind, namespace, seen):
            self._gone(key, child, int(version))
        return version

    async def _watch(self, api: str, kind: str, namespace: str | None, since: str, name: str) -> str:
        lasts = LASTS + random.randrange(LASTS // 2)
        try:
            async for news in self._kube.stream(api, kind, namespace, LABELS, since, quiet=QUIET, lasts=lasts):
                thing = news["object"]
                self._alive[name] = time.monotonic()
                if news["type"] == "ERROR":
                    raise Trouble(f"watch: {thing.get('message')}", status=thing.get("code", 0))
                since = thing["metadata"]["resourceVersion"]
                if news["type"] == "DELETED":
                    key = _key(thing)
                    if key is not None:
                        self._gone(key, Child(api, kind, thing["metadata"]["name"]), int(since))
                elif news["type"] != "BOOKMARK":
                    self._put(api, kind, thing)
        except Trouble as trouble:
            if trouble.status:
                raise
            log.info("watch of %s: %s; going on from where it was", name, trouble)
            await asyncio.sleep(random.uniform(0.1, 1.0))
        return since

    def _put(self, api: str, kind: str, thing: dict[str, Any]) -> Key | None:
        key = _key(thing)
        if key is None:
            return None
        thing["apiVersion"], thing["kind"] = api, kind
        if self._reconciler.cache.put(key, thing):
            self._look(key)
        return key

    def _gone(self, key: Key, child: Child, version: int) -> None:
        if self._reconciler.cache.drop(key, child, version):
            self._look(key)

    def _look(self, key: Key) -> None:
        if key in self._reconciler.cache.clusters:
            self._reconciler.look(key)

    # -- ChatClusters ---------------------------------------------------------------------------------------

    async def _prove(self, namespace: str | None) -> None:
        name = CLUSTER[1] if namespace is None else f"{namespace}/{CLUSTER[1]}"
        self._alive[name] = time.monotonic()
        attempt = 0
        await asyncio.sleep(PROOF / 3)  # kopf starts, too
        while True:
            try:
                doubted = await self._differing(namespace)
                if doubted:
                    await asyncio.sleep(GRACE)
                    known = self._versions()
                    missed = [key for key, version in doubted.items() if known.get(key) == version]
                    for key in missed:
                        await self._tell(key)
                    if missed:
                        self.missed += len(missed)
                        log.warning("%d ChatClusters of which no news came, %s/%s first", len(missed), *missed[0])
                    else:
                        self._alive[name] = time.monotonic()
                else:
                    self._alive[name] = time.monotonic()
                attempt, wait = 0, PROOF * random.uniform(0.8, 1.2)
            except Trouble as trouble:
                wait = backoff(attempt, trouble.retry_after)
                attempt += 1
                log.info("ChatClusters could not be compared: %s; again in %.1f s", trouble, wait)
            await asyncio.sleep(wait)

    async def _tell(self, key: Key) -> None:
        cache = self._reconciler.cache
        raw = await self._kube.cluster(*key)
        if raw is not None:
            cache.tell(key, raw)
        elif key in cache.clusters:
            cache.forget(key, cache.clusters[key]["metadata"]["uid"])
        self._reconciler.look(key)

    def _versions(self) -> dict[Key, str]:
        return {key: raw["metadata"]["resourceVersion"] for key, raw in self._reconciler.cache.clusters.items()}

    async def _differing(self, namespace: str | None) -> dict[Key, str | None]:
        """Of each that is not known as the server has it: the version that is known."""
        known = {key: one for key, one in self._versions().items() if namespace in (None, key[0])}
        found: dict[Key, str] = {}
        async for heads, _ in self._kube.pages(*CLUSTER, namespace, heads=True):
            for one in heads:
                head = one["metadata"]
                found[head["namespace"], head["name"]] = head["resourceVersion"]
        return {key: known.get(key) for key in found.keys() | known.keys() if known.get(key) != found.get(key)}


def _key(thing: dict[str, Any]) -> Key | None:
    head = thing["metadata"]
    instance = (head.get("labels") or {}).get("app.kubernetes.io/instance")
    return None if instance is None else (head["namespace"], instance)
