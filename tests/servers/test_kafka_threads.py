"""Threads that serve the driver: one that fails is told to whoever relies on it, and ends the process."""

from __future__ import annotations

import asyncio

import pytest

import kafka_topics
from chatcluster.app.clock import SystemClock
from chatcluster.backends.kafka import KafkaConsumer, KafkaLog, create_topics, facts
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Failure, Receipt

pytestmark = pytest.mark.slow


class Broken(Exception):
    pass


def breaks(*_):
    raise Broken


@pytest.fixture
async def settings(request):
    settings = kafka_topics.settings_for(kafka_topics.address(request))
    await create_topics(settings, metrics=Metrics())
    yield settings
    kafka_topics.drop_topics(settings)


async def test_the_logs_thread_fails(settings):
    outcomes = []
    async with asyncio.timeout(60):
        places = await facts(settings, metrics=Metrics())
        async with KafkaLog.open(settings, clock=SystemClock(), metrics=Metrics(), places=places) as log:
            log._health.refresh = breaks
            log.append("messages", "k", b"1", outcomes.append)
            with pytest.raises(Broken):
                await log.watch()
    assert [type(outcome) for outcome in outcomes] in ([Failure], [Receipt])  # reported, one way or the other


async def test_a_consumers_thread_fails(settings):
    async with asyncio.timeout(60):
        places = await facts(settings, metrics=Metrics())
        async with KafkaConsumer.open(settings, places, "threads", "messages", metrics=Metrics()) as consumer:
            waiting = asyncio.create_task(consumer.fetch())
            await asyncio.sleep(0.5)
            consumer._health.refresh = breaks
            with pytest.raises(Broken):
                await waiting
            with pytest.raises(Broken):
                await consumer.fetch()
