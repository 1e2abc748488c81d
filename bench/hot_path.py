"""The hot path alone, and what a persister then makes of the backlog: for a machine with too few cores for all of it.

``python bench/hot_path.py BENCH_JSON`` runs ``chatcluster bench direct`` on a stack that was started with
``--unlimited --set CHATCLUSTER_SESSIONS__PENDING_TOTAL=2000000`` (nothing is proven meanwhile), and freezes its
persisters and Cassandra after the first rate: sends are acked by the log and delivered by the bus without them.
Afterwards they go on, and the rows per second and the CPU per row of the persisters are printed, over all of it.
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

QUIET = 6.0
"""Seconds without a row after which the backlog is written."""
LONGEST = 240.0
"""Seconds that it may take."""
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


def backlog(platform: dict[str, Any], persisters: list[int]) -> tuple[float, float, float]:
    """Rows of the whole backlog, seconds from its first to its last, and seconds of CPU meanwhile.

    All of it, since rows are not alike: those of the messages cost a third of those of the inboxes, which come last.
    """
    before = last = rows(platform)
    ends = time.monotonic() + LONGEST
    first = grown = time.monotonic()
    begun = spent = cpu(persisters)
    while time.monotonic() < min(ends, grown + QUIET) or last == before:
        if time.monotonic() > ends:
            raise TimeoutError(f"no row within {LONGEST:.0f} s")
        time.sleep(0.25)
        now, found = time.monotonic(), rows(platform)
        if found > last:
            if last == before:  # the thawed found each other: the group's sessions, the driver's connections
                first, begun = now, cpu(persisters)
            last, grown, spent = found, now, cpu(persisters)
    return last - before, max(0.25, grown - first), spent - begun


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
    written, passed, spent = backlog(platform, persisters)
    print(
        f"backlog: {written:,.0f} rows, {written / passed:,.0f} rows/s by {len(persisters)} persisters, "
        f"{spent / max(1.0, written) * 1e6:.0f} µs of their CPU per row"
    )


if __name__ == "__main__":
    main(sys.argv[1])
