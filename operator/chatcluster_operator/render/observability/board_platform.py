"""The dashboard of one platform. Pure."""

from __future__ import annotations

from chatcluster_operator.observability import Objectives
from chatcluster_operator.render.observability.grafana import Object, Panel, Row, Variable, dashboard
from chatcluster_operator.render.observability.panels import NOW, each, processes, quantiles, rate
from chatcluster_operator.render.observability.promql import Series, by, quantile


def board(
    *, uid: str = "chatcluster", title: str = "ChatCluster", namespace: str = "", name: str = "",
    objectives: Objectives | None = None,
) -> Object:  # fmt: skip
    """Overview, objectives, and each component."""
    of = Series(('namespace="$namespace"', 'chatcluster="$chatcluster"'))
    variables = [
        Variable("namespace", "label_values(chatcluster_event_loop_lag_seconds, namespace)", namespace),
        Variable(
            "chatcluster", 'label_values(chatcluster_event_loop_lag_seconds{namespace="$namespace"}, chatcluster)', name
        ),
    ]
    asked = objectives or Objectives()
    rows = [
        _overview(of, asked),
        _objectives(of, asked),
        _latency(of, asked),
        _connections(of),
        _delivery(of),
        _router(of),
        _persister(of),
        _presence(of),
        _dependencies(of),
        processes(of, "component, pod", "{{component}} {{pod}}", "chatcluster_event_loop_lag_seconds"),
    ]
    return dashboard(uid, title, ["chatcluster"], variables, rows)


def _overview(of: Series, asked: Objectives) -> Row:
    budget = round(1 - asked.availability_percent / 100, 9)
    ack = asked.ack_milliseconds / 1000

    def stat(title: str, unit: str, expression: str, *limits: tuple[float, str]) -> Panel:
        return Panel(title, unit, [(expression, "")], kind="stat", width=3, limits=limits)

    return Row(
        "Overview",
        [
            stat("Connections", "short", f"sum({of('chatcluster_gateway_sockets')})"),
            stat("Sends", "ops", rate(of, "chatcluster_router_sends_total")),
            stat("Live deliveries", "ops", rate(of, "chatcluster_live_deliveries_total")),
            stat("Ack P99", "s", of("chatcluster:ack_seconds:p99_5m"), (ack, "red")),
            stat("Delivery P99", "s", of("chatcluster:delivery_seconds:p99_5m"), (1, "orange")),
            stat("Sends that fail, 1 h", "percentunit", of("chatcluster:send_errors:ratio_rate1h"), (budget, "red")),
            stat("Persister lag", "s", f"max({of('chatcluster_persister_lag_seconds')})", (60, "orange")),
            stat(
                "Dependencies not reached",
                "short",
                f"count({of('chatcluster_dependency_up')} == 0) or vector(0)",
                (1, "red"),
            ),
        ],
    )


def _objectives(of: Series, asked: Objectives) -> Row:
    def burns(title: str, ratio: str, budget: float) -> Panel:
        return Panel(
            title,
            "short",
            [
                (f"{of(f'chatcluster:{ratio}:ratio_rate{window}')} / {budget:.6g}", window)
                for window in ("1h", "6h", "3d")
            ],
            width=12,
            text="1: the budget of 30 days lasts 30 days. 14.4: it lasts two.",
            limits=[(1, "orange"), (14.4, "red")],
        )

    return Row(
        "Objectives",
        [
            burns(
                f"Burn rate of failing sends ({asked.availability_percent:g} % wanted)",
                "send_errors",
                round(1 - asked.availability_percent / 100, 9),
            ),
            burns(
                f"Burn rate of slow acks ({asked.ack_percent:g} % within {asked.ack_milliseconds} ms wanted)",
                "acks_slow",
                round(1 - asked.ack_percent / 100, 9),
            ),
        ],
    )


