"""A presence node's end of the link: heartbeats and watches in, the state now out. Changes go over the bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from chatcluster.backends.links.serving import Guest, LinkServer
from chatcluster.backends.links.settings import LinkServerSettings
from chatcluster.backends.links.wire import Beats, Facts, Forget, Watch, Watched, encode
from chatcluster.core.envelope import PresenceChange
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock, PresenceService, Unavailable

MAX_WATCHES = 2_000
"""Watches of one gateway that are being answered; over it nothing more is read from it."""


class _Gateway(Guest):
    def __init__(self, server: LinkServer, node: PresenceService, watches: set[asyncio.Task[None]]) -> None:
        super().__init__(server)
        self._node = node
        self._watches = watches
        self._running = 0

    def asked(self, message: Any) -> None:
        kind = type(message)
        if kind is Beats:
            self._node.beat(message.gateway, message.beats)
        elif kind is Forget:
            # In this order: a watch begins with its task's first step, a loop turn later.
            self._loop.call_soon(self._node.forget, message.gateway, message.sessions)
        elif kind is Watch:
            self._running += 1
            task = self._loop.create_task(self._watch(message))
            self._watches.add(task)
            task.add_done_callback(self._watches.discard)
            if self._running == MAX_WATCHES:
                self.busy(True)
        else:
            self.end("it asked a presence node for something else")

    async def _watch(self, message: Watch) -> None:
        changes: Sequence[PresenceChange] = ()
        try:
            changes = await self._node.watch(message.gateway, message.session, message.tenant, message.users)
        except Unavailable:
            pass  # nothing is known now: the changes bring it
        finally:
            self._running -= 1
            if self._running == MAX_WATCHES // 2:
                self.busy(False)
        self.say(encode(Watched(message.number, list(changes))))


@asynccontextmanager
async def serve_presence(
    node: PresenceService, settings: LinkServerSettings, *, name: str, metrics: Metrics, clock: Clock | None = None
) -> AsyncIterator[LinkServer]:
    """Serve ``node`` to gateways for the time of the block. Raises ``OSError``, ``Misconfigured``."""
    server = LinkServer(settings, kind="presence", name=name, facts=Facts(), clock=clock, metrics=metrics)
    watches: set[asyncio.Task[None]] = set()
    async with server.listening(lambda: _Gateway(server, node, watches)):
        try:
            yield server
        finally:
            for task in watches:
                task.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
