"""The persister as a process: consumer groups over Kafka, rows into Cassandra, tails into Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chatcluster.app.roles.process import Process, Running
from chatcluster.app.roles.settings import ClusterSettings
from chatcluster.backends.cassandra.store import CassandraStore
from chatcluster.backends.kafka.consumer import KafkaConsumer
from chatcluster.backends.kafka.log import KafkaLog
from chatcluster.backends.kafka.reader import KafkaLogReader
from chatcluster.backends.redis.bus import RedisBuses
from chatcluster.backends.redis.read_cursors import RedisReadCursors
from chatcluster.backends.redis.shards import RedisShards
from chatcluster.backends.redis.tails import RedisTails
from chatcluster.core.records import INBOX, MESSAGES
from chatcluster.services.persister.service import PersisterService


@asynccontextmanager
async def persister(process: Process, settings: ClusterSettings) -> AsyncIterator[Running]:
    """Runs while the block does. Entering waits for Kafka's topics."""
    clock, metrics = process.clock, process.metrics
    async with (
        RedisShards.open(settings.redis, clock=clock, metrics=metrics) as shards,
        CassandraStore.open(settings.cassandra, clock=clock, metrics=metrics) as store,
        RedisBuses.open(shards, clock=clock, metrics=metrics) as buses,
        KafkaLog.open(settings.kafka, clock=clock, metrics=metrics) as log,
        KafkaLogReader.open(settings.kafka, clock=clock, metrics=metrics) as reader,
        KafkaConsumer.open(settings.kafka, "stage1", MESSAGES, clock=clock, metrics=metrics) as messages,
        KafkaConsumer.open(settings.kafka, "stage2", INBOX, clock=clock, metrics=metrics) as inbox,
    ):
        for what, one in (("redis", shards), ("cassandra", store), ("kafka", log)):
            process.depends(what, one)
        service = PersisterService(
            log=log,
            reader=reader,
            messages=messages,
            inbox=inbox,
            store=store,
            tails=RedisTails(shards, metrics=metrics),
            bus=buses.subscriber("persister"),
            cursors=RedisReadCursors(shards, metrics=metrics),
            clock=clock,
            metrics=metrics,
            settings=settings.persister,
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(service.run())
            yield Running(said="persister")
            running.cancel()
