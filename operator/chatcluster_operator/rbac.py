"""What the operator may do, as a table: the one source of its roles in charts and manifests. No wildcards."""

from __future__ import annotations

from typing import Any

from chatcluster_operator.spec import GROUP, PLURAL

Row = tuple[str, str, tuple[str, ...], str]
"""Group, resource, verbs, and why."""

_SEE = ("get", "list", "watch")
_KEEP = (*_SEE, "create", "patch", "delete")

TABLE: tuple[Row, ...] = (
    (GROUP, PLURAL, _SEE, "what is wanted"),
    (GROUP, f"{PLURAL}/status", ("patch",), "how it is"),
    (GROUP, f"{PLURAL}/finalizers", ("update",), "owner of its children, where that is guarded (OpenShift)"),
    ("", "configmaps", _KEEP, "settings of each component"),
    ("", "services", _KEEP, "addresses of gateways, routers and presences"),
    ("", "serviceaccounts", _KEEP, "the pods' account, which may nothing"),
    ("", "secrets", ("get", "create"), "get: heads of named ones, for roll-outs; create: the link's secret, once"),
    ("", "pods", (*_SEE, "patch"), "who drains; which gateway is the emptiest (pod-deletion-cost)"),
    ("apps", "deployments", _KEEP, "components"),
    ("apps", "statefulsets", _KEEP, "the embedded platform"),
    ("batch", "jobs", _KEEP, "migrations"),
    ("policy", "poddisruptionbudgets", _KEEP, "one pod of a component at a time"),
    ("networking.k8s.io", "networkpolicies", _KEEP, "who may speak to whom"),
    ("networking.k8s.io", "ingresses", _KEEP, "the way in"),
    ("autoscaling", "horizontalpodautoscalers", _KEEP, "mode hpa"),
    ("gateway.networking.k8s.io", "httproutes", _KEEP, "where the Gateway API is"),
    ("keda.sh", "scaledobjects", _KEEP, "mode keda"),
    ("monitoring.coreos.com", "podmonitors", _KEEP, "where the Prometheus operator is"),
    ("monitoring.coreos.com", "prometheusrules", _KEEP, "where the Prometheus operator is"),
    ("events.k8s.io", "events", ("create",), "what happened and why"),
)
"""For ChatClusters and their children, wherever those are."""

LEASE: tuple[Row, ...] = (
    ("coordination.k8s.io", "leases", ("get", "create", "update"), "which replica writes; in its own namespace"),
)


def rules(table: tuple[Row, ...] = TABLE) -> list[dict[str, Any]]:
    """As in a Role or ClusterRole."""
    return [
        {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)} for group, resource, verbs, _ in table
    ]
