"""Expressions and panels that both dashboards have. Pure."""

from __future__ import annotations

from chatcluster_operator.render.observability.grafana import Panel, Row
from chatcluster_operator.render.observability.promql import Series, by

NOW = "$__rate_interval"
"""Grafana's window: as small as the scrapes allow, as wide as the graph needs."""


def rate(of: Series, metric: str, *more: str) -> str:
    """Per second, in all."""
    return f"sum({of.rate(metric, NOW, *more)})"


def each(of: Series, metric: str, label: str, *more: str) -> tuple[str, str]:
    """Per second by a label, and its legend."""
    return by(label, of.rate(metric, NOW, *more)), "{{" + label + "}}"


def quantiles(of: Series, metric: str, *more: str) -> list[tuple[str, str]]:
    """P50 and P99 of a histogram, and their legends."""
    rate = of.rate(f"{metric}_bucket", NOW, *more)
    return [(f"histogram_quantile({q}, sum by (le) ({rate}))", f"P{q * 100:g}") for q in (0.5, 0.99)]


def processes(of: Series, labels: str, legend: str, lag: str) -> Row:
    """What every process of ours says of itself."""
    return Row(
        "Processes",
        [
            Panel("CPU", "short", [(by(labels, of.rate("process_cpu_seconds_total", NOW)), legend)], width=6),
            Panel("Memory", "bytes", [(by(labels, of("process_resident_memory_bytes")), legend)], width=6),
            Panel("Event loop's worst delay", "s", [(by(labels, of(lag), "max"), legend)], width=6),
            Panel("Open files", "short", [(by(labels, of("process_open_fds")), legend)], width=6),
        ],
    )
