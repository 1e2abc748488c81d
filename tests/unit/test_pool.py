"""Metrics of several processes as one text that Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from chatcluster.app.exposition import Exposition
from chatcluster.app.roles.pool import merged
from chatcluster.core.metrics import Metrics


def body(sockets: float, sends: int) -> str:
    metrics = Metrics()
    metrics.gauge("sockets", "Open sockets.", lambda: sockets)
    metrics.counter("sends_total", "Sends.", outcome='a "quoted" one').add(sends)
    metrics.histogram("seconds", "Times.", bounds=(0.1, 1.0)).observe(0.5)
    return Exposition(metrics).render().decode()


def test_every_sample_is_kept_and_says_which_process() -> None:
    families = {
        family.name: family for family in text_string_to_metric_families(merged({0: body(3, 1), 2: body(4, 5)}))
    }
    sockets = families["chatcluster_sockets"].samples
    assert [(sample.labels, sample.value) for sample in sockets] == [({"process": "0"}, 3.0), ({"process": "2"}, 4.0)]
    sends = families["chatcluster_sends"].samples
    assert {(sample.labels["process"], sample.labels["outcome"], sample.value) for sample in sends} == {
        ("0", 'a "quoted" one', 1.0),
        ("2", 'a "quoted" one', 5.0),
    }
    assert families["chatcluster_seconds"].type == "histogram"
    assert sum(sample.name.endswith("_bucket") for sample in families["chatcluster_seconds"].samples) == 6


def test_each_family_has_one_head() -> None:
    text = merged({0: body(1, 1), 1: body(1, 1)})
    assert text.count("# TYPE chatcluster_sockets gauge") == 1
    assert text.count("# HELP chatcluster_sockets Open sockets.") == 1
