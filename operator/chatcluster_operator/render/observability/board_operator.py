"""The dashboard of the operator: what it does, and ChatClusters as it sees them. Pure."""

from __future__ import annotations

from chatcluster_operator.render.observability.grafana import Object, Panel, Row, Variable, dashboard
from chatcluster_operator.render.observability.panels import NOW, each, processes, quantiles
from chatcluster_operator.render.observability.promql import Series, by, quantile


def board(*, uid: str = "chatcluster-operator", title: str = "ChatCluster operator") -> Object:
    """What the operator does, and ChatClusters as it sees them."""
    of = Series(('namespace=~"$namespace"',))
    name = "chatcluster_operator_"
    variables = [Variable("namespace", f"label_values({name}leads, namespace)", many=True)]
    who = "{{chatcluster_namespace}}/{{chatcluster}}"
    there = "chatcluster_namespace, chatcluster"
    not_ready = of(name + "condition", 'type="Ready"')
    lacking = of(name + "condition", 'type=~"Ready|Available|DependenciesReachable"')
    wrong = of(name + "condition", 'type=~"Degraded|UpgradeBlocked|ReconciliationPaused"')
    desired, ready = (of(name + "replicas", f'state="{state}"') for state in ("desired", "ready"))

    def stat(title: str, expression: str, *limits: tuple[float, str], unit: str = "short", legend: str = "") -> Panel:
        return Panel(title, unit, [(expression, legend)], kind="stat", width=4, limits=limits)

    overview = Row(
        "Overview",
        [
            stat("Leaders", f"sum({of(name + 'leads')})", (2, "red")),
            stat("ChatClusters", f"sum({of(name + 'clusters')} and on (namespace, pod) {of(name + 'leads')} == 1)"),
            stat("Not Ready", f"count({not_ready} < 1) or vector(0)", (1, "orange")),
            stat("Due", f"sum({of(name + 'queue')})", (10, "orange")),
            stat("Draining", f"sum({of(name + 'draining')}) or vector(0)"),
            stat(
                "Looks that fail",
                f"max({of('chatcluster_operator:reconcile_errors:ratio_rate10m')})",
                (0.1, "red"),
                unit="percentunit",
            ),
        ],
    )
    work = Row(
        "Work",
        [
            Panel("Looks, by result", "ops", [each(of, name + "reconciles_total", "result")]),
            Panel("Errors, by reason", "ops", [each(of, name + "reconcile_errors_total", "reason")]),
            Panel("One look", "s", quantiles(of, name + "reconcile_seconds")),
            Panel("Due until looked at", "s", quantiles(of, name + "queue_wait_seconds")),
            Panel("Writes, by resource", "ops", [each(of, name + "api_requests_total", "resource", 'verb!="get"')]),
            Panel(
                "Age of watches",
                "s",
                [(by("watch", of(name + "watch_age_seconds"), "max"), "{{watch}}")],
                limits=[(180, "red")],
                text="Seconds since the last event or bookmark.",
            ),
        ],
    )
    server = Row(
        "API server",
        [
            Panel(
                "Requests",
                "ops",
                [(by("verb, code", of.rate(name + "api_requests_total", NOW)), "{{verb}} {{code}}")],
            ),
            Panel(
                "P99, by verb",
                "s",
                [(quantile(0.99, "verb", of.rate(name + "api_request_seconds_bucket", NOW)), "{{verb}}")],
            ),
            Panel("Lease, last renewed", "s", [(f"min({of(name + 'lease_age_seconds')})", "age")], limits=[(8, "red")]),
        ],
    )
    clusters = Row(
        "ChatClusters",
        [
            Panel("By phase", "short", [(by("phase", of(name + "clusters")), "{{phase}}")], width=6, stacked=True),
            Panel("Gateways that drain", "short", [(by(there, of(name + "draining")), who)], width=6, stacked=True),
            Panel("Time of a drain", "s", quantiles(of, name + "drain_seconds"), width=6),
            Panel(
                "Scale decisions",
                "short",
                [
                    (
                        by("component, direction", of.increase(name + "scale_decisions_total", NOW)),
                        "{{component}} {{direction}}",
                    )
                ],
                width=6,
            ),
            Panel(
                "Replicas that are missing",
                "short",
                [
                    (
                        f"max by ({there}, component) ({desired}) - max by ({there}, component) ({ready}) > 0",
                        who + " {{component}}",
                    )
                ],
                width=12,
            ),
            Panel(
                "Conditions that are not as they should be",
                "short",
                [
                    (
                        f"max by ({there}, type, reason) ({lacking} < 1 or {wrong} == 1)",
                        "",
                    )
                ],
                kind="table",
                width=12,
            ),
        ],
    )
    itself = processes(of, "pod", "{{pod}}", name + "event_loop_lag_seconds")
    return dashboard(uid, title, ["chatcluster"], variables, [overview, work, server, clusters, itself])
