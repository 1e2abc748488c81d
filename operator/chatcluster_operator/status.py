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
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(max_length=1024)]
    message: Annotated[str, Field(max_length=32_768)]
    observed_generation: int = 0
    last_transition_time: str


class ComponentStatus(Model):
    """How far one component is."""

    desired: int = 0
    ready: int = 0
    updated: int = 0
    revision: str = ""
    connections: int | None = None
    lag: int | None = Field(None, description="Records of the log not yet stored.")


class Components(Model):
    gateway: ComponentStatus | None = None
    router: ComponentStatus | None = None
    persister: ComponentStatus | None = None
    presence: ComponentStatus | None = None


class DrainStatus(Model):
    """A gateway that leaves, or that somebody asked to leave."""

    pod: str
    node: str | None = None
    phase: Literal["Waiting", "Leaving", "Stuck"] | None = Field(
        None, description="Waiting: asked, and not told yet; Stuck: it should have begun, or ended, by now."
    )
    message: str | None = Field(None, description="What it waits for.")
    since: str | None = Field(None, description="When it was asked, or told without being asked.")
    until: str = Field("", description="When the kubelet ends it, drained or not.")
    connections: int | None = None
    connections_at_start: int | None = Field(None, description="When it was told to leave, as far as remembered.")


class Endpoints(Model):
    """Where it is reached inside the cluster."""

    sockets: str | None = None
    server_api: str | None = None


class Status(Model):
    """Everything in it is found again from the cluster: it may be lost."""

    observed_generation: int = 0
    version: str | None = Field(None, description="The newest version whose roll-out began.")
    phase: str | None = None
    replicas: int = Field(0, description="Gateways that run, for the scale subresource.")
    selector: str | None = None
    gateways: str | None = Field(None, description="Ready and wanted gateways.")
    draining: int = 0
    conditions: list[Condition] | None = Field(
        None,
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    components: Components | None = None
    drains: list[DrainStatus] | None = Field(None, max_length=100)
    endpoints: Endpoints | None = None
