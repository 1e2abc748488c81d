"""From a spec to Kubernetes objects, as plain dicts: no client, no clock, no chance. One module per concern."""

from __future__ import annotations

from chatcluster_operator.names import Cluster
from chatcluster_operator.render.network import policies, services, ways_in
from chatcluster_operator.render.objects import Object
from chatcluster_operator.render.observability import KINDS as MONITORING
from chatcluster_operator.render.observability import observers
from chatcluster_operator.render.scaling import scalers
from chatcluster_operator.render.workloads import account, budgets, configs
from chatcluster_operator.spec import Spec

OPTIONAL = frozenset({"HTTPRoute", "ScaledObject"}) | MONITORING
"""Kinds that are applied where the cluster has their definitions."""


def around(cluster: Cluster, spec: Spec) -> list[Object]:
    """Every child but the workloads, which the plan puts in order."""
    return [
        account(cluster),
        *configs(cluster, spec),
        *services(cluster, spec),
        *ways_in(cluster, spec),
        *policies(cluster, spec),
        *budgets(cluster, spec),
        *scalers(cluster, spec),
        *observers(cluster, spec),
    ]


__all__ = ["OPTIONAL", "Object", "around"]
