"""The persister as a process: consumer groups over Kafka, rows into Cassandra, tails into Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from chatcluster.app.roles.process import Process, Running
from chatcluster.app.roles.schema import check_schema
from chatcluster.app.roles.settings import ClusterSettings
from chatcluster.app.webhook import open_webhook
from chatcluster.backends.cassandra.store import CassandraStore
from chatcluster.backends.kafka.consumer import KafkaConsumer
from chatcluster.backends.kafka.log import KafkaLog
from chatcluster.backends.kafka.reader import KafkaLogReader
from chatcluster.backends.redis.bus import RedisBuses
from chatcluster.backends.redis.presence import RedisPresence
from chatcluster.backends.redis.read_cursors import RedisReadCursors
from chatcluster.backends.redis.shards import RedisShards
from chatcluster.backends.redis.tails import RedisTails
from chatcluster.core.records import INBOX, MESSAGES, NOTIFICATIONS
from chatcluster.services.persister.push import PushService
from chatcluster.services.persister.push_webhook import WebhookService
from chatcluster.services.persister.service import PersisterService


@asynccontextmanager
async def persister(process: Process, settings: ClusterSettings) -> AsyncIterator[Running]:
    """Runs while the block does. Entering waits for Kafka's topics."""
    clock, metrics = process.clock, process.metrics
    async with (
        RedisShards.open(settings.redis, clock=clock, metrics=metrics) as shards,
        CassandraStore.open(settings.cassandra, clock=clock, metrics=metrics) as store,
        RedisBuses.open(shards, clock=clock, metrics=metrics) as buses,
        AsyncExitStack() as stack,
    ):
        process.depends("redis", shards)
        process.depends("cassandra", store)
        kafka, enter = process.awaits("kafka"), stack.enter_async_context
        log = await enter(KafkaLog.open(settings.kafka, clock=clock, metrics=metrics))
        kafka.there(log)
        reader = await enter(KafkaLogReader.open(settings.kafka, log.places, metrics=metrics))
        messages = await enter(KafkaConsumer.open(settings.kafka, log.places, "stage1", MESSAGES, metrics=metrics))
        inbox = await enter(KafkaConsumer.open(settings.kafka, log.places, "stage2", INBOX, metrics=metrics))
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
        pushing = await _push(process, settings, log, store, shards, stack) if settings.push.enabled else []
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(task) for task in (check_schema(settings.cassandra), log.watch())]
            running = [group.create_task(role.run()) for role in (service, *pushing)]
            yield Running(said="persister")
            for task in (*watching, *running):
                task.cancel()


async def _push(
    process: Process,
    settings: ClusterSettings,
    log: KafkaLog,
    store: CassandraStore,
    shards: RedisShards,
    stack: AsyncExitStack,
) -> list[PushService | WebhookService]:
    """The push hook's consumers, each with a group of its own: they delay nobody."""
    clock, metrics, push = process.clock, process.metrics, settings.push
    if settings.presence_redis is not None:
        opening = RedisShards.open(settings.presence_redis, clock=clock, metrics=metrics)
        shards = await stack.enter_async_context(opening)
    inbox = KafkaConsumer.open(settings.kafka, log.places, "push", INBOX, metrics=metrics)
    services: list[PushService | WebhookService] = [
        PushService(
            log=log,
            inbox=await stack.enter_async_context(inbox),
            store=store,
            presence=RedisPresence(shards, metrics=metrics),
            clock=clock,
            metrics=metrics,
            settings=push,
            persister=settings.persister,
        )
    ]
    if push.webhook_url:
        notifications = KafkaConsumer.open(settings.kafka, log.places, "webhook", NOTIFICATIONS, metrics=metrics)
        webhook = open_webhook(
            url=push.webhook_url, secret_file=Path(push.secret_file), timeout=push.webhook_timeout, clock=clock
        )
        services.append(
            WebhookService(
                notifications=await stack.enter_async_context(notifications),
                webhook=await stack.enter_async_context(webhook),
                clock=clock,
                metrics=metrics,
                settings=push,
                persister=settings.persister,
            )
        )
    return services
