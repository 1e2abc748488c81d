"""Leaving politely: the order and the pace of a drain. Knows the connections, not what they talk about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from chatcluster.core.codes import Close

if TYPE_CHECKING:
    from chatcluster.services.gateway.sockets import Sockets

_PACE = 0.1
"""Seconds between batches of closes."""


async def drain(sockets: Sockets, stop_listening: Callable[[], None]) -> None:
    """Readiness is off already. Wait for the balancers, stop listening, hint, close at the rate, wait.

    Returns within ``drain_deadline`` with no socket left.
    """
    settings = sockets.settings
    loop = asyncio.get_running_loop()
    end = loop.time() + settings.drain_deadline
    # Balancers send newcomers until they have seen readiness go: closing earlier would refuse those.
    await asyncio.sleep(min(settings.drain_propagation, settings.drain_deadline / 4))
    stop_listening()
    connections = list(sockets.connections)
    # The window the hints advise is the one in which we would close: whoever follows it is gone before.
    time_left = max(0.0, end - loop.time() - settings.drain_notice - settings.close_timeout)
    spread = min(len(connections) / settings.drain_rate, time_left)
    for connection in connections:
        connection.hint(0, int((settings.drain_notice + spread) * 1000), "drain")
    await asyncio.sleep(min(settings.drain_notice, max(0.0, end - loop.time())))
    rate = max(settings.drain_rate, len(connections) / max(time_left, _PACE))
    start, closed = loop.time(), 0
    while closed < len(connections) and loop.time() < end:
        due = min(len(connections), int((loop.time() - start + _PACE) * rate))
        for connection in connections[closed:due]:
            connection.close(Close.RESTART, "drain")
        closed = due
        if closed < len(connections):
            await asyncio.sleep(_PACE)
    with suppress(TimeoutError):
        async with asyncio.timeout_at(end):
            await sockets.until_empty()
    sockets.stop()
    await asyncio.sleep(0)
