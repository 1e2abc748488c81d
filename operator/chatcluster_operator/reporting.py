"""The status of a ChatCluster, from what a plan found. Pure; its fields are those of ``status.py``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from chatcluster_operator import drains
from chatcluster_operator.conditions import Facts, conditions
from chatcluster_operator.names import COMPONENTS, CONFIG_HASH, Cluster
from chatcluster_operator.observed import Observed
from chatcluster_operator.render.pods import version_of
from chatcluster_operator.spec import Spec


def status_of(cluster: Cluster, spec: Spec, observed: Observed, facts: Facts, now: datetime) -> dict[str, Any]:
    """All of it, conditions and drains among it."""
    before = observed.status
    desired = facts.desired.get("gateway", 1)
    serving = facts.gateways or tuple(one for one in (facts.components.get("embedded"),) if one is not None)
    ready = sum(one.ready for one in serving)
    component = "embedded" if spec.dependencies.embedded is not None else "gateway"
    selector = ",".join(f"{key}={value}" for key, value in cluster.selector(component).items())
    parts: dict[str, Any] = {}
    for name in COMPONENTS:
        workload = facts.components.get(name)
        many = facts.gateways if name == "gateway" else (() if workload is None else (workload,))
        mine = [pod for pod in observed.pods if pod.component == name]
        parts[name] = {
            "desired": facts.desired.get(name, 0),
            "ready": sum(one.ready for one in many),
            "updated": sum(one.updated for one in many if one.revision in ("", facts.revision)),
            "revision": facts.revision
            if name == "gateway"
            else many[0].annotations.get(CONFIG_HASH, "")
            if many
            else "",
        }
        if name == "gateway":
            parts[name]["connections"] = sum(pod.connections or 0 for pod in mine)
        if name == "persister":
            lags = [(pod.measures or {}).get("chatcluster_persister_lag_records", 0) for pod in mine]
            parts[name]["lag"] = int(sum(lags))
    found = conditions(facts, observed, before.get("conditions") or [], now)
    status: dict[str, Any] = {
        "observedGeneration": observed.generation,
        "version": version_of(spec) if not facts.blocked else before.get("version"),
        "phase": next(one["reason"] for one in found if one["type"] == "Ready"),
        "replicas": sum(one.wanted for one in serving),
        "selector": selector,
        "gateways": f"{ready}/{desired}",
        "draining": len(facts.draining),
        "conditions": found,
        "drains": drains.told(observed.pods, facts.waits, now, before.get("drains") or (), stuck=facts.waits_long)[
            :100
        ],
        "endpoints": {
            "sockets": f"ws://{cluster.child('gateway')}.{cluster.namespace}.svc:8080/v1/connect",
            "serverApi": f"http://{cluster.child('api')}.{cluster.namespace}.svc:8081/api/v1",
        },
    }
    if spec.dependencies.embedded is None:
        status["components"] = parts
    return {key: value for key, value in status.items() if value is not None}
