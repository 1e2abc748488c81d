"""Appends to Kafka: one idempotent producer per process, reports handed to the event loop in batches.

The driver sends on threads of its own. One thread here serves its delivery reports and hands all that came
meanwhile to the loop with one wake-up. Partitions are chosen here (``KafkaPlaces``), not by the driver.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, KafkaException, Message, Producer

from chatcluster.backends.kafka.client import Health, describe, said, tell
from chatcluster.backends.kafka.settings import KafkaSettings
from chatcluster.backends.kafka.topics import KafkaPlaces, facts
from chatcluster.core.metrics import Metrics
from chatcluster.core.placement import partition_of
from chatcluster.ports import Clock, Failure, Full, Misconfigured, Receipt, Report

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds that the thread waits for reports at a time; a report wakes it."""
PACE = 0.002
"""Seconds between two hand-overs under load: waking thread and loop costs several times what a report does."""
OVERDUE = 15.0
"""Seconds after ``message_timeout_ms`` when a driver that has not reported an append is replaced."""
WRONG_TIME = "the topic does not keep LogAppendTime"


class _Pending:
    """An append without a report. Called by the driver, on the log's thread, with its outcome."""

    __slots__ = ("done", "log", "queued", "report", "size")

    def __init__(self, log: KafkaLog, report: Report, size: int, queued: float) -> None:
        self.log = log
        self.report = report
        self.size = size
        self.queued = queued
        self.done = False

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        outcome: Receipt | Failure
        if error is None:
            kind, at = message.timestamp()
            if kind == TIMESTAMP_LOG_APPEND_TIME:
                outcome = Receipt(message.partition(), message.offset(), at)  # type: ignore[arg-type]
            else:
                outcome = Failure(WRONG_TIME)
        else:
            outcome = Failure(said(error))
            if error.fatal():
                self.log.broken = True
        self.log.outcomes.append((self, outcome))


