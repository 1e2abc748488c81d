"""Conditions of a ChatCluster: each with a reason that a person can act on. Pure.

``lastTransitionTime`` moves only when the status of a condition does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chatcluster_operator.observed import Observed, Pod, Workload
from chatcluster_operator.scale import Scaling


@dataclass
class Facts:
    """What a look at the cluster found, for the conditions."""

    paused: bool = False
    missing: list[str] = field(default_factory=list)
    """Secrets that pods mount and that are not there."""
    moving: str = ""
    """Why it is not there yet: RollingOut, Migrating, SecretMissing."""
    blocked: str = ""
    """Why the migration failed."""
    stuck: dict[str, str] = field(default_factory=dict)
    """By component why its roll-out does not get on."""
    components: dict[str, Workload | None] = field(default_factory=dict)
    gateways: tuple[Workload, ...] = ()
    revision: str = ""
    """Of the gateways that are wanted."""
    desired: dict[Any, int] = field(default_factory=dict)
    draining: list[Pod] = field(default_factory=list)
    late: list[Pod] = field(default_factory=list)
    """Of these whoever should have ended by now."""
    waits: str = ""
    """What gateways wait for that were asked to leave, when there are any."""
    waits_long: bool = False
    """Whether that does not end by itself."""
    scaling: dict[Any, Scaling] = field(default_factory=dict)
    monitoring: frozenset[str] = frozenset()
    """Kinds of the Prometheus operator that are wanted."""
    unmonitored: frozenset[str] = frozenset()
    """Of these whatever the cluster does not have."""


def conditions(
    facts: Facts, observed: Observed, before: Sequence[Mapping[str, Any]], now: datetime
) -> list[dict[str, Any]]:
    """All of them, in a fixed order."""
    found = [
        ("Available", *_available(facts)),
        ("Progressing", *_progressing(facts)),
        ("Degraded", *_degraded(facts)),
        ("DependenciesReachable", *_dependencies(observed)),
        ("Draining", *_draining(facts)),
        ("ScalingActive", *_scaling(facts)),
        ("ScalingLimited", *_limited(facts)),
        ("ReconciliationPaused", *_paused(facts)),
        ("UpgradeBlocked", *_blocked(facts)),
        ("Monitored", *_monitored(facts)),
    ]
    found.append(("Ready", *_ready({kind: (status, reason, text) for kind, status, reason, text in found})))
    old = {one["type"]: one for one in before}
    return [_dated(kind, said, observed.generation, old.get(kind), now) for kind, *said in found]


INVALID = "InvalidSpec"


def invalid(text: str, generation: int, before: Sequence[Mapping[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """For a spec that cannot be read: not ready, and why. What was said of all else stays."""
    old = {one["type"]: one for one in before}
    ready = _dated("Ready", ("False", INVALID, text[:1000]), generation, old.pop("Ready", None), now)
    return [*map(dict, old.values()), ready]


def _dated(
    kind: str, said: Sequence[str], generation: int, before: Mapping[str, Any] | None, now: datetime
) -> dict[str, Any]:
    status, reason, text = said
    since = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    if before is not None and before["status"] == status:
        since = before["lastTransitionTime"]
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": text,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }


Said = tuple[str, str, str]


def _available(facts: Facts) -> Said:
    lacking = [
        name
        for name, one in facts.components.items()
        if not (sum(each.ready for each in facts.gateways) if name == "gateway" else one is not None and one.ready)
        and facts.desired.get(name, 1)
    ]
    if lacking or not facts.components:
        return "False", "NotServing", f"no pod is ready of: {', '.join(sorted(lacking)) or 'everything'}"
    return "True", "Serving", "every component has a ready pod"


def _progressing(facts: Facts) -> Said:
    if facts.moving:
        texts = {
            "Migrating": "schema and topics are being brought to this version",
            "SecretMissing": f"waiting for Secrets: {', '.join(facts.missing)}",
        }
        return "True", facts.moving, texts.get(facts.moving, "pods are becoming what the spec says")
    return "False", "Settled", "everything is as the spec says"


def _degraded(facts: Facts) -> Said:
    if facts.missing:
        return "True", "SecretMissing", f"create the Secrets: {', '.join(facts.missing)}"
    if facts.stuck:
        text = "; ".join(f"{name}: {why}" for name, why in sorted(facts.stuck.items()))
        return "True", "RolloutStuck", f"look at the pods' events and logs: {text}"
    short = [
        f"{name} {_ready_of(facts, name)}/{wanted}"
        for name, wanted in facts.desired.items()
        if _ready_of(facts, name) < wanted
    ]
    if short and not facts.moving:
        return "True", "PodsMissing", f"ready: {', '.join(short)}"
    return "False", "Whole", "nothing is broken that the operator sees"


def _ready_of(facts: Facts, name: str) -> int:
    if name == "gateway":
        return sum(one.ready for one in facts.gateways)
    one = facts.components.get(name)
    return 0 if one is None else one.ready


def _dependencies(observed: Observed) -> Said:
    down: dict[str, int] = {}
    asked = 0
    for pod in observed.pods:
        if pod.measures is None:
            continue
        asked += 1
        for key, value in pod.measures.items():
            name, _, dependency = key.partition(":")
            if name == "chatcluster_dependency_up" and not value:
                down[dependency] = down.get(dependency, 0) + 1
    if not asked:
        return "Unknown", "NoMetrics", "no pod has said yet what it reaches"
    if down:
        text = ", ".join(f"{name} ({count} pods)" for name, count in sorted(down.items()))
        return "False", "Unreachable", f"not reached: {text}; running pods are left as they are"
    return "True", "Reachable", f"{asked} pods reach what they need"


def _draining(facts: Facts) -> Said:
    if facts.late:
        names = ", ".join(sorted(pod.name for pod in facts.late))
        return "True", "Stuck", f"should have ended by now, look at the node: {names}"
    if facts.waits_long:
        return "True", "Stuck", f"gateways were asked to leave and cannot: {facts.waits}"
    if facts.draining:
        left = sum(pod.connections or 0 for pod in facts.draining)
        return "True", "Draining", f"gateways that leave: {len(facts.draining)}, with {left} connections"
    if facts.waits:
        return "True", "Waiting", f"gateways were asked to leave: {facts.waits}"
    return "False", "NotDraining", "no gateway leaves"


def _scaling(facts: Facts) -> Said:
    if not facts.scaling:
        return "False", "NotConfigured", "nothing is scaled by the operator"
    held = [f"{name}: {one.message}" for name, one in facts.scaling.items() if not one.active]
    if held:
        return "False", "NoMetrics", "; ".join(held)
    return "True", "Computed", "; ".join(f"{name}: {one.message}" for name, one in facts.scaling.items())


def _limited(facts: Facts) -> Said:
    for name, one in facts.scaling.items():
        if one.limited:
            return "True", one.limited, f"{name}: {one.message}"
    return "False", "InRange", "what is wanted lies within min and max"


def _paused(facts: Facts) -> Said:
    if facts.paused:
        return "True", "Paused", "spec.paused is set: nothing is written but this status"
    return "False", "NotPaused", "the operator writes what the spec says"


def _blocked(facts: Facts) -> Said:
    if facts.blocked:
        return "True", "MigrationFailed", f"read the logs of the migration Job, then delete it: {facts.blocked}"
    if facts.stuck:
        return "True", "RolloutStuck", f"waiting for: {', '.join(sorted(facts.stuck))}"
    return "False", "NotBlocked", "nothing holds an upgrade"


def _monitored(facts: Facts) -> Said:
    if facts.unmonitored:
        kinds = " and ".join(sorted(facts.unmonitored))
        return "False", "DefinitionsMissing", f"install the Prometheus operator, or let us see it: there is no {kinds}"
    if facts.monitoring:
        return "True", "Rendered", f"{' and '.join(sorted(facts.monitoring))} are there for the Prometheus operator"
    return "False", "NotConfigured", "spec.observability asks for nothing of the Prometheus operator"


def _ready(said: Mapping[str, Said]) -> Said:
    for kind, bad in (
        ("UpgradeBlocked", "True"),
        ("Degraded", "True"),
        ("Available", "False"),
        ("Progressing", "True"),
    ):
        status, reason, text = said[kind]
        if status == bad:
            return "False", reason, text
    return "True", "Ready", "the platform is as the spec says, and serves"
