"""For every alert series with which it fires, and such with which it must not: near misses where there are any.

Values are promtool's: ``0+60x30`` is 0, 60, 120 and so on, 31 samples; a sample a minute.
"""

from __future__ import annotations

from dataclasses import dataclass

Samples = tuple[str, str]
"""A series and its values."""


@dataclass(frozen=True)
class Case:
    """Of one alert."""

    fires: tuple[Samples, ...]
    quiet: tuple[Samples, ...]
    at: str = "30m"
    many: int = 1
    """Alerts that fire."""


def _series(metric: str, values: str, labels: dict[str, str]) -> Samples:
    inner = ",".join(f'{name}="{value}"' for name, value in labels.items() if value)
    return f"{metric}{{{inner}}}", values


def p(metric: str, values: str, component: str = "gateway", **labels: str) -> Samples:
    """Of a pod of the platform ``team/main``."""
    head = {"namespace": "team", "chatcluster": "main", "component": component, "pod": f"main-{component}-1"}
    return _series(f"{'' if metric.startswith(('process', 'up')) else 'chatcluster_'}{metric}", values, head | labels)


def o(metric: str, values: str, pod: str = "operator-1", **labels: str) -> Samples:
    """Of a replica of the operator."""
    name = metric if metric.startswith("process") else f"chatcluster_operator_{metric}"
    return _series(name, values, {"namespace": "ops", "pod": pod} | labels)


def said(kind: str, reason: str, values: str) -> Samples:
    """A condition of ``team/main``, as the operator tells it."""
    return o("condition", values, chatcluster_namespace="team", chatcluster="main", type=kind, reason=reason)


def sends(good: str, bad: str) -> tuple[Samples, ...]:
    """By outcome; refusals that are the sender's fault count as good."""
    return (
        p("router_sends_total", good, "router", outcome="acked"),
        p("router_sends_total", "0+60x600", "router", outcome="forbidden"),
        p("router_sends_total", bad, "router", outcome="overloaded"),
    )


def acks(within: str, everything: str) -> tuple[Samples, ...]:
    """Of the histogram; and enough sends that it counts."""
    return (
        p("router_send_seconds_bucket", within, "router", le="0.25"),
        p("router_send_seconds_count", everything, "router"),
        p("router_sends_total", everything, "router", outcome="acked"),
    )


def histogram(metric: str, below: str, slow: str) -> tuple[Samples, ...]:
    """All but a few below 1 s, and everything below 10 s."""
    return (
        p(f"{metric}_bucket", below, le="1.0"),
        p(f"{metric}_bucket", slow, le="10.0"),
        p(f"{metric}_bucket", slow, le="+Inf"),
    )


def pushed(values: str) -> Samples:
    """Posts of the webhook."""
    return p("push_webhook_posts_total", values, "persister", outcome="taken")


EVERY = (
    p("gateway_sockets", "100x60"),
    p("router_in_flight", "0x60", "router"),
    p("persister_lag_records", "0x60", "persister", stage="messages"),
    p("presence_watched_users", "0x60", "presence"),
)
STEADY = "0+60x60"
STILL = "7x60"
ONE_MORE = "7x25 8x35"
"""A counter that moved once, 26 minutes after the start."""