def _latency(of: Series, asked: Objectives) -> Row:
    steps = [
        (quantile(0.99, "component", of.rate(f"chatcluster_{metric}_bucket", NOW)), legend)
        for metric, legend in (
            ("router_claim_seconds", "claim"),
            ("router_publish_seconds", "publish"),
            ("router_report_seconds", "report"),
            ("link_seconds", "link"),
        )
    ]
    return Row(
        "Latency",
        [
            Panel(
                "Send to ack, in the router",
                "s",
                quantiles(of, "chatcluster_router_send_seconds"),
                width=6,
                limits=[(asked.ack_milliseconds / 1000, "red")],
            ),
            Panel(
                "Id to delivery",
                "s",
                quantiles(of, "chatcluster_live_delivery_seconds"),
                width=6,
                text="From a message's id to the buffers of who is connected, by the clocks of router and gateway.",
            ),
            Panel(
                "Id to proof",
                "s",
                quantiles(of, "chatcluster_live_to_durable_seconds"),
                width=6,
                text="Until a gateway has read in the log that what it delivered stands, with no gap before it.",
            ),
            Panel("P99 of the steps of a send", "s", steps, width=6),
        ],
    )


def _connections(of: Series) -> Row:
    return Row(
        "Connections",
        [
            Panel("Connections", "short", [(by("pod", of("chatcluster_gateway_sockets")), "{{pod}}")], stacked=True),
            Panel(
                "Opened, and not yet known",
                "short",
                [
                    (rate(of, "chatcluster_gateway_upgrades_total"), "opened a second"),
                    (f"sum({of('chatcluster_gateway_sockets_preauth')})", "without a hello"),
                    (rate(of, "chatcluster_gateway_open_timeouts_total"), "never finished a second"),
                ],
            ),
            Panel("Refused, by reason", "ops", [each(of, "chatcluster_gateway_refused_total", "reason")]),
            Panel(
                "Closed by us, by code",
                "ops",
                [each(of, "chatcluster_gateway_closes_total", "code")],
                text="1012: restart. 4410: slow consumer. 4413: token expired. 4429: too many.",
            ),
            Panel(
                "Traffic",
                "ops",
                [
                    (rate(of, "chatcluster_gateway_frames_in_total"), "frames in"),
                    (rate(of, "chatcluster_gateway_bad_frames_total"), "bad frames in"),
                    (rate(of, "chatcluster_gateway_throttled_total"), "throttled"),
                ],
            ),
            Panel("Written to clients", "Bps", [(rate(of, "chatcluster_gateway_out_bytes_total"), "bytes")]),
        ],
    )


def _delivery(of: Series) -> Row:
    return Row(
        "Delivery",
        [
            Panel(
                "Live deliveries",
                "ops",
                [
                    (rate(of, "chatcluster_live_deliveries_total"), "delivered"),
                    (rate(of, "chatcluster_live_refused_total"), "held back: too many unproven"),
                ],
            ),
            Panel(
                "Gaps repaired, and worse",
                "ops",
                [
                    (rate(of, "chatcluster_repaired_total"), "repaired"),
                    (rate(of, "chatcluster_retracted_total"), "retracted"),
                    (rate(of, "chatcluster_proof_failures_total"), "proofs not read"),
                    (rate(of, "chatcluster_bus_lost_total"), "losses told by the bus"),
                    (rate(of, "chatcluster_bus_overflows_total"), "listeners' overflows"),
                ],
            ),
            Panel(
                "Reads of timelines, by source",
                "ops",
                [
                    each(of, "chatcluster_timeline_reads_total", "source"),
                    (rate(of, "chatcluster_resume_store_reads_total"), "resumes from the store"),
                ],
            ),
        ],
    )


