"""From what is wanted and what is seen to what is done next. Pure: no client, no clock of its own.

Level-triggered: every look decides anew from the cluster alone, so a pass that was lost costs nothing, and a pass with
nothing to do says so. Order of a roll-out: migration, persister, router, presence, gateway (backward on a downgrade).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chatcluster_operator import drains, scale
from chatcluster_operator.conditions import Facts
from chatcluster_operator.group import RESTARTED
from chatcluster_operator.names import (
    COMPONENTS,
    CONFIG_HASH,
    SECRETS_HASH,
    VERSION,
    Cluster,
    Component,
)
from chatcluster_operator.observed import Child, Observed, Workload
from chatcluster_operator.render import OPTIONAL, Object, around
from chatcluster_operator.render.config import LINK_SECRET
from chatcluster_operator.render.observability import wanted_kinds
from chatcluster_operator.render.pods import version_of
from chatcluster_operator.render.workloads import (
    DEADLINE,
    deployment,
    embedded,
    gateway,
    migration,
    pods_of,
    revision_of,
    secrets_of,
    shape_of,
)
from chatcluster_operator.reporting import status_of
from chatcluster_operator.spec import Spec
from chatcluster_operator.versions import order

SOON, SCALING, LATER = 2.0, 10.0, 30.0
"""Seconds until the next look, while something moves, while pods say how many there should be, and else."""


@dataclass(frozen=True)
class Event:
    """For ``kubectl describe``."""

    kind: str
    reason: str
    message: str


@dataclass
class Plan:
    """What to do, in this order, and what to say."""

    apply: list[Object] = field(default_factory=list)
    delete: list[Child] = field(default_factory=list)
    costs: dict[str, int] = field(default_factory=dict)
    """Of each gateway pod what it would cost to end it: the emptiest goes first."""
    status: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    wishes: dict[Component, int] = field(default_factory=dict)
    """What autoscaling wanted now, to be remembered for its window."""
    unknown: set[Component] = field(default_factory=set)
    """Of these nobody knows how many are wanted: what was before does not count any more."""
    scalings: dict[Component, tuple[int, scale.Scaling]] = field(default_factory=dict)
    """What builtin autoscaling decided, and from how many."""
    again: float = LATER


def plan(
    cluster: Cluster,
    spec: Spec,
    observed: Observed,
    *,
    now: datetime,
    monotonic: float = 0.0,
    wishes: Mapping[Component, Sequence[scale.Wish]] | None = None,
) -> Plan:
    """The next step towards ``spec``. ``now``: for times in the status, UTC; ``monotonic``: seconds, for windows."""
    made = Plan()
    facts = Facts(paused=spec.paused, monitoring=wanted_kinds(spec), unmonitored=wanted_kinds(spec) - observed.kinds)
    keep: set[Child] = {Child("v1", "Secret", cluster.child(LINK_SECRET))}
    made.apply = [one for one in around(cluster, spec) if one["kind"] not in OPTIONAL or one["kind"] in observed.kinds]
    facts.missing = sorted(secrets_of(cluster, spec) - observed.secrets.keys() - {cluster.child(LINK_SECRET)})
    if spec.dependencies.embedded is not None:
        _embedded(cluster, spec, observed, made, facts, keep, now)
    else:
        _components(cluster, spec, observed, made, facts, keep, now, monotonic, wishes or {})
    keep |= {Child("v1", "ConfigMap", one.config) for one in observed.workloads.values()}
    keep |= {Child("v1", "ConfigMap", one.config) for one in observed.migrations.values()}
    wanted = {Child.of(one) for one in made.apply} | keep
    made.delete = sorted(set(observed.children) - wanted, key=lambda one: (one.kind, one.name))
    made.status = status_of(cluster, spec, observed, facts, now)
    if facts.moving or facts.draining or (facts.waits and not spec.paused):
        made.again = SOON
    elif facts.scaling:
        made.again = SCALING
    if spec.paused:
        made.apply, made.delete, made.costs, made.events = [], [], {}, []
    return made


def _embedded(
    cluster: Cluster, spec: Spec, observed: Observed, made: Plan, facts: Facts, keep: set[Child], now: datetime
) -> None:
    wanted = embedded(cluster, spec, observed.secrets)
    found = observed.workloads.get(wanted["metadata"]["name"])
    facts.components["embedded"] = found
    facts.desired["embedded"] = 1
    if facts.missing:
        # What runs goes on as it is: rolled, its pod could not start.
        keep.add(Child.of(wanted))
        facts.moving = "SecretMissing"
        return
    made.apply.append(wanted)
    if found is None or not found.settled:
        facts.moving = "RollingOut"
        # A StatefulSet has no deadline that its controller watches.
        for pod in observed.pods:
            if pod.ends is None and pod.unready is not None and (now - pod.unready).total_seconds() > DEADLINE:
                facts.stuck["embedded"] = f"{pod.name} is not ready since {pod.unready:%Y-%m-%dT%H:%M:%SZ}"


def _components(
    cluster: Cluster,
    spec: Spec,
    observed: Observed,
    made: Plan,
    facts: Facts,
    keep: set[Child],
    now: datetime,
    monotonic: float,
    wishes: Mapping[Component, Sequence[scale.Wish]],
) -> None:
    pods = {component: pods_of(cluster, spec, component, observed.secrets) for component in COMPONENTS}
    facts.revision = revision_of(pods["gateway"])
    _drains(spec, observed, facts, now)
    # While a gateway leaves, its Deployment stays: a PodDisruptionBudget with a pod of no controller allows nobody to
    # be evicted.
    keep |= {Child("apps/v1", "Deployment", cluster.child(f"gateway-{pod.revision}")) for pod in facts.draining}
    replicas = _replicas(cluster, spec, observed, made, facts, monotonic, wishes)
    facts.desired.update(replicas)
    job = migration(cluster, spec, observed.secrets)
    ran = observed.migrations.get(job["metadata"]["name"])
    held = bool(facts.missing)
    if held:
        facts.moving = "SecretMissing"
    else:
        made.apply.append(job)
    if ran is None or not ran.done:
        held = True
        facts.moving = facts.moving or "Migrating"
        facts.blocked = ran.failed if ran is not None else ""
    turns = tuple(reversed(COMPONENTS)) if _down(spec, observed) else COMPONENTS
    first = not any(_running(cluster, observed, component) for component in COMPONENTS)
    for component in turns:
        running = _running(cluster, observed, component)
        facts.components[component] = running[0] if running else None
        if held and (not running or _differs(pods[component], running)):
            # Not its turn: what runs goes on as it is.
            keep |= {Child("apps/v1", "Deployment", one.name) for one in running}
            if component == "gateway" and running:
                facts.gateways = tuple(running)
                _held_gateways(cluster, spec, observed, running, replicas[component], made)
            continue
        if running and _differs(pods[component], running):
            made.events.append(Event("Normal", "RollingOut", f"{component}: {_why(pods[component], running[0])}"))
        if component == "gateway":
            settled = _gateways(cluster, spec, observed, pods[component], replicas[component], made, facts, keep)
        else:
            wanted = deployment(cluster, component, pods[component], replicas[component])
            if component == "persister" and _others_scale(spec) and running and running[0].scaled:
                del wanted["spec"]["replicas"]  # theirs; left out before they say it, it would become 1
            made.apply.append(wanted)
            settled = bool(running) and running[0].settled and not _differs(pods[component], running)
        if not settled:
            facts.moving = facts.moving or "RollingOut"
            # Of gateways the revision that is wanted: those that it replaces get on.
            stuck = next((one.stuck for one in running if one.revision in ("", facts.revision)), "")
            if stuck:
                facts.stuck[component] = stuck
            # Nobody else changes before this one is through; of the first install all may start together.
            held = held or not first
    if not facts.moving:
        return
    keep |= {Child("batch/v1", "Job", name) for name in observed.migrations}


def _running(cluster: Cluster, observed: Observed, component: Component) -> list[Workload]:
    """The component's Deployments that have pods; of gateways the newest version last."""
    if component == "gateway":
        found = [one for one in observed.workloads.values() if one.name.startswith(cluster.child("gateway-"))]
        return sorted((one for one in found if one.wanted or one.total), key=lambda one: (one.version, one.name))
    one = observed.workloads.get(cluster.child(component))
    return [] if one is None else [one]


