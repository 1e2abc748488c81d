"""What a scenario found, as a table, a plot and JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from chatcluster import __version__
from chatcluster.app.bench.histogram import LatencyHistogram

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
_BAR = 40


class Figure(msgspec.Struct, frozen=True):
    """One measured value. ``beside``: what it is compared with in the same run; ``goal``: what was aimed at."""

    scenario: str
    name: str
    value: float
    unit: str
    beside: str = ""
    goal: str = ""
    met: bool | None = None


class Latencies(msgspec.Struct, frozen=True):
    """Percentiles of one latency, milliseconds, at an offered rate per second (open loop)."""

    scenario: str
    name: str
    rate: float
    count: int
    percentiles: dict[str, float]


def latencies(scenario: str, name: str, rate: float, histogram: LatencyHistogram) -> Latencies:
    """The percentiles of a histogram."""
    table = {f"p{percent:g}": histogram.percentile(percent) / 1000 for percent in PERCENTILES}
    return Latencies(scenario, name, rate, histogram.count, table)


def show(console: Console, figures: Sequence[Figure], measured: Sequence[Latencies]) -> None:
    """Tables and plots for people."""
    if figures:
        table = Table("scenario", "figure", "value", "beside", "goal", title="Figures", title_justify="left")
        for figure in figures:
            mark = "" if figure.met is None else (" [green]met[/]" if figure.met else " [yellow]missed[/]")
            value = f"{figure.value:,.{0 if figure.value >= 100 else 2}f} {figure.unit}"
            table.add_row(figure.scenario, figure.name, value, figure.beside, figure.goal + mark)
        console.print(table)
    for one in measured:
        console.print(f"\n[bold]{one.scenario}[/]: {one.name} at {one.rate:,.0f}/s, open loop, {one.count:,} samples")
        top = max(one.percentiles.values()) or 1.0
        for name, millis in one.percentiles.items():
            console.print(f"  {name:>6}  {millis:9.2f} ms  {'█' * max(1, round(millis / top * _BAR))}", highlight=False)


def environment() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "chatcluster": __version__,
        "python": sys.version.split()[0],
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "processor": _processor(),
    }


def write_json(path: Path, figures: Sequence[Figure], measured: Sequence[Latencies]) -> None:
    """The same for machines."""
    document = {
        "environment": environment(),
        "figures": msgspec.to_builtins(figures),
        "latencies": msgspec.to_builtins(measured),
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
