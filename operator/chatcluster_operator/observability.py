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
    labels: dict[str, LabelValue] | None = Field(
        None, max_length=32, description="Besides the operator's own; what your Prometheus selects by."
    )


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
    interval_seconds: int = Field(30, ge=5, le=60, description="Between two scrapes; rates are over 5 minutes.")
    scrape_timeout_seconds: int = Field(10, ge=1, le=60)


class Objectives(Model):
    """What is promised over 30 days; alerts say how fast the rest of it burns."""

    availability_percent: Annotated[float, Field(ge=90, le=99.999)] = Field(
        99.9, description="Sends that are answered by no fault of ours."
    )
    ack_milliseconds: Literal[25, 50, 100, 250, 500, 1000, 2500, 5000] = Field(
        250, description="Within which a send is durable and acknowledged."
    )
    ack_percent: Annotated[float, Field(ge=50, le=99.999)] = Field(99.0, description="Sends acknowledged within it.")
    minimum_sends: int = Field(
        100, ge=1, le=1_000_000_000, description="Sends an hour below which a rate means nothing and nobody is woken."
    )


class Thresholds(Model):
    """From where on somebody is told."""

    gateway_percent: int = Field(90, ge=10, le=100, description="Of capacity.connectionsPerPod.")
    refused_per_second: float = Field(1.0, ge=0, le=1_000_000, description="Connections refused by admission.")
    connections_lost_percent: int = Field(50, ge=5, le=100, description="Within 10 minutes.")
    slow_consumers_percent: float = Field(
        1.0, ge=0.01, le=100, description="Of open connections, cut within 10 minutes."
    )
    event_loop_milliseconds: int = Field(500, ge=10, le=60_000)
    delivery_milliseconds: int = Field(1000, ge=10, le=60_000, description="P99 from a message's id to its delivery.")
    proof_milliseconds: int = Field(5000, ge=100, le=60_000, description="P99 from a message's id to its proof.")
    bus_lost_percent: float = Field(5.0, ge=0.01, le=100, description="Events that the bus did not bring.")
    persister_lag_seconds: int = Field(60, ge=1, le=86_400, description="Age of the oldest record not yet stored.")
    push_lag_seconds: int = Field(60, ge=1, le=86_400)
    memory_percent: int = Field(90, ge=10, le=100, description="Of the memory limit.")


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

    interval_seconds: int = Field(30, ge=5, le=120, description="Between two evaluations.")
    runbook_base: Annotated[str, Field(pattern=r"^https?://[^\s#]+$", max_length=500)] = Field(
        RUNBOOKS, description="Where the runbooks lie; # and the alert's name in small letters follow."
    )
    alert_labels: dict[str, Annotated[str, Field(max_length=200)]] | None = Field(
        None, max_length=16, description="Besides severity, for routing: team, tier."
    )
    without: list[AlertName] | None = Field(None, max_length=64, description="Alerts that are left out.")
    objectives: Objectives = Objectives()
    thresholds: Thresholds = Thresholds()


class Dashboards(Labelled):
    """A Grafana dashboard in a ConfigMap, for Grafana's sidecar."""

    labels: dict[str, LabelValue] | None = Field(
        {"grafana_dashboard": "1"}, max_length=32, description="What Grafana's sidecar selects by."
    )
    annotations: dict[str, Annotated[str, Field(max_length=1000)]] | None = Field(
        None, max_length=32, description="Such as the folder: grafana_folder."
    )


class Observability(Model):
    """What is not written here is not rendered; {} takes what is usual."""

    pod_monitor: PodMonitor | None = None
    prometheus_rules: PrometheusRules | None = None
    dashboards: Dashboards | None = None
