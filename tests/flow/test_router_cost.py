"""What a 1:1 send costs the router: counted exactly where it can be, printed where it must be measured.

``pytest -s tests/flow/test_router_cost.py`` prints microseconds of CPU; no figure here can time out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from chatcluster.core.frames import Ack, Answer, Send
from chatcluster.core.metrics import Metrics
from chatcluster.core.rows import Membership, StoredChannel
from chatcluster.ports import Caller, Lease, Receipt, Report
from chatcluster.services.router.service import RouterService
from chatcluster.services.router.settings import RouterSettings

CHANNELS = 500


class RealClock:
    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class TrivialLog:
    epoch = "e"

    def __init__(self) -> None:
        self.waiting: list[Report] = []
        self.end = 0

    def append(self, topic: str, key: str, value: bytes, report: Report) -> None:
        if not self.waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self.waiting.append(report)

    def flush(self) -> None:
        reports, self.waiting = self.waiting, []
        now = time.time_ns() // 1_000_000
        for report in reports:
            self.end += 1
            report(Receipt(0, self.end, now))

    def stalled(self) -> float:
        return 0.0


class TrivialRest:
    """Bus, dedupe, store and lease that answer at once."""

    def publish(self, topics: Sequence[str], envelope: object) -> None:
        pass

    async def subscribe(self, topics: Sequence[str]) -> None:
        pass

    async def listen(self) -> AsyncIterator[Sequence[Any]]:
        await asyncio.Event().wait()
        yield []

    async def claim(self, claims: Sequence[Any]) -> list[None]:
        return [None] * len(claims)

    def settle(self, settled: Sequence[Any]) -> None:
        pass

    async def channel(self, tenant: str, channel: str) -> StoredChannel:
        return StoredChannel(channel, "direct", None, "ann", 0, 2, "inbox", -1, None, 1)

    async def members(self, tenant: str, channel: str, *, after: str, limit: int) -> list[Membership]:
        return [Membership("ann", "member", 1), Membership("bob", "member", 1)]

    async def lease(self, holder: str) -> Lease:
        return Lease(1, 0, time.monotonic() + 3_600)


@pytest.mark.parametrize("batch", [1, 8, 50])
async def test_a_send_makes_no_task_and_is_cheap(batch: int) -> None:
    count = 2_000
    rest: Any = TrivialRest()
    log: Any = TrivialLog()
    router = RouterService(
        log=log,
        bus=rest,
        store=rest,
        dedupe=rest,
        cursors=rest,
        tails=rest,
        workers=rest,
        clock=RealClock(),
        metrics=Metrics(),
        settings=RouterSettings(sends_per_second=1e9, send_burst=1_000_000_000),
    )
    loop = asyncio.get_running_loop()
    service = loop.create_task(router.run())
    await asyncio.sleep(0)
    callers = [Caller("t", "ann", f"s{n}") for n in range(CHANNELS)]
    answers: list[Answer] = []
    taken = answers.append

    async def turns(wanted: int) -> None:
        while len(answers) < wanted:  # noqa: ASYNC110 (real turns of the loop are what is counted)
            await asyncio.sleep(0)

    for n in range(CHANNELS):  # all channels are cold, and all at once
        router.submit(callers[n], Send("r", f"d{n}", f"warm{n}", "hello"), taken)
    await turns(CHANNELS)

    requests = [
        Send("r", f"d{n % CHANNELS}", f"c{n}", "a message of the usual length, more or less") for n in range(count)
    ]
    tasks: list[Any] = []

    def factory(loop: Any, coro: Any, **more: Any) -> Any:
        tasks.append(coro)
        return asyncio.Task(coro, loop=loop, **more)

    loop.set_task_factory(factory)
    answers.clear()
    began = time.process_time()
    for start in range(0, count, batch):
        for n in range(start, start + batch):
            router.submit(callers[n % CHANNELS], requests[n], taken)
        await turns(start + batch)
    cost = (time.process_time() - began) / count * 1e6
    loop.set_task_factory(None)
    print(f"router: {cost:.1f} us of CPU per 1:1 send, {batch} at once")

    assert {type(answer) for answer in answers} == {Ack}
    assert tasks == [], "the hot path makes no task per message"
    service.cancel()
    await asyncio.gather(service, return_exceptions=True)