def _router(of: Series) -> Row:
    return Row(
        "Router",
        [
            Panel("Sends, by outcome", "ops", [each(of, "chatcluster_router_sends_total", "outcome")]),
            Panel(
                "Sends that wait",
                "short",
                [
                    (f"sum({of('chatcluster_router_arrivals')})", "for the pump"),
                    (f"sum({of('chatcluster_router_parked')})", "for a read"),
                    (f"sum({of('chatcluster_router_in_flight')})", "for the log"),
                ],
                stacked=True,
            ),
            Panel(
                "Channels read",
                "ops",
                [
                    (rate(of, "chatcluster_router_channel_reads_total"), "reads"),
                    (rate(of, "chatcluster_router_channel_read_failures_total"), "not answered"),
                    (rate(of, "chatcluster_router_clock_faults_total"), "clock faults"),
                ],
            ),
        ],
    )


def _persister(of: Series) -> Row:
    return Row(
        "Persister",
        [
            Panel(
                "Lag",
                "s",
                [(by("stage", of("chatcluster_persister_lag_seconds"), "max"), "{{stage}}")],
                width=6,
                limits=[(60, "red")],
            ),
            Panel(
                "Records behind",
                "short",
                [(by("stage", of("chatcluster_persister_lag_records")), "{{stage}}")],
                width=6,
            ),
            Panel("Records done", "ops", [each(of, "chatcluster_persister_records_total", "stage")], width=6),
            Panel(
                "Set aside, given up, repeated",
                "ops",
                [
                    (rate(of, "chatcluster_persister_dead_letters_total"), "dead letters"),
                    (rate(of, "chatcluster_persister_tail_entries_dropped_total"), "tail entries dropped"),
                    (rate(of, "chatcluster_persister_retries_total"), "retries"),
                    (rate(of, "chatcluster_persister_repeats_total"), "stood there before"),
                ],
                width=6,
            ),
        ],
    )


def _presence(of: Series) -> Row:
    return Row(
        "Presence and push",
        [
            Panel(
                "Heartbeats and changes",
                "ops",
                [
                    (rate(of, "chatcluster_presence_beats_total"), "heartbeats"),
                    (rate(of, "chatcluster_presence_beats_dropped_total"), "dropped"),
                    (rate(of, "chatcluster_presence_changes_total"), "changes"),
                    (rate(of, "chatcluster_presence_entries_total"), "told"),
                ],
            ),
            Panel(
                "Watched users, and what waits",
                "short",
                [
                    (f"sum({of('chatcluster_presence_watched_users')})", "watched"),
                    (f"sum({of('chatcluster_presence_waiting_entries')})", "changes that wait"),
                    (f"sum({of('chatcluster_presence_beats_queued')})", "heartbeats that wait"),
                ],
            ),
            Panel(
                "Push",
                "ops",
                [
                    each(of, "chatcluster_push_webhook_posts_total", "outcome"),
                    (rate(of, "chatcluster_push_webhook_given_up_total"), "given up"),
                ],
            ),
        ],
    )


def _dependencies(of: Series) -> Row:
    return Row(
        "Dependencies",
        [
            Panel(
                "Pods that reach it",
                "percentunit",
                [
                    (
                        by("component, dependency", of("chatcluster_dependency_up"), "avg"),
                        "{{component}} to {{dependency}}",
                    )
                ],
            ),
            Panel(
                "P99 of writes",
                "s",
                [
                    (f"histogram_quantile(0.99, sum by (le) ({of.rate(metric, NOW)}))", legend)
                    for metric, legend in (
                        ("chatcluster_log_append_seconds_bucket", "Kafka, append to report"),
                        ("chatcluster_log_commit_seconds_bucket", "embedded log, commit"),
                        ("chatcluster_store_write_seconds_bucket", "store, write"),
                    )
                ],
            ),
            Panel(
                "Failures",
                "ops",
                [
                    (rate(of, "chatcluster_log_failures_total"), "appends to the log"),
                    (rate(of, "chatcluster_store_failures_total"), "writes to the store"),
                    (rate(of, "chatcluster_redis_errors_total"), "Redis commands"),
                    (rate(of, "chatcluster_kafka_rebalances_total"), "rebalances"),
                ],
            ),
        ],
    )