def _differs(pods: Object, running: Sequence[Workload]) -> bool:
    wanted = pods["metadata"]["annotations"]
    revision = revision_of(pods)
    # Where an earlier operator noted no hash, what causes roll-outs tells.
    return any(
        known != revision if known else any(one.annotations.get(key) != wanted.get(key) for key in _CAUSES)
        for one in running
        for known in (one.revision or one.template,)
    )


_CAUSES = (VERSION, CONFIG_HASH, SECRETS_HASH, RESTARTED)


def _why(pods: Object, running: Workload) -> str:
    wanted, before = pods["metadata"]["annotations"], running.annotations
    if before.get(VERSION) != wanted[VERSION]:
        return f"version {before.get(VERSION) or 'unknown'} to {wanted[VERSION]}"
    if before.get(CONFIG_HASH) != wanted[CONFIG_HASH]:
        return "its settings changed"
    if before.get(SECRETS_HASH) != wanted[SECRETS_HASH]:
        return "a Secret that it mounts changed"
    if before.get(RESTARTED) != wanted.get(RESTARTED):
        return "somebody asked for it"
    return "its pods are described anew"


def _down(spec: Spec, observed: Observed) -> bool:
    """Whether something newer runs than what is wanted."""
    wanted = order(version_of(spec))
    running = (order(one.version) for one in observed.workloads.values() if one.wanted or one.total)
    return wanted is not None and any(one is not None and one > wanted for one in running)


