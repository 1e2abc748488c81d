"""Subscribing to what a role needs for as long as it lives: a bus that does not answer is asked again.

Used by gateways and routers; independent of every role.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from chatcluster.core.backoff import delay
from chatcluster.ports import Bus, Unavailable


async def subscribed(bus: Bus, topics: Sequence[str]) -> None:
    """Returns when ``bus`` has taken the topics, however often it has to be asked."""
    attempt = 0
    while True:
        try:
            await bus.subscribe(topics)
        except Unavailable:
            await asyncio.sleep(delay(attempt, random.random, base=0.1, cap=2.0))
            attempt += 1
        else:
            return