PLATFORM = {
    # 99.9 %: 14.4 times of 0.1 % is 1.44 %.
    "ChatClusterSendErrorsBurnFast": Case(sends("0+880x600", "0+60x600"), sends("0+11880x600", "0+60x600"), "2h"),
    # Three times of 0.1 %: 0.5 % burns slowly, and 0.05 % not at all.
    "ChatClusterSendErrorsBurnSlow": Case(sends("0+11880x600", "0+60x600"), sends("0+119880x600", "0+60x600"), "8h"),
    # 99 %: 14.4 times of 1 % is 14.4 %.
    "ChatClusterAcksSlowBurnFast": Case(acks("0+480x600", "0+600x600"), acks("0+570x600", "0+600x600"), "2h"),
    "ChatClusterAcksSlowBurnSlow": Case(acks("0+570x600", "0+600x600"), acks("0+597x600", "0+600x600"), "8h"),
    "ChatClusterComponentDown": Case(EVERY[1:], EVERY),
    "ChatClusterPodDown": Case((p("up", "1x10 0x40"),), (p("up", "1x40"), p("up", "0x3 1x40", "router"))),
    "ChatClusterPodRestarts": Case(
        (p("process_start_time_seconds", "100x8 500x5 900x5 1300x30"),),
        (p("process_start_time_seconds", "100x8 500x5 900x40"),),
    ),
    "ChatClusterMemoryHigh": Case(
        (p("process_resident_memory_bytes", "1000000000x40"),),
        (
            p("process_resident_memory_bytes", "900000000x40"),
            p("process_resident_memory_bytes", "400000000x40", "presence", pod="", instance="x"),
        ),
    ),
    "ChatClusterFilesRunOut": Case(
        (p("process_open_fds", "900x40"), p("process_max_fds", "1000x40")),
        (p("process_open_fds", "700x40"), p("process_max_fds", "1000x40")),
    ),
    "ChatClusterEventLoopLate": Case(
        (p("event_loop_lag_seconds", "0.8x40"),), (p("event_loop_lag_seconds", "0.8x2 0.01x2 0.8x2 0.01x40"),)
    ),
    "ChatClusterMixedVersions": Case(
        (p("build_info", "1x300", version="1.0.0"), p("build_info", "1x300", "router", version="1.1.0")),
        (p("build_info", "1x300", version="1.0.0"), p("build_info", "1x300", "router", version="1.0.0")),
        "4h",
    ),
    "ChatClusterConnectionsLost": Case(
        (p("gateway_sockets", "1000x25 400x30"),), (p("gateway_sockets", "1000x25 600x30"),)
    ),
    "ChatClusterGatewayFull": Case((p("gateway_sockets", "18500x40"),), (p("gateway_sockets", "17500x40"),)),
    "ChatClusterConnectionsRefused": Case(
        (p("gateway_refused_total", "0+120x60", reason="rate"),),
        (
            p("gateway_refused_total", "0+30x60", reason="rate"),
            p("gateway_refused_total", "0+900x60", reason="draining"),
        ),
    ),
    "ChatClusterSlowConsumers": Case(
        (p("gateway_closes_total", "0+5x60", code="4410"), p("gateway_sockets", "1000x60")),
        (
            p("gateway_closes_total", "0+0.5x60", code="4410"),
            p("gateway_closes_total", "0+500x60", code="1012"),
            p("gateway_sockets", "1000x60"),
        ),
    ),
    "ChatClusterSessionErrors": Case(
        (p("gateway_session_errors_total", ONE_MORE),), (p("gateway_session_errors_total", STILL),)
    ),
    "ChatClusterProcessSlept": Case(
        (p("gateway_fenced_total", ONE_MORE), p("router_fenced_total", ONE_MORE, "router")),
        (p("gateway_fenced_total", STILL), p("router_fenced_total", STILL, "router")),
        many=2,
    ),
    "ChatClusterDeliverySlow": Case(
        histogram("live_delivery_seconds", "0+950x60", "0+1000x60"),
        histogram("live_delivery_seconds", "0+999x60", "0+1000x60"),
    ),
    "ChatClusterProofSlow": Case(
        histogram("live_to_durable_seconds", "0+950x60", "0+1000x60"),
        histogram("live_to_durable_seconds", "0+995x60", "0+1000x60"),
    ),
    "ChatClusterProofFails": Case((p("proof_failures_total", STEADY),), (p("proof_failures_total", STILL),)),
    "ChatClusterBusLossy": Case(
        (p("repaired_total", "0+600x60"), p("live_to_durable_seconds_count", "0+6000x60")),
        (p("repaired_total", "0+60x60"), p("live_to_durable_seconds_count", "0+6000x60")),
    ),
    "ChatClusterRetractions": Case((p("retracted_total", ONE_MORE),), (p("retracted_total", STILL),)),
    "ChatClusterPersisterBehind": Case(
        (p("persister_lag_seconds", "90x40", "persister", stage="inbox"),),
        (p("persister_lag_seconds", "30x40", "persister", stage="inbox"),),
    ),
    "ChatClusterPersisterStalled": Case(
        (
            p("persister_lag_records", "500x40", "persister", stage="messages"),
            p("persister_records_total", STILL, "persister", stage="messages"),
        ),
        (
            p("persister_lag_records", "500x40", "persister", stage="messages"),
            p("persister_records_total", STEADY, "persister", stage="messages"),
            p("persister_lag_records", "0x40", "persister", stage="inbox"),
            p("persister_records_total", STILL, "persister", stage="inbox"),
        ),
    ),
    "ChatClusterDeadLetters": Case(
        (p("persister_dead_letters_total", ONE_MORE, "persister", topic="messages"),),
        (p("persister_dead_letters_total", STILL, "persister", topic="messages"),),
    ),
    "ChatClusterTailEntriesDropped": Case(
        (p("persister_tail_entries_dropped_total", ONE_MORE, "persister", stage="inbox"),),
        (p("persister_tail_entries_dropped_total", STILL, "persister", stage="inbox"),),
    ),
    "ChatClusterRebalances": Case(
        (p("kafka_rebalances_total", "0+1x60", "persister", group="persister", topic="messages"),),
        (p("kafka_rebalances_total", "0x20 3x40", "persister", group="persister", topic="messages"),),
    ),
    "ChatClusterDependencyDown": Case(
        (
            p("dependency_up", "0x40", dependency="redis"),
            p("dependency_up", "0x40", dependency="redis", pod="main-gateway-2"),
        ),
        (
            p("dependency_up", "0x40", dependency="redis"),
            p("dependency_up", "1x40", dependency="redis", pod="main-gateway-2"),
        ),
    ),
    "ChatClusterDependencyFlaky": Case(
        (
            p("dependency_up", "0x40", dependency="redis"),
            p("dependency_up", "1x40", dependency="redis", pod="main-gateway-2"),
        ),
        (
            p("dependency_up", "1x10 0 1x40", dependency="redis"),
            p("dependency_up", "0x40", "router", dependency="kafka"),
        ),
    ),
    "ChatClusterLogStalled": Case(
        (p("log_stalled_seconds", "0x20 10+60x20", "router"),), (p("log_stalled_seconds", "2x40", "router"),)
    ),
    "ChatClusterLogFailures": Case(
        (p("log_failures_total", STEADY, "router"),), (p("log_failures_total", STILL, "router"),)
    ),
    "ChatClusterStoreFailures": Case(
        (p("store_failures_total", STEADY, "persister"),), (p("store_failures_total", STILL, "persister"),)
    ),
    "ChatClusterRedisErrors": Case((p("redis_errors_total", "0+120x60"),), (p("redis_errors_total", "0+30x60"),)),
    "ChatClusterClockFaults": Case(
        (p("router_clock_faults_total", ONE_MORE, "router"),), (p("router_clock_faults_total", STILL, "router"),)
    ),
    "ChatClusterPresenceOverloaded": Case(
        (p("presence_beats_dropped_total", STEADY, "presence"),),
        (p("presence_beats_dropped_total", STILL, "presence"),),
    ),
    "ChatClusterPresenceStoreLost": Case(
        (p("presence_store_losses_total", ONE_MORE, "presence"),),
        (p("presence_store_losses_total", STILL, "presence"),),
    ),
    "ChatClusterPushGivenUp": Case(
        (p("push_webhook_given_up_total", ONE_MORE, "persister"),),
        (p("push_webhook_given_up_total", STILL, "persister"),),
    ),
    "ChatClusterPushLate": Case(
        (p("push_webhook_lag_seconds", "90x40", "persister"), pushed(STEADY)),
        (p("push_webhook_lag_seconds", "90x40", "persister"), pushed(STILL)),
    ),
}

