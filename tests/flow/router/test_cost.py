"""What a 1:1 send costs the router: counted exactly where it can be, printed where it must be measured.

``pytest -s tests/flow/router/test_cost.py`` prints microseconds of CPU; no figure here can time out.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from chatcluster.core.frames import Ack, Answer, Send
from chatcluster.ports import Caller
from trivial import trivial_router

CHANNELS = 500


@pytest.mark.parametrize("batch", [1, 8, 50])
async def test_a_send_makes_no_task_and_is_cheap(batch: int) -> None:
    count = 2_000
    router = trivial_router()
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
