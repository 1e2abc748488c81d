"""``chatcluster migrate``: Cassandra's schema, then Kafka's topics. Tried until the servers answer, or time is up."""

from __future__ import annotations

import asyncio
import logging
import random

from chatcluster.app.clock import SystemClock
from chatcluster.app.roles.settings import ClusterSettings
from chatcluster.backends.cassandra import migrate as migrate_schema
from chatcluster.backends.kafka.topics import check_topics, create_topics
from chatcluster.backends.redis.shards import RedisShards
from chatcluster.backends.redis.workers import RedisWorkers
from chatcluster.core.backoff import delay
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Unavailable

log = logging.getLogger("chatcluster.migrate")


async def _begin(settings: ClusterSettings, begun: float) -> None:
    """Tell Redis that this log is new, so that its first routers need not wait for a lease to end.

    Best effort: without it they wait.
    """
    metrics, clock = Metrics(), SystemClock()
    try:
        places = await check_topics(settings.kafka, metrics=metrics)
        async with RedisShards.open(settings.redis, clock=clock, metrics=metrics) as shards:
            # Later than a lease after the topics were made somebody may hold a number already.
            if asyncio.get_running_loop().time() - begun < settings.redis.lease / 2:
                await RedisWorkers(shards, clock=clock, epoch=places.epoch).begin()
    except Unavailable as error:
        log.warning("the first routers will wait %.0f s for their numbers: %s", settings.redis.lease, error)


async def migrate(settings: ClusterSettings, wait: float) -> None:
    """Raises ``Misconfigured``, or ``Unavailable`` when the servers are not to be had within ``wait`` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + wait
    attempt = 0
    while True:
        try:
            version = await loop.run_in_executor(None, migrate_schema, settings.cassandra)
            begun = loop.time()
            made = await create_topics(settings.kafka, metrics=Metrics())
            if made:
                await _begin(settings, begun)
        except Unavailable as error:
            if loop.time() >= end:
                raise
            log.warning("not yet: %s", error)
            await asyncio.sleep(delay(attempt, random.random, base=0.5, cap=5.0))
            attempt += 1
        else:
            log.info("schema version %d; topics made: %s", version, ", ".join(made) or "none, they were there")
            return