LEADER = o("leads", "1x1500")
FOLLOWER = o("leads", "0x1500", pod="operator-2")


def requests(good: str, bad: str, code: str) -> tuple[Samples, ...]:
    """To the API server."""
    return (
        o("api_requests_total", good, verb="get", resource="pods", code="200"),
        o("api_requests_total", bad, verb="apply", resource="services", code=code),
    )


def slow(metric: str, bound: str, below: str, everything: str, **labels: str) -> tuple[Samples, ...]:
    """Of a histogram: what took at most ``bound``, and all that took at most 30 s."""
    return tuple(
        o(f"{metric}_bucket", values, le=le, **labels)
        for le, values in ((bound, below), ("30.0", everything), ("+Inf", everything))
    )


OPERATOR = {
    "ChatClusterOperatorDown": Case((), (LEADER,)),
    "ChatClusterOperatorNoLeader": Case((FOLLOWER,), (LEADER, FOLLOWER)),
    "ChatClusterOperatorTwoLeaders": Case((LEADER, o("leads", "1x60", pod="operator-2")), (LEADER, FOLLOWER)),
    "ChatClusterOperatorLeaderChanges": Case(
        (o("leads", "1 0 1 0 1 0 1 0 1x30"),), (o("leads", "1x10 0x30"), o("leads", "0x10 1x30", pod="operator-2"))
    ),
    "ChatClusterOperatorStalled": Case(
        (LEADER, o("clusters", "3x60", phase="Ready"), o("reconciles_total", STILL, result="ok")),
        (
            *(LEADER, o("clusters", "3x60", phase="Ready"), o("reconciles_total", STEADY, result="ok")),
            # Whoever does not lead looks at nothing.
            *(FOLLOWER, o("clusters", "3x60", pod="operator-2", phase="Ready")),
            o("reconciles_total", STILL, pod="operator-2", result="ok"),
        ),
    ),
    "ChatClusterOperatorReconcileErrors": Case(
        (o("reconciles_total", "0+60x60", result="ok"), o("reconciles_total", "0+20x60", result="error")),
        (o("reconciles_total", "0+600x60", result="ok"), o("reconciles_total", "0+20x60", result="error")),
        "40m",
    ),
    "ChatClusterOperatorReconcileSlow": Case(
        slow("reconcile_seconds", "5.0", "0+90x60", "0+100x60"),
        slow("reconcile_seconds", "5.0", "0+99x60", "0+100x60"),
        "40m",
    ),
    "ChatClusterOperatorBacklog": Case(
        (LEADER, o("queue_oldest_seconds", "10+20x60")),
        (LEADER, o("queue_oldest_seconds", "20x60"), FOLLOWER, o("queue_oldest_seconds", "900x60", pod="operator-2")),
    ),
    "ChatClusterOperatorWatchStale": Case(
        (LEADER, o("watch_age_seconds", "0+60x60", watch="pods")),
        (
            LEADER,
            o("watch_age_seconds", "55x60", watch="pods"),
            FOLLOWER,
            o("watch_age_seconds", "900x60", pod="operator-2", watch="pods"),
        ),
    ),
    "ChatClusterOperatorLoopLate": Case(
        (o("event_loop_lag_seconds", "2x40"),), (o("event_loop_lag_seconds", "0.3x40"),)
    ),
    "ChatClusterOperatorForbidden": Case(requests(STEADY, STEADY, "403"), requests(STEADY, STEADY, "409")),
    "ChatClusterOperatorApiErrors": Case(requests("0+600x60", STEADY, "503"), requests("0+6000x60", STEADY, "503")),
    "ChatClusterOperatorApiSlow": Case(
        slow("api_request_seconds", "1.0", "0+90x60", "0+100x60", verb="get"),
        slow("api_request_seconds", "1.0", "0+999x60", "0+1000x60", verb="get"),
        "40m",
    ),
    "ChatClusterUnavailable": Case((said("Available", "NotServing", "0x40"),), (said("Available", "Serving", "1x40"),)),
    "ChatClusterNotReady": Case(
        (said("Ready", "RollingOut", "0x30 _x60"), said("Ready", "PodsMissing", "_x30 0x60")),
        (said("Ready", "Ready", "1x20 _x10 1x60"), said("Ready", "RollingOut", "_x20 0x9 _x60")),
        "1h",
    ),
    "ChatClusterSpecInvalid": Case((said("Ready", "InvalidSpec", "0x40"),), (said("Ready", "RollingOut", "0x40"),)),
    "ChatClusterUpgradeBlocked": Case(
        (said("UpgradeBlocked", "MigrationFailed", "1x40"),), (said("UpgradeBlocked", "NotBlocked", "0x40"),)
    ),
    "ChatClusterDrainStuck": Case((said("Draining", "Stuck", "1x40"),), (said("Draining", "Draining", "1x40"),)),
    "ChatClusterDependenciesUnreachable": Case(
        (said("DependenciesReachable", "Unreachable", "0x40"),), (said("DependenciesReachable", "NoMetrics", "-1x40"),)
    ),
    "ChatClusterScalingBlind": Case(
        (said("ScalingActive", "NoMetrics", "0x40"),), (said("ScalingActive", "NotConfigured", "0x40"),)
    ),
    "ChatClusterScalingAtMaximum": Case(
        (said("ScalingLimited", "TooManyReplicas", "1x60"),), (said("ScalingLimited", "TooFewReplicas", "1x60"),), "50m"
    ),
    "ChatClusterPaused": Case(
        (said("ReconciliationPaused", "Paused", "1x1500"),),
        (said("ReconciliationPaused", "NotPaused", "0x1500"),),
        "25h",
    ),
    "ChatClusterMonitoringMissing": Case(
        (said("Monitored", "DefinitionsMissing", "0x40"),), (said("Monitored", "NotConfigured", "0x40"),)
    ),
}
