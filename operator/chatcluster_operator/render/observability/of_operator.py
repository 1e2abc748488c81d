"""Alerts on the operator itself, and on ChatClusters as it sees them. Pure: for charts and manifests.

Its metrics name a ChatCluster by ``chatcluster_namespace`` and ``chatcluster``, as ``namespace`` is that of the pod
that is asked.
"""

from __future__ import annotations

from chatcluster_operator.render.observability.promql import Alert, Record, Series, by, quantile

HERE = "namespace"
"""Of the operator: one per namespace where it is installed for namespaces of its own."""
THERE = "namespace, chatcluster_namespace, chatcluster"
WHO = "{{ $labels.chatcluster_namespace }}/{{ $labels.chatcluster }}"
TROUBLED = 'code=~"5..|429|timeout|unreachable"'
"""Answers of the API server that are its trouble, or the network's."""


def records(of: Series) -> list[Record]:
    """Of how the operator does."""
    reconciles = "chatcluster_operator_reconciles_total"
    bad = by(HERE, of.rate(reconciles, "10m", 'result="error"'))
    return [
        Record(
            "chatcluster_operator:reconcile_errors:ratio_rate10m", f"{bad} / {by(HERE, of.rate(reconciles, '10m'))}"
        ),
        Record(
            "chatcluster_operator:reconcile_seconds:p95_10m",
            quantile(0.95, HERE, of.rate("chatcluster_operator_reconcile_seconds_bucket", "10m")),
        ),
        Record(
            "chatcluster_operator:api_request_seconds:p99_10m",
            quantile(0.99, HERE, of.rate("chatcluster_operator_api_request_seconds_bucket", "10m")),
        ),
    ]


def alerts(of: Series) -> list[Alert]:
    """All of them."""
    return [*_itself(of), *_server(of), *_clusters(of)]


def _itself(of: Series) -> list[Alert]:
    leads = of("chatcluster_operator_leads")
    leading = f"on (namespace, pod) {leads} == 1"
    return [
        Alert(
            "ChatClusterOperatorDown",
            "critical",
            f"absent({leads})",
            "5m",
            "The operator is gone: nothing of ChatClusters is kept as their specs say.",
            "No replica of the operator has told its metrics for 5 minutes.",
        ),
        Alert(
            "ChatClusterOperatorNoLeader",
            "critical",
            by(HERE, leads) + " == 0",
            "2m",
            "No replica of the operator leads: nothing is written.",
            "In {{ $labels.namespace }} no replica holds the Lease.",
        ),
        Alert(
            "ChatClusterOperatorTwoLeaders",
            "critical",
            by(HERE, leads) + " > 1",
            "2m",
            "Two replicas of the operator believe that they lead.",
            "In {{ $labels.namespace }} {{ $value }} replicas say that they hold the Lease.",
        ),
        Alert(
            "ChatClusterOperatorLeaderChanges",
            "warning",
            by(HERE, f"changes({leads}[1h])") + " > 6",
            "0m",
            "The Lease of the operator goes back and forth.",
            "In {{ $labels.namespace }} leadership changed {{ $value }} times in an hour.",
        ),
        Alert(
            "ChatClusterOperatorStalled",
            "critical",
            f"({by('namespace, pod', of('chatcluster_operator_clusters'))} > 0 and "
            f"{by('namespace, pod', of.rate('chatcluster_operator_reconciles_total', '5m'))} == 0) and {leading}",
            "5m",
            "The leader looks at nothing.",
            "{{ $labels.pod }} knows {{ $value }} ChatClusters and has not looked at any for 5 minutes.",
        ),
        Alert(
            "ChatClusterOperatorReconcileErrors",
            "warning",
            f"{of('chatcluster_operator:reconcile_errors:ratio_rate10m')} > 0.1",
            "15m",
            "The operator fails at what it does.",
            "In {{ $labels.namespace }} {{ $value | humanizePercentage }} of looks at ChatClusters failed.",
        ),
        Alert(
            "ChatClusterOperatorReconcileSlow",
            "warning",
            f"{of('chatcluster_operator:reconcile_seconds:p95_10m')} > 5",
            "15m",
            "The operator is slow.",
            "In {{ $labels.namespace }} P95 of a look at a ChatCluster is {{ $value | humanizeDuration }}.",
        ),
        Alert(
            "ChatClusterOperatorBacklog",
            "warning",
            by("namespace, pod", of("chatcluster_operator_queue_oldest_seconds"), "max") + f" > 60 and {leading}",
            "5m",
            "The operator does not keep up.",
            "{{ $labels.pod }}: a ChatCluster has been due for {{ $value | humanizeDuration }}.",
        ),
        Alert(
            "ChatClusterOperatorWatchStale",
            "warning",
            by("namespace, pod, watch", of("chatcluster_operator_watch_age_seconds"), "max")
            + " > 180 and on (namespace, pod) "
            + f"{leads} == 1",
            "5m",
            "A watch brings nothing: changes are seen late or not at all.",
            "{{ $labels.pod }}: the watch of {{ $labels.watch }} is silent for {{ $value | humanizeDuration }}.",
        ),
        Alert(
            "ChatClusterOperatorLoopLate",
            "warning",
            by("namespace, pod", of("chatcluster_operator_event_loop_lag_seconds"), "max") + " > 1",
            "10m",
            "The operator is too busy to answer in time; it may lose its Lease.",
            "{{ $labels.pod }}: its event loop was {{ $value | humanizeDuration }} late at worst.",
        ),
    ]


