"""Which ChatCluster is looked at when, and one look: read, plan, write, say. Knows neither kopf nor HTTP.

Level-triggered: news only say *which* cluster to look at. A pass that failed is repeated with backoff; a spec that is
wrong is told in a condition and not retried before it changes.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from pydantic import ValidationError

from chatcluster_operator.cache import Cache, Key, Object
from chatcluster_operator.conditions import INVALID, invalid
from chatcluster_operator.kinds import CHILDREN
from chatcluster_operator.kube import Kube, NotLeading, Trouble, backoff
from chatcluster_operator.memory import Memory
from chatcluster_operator.metrics import FAULT, Metrics, reason_of
from chatcluster_operator.names import COST, Cluster
from chatcluster_operator.observed import Child, Migration, Observed, Pod, Workload
from chatcluster_operator.plan import Plan, plan
from chatcluster_operator.render import OPTIONAL
from chatcluster_operator.render.config import LINK_SECRET
from chatcluster_operator.render.workloads import secrets_of
from chatcluster_operator.scale import Wish
from chatcluster_operator.spec import Spec

log = logging.getLogger(__name__)

WORKERS = 8
"""Clusters that are looked at at the same time."""
GATHER = 0.05
"""Seconds for which news of one cluster are collected into one look."""
KINDS_AGE = 30.0
"""Seconds for which it is believed what optional kinds the cluster has: one request for each of their groups."""

Measure = Callable[[str, Object], Awaitable[Mapping[str, float] | None]]
"""The metrics of a pod (namespace, pod), or None when it does not answer."""


class _Gone(Exception):
    """The ChatCluster is no more, or about to be: nothing is made for it."""


_PODS = frozenset({"Deployment", "StatefulSet", "Job"})


@contextmanager
def _collecting(troubles: list[Trouble]) -> Iterator[None]:
    """One request that fails holds up no other; but of a namespace that ends nothing more is tried."""
    try:
        yield
    except Trouble as trouble:
        if trouble.ending:
            raise
        troubles.append(trouble)


def _type(thing: Object) -> Object:
    return {"apiVersion": thing["apiVersion"], "kind": thing["kind"]}


class Reconciler:
    """Runs looks. ``now`` and ``monotonic`` are clocks."""

    def __init__(self, kube: Kube, cache: Cache, measure: Measure, metrics: Metrics | None = None) -> None:
        self._kube = kube
        self.cache = cache
        self._measure = measure
        self.metrics = metrics or Metrics()
        self.due: dict[Key, float] = {}
        """When each is looked at next, by the monotonic clock."""
        self._heap: list[tuple[float, Key]] = []
        self._running: dict[Key, float] = {}
        self._again: set[Key] = set()
        self._memories: dict[Key, Memory] = {}
        self._wake = asyncio.Event()
        self._kinds: frozenset[str] = frozenset()
        self._kinds_at = float("-inf")
        self.last = time.monotonic()
        self.synced = asyncio.Event()
        """Set when all children are known: before, nothing is looked at."""

    def look(self, key: Key, after: float = GATHER) -> None:
        """Look at this one within ``after`` seconds."""
        if key in self._running:
            self._again.add(key)
            return
        due = time.monotonic() + after
        if due < self.due.get(key, float("inf")):
            self.due[key] = due
            heapq.heappush(self._heap, (due, key))
            self._wake.set()

    @property
    def working(self) -> int:
        """Clusters that are being looked at."""
        return len(self._running)

    def behind(self) -> float:
        """Seconds for which the look that is longest due, or takes longest, has been waited for."""
        now = time.monotonic()
        return max(0.0, *(now - one for one in (*self.due.values(), *self._running.values())), 0.0)

    async def idle(self) -> None:
        """Until no look is under way."""
        while self._running:  # noqa: ASYNC110 - once, at the end of the process
            await asyncio.sleep(0.02)

    async def run(self) -> None:
        """Until cancelled."""
        await self.synced.wait()
        free = asyncio.Semaphore(WORKERS)
        async with asyncio.TaskGroup() as group:
            while True:
                await free.acquire()
                key = await self._next()
                self._running[key] = time.monotonic()
                group.create_task(self._turn(key, free))

    async def _next(self) -> Key:
        while True:
            while self._heap:
                due, key = self._heap[0]
                if self.due.get(key) != due:
                    heapq.heappop(self._heap)  # it was brought forward, or is being looked at
                    continue
                wait = due - time.monotonic()
                if wait <= 0:
                    heapq.heappop(self._heap)
                    del self.due[key]
                    self.metrics.waits.observe(-wait)
                    return key
                break
            self._wake.clear()
            wait = self._heap[0][0] - time.monotonic() if self._heap else 3600.0
            try:
                async with asyncio.timeout(max(0.0, wait)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _turn(self, key: Key, free: asyncio.Semaphore) -> None:
        memory = self._memories.setdefault(key, Memory())
        again: float | None
        began = time.monotonic()
        result = "error"
        try:
            again, result = await self._pass(key, memory)
            memory.attempt = 0
        except NotLeading:
            again, result = None, "not_leading"
        except _Gone:
            again, result = None, "ok"
        except Trouble as trouble:
            self.metrics.errors.labels(reason_of(trouble.status)).inc()
            if trouble.status == 404:
                self._kinds_at = float("-inf")  # a definition may have gone
            again = backoff(memory.attempt, trouble.retry_after)
            memory.attempt += 1
            if trouble.ending:
                # Its namespace never comes back, but as another one: nothing is tried again for this ChatCluster.
                memory.ended, again = memory.uid, None
                log.info("%s/%s: its namespace is being deleted: it is left alone", *key)
            else:
                log.warning("%s/%s: %s; again in %.1f s", *key, trouble, again)
        except Exception:
            self.metrics.errors.labels(FAULT).inc()
            again = 30.0
            log.exception("%s/%s: a pass failed", *key)
        finally:
            self.metrics.reconciles.labels(result).inc()
            self.metrics.seconds.observe(time.monotonic() - began)
            self.last = time.monotonic()
            self._running.pop(key, None)
            free.release()
        if key not in self.cache.clusters:
            self._memories.pop(key, None)
            self._again.discard(key)
            return
        if again is not None:
            self.look(key, again)
        if key in self._again:
            self._again.discard(key)
            self.look(key, GATHER)

    # -- one look -----------------------------------------------------------------------------------------

    async def _pass(self, key: Key, memory: Memory) -> tuple[float | None, str]:
        raw = self.cache.clusters.get(key)
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            return None, "ok"  # its children go with it
        memory.uid = raw["metadata"]["uid"]
        if memory.uid == memory.ended:
            return None, "ok"
        kube = self._kube
        cluster = Cluster(key[0], key[1], memory.uid)
        try:
            spec = Spec.model_validate(raw["spec"])
        except ValidationError as error:
            await self._invalid(cluster, raw, error)
            return None, "invalid"
        await self._definitions()
        children = self.cache.children(key)
        kinds = set(self._kinds)
        for kind in sorted(self._kinds - memory.without):
            try:
                found = await kube.listed(CHILDREN[kind], kind, key[0], cluster.labels())
            except Trouble as trouble:
                if trouble.status != 403:
                    raise
                # Roles older than we are, or without it on purpose: as if it were not there. All else goes on.
                log.warning("%s/%s: %s", *key, trouble)
                kinds.discard(kind)
                continue
            children |= {Child.of(thing): thing for thing in found}
        observed = await self._observe(key, cluster, spec, raw, children, memory, frozenset(kinds))
        now = time.monotonic()
        made = plan(
            cluster,
            spec,
            observed,
            now=datetime.now(UTC),
            monotonic=now,
            wishes=memory.wishes,
        )
        for component in made.unknown:
            memory.wishes.pop(component, None)
        self._count(made, observed, memory, now)
        for component, wish in made.wishes.items():
            memory.wish(component, Wish(now, wish))
        await self._carry_out(cluster, spec, made, observed, children, memory)
        await self._say(cluster, raw, made, memory)
        used = {child.kind for child in children} | {one["kind"] for one in made.apply}
        memory.without = set() if spec.paused else kinds - used
        return made.again, "ok"

    async def _definitions(self) -> None:
        """What optional kinds there are; whoever installs one need not start us again."""
        if time.monotonic() - self._kinds_at <= KINDS_AGE:
            return
        found = await self._kube.kinds({kind: CHILDREN[kind] for kind in OPTIONAL})
        if found != self._kinds:
            log.info("optional kinds: %s", ", ".join(sorted(found)) or "none")
        self._kinds = found
        self._kinds_at = time.monotonic()

    def _count(self, made: Plan, observed: Observed, memory: Memory, now: float) -> None:
        """Drains that ended, and decisions of autoscaling that are other than the last."""
        leaving = {pod.name for pod in observed.pods if pod.component == "gateway" and pod.ends is not None}
        for took in memory.drained(leaving, now):
            self.metrics.drain_seconds.observe(took)
        for component, (current, outcome) in made.scalings.items():
            if direction := memory.direction(component, current, outcome):
                self.metrics.scalings.labels(component, direction).inc()

    async def _observe(
        self,
        key: Key,
        cluster: Cluster,
        spec: Spec,
        raw: Object,
        children: Mapping[Child, Object],
        memory: Memory,
        kinds: frozenset[str],
    ) -> Observed:
        secrets = await self._kube.secrets(key[0], secrets_of(cluster, spec))
        # What has ended stands there until somebody removes it; its controller counts it no more.
        pods = [
            thing
            for child, thing in children.items()
            if child.kind == "Pod" and (thing.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        ]
        measures = await self._measures(key[0], pods, memory)
        return Observed(
            children=[child for child in children if child.kind != "Pod"],
            workloads={
                child.name: Workload.of(thing)
                for child, thing in children.items()
                if child.kind in ("Deployment", "StatefulSet")
            },
            migrations={child.name: Migration.of(thing) for child, thing in children.items() if child.kind == "Job"},
            pods=tuple(Pod.of(thing, measures.get(thing["metadata"]["name"])) for thing in pods),
            secrets=secrets,
            kinds=kinds,
            status=raw.get("status") or {},
            generation=raw["metadata"]["generation"],
        )

    async def _measures(
        self, namespace: str, pods: list[Object], memory: Memory
    ) -> Mapping[str, Mapping[str, float] | None]:
        now = time.monotonic()
        known = memory.measures
        names = {pod["metadata"]["name"] for pod in pods}
        # All of them, at one moment: who left one gateway for another would be counted at both.
        asked = pods if memory.stale(names, now) else []
        found = await asyncio.gather(*(self._measure(namespace, pod) for pod in asked))
        for pod, measures in zip(asked, found, strict=True):
            known[pod["metadata"]["name"]] = (now, measures)
        return {name: known[name][1] for name in names if name in known}

    async def _carry_out(
        self,
        cluster: Cluster,
        spec: Spec,
        made: Plan,
        observed: Observed,
        children: Mapping[Child, Object],
        memory: Memory,
    ) -> None:
        kube, key = self._kube, (cluster.namespace, cluster.name)
        link = cluster.child(LINK_SECRET)
        if any(Child.of(wanted) not in children for wanted in made.apply) and not await kube.current(cluster):
            self.cache.forget(key, cluster.uid)
            raise _Gone
        if made.apply and link in secrets_of(cluster, spec) and link not in observed.secrets:
            await kube.make_link_secret(cluster)
            made.again = 0.5  # pods are described by it
            made.apply = [one for one in made.apply if one["kind"] not in _PODS]
            made.events = []
        costs = {
            thing["metadata"]["name"]: (thing["metadata"].get("annotations") or {}).get(COST)
            for child, thing in children.items()
            if child.kind == "Pod"
        }
        troubles: list[Trouble] = []
        for pod, cost in made.costs.items():
            if costs.get(pod) != str(cost):
                with _collecting(troubles):
                    await kube.cost(cluster.namespace, pod, cost)
        for wanted in made.apply:
            if troubles and wanted["kind"] in _PODS:
                continue  # pods may need what could not be written, and the emptiest gateway must be known to go
            with _collecting(troubles):
                written = await kube.apply(wanted, children.get(Child.of(wanted)))
                if written is not None:
                    memory.attempt = 0  # it gets on
                    if wanted["kind"] not in OPTIONAL:  # which no watch would ever take away again
                        self.cache.put(key, {**written, **_type(wanted)})
                    log.info("%s/%s: applied %s %s", *key, wanted["kind"], wanted["metadata"]["name"])
        if not troubles:
            for child in made.delete:
                with _collecting(troubles):
                    await kube.delete(cluster.namespace, child)
                    log.info("%s/%s: deleted %s %s", *key, child.kind, child.name)
        if troubles:
            raise troubles[0]

    async def _say(self, cluster: Cluster, raw: Object, made: Plan, memory: Memory) -> None:
        kube = self._kube
        before = raw.get("status") or {}
        for event in made.events:
            text = f"{event.reason}: {event.message}"
            if text not in memory.told:
                memory.told.add(text)
                await kube.event(cluster, event.kind, event.reason, event.message)
        if not made.events:
            memory.told.clear()
        if before == made.status:
            return
        old = {one["type"]: one["status"] for one in before.get("conditions") or ()}
        gone = {name: None for name in before if name not in made.status}
        key = (cluster.namespace, cluster.name)
        try:
            told = await kube.status(cluster, {**made.status, **gone})
        except Trouble as trouble:
            if trouble.status != 404:
                raise
            self.cache.forget(key, cluster.uid)
            raise _Gone from None
        if key in self.cache.clusters:  # else the watch told of its end before this answer came
            self.cache.tell(key, told)
        for one in made.status["conditions"]:
            if old.get(one["type"]) not in (None, one["status"]):
                bad = (one["status"] == "True") == (one["type"] in ("Degraded", "UpgradeBlocked"))
                kind = "Warning" if bad and one["type"] in ("Degraded", "UpgradeBlocked", "Ready") else "Normal"
                await kube.event(cluster, kind, one["reason"], f"{one['type']}={one['status']}: {one['message']}")

    async def _invalid(self, cluster: Cluster, raw: Object, error: ValidationError) -> None:
        """The API server took it (an older definition?), we cannot: said, and not tried again before it changes."""
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        text = f"spec.{where}: {first['msg']}"
        before = (raw.get("status") or {}).get("conditions") or []
        said = invalid(text, raw["metadata"]["generation"], before, datetime.now(UTC))
        if said != before:
            await self._kube.status(cluster, {"conditions": said, "phase": INVALID})
            await self._kube.event(cluster, "Warning", INVALID, text)
