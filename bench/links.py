"""What a request costs on the link from gateway to router: CPU per side, one by one and in batches.

``python bench/links.py`` runs the router's end in a process of its own, both on uvloop over loopback, and prints
µs of CPU per request (out and back) for each side. The router here answers at once: the link alone is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec
import uvloop

from chatcluster.app.clock import SystemClock
from chatcluster.backends.links.router import RouterLink
from chatcluster.backends.links.router_server import serve_router
from chatcluster.backends.links.settings import LinkServerSettings, LinkSettings
from chatcluster.core.frames import Ack, Answer, Request, Send
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Caller

BODY = "A message of an ordinary length, as people write them all day long, and a little more."


class Places(msgspec.Struct):
    """What a router tells of the log."""

    epoch: str = "bench"

    def partitions(self, topic: str) -> int:
        """Of each topic."""
        return 12


class Answering:
    """A router that does nothing else. A send with the body ``cpu`` is answered with the CPU used so far, ns."""

    def submit(self, caller: Caller, request: Request, done: Callable[[Answer], None]) -> None:
        """See ``ports.Router``."""
        assert isinstance(request, Send)
        event = str(time.process_time_ns()) if request.body == "cpu" else "1234567890123456789"
        done(Ack(request.rid, request.channel, event, "2026-01-01T00:00:00.000Z", False))


async def serve() -> None:
    """The router's end, until it is ended."""
    settings = LinkServerSettings(listen="127.0.0.1:0")
    async with serve_router(
        Answering(), Places(), settings, name="bench", clock=SystemClock(), metrics=Metrics()
    ) as link:
        print(link.port, flush=True)
        await asyncio.Event().wait()


async def ask(link: RouterLink, body: str) -> Ack:
    """One request, and its answer."""
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    link.submit(Caller("t", "u", "s"), Send("r", "c", "k", body), answered.set_result)
    answer = await answered
    assert isinstance(answer, Ack), answer
    return answer


async def measured(link: RouterLink, name: str, rate: int, batch: int, seconds: float) -> None:
    """Offer ``batch`` requests at a time, ``rate`` a second (0: one after the other)."""
    people = [(Caller("t", f"user-{n}", f"session-{n:08d}"), f"channel-{n % 300:06d}") for n in range(1000)]
    answers = 0
    everything = asyncio.Event()
    everything.set()

    def done(answer: Answer) -> None:
        nonlocal answers
        answers += 1
        if answers == offered:
            everything.set()

    before = int((await ask(link, "cpu")).id)
    begin, cpu = time.perf_counter(), time.process_time_ns()
    offered = 0
    while (passed := time.perf_counter() - begin) < seconds:
        everything.clear()
        for _ in range(batch):
            caller, channel = people[offered % 1000]
            offered += 1
            link.submit(caller, Send(str(offered), channel, f"c{offered}", BODY), done)
        if not rate:
            await everything.wait()
        elif (ahead := offered / rate - passed) > 0:
            await asyncio.sleep(ahead)
        else:
            await asyncio.sleep(0)
    await everything.wait()
    wall, own = time.perf_counter() - begin, time.process_time_ns() - cpu
    theirs = int((await ask(link, "cpu")).id) - before
    print(
        f"{name:>24}: {offered / wall:8,.0f}/s  gateway {own / offered / 1000:5.1f} µs"
        f"  router {theirs / offered / 1000:5.1f} µs"
    )


async def run(port: int, seconds: float) -> None:
    """All measurements."""
    settings = LinkSettings(addresses=(f"127.0.0.1:{port}",))
    async with RouterLink.open(settings, name="bench", clock=SystemClock(), metrics=Metrics()) as link:
        await link.facts()
        await measured(link, "one after the other", 0, 1, seconds)
        await measured(link, "64 at a time", 0, 64, seconds)
        await measured(link, "50,000/s, 50 at a time", 50_000, 50, seconds)
        await measured(link, "50,000/s, 200 at a time", 50_000, 200, seconds)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(serve())
        return
    router = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, env=dict(os.environ))
    assert router.stdout is not None
    try:
        uvloop.run(run(int(router.stdout.readline()), arguments.seconds))
    finally:
        router.terminate()
        router.wait()


if __name__ == "__main__":
    main()
