"""Topics for tests on a real Kafka: a prefix of their own for each test, gone afterwards."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from chatcluster.backends.kafka import (
    KafkaConsumer,
    KafkaLog,
    KafkaLogReader,
    KafkaPlaces,
    KafkaSettings,
    create_topics,
    facts,
)
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock, Entry, Report

_numbers = itertools.count()


def address(request: pytest.FixtureRequest, name: str = "kafka") -> str:
    """``host:port,...`` of the brokers for tests; the fixture of that name starts some where none are named."""
    found = os.environ.get(f"CHATCLUSTER_TEST_{name.upper()}") or request.getfixturevalue(name)
    assert isinstance(found, str)
    return found


def settings_for(servers: str, **others: Any) -> KafkaSettings:
    """Settings with a prefix that nobody has, and few partitions; one copy for one broker, three for more."""
    brokers = tuple(servers.split(","))
    copies = 3 if len(brokers) > 2 else 1
    values: dict[str, Any] = {
        "topic_prefix": f"test.{os.getpid()}.{time.time_ns():x}.{next(_numbers)}.",
        "message_partitions": 4,
        "inbox_partitions": 4,
        "other_partitions": 1,
        "replication_factor": copies,
        "min_insync_replicas": min(2, copies),
        "close_timeout": 3.0,
    }
    return KafkaSettings(bootstrap_servers=brokers, **{**values, **others})


def drop_topics(settings: KafkaSettings) -> None:
    """Delete every topic of the prefix."""
    admin = AdminClient({"bootstrap.servers": ",".join(settings.bootstrap_servers)})
    names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(settings.topic_prefix)]
    if names:
        for future in admin.delete_topics(names).values():
            try:
                future.result(10)
            except KafkaException:
                continue  # somebody was faster


class LogAndReader:
    """Ports ``Log`` and ``LogReader`` in one object, as the suite knows the embedded log."""

    def __init__(self, log: KafkaLog, reader: KafkaLogReader, settings: KafkaSettings) -> None:
        self.log = log
        self.reader = reader
        self.settings = settings

    @property
    def epoch(self) -> str:
        return self.log.epoch

    def partitions(self, topic: str) -> int:
        return self.log.partitions(topic)

    def partition_of(self, topic: str, key: str) -> int:
        return self.log.partition_of(topic, key)

    def append(self, topic: str, key: str, value: bytes, report: Report) -> None:
        self.log.append(topic, key, value, report)

    def append_to(self, topic: str, partition: int, value: bytes, report: Report) -> None:
        self.log.append_to(topic, partition, value, report)

    def stalled(self) -> float:
        return self.log.stalled()

    async def read(self, topic: str, partition: int, start: int, limit: int) -> Sequence[Entry]:
        return await self.reader.read(topic, partition, start, limit)

    async def offset_at(self, topic: str, partition: int, time: int) -> int:
        return await self.reader.offset_at(topic, partition, time)

    async def end(self, topic: str, partition: int) -> int:
        return await self.reader.end(topic, partition)


def opener(settings: KafkaSettings) -> Callable[..., Any]:
    """``open_log`` of the contract suites. Topics are made by the first call."""

    @asynccontextmanager
    async def open_log(
        *,
        clock: Clock,
        max_records: int = 20_000,
        max_bytes: int = 64 * 1024 * 1024,
        recent_bytes: int = 0,
        partitions: Mapping[str, int] | None = None,
    ) -> AsyncIterator[LogAndReader]:
        del recent_bytes  # nothing is kept in this process
        chosen = msgspec.structs.replace(settings, max_in_flight=max_records, max_in_flight_bytes=max_bytes)
        if partitions:
            chosen = msgspec.structs.replace(chosen, message_partitions=partitions["messages"])
        metrics = Metrics()
        await create_topics(chosen, metrics=metrics)
        places = await facts(chosen, metrics=metrics)
        async with (
            KafkaLog.open(chosen, clock=clock, metrics=metrics, places=places) as log,
            KafkaLogReader.open(chosen, places, metrics=metrics) as reader,
        ):
            yield LogAndReader(log, reader, chosen)

    return open_log


@asynccontextmanager
async def consuming(log: LogAndReader, group: str, topic: str) -> AsyncIterator[KafkaConsumer]:
    """A member of a group over the topics of a log."""
    places: KafkaPlaces = log.log.places
    async with KafkaConsumer.open(log.settings, places, group, topic, metrics=Metrics()) as consumer:
        yield consumer
