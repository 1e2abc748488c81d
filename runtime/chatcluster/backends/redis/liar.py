"""A bus that loses, repeats and delays on purpose, by settings: for experiments and tests, never in service."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from chatcluster.backends.redis.settings import RedisSettings
from chatcluster.core.envelope import Envelope

log = logging.getLogger(__name__)

_LATEST = 0.3
_HELD = 10_000
"""Publications held back at most; over it they are told at once."""


class Liar:
    """Stands before a publisher and lies about each topic apart, as a network does."""

    def __init__(self, publish: Callable[[Sequence[str], Envelope], None], settings: RedisSettings) -> None:
        log.warning("the bus loses, repeats or delays on purpose: bus_loss, bus_repeat, bus_delay of redis are set")
        self._publish = publish
        self._loss, self._repeat, self._delay = settings.bus_loss, settings.bus_repeat, settings.bus_delay
        self._held = 0

    def __call__(self, topics: Sequence[str], envelope: Envelope) -> None:
        for topic in topics:
            if random.random() < self._loss:
                continue
            for _ in range(1 + (random.random() < self._repeat)):
                if random.random() < self._delay and self._held < _HELD:
                    self._held += 1
                    asyncio.get_running_loop().call_later(random.random() * _LATEST, self._late, topic, envelope)
                else:
                    self._publish((topic,), envelope)

    def _late(self, topic: str, envelope: Envelope) -> None:
        self._held -= 1
        self._publish((topic,), envelope)