def _server(of: Series) -> list[Alert]:
    requests = "chatcluster_operator_api_requests_total"
    return [
        Alert(
            "ChatClusterOperatorForbidden",
            "warning",
            by("namespace, verb, resource", of.increase(requests, "10m", 'code="403"')) + " > 0",
            "5m",
            "The operator may not do what it must.",
            "In {{ $labels.namespace }} the operator may not {{ $labels.verb }} {{ $labels.resource }}.",
        ),
        Alert(
            "ChatClusterOperatorApiErrors",
            "warning",
            f"{by(HERE, of.rate(requests, '10m', TROUBLED))} / {by(HERE, of.rate(requests, '10m'))} > 0.05",
            "10m",
            "The API server does not answer the operator as it should.",
            "In {{ $labels.namespace }} {{ $value | humanizePercentage }} of requests failed.",
        ),
        Alert(
            "ChatClusterOperatorApiSlow",
            "warning",
            f"{of('chatcluster_operator:api_request_seconds:p99_10m')} > 2",
            "15m",
            "The API server is slow.",
            "In {{ $labels.namespace }} P99 of the operator's requests is {{ $value | humanizeDuration }}.",
        ),
    ]


def _clusters(of: Series) -> list[Alert]:
    def said(kind: str, *more: str) -> str:
        return by(f"{THERE}, reason", of("chatcluster_operator_condition", f'type="{kind}"', *more), "max")

    return [
        Alert(
            "ChatClusterUnavailable",
            "critical",
            said("Available") + " == 0",
            "5m",
            "A component of a ChatCluster has no ready pod.",
            f"{WHO} is not Available: {{{{ $labels.reason }}}}.",
        ),
        Alert(
            "ChatClusterNotReady",
            "warning",
            by(THERE, of("chatcluster_operator_condition", 'type="Ready"'), "max") + " < 1",
            "30m",
            "A ChatCluster does not become as its spec says.",
            f"{WHO} has not been Ready for 30 minutes: see its conditions.",
        ),
        Alert(
            "ChatClusterSpecInvalid",
            "warning",
            said("Ready", 'reason="InvalidSpec"') + " == 0",
            "1m",
            "The operator cannot read a ChatCluster.",
            f"{WHO} has a spec that this version of the operator does not take.",
        ),
        Alert(
            "ChatClusterUpgradeBlocked",
            "warning",
            said("UpgradeBlocked") + " == 1",
            "5m",
            "An upgrade does not get on.",
            f"{WHO}: {{{{ $labels.reason }}}}.",
        ),
        Alert(
            "ChatClusterDrainStuck",
            "warning",
            said("Draining", 'reason="Stuck"') + " == 1",
            "5m",
            "A gateway should have ended by now.",
            f"{WHO}: a draining gateway is over its deadline; roll-outs wait for it.",
        ),
        Alert(
            "ChatClusterDependenciesUnreachable",
            "warning",
            said("DependenciesReachable") + " == 0",
            "5m",
            "Pods do not reach Redis, Kafka, Cassandra or each other.",
            f"{WHO}: {{{{ $labels.reason }}}}; the condition names which.",
        ),
        Alert(
            "ChatClusterScalingBlind",
            "warning",
            said("ScalingActive", 'reason="NoMetrics"') + " == 0",
            "10m",
            "The operator holds replicas, as pods do not tell their metrics.",
            f"{WHO}: replicas are held.",
        ),
        Alert(
            "ChatClusterScalingAtMaximum",
            "warning",
            said("ScalingLimited", 'reason="TooManyReplicas"') + " == 1",
            "30m",
            "More replicas are needed than the spec allows.",
            f"{WHO} has been at its maximum for 30 minutes.",
        ),
        Alert(
            "ChatClusterPaused",
            "info",
            said("ReconciliationPaused") + " == 1",
            "1d",
            "A ChatCluster has been paused for a day.",
            f"{WHO}: nothing of it is kept as its spec says.",
        ),
        Alert(
            "ChatClusterMonitoringMissing",
            "info",
            said("Monitored", 'reason="DefinitionsMissing"') + " == 0",
            "15m",
            "Monitoring is wanted, but the Prometheus operator is not there.",
            f"{WHO} asks for PodMonitor or PrometheusRule, whose definitions are not installed.",
        ),
    ]
