"""Members imported into one channel through the server API, and what each of them costs every process.

``python bench/imports.py BENCH_JSON [MEMBERS]`` on a stack (10,000 members where none are said). Calls of 5,000
users, as ``chatcluster members import`` makes them, one after the other. The first thousand is not measured: it
switches the channel to a timeline of its own.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from pathlib import Path

from chatcluster.app.bench.subject import Subject, described, running

CALL = 5_000
FIRST = 1_000
SETTLED = 20.0
"""Seconds after which the rest of a persister's work (inboxes) is told too."""


async def imported(subject: Subject, channel: str, users: list[str]) -> float:
    """Seconds until all are members, durable and readable."""
    began = time.perf_counter()
    for start in range(0, len(users), CALL):
        await subject.api("POST", f"/channels/{channel}/members", {"users": users[start : start + CALL]})
    return time.perf_counter() - began


async def main(path: str, members: int) -> None:
    """Command line."""
    async with running(described(Path(path))) as subject:
        run = uuid.uuid4().hex[:8]
        asked = {"client_id": run, "creator": f"owner-{run}", "name": "imported"}
        channel = (await subject.api("POST", "/channels", asked))["channel"]
        names = [f"{run}-{number}" for number in range(FIRST + members)]
        await imported(subject, channel, names[:FIRST])
        await asyncio.sleep(SETTLED)
        before = subject.cpu_by_stage()
        took = await imported(subject, channel, names[FIRST:])
        stored = (await subject.api("GET", f"/channels/{channel}"))["members"]
        assert stored == len(names) + 1, stored
        await asyncio.sleep(SETTLED)
        after = subject.cpu_by_stage()
        costs = ", ".join(f"{name} {(after[name] - before[name]) / members * 1e6:.0f}" for name in after)
        print(f"{members:,} members in {took:.1f} s: {members / took:,.0f}/s; µs of CPU each: {costs}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10_000))
