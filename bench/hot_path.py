"""The hot path alone, and what a persister then makes of the backlog: for a machine with too few cores for all of it.

``python bench/hot_path.py BENCH_JSON`` runs ``chatcluster bench direct`` on a stack that was started with
``--unlimited --set CHATCLUSTER_SESSIONS__PENDING_TOTAL=2000000`` (nothing is proven meanwhile), and freezes its
persisters and Cassandra after the first rate: sends are acked by the log and delivered by the bus without them.
Afterwards they go on, and the rows per second and the CPU per row of the persisters are printed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

WATCHED = 25.0
"""Seconds of the backlog that are watched, after ``SETTLED``."""
SETTLED = 15.0
"""Seconds in which the thawed find each other: sessions of the group, connections of the driver."""
TICKS = os.sysconf("SC_CLK_TCK")


def rows(platform: dict[str, Any]) -> float:
    """Rows written to the store by all processes so far."""
    found = 0.0
    for url in platform["management"]:
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        found += sum(float(line.split()[-1]) for line in lines if line.startswith("chatcluster_store_rows_total"))
    return found


def cpu(pids: list[int]) -> float:
    """Seconds of CPU of these processes so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / TICKS


def main(path: str) -> None:
    """Command line."""
    platform = json.loads(Path(path).read_text())
    persisters = platform["stages"]["persister"]
    frozen = [*persisters, *platform["stages"]["cassandra"]]
    command = [sys.executable, "-m", "chatcluster", "bench", "direct", "--platform", path]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert running.stdout is not None
    still = True
    try:
        for line in running.stdout:
            print(line, end="", flush=True)
            if still and "deliver P99" in line:
                still = False
                for pid in frozen:
                    os.kill(pid, signal.SIGSTOP)
                print("  persisters and Cassandra are frozen from here on", flush=True)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    time.sleep(SETTLED)
    before, spent, began = rows(platform), cpu(persisters), time.monotonic()
    time.sleep(WATCHED)
    written, passed = rows(platform) - before, time.monotonic() - began
    each = (cpu(persisters) - spent) / max(1.0, written) * 1e6
    print(
        f"backlog: {written / passed:,.0f} rows/s by {len(persisters)} persisters, {each:.0f} µs of their CPU per row"
    )


if __name__ == "__main__":
    main(sys.argv[1])
