"""A router's end of the link as a process: notes what it takes in a file, answers at once, leaves politely on SIGTERM.

``python link_router.py PORT NAME FILE [SECRET_FILE]``; says ``ready`` when it listens.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import msgspec
import uvloop

from chatcluster.app.clock import SystemClock
from chatcluster.backends.links.router_server import serve_router
from chatcluster.backends.links.settings import LinkServerSettings
from chatcluster.core.frames import Ack, Answer, Reply, Request, Send
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Caller


class Places(msgspec.Struct):
    """What a router tells of the log."""

    epoch: str = "e"

    def partitions(self, topic: str) -> int:
        """Of each topic."""
        return 12


class Noting:
    """Writes each rid into a file before it is answered: what was taken is known after a kill."""

    def __init__(self, file: str) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def submit(self, caller: Caller, request: Request, done: Callable[[Answer], None]) -> None:
        """See ``ports.Router``."""
        rid = request.rid  # type: ignore[union-attr]
        assert rid is not None
        if isinstance(request, Send):
            os.write(self._file, f"{caller.session} {request.channel} {rid}\n".encode())
            done(Ack(rid, request.channel, "1", "2026-01-01T00:00:00Z", False))
        else:
            done(Reply(rid))


async def main(port: str, name: str, file: str, secret_file: str | None = None) -> None:
    """Serve until SIGTERM."""
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    settings = LinkServerSettings(listen=f"127.0.0.1:{port}", secret_file=secret_file)
    async with serve_router(
        Noting(file), Places(), settings, name=name, metrics=Metrics(), clock=SystemClock()
    ) as link:
        print("ready", flush=True)
        await leaving.wait()
        await link.goodbye()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