def _replicas(
    cluster: Cluster,
    spec: Spec,
    observed: Observed,
    made: Plan,
    facts: Facts,
    monotonic: float,
    wishes: Mapping[Component, Sequence[scale.Wish]],
) -> dict[Component, int]:
    found: dict[Component, int] = {
        component: shape_of(spec, component).replicas  # type: ignore[attr-defined]
        for component in COMPONENTS
    }
    pods = observed.pods
    if spec.gateway.autoscaling.mode == "builtin":
        current = _gateways_now(cluster, observed)
        outcome = scale.gateways(
            spec.gateway.autoscaling,
            spec.gateway.capacity.connections_per_pod,
            current,
            [pod for pod in pods if pod.component == "gateway"],
            wishes.get("gateway", ()),
            monotonic,
            draining=bool(facts.draining),
        )
        found["gateway"] = outcome.replicas
        facts.scaling["gateway"] = outcome
        made.scalings["gateway"] = (current, outcome)
    if spec.persister.autoscaling.mode == "builtin" and spec.dependencies.kafka is not None:
        current = sum(one.wanted for one in _running(cluster, observed, "persister"))
        outcome = scale.persisters(
            spec.persister.autoscaling,
            spec.dependencies.kafka.topics.messages.partitions,
            current,
            [pod for pod in pods if pod.component == "persister"],
            wishes.get("persister", ()),
            monotonic,
        )
        found["persister"] = outcome.replicas
        facts.scaling["persister"] = outcome
        made.scalings["persister"] = (current, outcome)
    elif _others_scale(spec) and (running := _running(cluster, observed, "persister")):
        found["persister"] = running[0].wanted
    for component, outcome in facts.scaling.items():
        if outcome.wish is not None:
            made.wishes[component] = outcome.wish
        else:
            made.unknown.add(component)
    return found


def _others_scale(spec: Spec) -> bool:
    """Whether somebody else says how many persisters; of gateways they say it to the spec."""
    return spec.persister.autoscaling.mode in ("hpa", "keda")


def _gateways_now(cluster: Cluster, observed: Observed) -> int:
    """As many as were wanted: while some are replaced more run than that, and must not be taken for a wish."""
    running = _running(cluster, observed, "gateway")
    total = sum(one.wanted for one in running)
    told = int(((observed.status.get("components") or {}).get("gateway") or {}).get("desired") or 0)
    if len(running) > 1:
        return told or max(one.wanted for one in running)
    return min(total, told or total)