class KafkaLog:
    """Port ``Log``. Made by ``open``."""

    def __init__(self, settings: KafkaSettings, places: KafkaPlaces, *, clock: Clock, metrics: Metrics) -> None:
        self.places = places
        self.broken = False  # the producer had an error that only a new one mends
        self.outcomes: deque[tuple[_Pending, Receipt | Failure]] = deque()
        self._settings = settings
        self._clock = clock
        self._health = Health("log", settings, metrics)
        self._topics = {topic: (places.name(topic), count) for topic, count in places.counts.items()}
        self._patience = settings.message_timeout_ms / 1000 + OVERDUE
        self._max_records = settings.max_in_flight
        self._max_bytes = settings.max_in_flight_bytes
        self._loop = asyncio.get_running_loop()
        self._oldest: deque[_Pending] = deque()
        self._count = 0  # in flight, records and bytes
        self._bytes = 0
        self._waking = False
        self._closing = False
        self._died: asyncio.Future[None] = self._loop.create_future()
        self._deadline = 0.0
        self._producer = self._produce_with()
        self._appended = metrics.counter("log_records_total", "Records appended to the log.")
        self._failed = metrics.counter("log_failures_total", "Records whose append failed.")
        self._rebuilt = metrics.counter("kafka_producers_rebuilt_total", "Producers replaced: broken, or silent.")
        self._waits = metrics.histogram("log_append_seconds", "From append to report, the oldest of a batch.")
        metrics.gauge("log_in_flight", "Records queued and not yet reported.", lambda: self._count)
        metrics.gauge("log_stalled_seconds", "Age of the oldest append without a report.", self.stalled)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: KafkaSettings, *, clock: Clock, metrics: Metrics, places: KafkaPlaces | None = None
    ) -> AsyncIterator[KafkaLog]:
        """The log for the time of the block; waits for the brokers' facts unless they are given.

        Leaving the block writes and reports what is queued, for ``close_timeout`` at most; the rest is reported
        as failed. Raises ``Misconfigured``.
        """
        places = places or await facts(settings, metrics=metrics)
        found = cls(settings, places, clock=clock, metrics=metrics)
        thread = threading.Thread(target=found._guarded, name="kafka-log", daemon=True)
        thread.start()
        try:
            yield found
        finally:
            found._deadline = clock.monotonic() + settings.close_timeout
            found._closing = True
            await asyncio.to_thread(thread.join)
            found._hand_over()
            found._died.cancel()

    def problems(self) -> str:
        """Why the log is not ready; empty when it is."""
        return self._health.problem

    async def watch(self) -> None:
        """Raises what ended the log's thread: no report comes any more, so the process has to end, too."""
        await asyncio.shield(self._died)

    # -- Log ------------------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        return self.places.epoch

    def partitions(self, topic: str) -> int:
        return self.places.counts[topic]

    def partition_of(self, topic: str, key: str) -> int:
        return self.places.partition_of(topic, key)

    def append(self, topic: str, key: str, value: bytes, report: Report) -> None:
        name, count = self._topics[topic]
        raw = key.encode()
        self._queue(name, partition_of(key, count), raw, value, report)

    def append_to(self, topic: str, partition: int, value: bytes, report: Report) -> None:
        self._queue(self._topics[topic][0], partition, None, value, report)

    def stalled(self) -> float:
        oldest = self._oldest
        while oldest and oldest[0].done:
            oldest.popleft()
        return self._clock.monotonic() - oldest[0].queued if oldest else 0.0

    def _queue(self, name: str, partition: int, key: bytes | None, value: bytes, report: Report) -> None:
        size = len(value)
        if self._count >= self._max_records or self._bytes + size > self._max_bytes or self._closing:
            raise Full(f"{self._count} records wait for the log")
        pending = _Pending(self, report, size, self._clock.monotonic())
        try:
            self._producer.produce(name, value, key, partition, pending)
        except BufferError:
            raise Full(f"{self._count} records wait for the log") from None
        except KafkaException as error:
            # Too large, or the producer is broken: not queued, and told like any other failure, after this call.
            self.outcomes.append((pending, Failure(said(error))))
            self._loop.call_soon(self._hand_over)
        self._oldest.append(pending)
        self._count += 1
        self._bytes += size

    def _hand_over(self) -> None:
        """On the loop: report all that came."""
        self._waking = False
        outcomes = self.outcomes
        done = failed = 0
        first = 0.0
        while outcomes:
            pending, outcome = outcomes.popleft()
            if pending.done:
                continue  # given up by a rebuild, and reported then
            pending.done = True
            done += 1
            self._count -= 1
            self._bytes -= pending.size
            first = first or pending.queued
            if type(outcome) is Failure:
                failed += 1
                self._health.bad(f"an append failed: {outcome.reason}")
            try:
                pending.report(outcome)
            except Exception:
                log.exception("a report of an append raised")
        oldest = self._oldest
        while oldest and oldest[0].done:
            oldest.popleft()
        if done:
            self._waits.observe(self._clock.monotonic() - first)
            self._failed.add(failed)
            self._appended.add(done - failed)
            if not failed:
                self._health.good()

    # -- the thread -------------------------------------------------------------------------------

    def _produce_with(self) -> Producer:
        settings = self._settings
        wanted: dict[str, Any] = {
            **describe(settings, self._health),
            "enable.idempotence": True,
            "acks": settings.acks,
            "linger.ms": settings.linger_ms,
            "delivery.timeout.ms": settings.message_timeout_ms,
            # The bounds are kept here; the driver's are a little above them.
            "queue.buffering.max.messages": settings.max_in_flight + 1_000,
            "queue.buffering.max.kbytes": settings.max_in_flight_bytes // 1024 * 2 + 16_384,
            "delivery.report.only.error": False,
        }
        try:
            return Producer(wanted)
        except KafkaException as error:
            raise Misconfigured(f"[kafka] is not accepted by the driver: {said(error)}") from None

    def _guarded(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            log.critical("the thread of the log failed", exc_info=error)
            tell(self._loop, self._die, error)
            self._purge("the thread of the log failed")

    def _die(self, error: BaseException) -> None:
        if not self._died.done():
            self._died.set_exception(error)

    def _serve(self) -> None:
        """Until closed and all is reported, or the time for it is over."""
        while True:
            if self._producer.poll(POLL if not self._closing else 0.01):
                self._tell()
                time.sleep(PACE)
            else:
                self._tell()
            if self.broken or self._overdue():
                self._rebuild()
            if self._closing and (not self._count or self._clock.monotonic() > self._deadline):
                break
            self._health.refresh(self._producer)
        self._purge("the process left before the log had it")

    def _overdue(self) -> bool:
        """Whether the driver owes a report for longer than it said that it would try.

        What it reported and the loop did not take yet, it does not owe.
        """
        if self.outcomes:
            return False
        try:
            oldest = self._oldest[0]
        except IndexError:  # the loop takes from the other side
            return False
        return not oldest.done and self._clock.monotonic() - oldest.queued > self._patience

    def _tell(self) -> None:
        if self.outcomes and not self._waking:
            self._waking = True
            tell(self._loop, self._hand_over)

    def _purge(self, reason: str) -> None:
        """Whatever the producer still has is reported as failed: it may stand in the log or not."""
        self._producer.purge()
        self._producer.flush(1.0)
        # Of one producer all appends are older than this moment: a broken one takes no more.
        for pending in list(self._oldest):
            if not pending.done:
                self.outcomes.append((pending, Failure(reason)))
        self._tell()

    def _rebuild(self) -> None:
        self._health.bad("the producer is broken and is replaced")
        self._rebuilt.add()
        self._purge("the producer is broken")
        self.broken = False
        self._producer = self._produce_with()
