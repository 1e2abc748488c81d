"""``chatcluster migrate``: Cassandra's schema, then Kafka's topics. Tried until the servers answer, or time is up."""

from __future__ import annotations

import asyncio
import logging
import random

from chatcluster.app.roles.settings import ClusterSettings
from chatcluster.backends.cassandra import migrate as migrate_schema
from chatcluster.backends.kafka.topics import create_topics
from chatcluster.core.backoff import delay
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Unavailable

log = logging.getLogger("chatcluster.migrate")


async def migrate(settings: ClusterSettings, wait: float) -> None:
    """Raises ``Misconfigured``, or ``Unavailable`` when the servers are not to be had within ``wait`` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + wait
    attempt = 0
    while True:
        try:
            version = await loop.run_in_executor(None, migrate_schema, settings.cassandra)
            made = await create_topics(settings.kafka, metrics=Metrics())
        except Unavailable as error:
            if loop.time() >= end:
                raise
            log.warning("not yet: %s", error)
            await asyncio.sleep(delay(attempt, random.random, base=0.5, cap=5.0))
            attempt += 1
        else:
            log.info("schema version %d; topics made: %s", version, ", ".join(made) or "none, they were there")
            return