def _drains(spec: Spec, observed: Observed, facts: Facts, now: datetime) -> None:
    leaving = [pod for pod in observed.pods if pod.component == "gateway" and pod.ends is not None]
    facts.draining = leaving
    facts.late = [pod for pod in leaving if pod.ends is not None and now > pod.ends]
    draining, budget = len(leaving), spec.gateway.drain.max_concurrent
    why = drains.obstacle(observed.pods, observed.workloads.values(), now)
    facts.waits = drains.waits(observed.pods, paused=spec.paused, draining=draining, budget=budget, obstacle=why)
    facts.waits_long = bool(facts.waits and why) and not spec.paused and draining < budget


def _gateways(
    cluster: Cluster,
    spec: Spec,
    observed: Observed,
    pods: Object,
    wanted: int,
    made: Plan,
    facts: Facts,
    keep: set[Child],
) -> bool:
    """One step of the gateways: successors first, then as many leave as the budget lets drain."""
    budget = spec.gateway.drain.max_concurrent
    revision = revision_of(pods)
    running = _running(cluster, observed, "gateway")
    room = drains.room(observed.pods, running, budget)
    asked = drains.asked_of(observed.pods, running)
    new = next((one for one in running if one.revision == revision), None)
    old = [one for one in running if one.revision != revision]
    facts.gateways = tuple(running)
    have, ready = (new.wanted, min(new.ready, new.wanted)) if new is not None else (0, 0)
    before = sum(one.wanted for one in old)
    serving = ready + sum(min(one.ready, one.wanted) for one in old)
    mine = asked.get(revision, drains.Asked()) if wanted else drains.Asked()
    surge = min(mine.waiting, budget)
    if drains.unmarked(observed.pods):
        room = 0  # nobody is told to leave before it is seen who goes first
    # Up at once, as far as there may be more than are wanted; down by as many as may drain.
    count = max(have, min(wanted + surge, wanted - before + budget))
    if count == have and mine.waiting:
        seen = serving - max(0, ready - mine.serving)
        count = drains.step(mine, have=have, wanted=wanted, serving=seen, room=room, least=wanted).replicas
    elif count == have > wanted:
        count = max(wanted, have - room)
    told = max(0, have - count)
    room -= told
    spare = max(0, serving - told - wanted) if wanted else before
    for one in sorted(old, key=lambda one: one.revision not in asked):
        idle, empty = drains.without_successor(observed.pods, one)
        drain = min(room, one.wanted - empty, idle - empty + spare)
        spare -= max(0, drain - (idle - empty))
        room -= drain
        fewer = empty + drain
        keep.add(Child("apps/v1", "Deployment", one.name))
        if fewer:
            made.apply.append(_resized(cluster, one, one.wanted - fewer))
    made.apply.append(gateway(cluster, pods, count))
    made.costs = drains.costs(observed.pods, shrinking=bool(old) or count < have or drains.taken_back(observed.pods))
    if any(pod.asked for pod in observed.pods):
        # A drain is no roll-out: as many serve as are wanted, and of the revision that is wanted.
        return not old and new is not None and ready >= wanted and have >= wanted
    if new is None:
        return not old and wanted == 0 and cluster.child(f"gateway-{revision}") in observed.workloads
    return not old and new.settled and count == wanted == have


def _held_gateways(
    cluster: Cluster, spec: Spec, observed: Observed, running: Sequence[Workload], wanted: int, made: Plan
) -> None:
    """It is not their turn: they stay as they are, but who was asked to leave does."""
    made.costs = drains.costs(observed.pods, shrinking=False)
    sizes = drains.held(observed.pods, running, wanted=wanted, budget=spec.gateway.drain.max_concurrent)
    made.apply += [_resized(cluster, one, sizes[one.name]) for one in running if one.name in sizes]


def _resized(cluster: Cluster, one: Workload, replicas: int) -> Object:
    """Only the number: a merge patch, as what the Deployment was rendered from is gone."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": one.name, "namespace": cluster.namespace},
        "spec": {"replicas": replicas},
        "patch": True,
    }
