"""Reading outside a group: one private consumer on one thread, kept where it is for the next page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from chatcluster.backends.kafka.client import Health, describe, said
from chatcluster.backends.kafka.consumer import entry_of
from chatcluster.backends.kafka.settings import KafkaSettings
from chatcluster.backends.kafka.topics import KafkaPlaces
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Entry, Misconfigured, Unavailable

END_AGE = 0.5
"""Seconds for which the ends of a topic's partitions, asked for together, are handed out: each once."""
WAITING = 256
"""Reads that wait for the thread; over it ``Unavailable``."""

T = TypeVar("T")


class _Ends:
    """The ends of one topic's partitions as of one moment. Each is handed out once."""

    def __init__(self) -> None:
        self.wanted: set[int] = set()
        self.fresh: dict[int, int] = {}
        self.at = -END_AGE
        self.lock = asyncio.Lock()


class KafkaLogReader:
    """Port ``LogReader``. Made by ``open``. Reads are done one after another."""

    def __init__(self, settings: KafkaSettings, places: KafkaPlaces, *, metrics: Metrics) -> None:
        self._settings = settings
        self._places = places
        self._patience = settings.request_timeout_ms / 1000
        self._health = Health("reader", settings, metrics)
        self._reading = ThreadPoolExecutor(1, "kafka-read")
        self._asking = ThreadPoolExecutor(1, "kafka-ends")
        self._waiting = 0
        self._at: tuple[str, int, int] | None = None  # where the consumer is: topic, partition, next offset
        self._ends: dict[str, _Ends] = {}
        wanted = describe(settings, self._health)
        try:
            self._consumer = Consumer(
                {
                    **wanted,
                    "group.id": f"{settings.topic_prefix}reader",  # asked for by the driver, never joined
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": "error",
                    # The end is told by an empty answer: it must not be held back.
                    "fetch.wait.max.ms": 10,
                    "fetch.error.backoff.ms": 50,
                    "queued.min.messages": 10_000,
                    "queued.max.messages.kbytes": 8 * 1024,
                }
            )
            self._admin = AdminClient(wanted)
        except KafkaException as error:
            raise Misconfigured(f"[kafka] is not accepted by the driver: {said(error)}") from None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: KafkaSettings, places: KafkaPlaces, *, metrics: Metrics
    ) -> AsyncIterator[KafkaLogReader]:
        """The reader for the time of the block."""
        reader = cls(settings, places, metrics=metrics)
        try:
            yield reader
        finally:
            reader._asking.shutdown(wait=False, cancel_futures=True)
            closed = asyncio.get_running_loop().run_in_executor(reader._reading, reader._consumer.close)
            await asyncio.wait([closed], timeout=settings.close_timeout)
            reader._reading.shutdown(wait=False, cancel_futures=True)

    def problems(self) -> str:
        """Why the reader is not ready; empty when it is."""
        return self._health.problem

    # -- LogReader --------------------------------------------------------------------------------

    async def read(self, topic: str, partition: int, start: int, limit: int) -> Sequence[Entry]:
        if limit <= 0:
            return []
        return await self._ask(partial(self._read, topic, partition, max(0, start), limit))

    async def offset_at(self, topic: str, partition: int, time: int) -> int:
        return await self._ask(partial(self._offset_at, topic, partition, time))

    async def end(self, topic: str, partition: int) -> int:
        ends = self._ends.setdefault(topic, _Ends())
        async with ends.lock:
            if partition not in ends.fresh or time.monotonic() - ends.at > END_AGE:
                # Whoever asks for one asks for its others next: all at once, in one request per broker.
                ends.wanted.add(partition)
                began = time.monotonic()
                loop = asyncio.get_running_loop()
                ends.fresh = await loop.run_in_executor(self._asking, self._ask_ends, topic, sorted(ends.wanted))
                ends.wanted = set(ends.fresh)
                ends.at = began
            return ends.fresh.pop(partition)

    # -- on threads ---------------------------------------------------------------------------------

    async def _ask(self, function: Callable[[], T]) -> T:
        if self._waiting >= WAITING:
            raise Unavailable("kafka: too many reads wait")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, self._guard, function)
        finally:
            self._waiting -= 1

    def _guard(self, function: Callable[[], T]) -> T:
        self._health.refresh(self._consumer, self._admin)
        try:
            found = function()
        except KafkaException as error:
            self._at = None
            self._health.bad(said(error))
            raise Unavailable(f"kafka: the log could not be read: {said(error)}") from error
        except Unavailable as error:
            self._at = None
            self._health.bad(str(error))
            raise
        self._health.good()
        return found

    def _read(self, topic: str, partition: int, start: int, limit: int) -> list[Entry]:
        deadline = time.monotonic() + self._patience
        name = self._places.name(topic)
        if self._at != (topic, partition, start):
            self._consumer.assign([TopicPartition(name, partition, start)])
        self._at = None
        found: list[Entry] = []
        while len(found) < limit:
            first = self._consumer.poll(min(0.25, self._patience))
            if first is None:
                if time.monotonic() < deadline:
                    continue
                if found:
                    break
                raise Unavailable("kafka: no broker answered a read in time")
            # Never one more than is wanted: the next page goes on where the consumer is, and would miss it.
            missing = limit - len(found) - 1
            for message in [first, *(self._consumer.consume(missing, 0) if missing else ())]:
                error = message.error()
                if error is None:
                    found.append(entry_of(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._consumer.unassign()
                    return found
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    low, high = self._watermarks(name, partition)
                    if start >= high:
                        self._consumer.unassign()
                        return found
                    # Older records are gone: from the first that is there.
                    start = max(low, start)
                    self._consumer.assign([TopicPartition(name, partition, start)])
                else:
                    raise KafkaException(error)
        self._at = (topic, partition, found[-1].offset + 1)
        return found

    def _watermarks(self, name: str, partition: int) -> tuple[int, int]:
        return self._consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=self._patience)

    def _offset_at(self, topic: str, partition: int, moment: int) -> int:
        name = self._places.name(topic)
        [found] = self._consumer.offsets_for_times(
            [TopicPartition(name, partition, max(0, moment))], timeout=self._patience
        )
        if found.error is not None:
            raise KafkaException(found.error)
        if found.offset == OFFSET_END or found.offset < 0:
            return self._watermarks(name, partition)[1]
        return found.offset

    def _ask_ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        self._health.refresh(self._consumer, self._admin)
        name = self._places.name(topic)
        newest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked: dict[Any, Any] = self._admin.list_offsets(
            {TopicPartition(name, partition): newest for partition in partitions},
            request_timeout=self._patience,
        )
        try:
            return {at.partition: future.result(self._patience + 1).offset for at, future in asked.items()}
        except (KafkaException, TimeoutError) as error:
            raise Unavailable(f"kafka: the ends of {topic} could not be asked for: {said(error)}") from error
