"""A router process that writes down what it gets, then answers: ``python recording_router.py NAME FILE``.

Prints its port. A line that is written outlives ``kill -9``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

import msgspec

from chatcluster.app.clock import SystemClock
from chatcluster.backends.links.router_server import serve_router
from chatcluster.backends.links.settings import LinkServerSettings
from chatcluster.core.frames import Ack, Answer, Reply, Request, Send
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Caller


class Places(msgspec.Struct):
    """What a router tells of the log."""

    epoch: str = "e1"

    def partitions(self, topic: str) -> int:
        return 12


class Recording:
    """Writes each request down, and answers a few milliseconds later, in order."""

    def __init__(self, file: int) -> None:
        self._file = file

    def submit(self, caller: Caller, request: Request, done: Callable[[Answer], None]) -> None:
        rid = request.rid  # type: ignore[union-attr]
        assert rid is not None
        os.write(self._file, f"{rid}\n".encode())
        answer: Answer = Reply(rid)
        if isinstance(request, Send):
            answer = Ack(rid, request.channel, "1", "2026-01-01T00:00:00Z", False)
        asyncio.get_running_loop().call_later(0.005, done, answer)


async def main(name: str, path: str) -> None:
    """Until killed."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    settings = LinkServerSettings(listen="127.0.0.1:0")
    async with serve_router(
        Recording(file), Places(), settings, name=name, clock=SystemClock(), metrics=Metrics()
    ) as link:
        print(link.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
