"""A router's answer as something to await."""

from __future__ import annotations

import asyncio

from chatcluster.core.frames import Answer, Request
from chatcluster.ports import Caller, Router


def submitted(router: Router, caller: Caller, request: Request) -> asyncio.Future[Answer]:
    """Submit one request; its one answer, to be waited for."""
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def done(answer: Answer) -> None:
        if not answered.done():  # the asker may have been cancelled
            answered.set_result(answer)

    router.submit(caller, request, done)
    return answered


async def ask(router: Router, caller: Caller, request: Request) -> Answer:
    """Submit one request and wait for its one answer."""
    return await submitted(router, caller, request)
