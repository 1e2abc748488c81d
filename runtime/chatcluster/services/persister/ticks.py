"""Ticks: a record in every partition of `messages` every few seconds, so that log time moves while nobody speaks.

Gateways settle live events by log time (delivery.md section 5). One ticker is enough; more do no harm.
"""

from __future__ import annotations

import asyncio

from chatcluster.core.metrics import Metrics
from chatcluster.core.records import MESSAGES, TickRecord, encode
from chatcluster.ports import Clock, Failure, Full, Log, Receipt


class Ticker:
    """Appends ``TickRecord``s."""

    def __init__(self, *, log: Log, clock: Clock, metrics: Metrics, interval: float) -> None:
        self._log = log
        self._clock = clock
        self._interval = interval
        self._failed = metrics.counter("persister_ticks_failed_total", "Ticks that were not appended.")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            value = encode(TickRecord(self._clock.now()))
            for partition in range(self._log.partitions(MESSAGES)):
                try:
                    self._log.append_to(MESSAGES, partition, value, self._report)
                except Full:  # the log is busy: its time moves by itself
                    self._failed.add()

    def _report(self, outcome: Receipt | Failure) -> None:
        if isinstance(outcome, Failure):
            self._failed.add()
