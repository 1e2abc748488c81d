"""Alerts of one platform, from what its roles export. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from chatcluster_operator.observability import Objectives, Thresholds
from chatcluster_operator.render.observability.objectives import OURS, WHO, burns
from chatcluster_operator.render.observability.promql import Alert, Series, by

POD = f"{OURS}, component, pod"
ALIVE: Mapping[str, str] = {
    "gateway": "chatcluster_gateway_sockets",
    "router": "chatcluster_router_in_flight",
    "persister": "chatcluster_persister_lag_records",
    "presence": "chatcluster_presence_watched_users",
}
"""By component a metric that it has as soon as it works."""

WHERE = f"{WHO}, {{{{ $labels.component }}}} {{{{ $labels.pod }}}}"


def alerts(
    of: Series,
    objectives: Objectives,
    thresholds: Thresholds,
    *,
    capacity: int | None = None,
    memory: Mapping[str, float] | None = None,
    alive: tuple[str, ...] = tuple(ALIVE),
) -> list[Alert]:
    """All of them. What is not known has no alert.

    ``capacity``: connections of a gateway; ``memory``: limits by component, bytes; ``alive``: what runs.
    """
    return [
        *burns(of, objectives),
        *_processes(of, thresholds, memory or {}, alive),
        *_gateways(of, thresholds, capacity),
        *_delivery(of, thresholds),
        *_persisters(of, thresholds),
        *_dependencies(of),
        *_others(of, thresholds),
    ]


def _processes(of: Series, thresholds: Thresholds, memory: Mapping[str, float], alive: tuple[str, ...]) -> list[Alert]:
    gone = [f'label_replace(absent({of(ALIVE[one])}), "component", "{one}", "", "")' for one in alive]
    found = [
        Alert(
            "ChatClusterComponentDown",
            "critical",
            " or ".join(gone),
            "3m",
            "No pod of a component works.",
            f"{WHO}: no {{{{ $labels.component }}}} has told its metrics for 3 minutes.",
        ),
        Alert(
            "ChatClusterPodDown",
            "warning",
            f"{of('up')} == 0",
            "5m",
            "A pod does not answer Prometheus.",
            f"{WHERE} has not answered for 5 minutes.",
        ),
        Alert(
            "ChatClusterPodRestarts",
            "warning",
            by(POD, f"changes({of('process_start_time_seconds')}[30m])", "max") + " > 2",
            "0m",
            "A pod's process starts again and again.",
            f"{WHERE} started {{{{ $value }}}} times in 30 minutes.",
        ),
    ]
    rss = "process_resident_memory_bytes"
    high = [
        by(POD, of(rss, *([f'component="{component}"'] if component else [])))
        + f" > {limit * thresholds.memory_percent / 100:.0f}"
        for component, limit in memory.items()
    ]
    if high:
        found.append(
            Alert(
                "ChatClusterMemoryHigh",
                "warning",
                " or ".join(high),
                "10m",
                "A pod is about to be ended for its memory.",
                f"{WHERE} uses {{{{ $value | humanize1024 }}}}B, over {thresholds.memory_percent} % of its limit.",
            )
        )
    return [
        *found,
        Alert(
            "ChatClusterFilesRunOut",
            "warning",
            by(POD, f"{of('process_open_fds')} / {of('process_max_fds')}", "max") + " > 0.8",
            "5m",
            "A process runs out of file descriptors; then it accepts no connection.",
            f"{WHERE} has {{{{ $value | humanizePercentage }}}} of its descriptors open.",
        ),
        Alert(
            "ChatClusterEventLoopLate",
            "warning",
            by(POD, of("chatcluster_event_loop_lag_seconds"), "max")
            + f" > {thresholds.event_loop_milliseconds / 1000}",
            "5m",
            "A process is too busy to answer in time.",
            f"{WHERE}: its event loop was {{{{ $value | humanizeDuration }}}} late at worst.",
        ),
        Alert(
            "ChatClusterMixedVersions",
            "warning",
            by(OURS, by(f"{OURS}, version", of("chatcluster_build_info"), "count"), "count") + " > 1",
            "2h",
            "Several versions run for hours: a roll-out does not end.",
            f"{WHO}: {{{{ $value }}}} versions run at the same time.",
        ),
    ]


def _gateways(of: Series, thresholds: Thresholds, capacity: int | None) -> list[Alert]:
    sockets = "chatcluster_gateway_sockets"
    connections = of("chatcluster:connections:sum")
    most = f"max_over_time({connections}[10m])"
    kept = round(1 - thresholds.connections_lost_percent / 100, 4)
    found = [
        Alert(
            "ChatClusterConnectionsLost",
            "critical",
            f"{connections} < {kept} * {most} and {most} >= 100",
            "1m",
            "Many connections are gone at once.",
            f"{WHO}: {{{{ $value }}}} connections are left, over {thresholds.connections_lost_percent} % fewer than in "
            "the last 10 minutes.",
        )
    ]
    if capacity is not None:
        found.append(
            Alert(
                "ChatClusterGatewayFull",
                "warning",
                by(POD, of(sockets)) + f" > {capacity * thresholds.gateway_percent // 100}",
                "5m",
                "A gateway is almost full.",
                f"{WHERE} holds {{{{ $value }}}} connections of {capacity}.",
            )
        )
    cut = by(OURS, of.increase("chatcluster_gateway_closes_total", "10m", 'code="4410"'))
    return [
        *found,
        Alert(
            "ChatClusterConnectionsRefused",
            "warning",
            by(f"{OURS}, reason", of.rate("chatcluster_gateway_refused_total", "5m", 'reason!="draining"'))
            + f" > {thresholds.refused_per_second}",
            "10m",
            "Gateways refuse connections.",
            f"{WHO}: {{{{ $value | humanize }}}} connections a second are refused: {{{{ $labels.reason }}}}.",
        ),
        Alert(
            "ChatClusterSlowConsumers",
            "warning",
            f"{cut} / clamp_min({by(OURS, of(sockets))}, 100) > {thresholds.slow_consumers_percent / 100:.6g}",
            "10m",
            "Many clients are cut because they read too slowly.",
            f"{WHO}: {{{{ $value | humanizePercentage }}}} of connections were closed with 4410 in 10 minutes.",
        ),
        Alert(
            "ChatClusterSessionErrors",
            "warning",
            by(POD, of.increase("chatcluster_gateway_session_errors_total", "10m")) + " > 0",
            "0m",
            "Sessions end by a fault of the gateway.",
            f"{WHERE}: {{{{ $value | humanize }}}} sessions in 10 minutes; its log has the traces.",
        ),
        Alert(
            "ChatClusterProcessSlept",
            "warning",
            by(POD, of.increase("chatcluster_gateway_fenced_total", "10m"))
            + " > 0 or "
            + by(POD, of.increase("chatcluster_router_fenced_total", "10m"))
            + " > 0",
            "0m",
            "A process slept so long that others took its place.",
            f"{WHERE}: {{{{ $value | humanize }}}} times in 10 minutes it found its lease or its sessions too old.",
        ),
    ]


def _delivery(of: Series, thresholds: Thresholds) -> list[Alert]:
    repaired = by(OURS, of.rate("chatcluster_repaired_total", "10m"))
    proven = by(OURS, of.rate("chatcluster_live_to_durable_seconds_count", "10m"))
    return [
        Alert(
            "ChatClusterDeliverySlow",
            "warning",
            f"{of('chatcluster:delivery_seconds:p99_5m')} > {thresholds.delivery_milliseconds / 1000}",
            "10m",
            "Messages come late to who is connected.",
            f"{WHO}: P99 from a message's id to its delivery is {{{{ $value | humanizeDuration }}}}.",
        ),
        Alert(
            "ChatClusterProofSlow",
            "warning",
            f"{of('chatcluster:proof_seconds:p99_5m')} > {thresholds.proof_milliseconds / 1000}",
            "10m",
            "What was delivered is proven late: gaps are found late.",
            f"{WHO}: P99 from a message's id to its proof is {{{{ $value | humanizeDuration }}}}.",
        ),
        Alert(
            "ChatClusterProofFails",
            "warning",
            by(OURS, of.rate("chatcluster_proof_failures_total", "5m")) + " > 0",
            "10m",
            "Gateways cannot read what proves their deliveries.",
            f"{WHO}: {{{{ $value | humanize }}}} reads a second are not answered.",
        ),
        Alert(
            "ChatClusterBusLossy",
            "warning",
            f"{repaired} / ({repaired} + {proven}) > {thresholds.bus_lost_percent / 100:.6g} and {repaired} > 0.1",
            "10m",
            "The bus loses much; it is repaired, but later.",
            f"{WHO}: {{{{ $value | humanizePercentage }}}} of events had to be repaired.",
        ),
        Alert(
            "ChatClusterRetractions",
            "warning",
            by(OURS, of.increase("chatcluster_retracted_total", "15m")) + " > 0",
            "0m",
            "Messages that clients saw were withdrawn.",
            f"{WHO}: {{{{ $value | humanize }}}} live events never became durable within 15 minutes.",
        ),
    ]


def _persisters(of: Series, thresholds: Thresholds) -> list[Alert]:
    stage = f"{OURS}, stage"
    behind = by(stage, of("chatcluster_persister_lag_records"))
    return [
        Alert(
            "ChatClusterPersisterBehind",
            "warning",
            by(stage, of("chatcluster_persister_lag_seconds"), "max") + f" > {thresholds.persister_lag_seconds}",
            "5m",
            "History is behind the log.",
            f"{WHO}: the oldest record of {{{{ $labels.stage }}}} not yet stored is "
            "{{ $value | humanizeDuration }} old.",
        ),
        Alert(
            "ChatClusterPersisterStalled",
            "critical",
            f"{behind} > 0 and {by(stage, of.rate('chatcluster_persister_records_total', '5m'))} == 0",
            "5m",
            "Nothing is stored, though there is something to store.",
            f"{WHO}: {{{{ $value }}}} records of {{{{ $labels.stage }}}} wait and none was done for 5 minutes.",
        ),
        Alert(
            "ChatClusterDeadLetters",
            "warning",
            by(f"{OURS}, topic", of.increase("chatcluster_persister_dead_letters_total", "15m")) + " > 0",
            "0m",
            "The log holds records that cannot be read.",
            f"{WHO}: {{{{ $value | humanize }}}} records of {{{{ $labels.topic }}}} were set aside in 15 minutes.",
        ),
        Alert(
            "ChatClusterTailEntriesDropped",
            "warning",
            by(stage, of.increase("chatcluster_persister_tail_entries_dropped_total", "15m")) + " > 0",
            "0m",
            "Tails miss entries: they are read from the store instead.",
            f"{WHO}: {{{{ $value | humanize }}}} entries of {{{{ $labels.stage }}}} were given up in 15 minutes.",
        ),
        Alert(
            "ChatClusterRebalances",
            "warning",
            by(f"{OURS}, group", of.increase("chatcluster_kafka_rebalances_total", "15m"), "max") + " > 5",
            "5m",
            "Partitions change hands again and again.",
            f"{WHO}: group {{{{ $labels.group }}}} had {{{{ $value | humanize }}}} changes of ownership in 15 minutes.",
        ),
    ]


def _dependencies(of: Series) -> list[Alert]:
    one = f"{OURS}, component, dependency"
    up = of("chatcluster_dependency_up")
    down = by(one, up, "max") + " == 0"
    return [
        Alert(
            "ChatClusterDependencyDown",
            "critical",
            down,
            "2m",
            "No pod of a component reaches what it needs.",
            f"{WHO}: no {{{{ $labels.component }}}} reaches {{{{ $labels.dependency }}}}.",
        ),
        Alert(
            "ChatClusterDependencyFlaky",
            "warning",
            by(one, f"avg_over_time({up}[10m])", "min") + f" < 0.9 unless {down}",
            "10m",
            "Some pods reach what they need only at times.",
            f"{WHO}: a {{{{ $labels.component }}}} reaches {{{{ $labels.dependency }}}} only "
            "{{ $value | humanizePercentage }} of the time.",
        ),
        Alert(
            "ChatClusterLogStalled",
            "critical",
            by(POD, of("chatcluster_log_stalled_seconds"), "max") + " > 5",
            "1m",
            "Kafka does not report: nothing is acknowledged.",
            f"{WHERE}: the oldest append has waited for {{{{ $value | humanizeDuration }}}}.",
        ),
        Alert(
            "ChatClusterLogFailures",
            "warning",
            by(OURS, of.rate("chatcluster_log_failures_total", "5m")) + " > 0",
            "5m",
            "Appends to the log fail.",
            f"{WHO}: {{{{ $value | humanize }}}} records a second.",
        ),
        Alert(
            "ChatClusterStoreFailures",
            "warning",
            by(OURS, of.rate("chatcluster_store_failures_total", "5m")) + " > 0",
            "5m",
            "Writes to the store fail.",
            f"{WHO}: {{{{ $value | humanize }}}} writes a second.",
        ),
        Alert(
            "ChatClusterRedisErrors",
            "warning",
            by(OURS, of.rate("chatcluster_redis_errors_total", "5m")) + " > 1",
            "5m",
            "Redis does not answer, or refuses.",
            f"{WHO}: {{{{ $value | humanize }}}} commands a second.",
        ),
    ]


def _others(of: Series, thresholds: Thresholds) -> list[Alert]:
    return [
        Alert(
            "ChatClusterClockFaults",
            "critical",
            by(POD, of.increase("chatcluster_router_clock_faults_total", "10m")) + " > 0",
            "0m",
            "A router's clock is wrong: it refuses sends.",
            f"{WHERE}: {{{{ $value | humanize }}}} ids were refused in 10 minutes.",
        ),
        Alert(
            "ChatClusterPresenceOverloaded",
            "warning",
            by(OURS, of.rate("chatcluster_presence_beats_dropped_total", "5m")) + " > 0",
            "10m",
            "Presence drops heartbeats: people who are there may look away.",
            f"{WHO}: {{{{ $value | humanize }}}} heartbeats a second.",
        ),
        Alert(
            "ChatClusterPresenceStoreLost",
            "warning",
            by(OURS, of.increase("chatcluster_presence_store_losses_total", "15m")) + " > 0",
            "0m",
            "Presence lost its store: it is unknown for a moment.",
            f"{WHO}: {{{{ $value | humanize }}}} times in 15 minutes.",
        ),
        Alert(
            "ChatClusterPushGivenUp",
            "warning",
            by(OURS, of.increase("chatcluster_push_webhook_given_up_total", "15m")) + " > 0",
            "0m",
            "Push notifications are given up.",
            f"{WHO}: {{{{ $value | humanize }}}} in 15 minutes.",
        ),
        Alert(
            "ChatClusterPushLate",
            "warning",
            by(OURS, of("chatcluster_push_webhook_lag_seconds"), "max")
            + f" > {thresholds.push_lag_seconds} and "
            # What is told is the age of the last one: without another it stays as it was.
            + by(OURS, of.rate("chatcluster_push_webhook_posts_total", "10m"))
            + " > 0",
            "10m",
            "Push notifications come late.",
            f"{WHO}: {{{{ $value | humanizeDuration }}}} after the message.",
        ),
    ]
