"""The operator's ``/metrics``: its instruments, and what is read of its state at each scrape.

Everything told of a ChatCluster is from its status as last written. A replica that does not lead watches nothing, and
tells of none.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from chatcluster_operator.connection import release
from chatcluster_operator.health import Lag
from chatcluster_operator.metrics import PREFIX
from chatcluster_operator.names import COMPONENTS
from chatcluster_operator.reconciler import Reconciler
from chatcluster_operator.watches import Watches

CONTENT_TYPE = CONTENT_TYPE_LATEST
TRUTH = {"True": 1.0, "False": 0.0, "Unknown": -1.0}
WHO = ("chatcluster_namespace", "chatcluster")


class Exposition(Collector):
    """Rendered by ``render``."""

    def __init__(
        self,
        reconciler: Reconciler,
        watches: Watches,
        lag: Lag,
        *,
        leads: Callable[[], bool],
        lease_age: Callable[[], float],
    ) -> None:
        self._reconciler = reconciler
        self._watches = watches
        self._leads = leads
        self._lease_age = lease_age
        self._lag = lag
        self._registry = reconciler.metrics.registry
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: read at scrapes alone."""
        return []

    async def render(self) -> bytes:
        """The text of now; in a thread, as 1,000 ChatClusters are 30,000 lines."""
        return await asyncio.to_thread(generate_latest, self._registry)

    def collect(self) -> Iterator[Metric]:
        """See ``Collector``."""
        yield from self._itself()
        yield from self._clusters()

    def _itself(self) -> Iterator[Metric]:
        reconciler = self._reconciler
        now = time.monotonic()
        due = [when for when in list(reconciler.due.values()) if when <= now]
        age = self._lease_age()
        values = (
            ("leads", "1 of the replica that writes.", float(self._leads())),
            ("lease_age_seconds", "Since this replica last renewed the Lease; -1: it never did.", age),
            ("queue", "ChatClusters that are due.", float(len(due))),
            (
                "queue_oldest_seconds",
                "How long the longest of them has been due.",
                max((now - w for w in due), default=0),
            ),
            ("working", "ChatClusters that are being looked at.", float(reconciler.working)),
            ("last_look_seconds", "Since the last look at anything.", now - reconciler.last),
            ("event_loop_lag_seconds", "The event loop's worst delay of the last half minute.", self._lag.most),
        )
        for name, text, value in values:
            yield GaugeMetricFamily(PREFIX + name, text, value=value)
        build = GaugeMetricFamily(f"{PREFIX}build_info", "1; the version is its label.", labels=["version"])
        build.add_metric([release()], 1.0)
        yield build
        ages = GaugeMetricFamily(
            f"{PREFIX}watch_age_seconds",
            "Since a watch last brought an event or a bookmark.",
            labels=["watch"],
        )
        for name, seconds in sorted(self._watches.ages().items()):
            ages.add_metric([name], seconds)
        yield ages
        for name, text, count in (
            ("lists", "Lists of children, the first ones among them.", self._watches.lists),
            ("missed", "ChatClusters of which no watch told, found by comparing.", self._watches.missed),
        ):
            yield CounterMetricFamily(PREFIX + name, text, value=count)

    def _clusters(self) -> Iterator[Metric]:
        def family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(PREFIX + name, text, labels=labels)

        phases: Counter[str] = Counter()
        conditions = family("condition", "Of a ChatCluster: 1 True, 0 False, -1 Unknown.", *WHO, "type", "reason")
        replicas = family("replicas", "Pods of a component.", *WHO, "component", "state")
        connections = family("connections", "Connections of a ChatCluster's gateways, as last asked.", *WHO)
        draining = family("draining", "Gateways that leave.", *WHO)
        left = family("draining_connections", "Connections that they still hold.", *WHO)
        for key, raw in sorted(self._reconciler.cache.clusters.items()):
            who = list(key)
            status = raw.get("status") or {}
            phases[status.get("phase") or "Unknown"] += 1
            for one in status.get("conditions") or ():
                conditions.add_metric([*who, one["type"], one["reason"]], TRUTH.get(one["status"], -1.0))
            parts = status.get("components") or {}
            for component in COMPONENTS:
                part = parts.get(component) or {}
                for state in ("desired", "ready", "updated"):
                    if state in part:
                        replicas.add_metric([*who, component, state], part[state])
            gateway = parts.get("gateway") or {}
            if gateway.get("connections") is not None:
                connections.add_metric(who, gateway["connections"])
            draining.add_metric(who, status.get("draining", 0))
            left.add_metric(who, sum(one.get("connections", 0) for one in status.get("drains") or ()))
        clusters = family("clusters", "ChatClusters, by phase.", "phase")
        for phase, count in sorted(phases.items()):
            clusters.add_metric([phase], count)
        yield from (clusters, conditions, replicas, connections, draining, left)
