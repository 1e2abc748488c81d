"""The stack at a glance: one row per process, with what the roles say of themselves."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from chatcluster_stack.named import Stack
from chatcluster_stack.platform import Platform, scraped, why_not
from chatcluster_stack.processes import Node, started_at

_DOWN = "[red]down[/]"


class Rates:
    """Counters between two looks."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def per_second(self, name: str, count: float, over: float) -> float:
        """Since the last look; at the first one over the life of the process, ``over`` seconds."""
        now = time.monotonic()
        before, since = self._seen.get(name, (0.0, now - over))
        self._seen[name] = (count, now)
        if count < before:  # it was started again
            before = 0.0
        return (count - before) / max(now - since, 0.01)


def table(stack: Stack, rates: Rates | None = None) -> Table:
    """What runs: one row per process."""
    rates = rates or Rates()
    rows = Table(title=f"stack {stack.name}")
    for title in ("process", "pid", "up", "CPU", "memory", "sockets", "sends/s", "lag", "state"):
        rows.add_column(title, justify="left" if title in {"process", "state"} else "right")
    for group in stack.groups.values():
        for name, node in group.nodes.items():
            up, *fields, state = _row(node)
            if isinstance(group, Platform) and up is not None:
                said, state = _role(group, name, up, state, rates)
            else:
                said = ["", "", ""]
            rows.add_row(name, *fields, *said, state)
    return rows


def _row(node: Node) -> tuple[float | None, str, str, str, str, str]:
    pid = node.pid
    began = None if pid is None else started_at(pid)
    if pid is None or began is None:
        return None, "", "", "", "", _DOWN
    ticks = os.sysconf("SC_CLK_TCK")
    try:
        up = float(Path("/proc/uptime").read_text().split()[0]) - began / ticks
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # gone since
        return None, "", "", "", "", _DOWN
    cpu = (int(fields[11]) + int(fields[12])) / ticks / max(up, 0.01)
    memory = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1024 / 1024
    if fields[0] == "T":
        state = "[yellow]paused[/]"
    else:
        state = "[green]ready[/]" if node.answers() else "[yellow]does not answer[/]"
    return up, str(pid), f"{up:.0f} s", f"{cpu:.1%}", f"{memory:.0f} MB", state


def _role(platform: Platform, name: str, up: float, state: str, rates: Rates) -> tuple[list[str], str]:
    """Sockets, sends per second and lag, as far as the role has them; why it is not ready."""
    if "paused" in state:
        return ["", "", ""], state
    if "ready" not in state and (why := why_not(platform.management(name))) is not None:
        state = f"[yellow]{escape(why)}[/]"
    found = scraped(platform.management(name))

    def shown(metric: str, unit: str = "") -> str:
        return f"{found[metric]:.0f}{unit}" if metric in found else ""

    sends = ""
    if "router_sends_total" in found:
        sends = f"{rates.per_second(name, found['router_sends_total'], up):.1f}"
    return [shown("gateway_sockets"), sends, shown("persister_lag_records")], state
