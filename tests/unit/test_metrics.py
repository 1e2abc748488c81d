from __future__ import annotations

from chatcluster.core.metrics import Counter, Histogram, Metrics


def test_an_instrument_is_made_once_per_name_and_labels() -> None:
    metrics = Metrics()
    metrics.counter("sends_total", "Sends.", outcome="ok").add()
    metrics.counter("sends_total", "Sends.", outcome="ok").add(2)
    metrics.counter("sends_total", "Sends.", outcome="bad").add()

    values = {metric.labels["outcome"]: metric.source.value for metric in metrics if isinstance(metric.source, Counter)}
    assert values == {"ok": 3, "bad": 1}


def test_a_histogram_counts_into_the_bucket_whose_bound_is_not_below() -> None:
    histogram = Histogram((1, 10))
    for value in (0.5, 1, 2, 11):
        histogram.observe(value)

    assert histogram.counts == [2, 1, 1]
    assert histogram.total == 14.5


def test_a_gauge_is_replaced_by_a_newer_one() -> None:
    metrics = Metrics()
    metrics.gauge("sessions", "Sessions.", lambda: 1.0)
    metrics.gauge("sessions", "Sessions.", lambda: 2.0)

    (metric,) = metrics
    assert callable(metric.source)
    assert metric.source() == 2.0
