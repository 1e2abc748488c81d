"""PodMonitor, PrometheusRule and Grafana dashboards of a ChatCluster, as its spec asks for. Pure."""

from __future__ import annotations

import json

from chatcluster_operator.kinds import MONITORING
from chatcluster_operator.names import Cluster, hash_of
from chatcluster_operator.observability import Objectives, PrometheusRules
from chatcluster_operator.render.objects import Object, child
from chatcluster_operator.render.observability import board_platform, objectives, of_platform
from chatcluster_operator.render.observability.promql import Series, groups
from chatcluster_operator.render.pods import memory_limit
from chatcluster_operator.render.workloads import shape_of
from chatcluster_operator.spec import Spec

KINDS = frozenset({"PodMonitor", "PrometheusRule"})
"""Applied where the Prometheus operator is installed."""


def observers(cluster: Cluster, spec: Spec) -> list[Object]:
    """Everything that ``spec.observability`` asks for."""
    asked = spec.observability
    found = []
    if asked.pod_monitor is not None:
        found.append(_pod_monitor(cluster, spec))
    if asked.prometheus_rules is not None:
        found.append(_rules(cluster, spec, asked.prometheus_rules))
    if asked.dashboards is not None:
        found.append(_dashboard(cluster, spec))
    return found


def wanted_kinds(spec: Spec) -> frozenset[str]:
    """Of ``KINDS`` those that this spec needs."""
    asked = spec.observability
    wanted = {"PodMonitor": asked.pod_monitor, "PrometheusRule": asked.prometheus_rules}
    return frozenset(kind for kind, one in wanted.items() if one is not None)


def components(spec: Spec) -> tuple[str, ...]:
    """What pods there are."""
    if spec.dependencies.embedded is not None:
        return ("embedded",)
    return tuple(one for one in of_platform.ALIVE if shape_of(spec, one).replicas)  # type: ignore[arg-type, attr-defined]


def _pod_monitor(cluster: Cluster, spec: Spec) -> Object:
    asked = spec.observability.pod_monitor
    assert asked is not None
    # Named by what they are to us: rules and dashboards select by it.
    relabelings = [
        {
            "action": "replace",
            "sourceLabels": [f"__meta_kubernetes_pod_label_app_kubernetes_io_{label}"],
            "targetLabel": to,
        }
        for label, to in (("instance", "chatcluster"), ("component", "component"))
    ]
    parts = {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["migrate"]}
    found = child(
        cluster,
        "PodMonitor",
        MONITORING,
        "pods",
        spec={
            "selector": {"matchLabels": cluster.selector(), "matchExpressions": [parts]},
            "podMetricsEndpoints": [
                {
                    "port": "management",
                    "path": "/metrics",
                    "interval": f"{asked.interval_seconds}s",
                    "scrapeTimeout": f"{asked.scrape_timeout_seconds}s",
                    "relabelings": relabelings,
                }
            ],
        },
    )
    return _labelled(found, asked.labels)


def _rules(cluster: Cluster, spec: Spec, asked: PrometheusRules) -> Object:
    of = Series((f'namespace="{cluster.namespace}"', f'chatcluster="{cluster.name}"'))
    embedded = spec.dependencies.embedded is not None
    there = components(spec)
    limits = {one: memory_limit(spec, one) for one in there}
    alerts = of_platform.alerts(
        of,
        asked.objectives,
        asked.thresholds,
        capacity=None if embedded else spec.gateway.capacity.connections_per_pod,
        memory={one: limit for one, limit in limits.items() if limit is not None},
        alive=tuple(of_platform.ALIVE) if embedded else there,
    )
    left_out = set(asked.without or ())
    body = groups(
        f"chatcluster-{cluster.namespace}-{cluster.name}",
        objectives.records(of, asked.objectives),
        [one for one in alerts if one.name not in left_out],
        interval=f"{asked.interval_seconds}s",
        runbook_base=asked.runbook_base,
        labels=asked.alert_labels or {},
    )
    return _labelled(child(cluster, "PrometheusRule", MONITORING, "rules", spec={"groups": body}), asked.labels)


def _dashboard(cluster: Cluster, spec: Spec) -> Object:
    asked = spec.observability.dashboards
    assert asked is not None
    where = f"{cluster.namespace}/{cluster.name}"
    board = board_platform.board(
        uid=f"chatcluster-{hash_of(where)}",
        title=f"ChatCluster {where}",
        namespace=cluster.namespace,
        name=cluster.name,
        objectives=spec.observability.prometheus_rules.objectives
        if spec.observability.prometheus_rules is not None
        else Objectives(),
    )
    found = child(
        cluster,
        "ConfigMap",
        "v1",
        "dashboard",
        annotations=dict(asked.annotations) if asked.annotations else None,
        data={f"chatcluster-{cluster.namespace}-{cluster.name}.json": json.dumps(board, separators=(",", ":"))},
    )
    return _labelled(found, asked.labels)


def _labelled(thing: Object, labels: dict[str, str] | None) -> Object:
    thing["metadata"]["labels"] = {**(labels or {}), **thing["metadata"]["labels"]}
    return thing


__all__ = ["KINDS", "MONITORING", "components", "observers", "wanted_kinds"]
