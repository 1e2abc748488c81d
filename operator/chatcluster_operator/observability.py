"""``spec.observability``: what is rendered for the Prometheus operator and for Grafana, and by what numbers it judges.

Thresholds are what a team argues about; what an alert means, and what to do, is in ``docs/runbooks.md``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from chatcluster_operator.fields import LabelValue, Model, rule, rules

RUNBOOKS = "https://github.com/chatcluster/chatcluster/blob/main/docs/runbooks.md"

AlertName = Literal[
    "ChatClusterSendErrorsBurnFast",
    "ChatClusterSendErrorsBurnSlow",
    "ChatClusterAcksSlowBurnFast",
    "ChatClusterAcksSlowBurnSlow",
    "ChatClusterComponentDown",
    "ChatClusterPodDown",
    "ChatClusterPodRestarts",
    "ChatClusterMemoryHigh",
    "ChatClusterFilesRunOut",
    "ChatClusterEventLoopLate",
    "ChatClusterMixedVersions",
    "ChatClusterConnectionsLost",
    "ChatClusterGatewayFull",
    "ChatClusterConnectionsRefused",
    "ChatClusterSlowConsumers",
    "ChatClusterSessionErrors",
    "ChatClusterProcessSlept",
    "ChatClusterDeliverySlow",
    "ChatClusterProofSlow",
    "ChatClusterProofFails",
    "ChatClusterBusLossy",
    "ChatClusterRetractions",
    "ChatClusterPersisterBehind",
    "ChatClusterPersisterStalled",
    "ChatClusterDeadLetters",
    "ChatClusterTailEntriesDropped",
    "ChatClusterRebalances",
    "ChatClusterDependencyDown",
    "ChatClusterDependencyFlaky",
    "ChatClusterLogStalled",
    "ChatClusterLogFailures",
    "ChatClusterStoreFailures",
    "ChatClusterRedisErrors",
    "ChatClusterClockFaults",
    "ChatClusterPresenceOverloaded",
    "ChatClusterPresenceStoreLost",
    "ChatClusterPushGivenUp",
    "ChatClusterPushLate",
]
"""Alerts of a platform; a test holds that this is what is rendered."""

_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_LABELS = rule(
    f"!has(self.labels) || self.labels.all(key, key.matches('{_KEY}') && "
    "!key.startsWith('app.kubernetes.io/') && !key.startsWith('chatcluster.dev/'))",
    "labels must be valid, and those of app.kubernetes.io/ and chatcluster.dev/ are the operator's own",
)


class Labelled(Model):
    """An object with labels by which somebody selects it."""

    model_config = ConfigDict(json_schema_extra=rules(_LABELS))
    labels: dict[str, LabelValue] | None = Field(None, max_length=32)
    """Labels besides the operator's own; what your Prometheus selects by."""


