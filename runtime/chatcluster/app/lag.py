"""How late the event loop is: what every message waits for besides its own work."""

from __future__ import annotations

import asyncio
from collections import deque

from chatcluster.core.metrics import Metrics

INTERVAL = 0.25
WINDOW = 60
"""Samples kept: the worst of the last 15 s, so that a scrape every 15 s misses none."""


class LoopLag:
    """Samples how much later than asked the loop wakes a sleeper."""

    def __init__(self, metrics: Metrics) -> None:
        self._late: deque[float] = deque(maxlen=WINDOW)
        metrics.gauge("event_loop_lag_seconds", "The event loop's worst delay of the last 15 s.", self.worst)

    def worst(self) -> float:
        """Seconds; 0.0 before the first sample."""
        return max(self._late, default=0.0)

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time() + INTERVAL
            await asyncio.sleep(INTERVAL)
            self._late.append(max(0.0, loop.time() - asked))
