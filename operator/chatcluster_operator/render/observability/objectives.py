"""What a platform promises: recording rules of it, and alerts by how fast the rest of the budget burns. Pure.

Burn rates over several windows, as in Google's SRE workbook, chapter 5: 14.4 times burns 2 % of 30 days' budget in an
hour, 6 times 5 % in six hours, 3 and 1 times 10 % in one and three days.
"""

from __future__ import annotations

from chatcluster_operator.observability import Objectives
from chatcluster_operator.render.observability.promql import Alert, Record, Series, Severity, by, quantile

OURS = "namespace, chatcluster"
"""Labels of the platform, in every aggregation."""
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
FAULTS = 'outcome!~"overloaded|unavailable|unknown_outcome"'
"""Sends that are no fault of ours: acknowledged ones, and those refused for what they are."""
FAST = (("1h", "5m", 14.4), ("6h", "30m", 6.0))
SLOW = (("1d", "2h", 3.0), ("3d", "6h", 1.0))

WHO = "{{ $labels.namespace }}/{{ $labels.chatcluster }}"


def records(of: Series, objectives: Objectives) -> list[Record]:
    """Of the objectives, and of what dashboards ask for often."""
    bound = f'le="{objectives.ack_milliseconds / 1000}"'
    found = [
        Record(f"chatcluster:sends:rate{window}", by(OURS, of.rate("chatcluster_router_sends_total", window)))
        for window in ("5m", "1h")
    ]
    for window in WINDOWS:
        good = by(OURS, of.rate("chatcluster_router_sends_total", window, FAULTS))
        everything = by(OURS, of.rate("chatcluster_router_sends_total", window))
        found.append(Record(f"chatcluster:send_errors:ratio_rate{window}", f"1 - {good} / {everything}"))
        fast = by(OURS, of.rate("chatcluster_router_send_seconds_bucket", window, bound))
        acked = by(OURS, of.rate("chatcluster_router_send_seconds_count", window))
        found.append(Record(f"chatcluster:acks_slow:ratio_rate{window}", f"1 - {fast} / {acked}"))
    for name, metric in (
        ("ack", "chatcluster_router_send_seconds_bucket"),
        ("delivery", "chatcluster_live_delivery_seconds_bucket"),
        ("proof", "chatcluster_live_to_durable_seconds_bucket"),
    ):
        for q in (0.5, 0.99):
            record = f"chatcluster:{name}_seconds:p{int(q * 100)}_5m"
            found.append(Record(record, quantile(q, OURS, of.rate(metric, "5m"))))
    found.append(Record("chatcluster:connections:sum", by(OURS, of("chatcluster_gateway_sockets"))))
    return found


def _burn(name: str, budget: float, windows: tuple[tuple[str, str, float], ...], enough: str, of: Series) -> str:
    parts = []
    for long, short, factor in windows:
        limit = f"{factor * budget:.6g}"
        parts.append(
            f"({of(f'chatcluster:{name}:ratio_rate{long}')} > {limit} "
            f"and {of(f'chatcluster:{name}:ratio_rate{short}')} > {limit})"
        )
    return f"({' or '.join(parts)}) and on ({OURS}) {enough}"


def burns(of: Series, objectives: Objectives) -> list[Alert]:
    """Of both objectives: fast, which wakes somebody, and slow."""
    errors = round(1 - objectives.availability_percent / 100, 9)
    slow = round(1 - objectives.ack_percent / 100, 9)
    enough = f"{of('chatcluster:sends:rate1h')} * 3600 >= {objectives.minimum_sends}"
    found = []
    both: tuple[tuple[str, Severity, tuple[tuple[str, str, float], ...], str, str], ...] = (
        ("Fast", "critical", FAST, "2m", "within days"),
        ("Slow", "warning", SLOW, "15m", "before the 30 days are over"),
    )
    for kind, severity, windows, wait, until in both:
        found.append(
            Alert(
                f"ChatClusterSendErrorsBurn{kind}",
                severity,
                _burn("send_errors", errors, windows, enough, of),
                wait,
                f"Sends fail by our fault; the month's budget is gone {until}.",
                f"{WHO}: {{{{ $value | humanizePercentage }}}} of sends were answered with overloaded, unavailable or "
                f"unknown_outcome; the objective allows {errors:.4%}.",
            )
        )
        found.append(
            Alert(
                f"ChatClusterAcksSlowBurn{kind}",
                severity,
                _burn("acks_slow", slow, windows, enough, of),
                wait,
                f"Acknowledgements are slow; the month's budget is gone {until}.",
                f"{WHO}: {{{{ $value | humanizePercentage }}}} of acknowledgements took longer than "
                f"{objectives.ack_milliseconds} ms; the objective allows {slow:.4%}.",
            )
        )
    return found