class PodMonitor(Labelled):
    """How Prometheus asks the pods."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _LABELS,
            rule(
                "self.scrapeTimeoutSeconds <= self.intervalSeconds",
                "scrapeTimeoutSeconds must not exceed intervalSeconds: Prometheus refuses it",
            ),
        )
    )
    interval_seconds: int = Field(30, ge=5, le=60)
    """Seconds between two scrapes; rates are over 5 minutes."""
    scrape_timeout_seconds: int = Field(10, ge=1, le=60)
    """Seconds after which a scrape has failed."""


class Objectives(Model):
    """What is promised over 30 days; alerts say how fast the rest of it burns."""

    availability_percent: Annotated[float, Field(ge=90, le=99.999)] = 99.9
    """Percent of sends that are answered by no fault of ours: not with overloaded, unavailable or unknown_outcome."""
    ack_milliseconds: Literal[25, 50, 100, 250, 500, 1000, 2500, 5000] = 250
    """Milliseconds within which a send is durable and acknowledged."""
    ack_percent: Annotated[float, Field(ge=50, le=99.999)] = 99.0
    """Percent of sends that are acknowledged within ackMilliseconds."""
    minimum_sends: int = Field(100, ge=1, le=1_000_000_000)
    """Sends an hour below which a rate means nothing and nobody is woken."""


class Thresholds(Model):
    """From where on somebody is told."""

    gateway_percent: int = Field(90, ge=10, le=100)
    """ChatClusterGatewayFull: connections of a gateway, in percent of capacity.connectionsPerPod."""
    refused_per_second: float = Field(1.0, ge=0, le=1_000_000)
    """ChatClusterConnectionsRefused: connections that gateways refuse in a second, for 10 minutes."""
    connections_lost_percent: int = Field(50, ge=5, le=100)
    """ChatClusterConnectionsLost: percent of connections that are gone within 10 minutes."""
    slow_consumers_percent: float = Field(1.0, ge=0.01, le=100)
    """ChatClusterSlowConsumers: percent of open connections that are cut within 10 minutes as they read too slowly."""
    event_loop_milliseconds: int = Field(500, ge=10, le=60_000)
    """ChatClusterEventLoopLate: milliseconds by which a process's event loop is late at worst, for 5 minutes."""
    delivery_milliseconds: int = Field(1000, ge=10, le=60_000)
    """ChatClusterDeliverySlow: milliseconds from a message's id to its delivery, P99."""
    proof_milliseconds: int = Field(5000, ge=100, le=60_000)
    """ChatClusterProofSlow: milliseconds from a message's id to its proof, P99."""
    bus_lost_percent: float = Field(5.0, ge=0.01, le=100)
    """ChatClusterBusLossy: percent of events that the bus did not bring and that were repaired."""
    persister_lag_seconds: int = Field(60, ge=1, le=86_400)
    """ChatClusterPersisterBehind: age of the oldest record not yet stored, in seconds."""
    push_lag_seconds: int = Field(60, ge=1, le=86_400)
    """ChatClusterPushLate: age of a message when its push notification is posted, in seconds."""
    memory_percent: int = Field(90, ge=10, le=100)
    """ChatClusterMemoryHigh: resident memory of a pod's process, in percent of the pod's memory limit."""


class PrometheusRules(Labelled):
    """Recording rules and alerts."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _LABELS,
            rule(
                "!has(self.alertLabels) || self.alertLabels.all(key, key.matches('^[a-zA-Z_][a-zA-Z0-9_]{0,99}$') && "
                "!(key in ['severity', 'alertname']))",
                "alertLabels are names of Prometheus, other than severity and alertname",
            ),
        )
    )

    interval_seconds: int = Field(30, ge=5, le=120)
    """Seconds between two evaluations."""
    runbook_base: Annotated[str, Field(pattern=r"^https?://[^\s#]+$", max_length=500)] = RUNBOOKS
    """URL of the runbooks; # and the alert's name in small letters follow."""
    alert_labels: dict[str, Annotated[str, Field(max_length=200)]] | None = Field(None, max_length=16)
    """Labels of every alert besides severity, for routing: team, tier."""
    without: list[AlertName] | None = Field(None, max_length=64)
    """Names of alerts that are left out."""
    objectives: Objectives = Objectives()
    """What is promised over 30 days; alerts say how fast the rest of it burns."""
    thresholds: Thresholds = Thresholds()
    """From where on an alert fires."""


class Dashboards(Labelled):
    """A Grafana dashboard in a ConfigMap, for Grafana's sidecar."""

    labels: dict[str, LabelValue] | None = Field({"grafana_dashboard": "1"}, max_length=32)
    """Labels besides the operator's own; what Grafana's sidecar selects by."""
    annotations: dict[str, Annotated[str, Field(max_length=1000)]] | None = Field(None, max_length=32)
    """Annotations, such as the folder: grafana_folder."""


class Observability(Model):
    """What is not written here is not rendered; {} takes what is usual."""

    pod_monitor: PodMonitor | None = None
    """A PodMonitor, by which Prometheus asks all pods. Not set: none. Needs the Prometheus operator."""
    prometheus_rules: PrometheusRules | None = None
    """A PrometheusRule with recording rules and alerts. Not set: none. Needs the Prometheus operator."""
    dashboards: Dashboards | None = None
    """A Grafana dashboard in a ConfigMap, for Grafana's sidecar. Not set: none."""
