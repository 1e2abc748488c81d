"""A driver that stands still in silence is replaced, on a real Kafka: the partitions go on."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

import kafka_topics
from chatcluster.app.clock import SystemClock
from chatcluster.backends.kafka import KafkaConsumer, KafkaLog, create_topics, facts
from chatcluster.backends.kafka import consumer as module
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Unavailable

pytestmark = pytest.mark.slow

PARTITIONS = 4


@pytest.fixture
def settings(request, monkeypatch):
    monkeypatch.setattr(module, "LOOK_EVERY", 0.5)
    monkeypatch.setattr(module, "PATIENCE", 3.0)
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
                except Unavailable:
                    continue  # with the next

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


async def test_a_partition_that_the_driver_does_not_fetch(settings, caplog):
    async with member(settings) as one:
        await one.told()
        one.consumer._consumer.pause(one.consumer._consumer.assignment()[:1])
        await one.told()
        assert one.replaced() == 1
        assert "goes on to" in caplog.text
        await one.told(seconds=3.0)


async def test_a_share_that_never_arrived(settings, caplog):
    async with member(settings) as one:
        await one.told()
        one.consumer._drop([0, 2])
        await one.told()
        assert one.replaced() == 1
        assert "the group gave it [0, 1, 2, 3], it has [1, 3]" in caplog.text


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


async def test_who_has_nothing_to_read_or_a_busy_caller_is_left_alone(settings):
    async with member(msgspec.structs.replace(settings, buffer_records=10)) as one:
        await one.told()
        await asyncio.sleep(6.0)  # twice the patience, and nothing comes
        assert one.replaced() == 0
    async with member(msgspec.structs.replace(settings, buffer_records=10)) as one:
        await one.told()
        busy = asyncio.Event()
        one.consumer.commit = lambda _: busy.wait()  # its caller does not come back
        for number in range(200):
            one.log.append_to("messages", number % PARTITIONS, b"", lambda _: None)
        await asyncio.sleep(6.0)
        assert one.consumer._paused
        assert one.replaced() == 0
