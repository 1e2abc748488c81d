"""Renders ``core.metrics`` for Prometheus, with the process's own figures beside."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from chatcluster.core.metrics import Counter, Histogram, Metrics

log = logging.getLogger(__name__)

PREFIX = "chatcluster_"
CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Collector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Family]:
        return []  # asked at registration: reading every gauge then would be too early

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for metric in self._metrics:
            # A family's name has no _total; its samples do.
            name = PREFIX + (metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name)
            source, labels = metric.source, metric.labels
            family = families.get(name)
            if family is None:
                family = families[name] = Family(name, metric.help, metric.kind)
            if isinstance(source, Counter):
                family.add_sample(f"{name}_total", labels, source.value)
            elif isinstance(source, Histogram):
                _histogram(family, source, labels)
            else:
                try:
                    family.add_sample(name, labels, float(source()))
                except Exception as error:
                    # One gauge that cannot be read must not hide the others.
                    log.warning("gauge %s: %s", metric.name, type(error).__name__)
        yield from families.values()


def _histogram(family: Family, source: Histogram, labels: dict[str, str]) -> None:
    below = 0
    for bound, count in zip((*source.bounds, None), source.counts, strict=True):
        below += count
        le = "+Inf" if bound is None else repr(float(bound))
        family.add_sample(f"{family.name}_bucket", {**labels, "le": le}, below)
    family.add_sample(f"{family.name}_count", labels, below)
    family.add_sample(f"{family.name}_sum", labels, source.total)


class Exposition:
    """All metrics of a process as Prometheus's text."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(metrics))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """The text of now."""
        return generate_latest(self._registry)
