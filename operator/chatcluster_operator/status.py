"""The status of a ChatCluster: what the operator saw and is about to do, for people and ``kubectl wait``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from chatcluster_operator.fields import Model

ConditionType = Literal[
    "Available",
    "Progressing",
    "Degraded",
    "DependenciesReachable",
    "Draining",
    "ScalingActive",
    "ScalingLimited",
    "ReconciliationPaused",
    "UpgradeBlocked",
    "Monitored",
    "Ready",
]


class Condition(Model):
    """As ``metav1.Condition``."""

    type: Annotated[str, Field(max_length=316)]
    """Available: every component has a ready pod. Progressing: something is becoming what the spec says. Degraded:
    something is broken. DependenciesReachable: pods reach Redis, Kafka, Cassandra and each other. Draining: gateways
    leave, or were asked to. ScalingActive, ScalingLimited: the operator scales; min or max holds it. UpgradeBlocked:
    a migration failed or a roll-out is stuck. ReconciliationPaused: spec.paused is set. Monitored: what
    spec.observability asks of the Prometheus operator is there. Ready: the platform is as the spec says, and
    serves."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: Annotated[str, Field(max_length=1024)]
    """Why, in one word for programs."""
    message: Annotated[str, Field(max_length=32_768)]
    """Why, for people, and what to do."""
    observed_generation: int = 0
    """metadata.generation of the spec that this was said of."""
    last_transition_time: str
    """When status last changed, RFC 3339."""


class ComponentStatus(Model):
    """How far one component is."""

    desired: int = 0
    """Pods that are wanted, by the spec or by autoscaling."""
    ready: int = 0
    """Pods that are ready, of any revision."""
    updated: int = 0
    """Pods of the revision that is wanted, ready or not."""
    revision: str = ""
    """gateway: hash of the pod template that is wanted, the label chatcluster.dev/revision of its pods; other
    components: hash of the settings of what runs."""
    connections: int | None = None
    """gateway only: open connections, of those that drain too."""
    lag: int | None = None
    """persister only: records of the log not yet stored."""


class Components(Model):
    """How far each component is."""

    gateway: ComponentStatus | None = None
    """How far gateways are, over all revisions."""
    router: ComponentStatus | None = None
    """How far routers are."""
    persister: ComponentStatus | None = None
    """How far persisters are."""
    presence: ComponentStatus | None = None
    """How far presence is."""


class DrainStatus(Model):
    """A gateway that leaves, or that somebody asked to leave."""

    pod: str
    """Name of its pod."""
    node: str | None = None
    """Name of the node on which it runs."""
    phase: Literal["Waiting", "Leaving", "Stuck"] | None = None
    """Waiting: asked, and not told yet; Leaving: its connections are being moved; Stuck: it should have begun, or
    ended, by now."""
    message: str | None = None
    """What it waits for."""
    since: str | None = None
    """When it was asked, or told without being asked, RFC 3339."""
    until: str = ""
    """When the kubelet ends it, drained or not, RFC 3339."""
    connections: int | None = None
    """Connections that it still has."""
    connections_at_start: int | None = None
    """Connections that it had when it was told to leave, as far as remembered."""


class Endpoints(Model):
    """Where it is reached inside the cluster."""

    sockets: str | None = None
    """URL of the WebSocket endpoint, for clients."""
    server_api: str | None = None
    """URL of the server API, for the product's back end; served where spec.api.keysSecretRef is set."""


class Status(Model):
    """Everything in it is found again from the cluster: it may be lost."""

    observed_generation: int = 0
    """metadata.generation of the spec that the operator looked at last."""
    version: str | None = None
    """The newest version whose roll-out began; without spec.version a hash of spec.image."""
    phase: str | None = None
    """The reason of the condition Ready, for lists."""
    replicas: int = 0
    """Gateways that are asked for of all Deployments, for the scale subresource; more than wanted while some are
    replaced."""
    selector: str | None = None
    """Labels of gateways' pods, for the scale subresource."""
    gateways: str | None = None
    """Ready and wanted gateways: 3/3."""
    draining: int = 0
    """Gateways that drain now."""
    conditions: list[Condition] | None = Field(
        None,
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """What is so, and why; for kubectl wait --for=condition=Ready."""
    components: Components | None = None
    """How far each component is. Not with dependencies.embedded."""
    drains: list[DrainStatus] | None = Field(None, max_length=100)
    """Gateways that leave, then those that were asked to (the first 100)."""
    endpoints: Endpoints | None = None
    """Where it is reached inside the cluster."""
