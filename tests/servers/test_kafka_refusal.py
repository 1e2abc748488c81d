"""A driver that refuses what its group decided is replaced, on a real Kafka: the partitions go on."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

import kafka_topics
from chatcluster.app.clock import SystemClock
from chatcluster.backends.kafka import KafkaConsumer, KafkaLog, create_topics, facts
from chatcluster.backends.kafka import consumer as module
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Fenced, Unavailable

pytestmark = pytest.mark.slow

PARTITIONS = 4


@pytest.fixture
def settings(request):
    found = kafka_topics.settings_for(
        kafka_topics.address(request),
        message_partitions=PARTITIONS,
        session_timeout_ms=6_000,
        heartbeat_interval_ms=500,
    )
    yield found
    kafka_topics.drop_topics(found)


class Member:
    """A member of a group that commits what it fetched, and what it fetched by partition."""

    def __init__(self, consumer, log):
        self.consumer = consumer
        self.log = log
        self.got = {}
        self.number = 0

    async def run(self):
        while True:
            for batch in await self.consumer.fetch():
                self.got.setdefault(batch.partition, []).extend(entry.value for entry in batch.entries)
                try:
                    await self.consumer.commit({batch.partition: batch.entries[-1].offset + 1})
                except (Fenced, Unavailable):
                    continue  # with the next, or by whoever has it now

    async def told(self, *, seconds=40.0):
        """One more record in every partition; waits until all arrived here."""
        self.number += 1
        value = b"%d" % self.number
        for partition in range(PARTITIONS):
            self.log.append_to("messages", partition, value, lambda _: None)
        async with asyncio.timeout(seconds):
            while not all(value in self.got.get(at, ()) for at in range(PARTITIONS)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def replaced(self):
        return self.consumer._replacements.value


@asynccontextmanager
async def member(settings):
    await create_topics(settings, metrics=Metrics())
    places = await facts(settings, metrics=Metrics())
    async with (
        KafkaLog.open(settings, clock=SystemClock(), metrics=Metrics(), places=places) as log,
        KafkaConsumer.open(settings, places, "stage1", "messages", metrics=Metrics()) as consumer,
        asyncio.TaskGroup() as group,
    ):
        one = Member(consumer, log)
        running = group.create_task(one.run())
        yield one
        running.cancel()


async def test_a_share_that_the_driver_refuses(settings, caplog, monkeypatch):
    class Refusing(Consumer):
        refused = 0

        def incremental_assign(self, partitions):
            if partitions and not Refusing.refused:
                Refusing.refused += 1
                raise KafkaException(KafkaError(KafkaError._CONFLICT))
            super().incremental_assign(partitions)

    monkeypatch.setattr(module, "Consumer", Refusing)
    async with member(settings) as one:
        await one.told()
        assert (Refusing.refused, one.replaced()) == (1, 1)
        assert "refused a change of its partitions" in caplog.text
