"""Counters and histograms that cost an addition. Services fill them; ``app`` renders them for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bucket bounds for latencies, seconds."""


class Counter:
    """Only goes up."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        self.value += amount


class Histogram:
    """Counts per bucket, and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metric:
    """A named metric with its help and labels. ``source``: the instrument, or a gauge's function."""

    __slots__ = ("help", "kind", "labels", "name", "source")

    def __init__(
        self,
        name: str,
        text: str,
        kind: Literal["counter", "gauge", "histogram"],
        labels: dict[str, str],
        source: Counter | Histogram | Callable[[], float],
    ) -> None:
        self.name = name
        self.help = text
        self.kind = kind
        self.labels = labels
        self.source = source


class Metrics:
    """All metrics of one process. Names have the unit at their end and no prefix (``app`` adds one)."""

    def __init__(self) -> None:
        self._metrics: dict[tuple[str, tuple[tuple[str, str], ...]], Metric] = {}

    def counter(self, name: str, text: str, **labels: str) -> Counter:
        """The counter of this name and labels (made once)."""
        metric = self._metric(name, text, "counter", labels, Counter())
        assert isinstance(metric.source, Counter)
        return metric.source

    def histogram(self, name: str, text: str, bounds: Sequence[float] = SECONDS, **labels: str) -> Histogram:
        """The histogram of this name and labels (made once)."""
        metric = self._metric(name, text, "histogram", labels, Histogram(bounds))
        assert isinstance(metric.source, Histogram)
        return metric.source

    def gauge(self, name: str, text: str, read: Callable[[], float], **labels: str) -> None:
        """A value read at each scrape; a second one of the same name and labels replaces the first."""
        self._metrics.pop((name, tuple(sorted(labels.items()))), None)
        self._metric(name, text, "gauge", labels, read)

    def _metric(
        self,
        name: str,
        text: str,
        kind: Literal["counter", "gauge", "histogram"],
        labels: dict[str, str],
        source: Counter | Histogram | Callable[[], float],
    ) -> Metric:
        return self._metrics.setdefault((name, tuple(sorted(labels.items()))), Metric(name, text, kind, labels, source))

    def __iter__(self) -> Iterator[Metric]:
        return iter(list(self._metrics.values()))
