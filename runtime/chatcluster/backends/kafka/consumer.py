"""Consuming as a member of a group. One thread has the driver's consumer; the loop takes from its buffer.

Every call of the driver is made on that thread: it lets one thread at a time in, and a second one starves while
the first polls.

The thread polls for as long as it lives, also while the caller is busy with a slow store: over the bound of the
buffer partitions are paused, so the group never takes a slow member for a dead one.

A driver that is broken, or refuses what the group decided, is replaced by a new one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from chatcluster.backends.kafka.client import Health, describe, kafka_error, said, tell
from chatcluster.backends.kafka.settings import KafkaSettings
from chatcluster.backends.kafka.topics import KafkaPlaces
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Batch, Entry, Fenced, Misconfigured, Unavailable

log = logging.getLogger(__name__)

POLL = 0.02
"""Seconds that the thread waits for a record at a time: how long a commit may wait for its turn."""
AT_ONCE = 2_000
"""Records taken from the driver at a time."""
PROBE_EVERY = 1.0
"""Seconds between questions whether brokers are back."""
FORGET = 60.0
"""Seconds after which a commit without an answer is given up for good."""
_LOST = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError._FENCED,
    KafkaError._ASSIGNMENT_LOST,
}


def entry_of(message: Message) -> Entry:
    """A record as readers get it. Without a value or a key, or with a key that is no text: still an entry."""
    key = message.key()
    return Entry(
        message.offset() or 0,
        message.timestamp()[1],
        "" if key is None else key.decode("utf-8", "replace"),
        message.value() or b"",
    )


class _Commit:
    """One commit on its way to the brokers; there is one at a time."""

    __slots__ = ("answer", "asked", "generations", "positions", "sent")

    def __init__(
        self, positions: Mapping[int, int], generations: Mapping[int, int], answer: asyncio.Future[None]
    ) -> None:
        self.positions = positions
        self.generations = generations
        self.answer = answer
        self.asked = time.monotonic()
        self.sent = False


class KafkaConsumer:
    """Port ``Consumer``. Made by ``open``."""

    def __init__(
        self, settings: KafkaSettings, places: KafkaPlaces, group: str, topic: str, *, metrics: Metrics
    ) -> None:
        self.topic = topic
        self._settings = settings
        self._name = places.name(topic)
        self._group = settings.topic_prefix + group
        self._health = Health(f"consumer-{group}-{topic}", settings, metrics)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()  # of the buffer and of ownership, for moments
        self._buffer: dict[int, list[Entry]] = {}
        self._next: dict[int, int] = {}
        self._records = 0
        self._bytes = 0
        self._generation = 0
        self._owned: dict[int, int] = {}
        self._paused = False
        self._closing = False
        self._died: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._commit: _Commit | None = None
        self._broken = ""  # why only a new consumer of the driver helps
        self._replaced = time.monotonic()
        labels = {"group": group, "topic": topic}
        self._rebalances = metrics.counter("kafka_rebalances_total", "Changes of ownership.", **labels)
        self._pauses = metrics.counter("kafka_pauses_total", "Times that partitions were paused.", **labels)
        self._replacements = metrics.counter(
            "kafka_consumers_replaced_total", "Consumers replaced: broken, or refusing.", **labels
        )
        metrics.gauge("kafka_owned_partitions", "Partitions owned.", lambda: len(self._owned), **labels)
        metrics.gauge("kafka_buffered_records", "Records read ahead.", lambda: self._records, **labels)
        try:
            self._consumer = Consumer(self._wanted())
        except KafkaException as error:
            raise Misconfigured(f"[kafka] is not accepted by the driver: {said(error)}") from None

    def _wanted(self) -> dict[str, Any]:
        settings = self._settings
        return {
            **describe(settings, self._health),
            "group.id": self._group,
            # Only what moves is taken away: the others go on without a pause.
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "on_commit": self._committed,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": settings.session_timeout_ms,
            "heartbeat.interval.ms": settings.heartbeat_interval_ms,
            "max.poll.interval.ms": max(60_000, settings.session_timeout_ms),
            "fetch.wait.max.ms": settings.fetch_wait_ms,
            "fetch.error.backoff.ms": 100,
            "queued.min.messages": max(1, settings.buffer_records),
            "queued.max.messages.kbytes": max(1, settings.buffer_bytes // 1024),
            "fetch.message.max.bytes": 1024 * 1024,
        }

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: KafkaSettings, places: KafkaPlaces, group: str, topic: str, *, metrics: Metrics
    ) -> AsyncIterator[KafkaConsumer]:
        """A member of the group for the time of the block; leaving it gives the partitions to the others."""
        consumer = cls(settings, places, group, topic, metrics=metrics)
        thread = threading.Thread(target=consumer._guarded, name=f"kafka-{group}-{topic}", daemon=True)
        thread.start()
        try:
            yield consumer
        finally:
            consumer._closing = True
            await asyncio.to_thread(thread.join, settings.close_timeout)

    def problems(self) -> str:
        """Why the consumer is not ready; empty when it is."""
        return self._health.problem

    # -- Consumer ---------------------------------------------------------------------------------

    async def fetch(self) -> Sequence[Batch]:
        while True:
            # The waiter stands before the look, so news that come in between are not missed.
            waiter = self._waiter = self._loop.create_future()
            if self._died is not None:
                raise self._died
            batches = self._take()
            if batches:
                return batches
            await waiter

    def owned(self) -> Mapping[int, int]:
        return self._owned

    async def commit(self, positions: Mapping[int, int]) -> None:
        if not positions:
            return
        generations = self._check(positions, None)
        before = self._commit
        if before is not None and time.monotonic() - before.asked < FORGET:
            raise Unavailable("kafka: the commit before is not answered yet")
        commit = self._commit = _Commit(dict(positions), generations, self._loop.create_future())
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                await commit.answer
        except TimeoutError:
            raise Unavailable("kafka: a commit was not answered in time") from None

    def _check(self, positions: Mapping[int, int], generations: Mapping[int, int] | None) -> dict[int, int]:
        """The generation of each; all must be owned, and in the generations given. Raises ``Fenced``."""
        owned = self._owned
        for partition in positions:
            if partition not in owned or (generations is not None and owned[partition] != generations[partition]):
                raise Fenced(f"{self._group} does not own {self.topic}/{partition} here any more")
        return {partition: owned[partition] for partition in positions}

    def _send_commit(self) -> None:
        """On the thread: give a waiting commit to the driver."""
        commit = self._commit
        if commit is None or commit.sent:
            return
        commit.sent = True
        try:
            # Once more: ownership may have gone while this waited, and the group would take it from any member.
            self._check(commit.positions, commit.generations)
            self._consumer.commit(
                offsets=[TopicPartition(self._name, at, offset) for at, offset in commit.positions.items()],
                asynchronous=True,
            )
        except Fenced as error:
            self._answer(error)
        except KafkaException as error:
            self._answer(self._refusal(kafka_error(error), error))

    def _committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """On the thread, by the driver: the answer to the commit on its way."""
        commit = self._commit
        if commit is None or {at.partition: at.offset for at in partitions} != commit.positions:
            return  # of one that was given up
        for at in partitions:
            error = error or at.error
        self._answer(None if error is None else self._refusal(error, KafkaException(error)))

    def _answer(self, refusal: Fenced | Unavailable | None) -> None:
        commit, self._commit = self._commit, None
        if commit is not None:
            tell(self._loop, self._settle, commit.answer, refusal)

    @staticmethod
    def _settle(answer: asyncio.Future[None], refusal: Fenced | Unavailable | None) -> None:
        if answer.done():
            return  # its caller did not wait
        if refusal is None:
            answer.set_result(None)
        else:
            answer.set_exception(refusal)

    def _refusal(self, error: KafkaError | None, given: BaseException) -> Fenced | Unavailable:
        if error is not None and error.code() in _LOST:
            return Fenced(f"{self._group} was refused a commit of {self.topic}: {said(given)}")
        return Unavailable(f"kafka: a commit failed: {said(given)}")

    # -- the buffer -------------------------------------------------------------------------------

    def _take(self) -> list[Batch]:
        settings = self._settings
        batches = []
        room = settings.fetch_bytes
        with self._lock:
            # Whoever was taken from goes to the end, so a busy partition does not starve the others.
            for partition in list(self._buffer):
                if room <= 0:
                    break
                entries = self._buffer.pop(partition)
                taken = size = 0
                for entry in entries:
                    if taken == settings.fetch_records or size >= room:
                        break
                    taken += 1
                    size += len(entry.value)
                room -= size
                self._records -= taken
                self._bytes -= size
                if taken < len(entries):
                    self._buffer[partition] = entries[taken:]
                    entries = entries[:taken]
                batches.append(Batch(self.topic, partition, entries))
        return batches

    def _put(self, messages: list[Message]) -> None:
        """On the thread: into the buffer, and wake the caller."""
        with self._lock:
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.fatal():
                        self._broken = said(error)
                    if error.code() != KafkaError._PARTITION_EOF:
                        self._health.bad(said(error))
                    continue
                partition = message.partition() or 0
                entry = entry_of(message)
                # Records of what was owned before, and what a resumed partition reads twice, are not for the caller.
                if partition not in self._owned or entry.offset < self._next.get(partition, 0):
                    continue
                self._next[partition] = entry.offset + 1
                self._buffer.setdefault(partition, []).append(entry)
                self._records += 1
                self._bytes += len(entry.value)
            some = bool(self._buffer)
        if some:
            self._health.good()
            tell(self._loop, self._wake)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- the thread -------------------------------------------------------------------------------

    def _guarded(self) -> None:
        """A thread that fails is no member that goes on in silence: whoever fetches is told, and ends."""
        try:
            self._serve()
        except BaseException as error:
            log.critical("the thread of the consumer failed", exc_info=error)
            self._died = error
            tell(self._loop, self._wake)
            self._answer(Unavailable("kafka: the consumer failed"))

    def _serve(self) -> None:
        self._join()
        probed = 0.0
        while not self._closing:
            consumer = self._consumer
            try:
                first = consumer.poll(POLL)
                if first is not None:
                    self._put([first, *consumer.consume(AT_ONCE, 0)])
                self._send_commit()
                self._press()
                self._health.refresh(consumer)
                if self._health.problem and time.monotonic() - probed > PROBE_EVERY:
                    probed = time.monotonic()
                    consumer.list_topics(self._name, timeout=PROBE_EVERY)
                    self._health.good()
            except KafkaException as error:
                self._health.bad(said(error))
            if self._broken and time.monotonic() - self._replaced > PROBE_EVERY:
                self._replace()
        self._drop(list(self._owned))
        self._send_commit()
        self._consumer.close()
        self._answer(Unavailable("kafka: the consumer was closed"))

    def _join(self) -> None:
        self._consumer.subscribe([self._name], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)

    def _replace(self) -> None:
        """A new consumer of the driver; what it had is fetched again from the last commit, by whoever gets it."""
        log.error("kafka: the member of %s is replaced: %s", self._group, self._broken)
        self._replacements.add()
        self._replaced = time.monotonic()
        self._broken = ""
        self._paused = False
        self._drop(list(self._owned))
        self._answer(Unavailable("kafka: the consumer is replaced"))
        old, self._consumer = self._consumer, Consumer(self._wanted())
        # It may never come back: without being polled it leaves the group by itself.
        threading.Thread(target=old.close, name=f"kafka-close-{self._group}", daemon=True).start()
        self._join()

    def _press(self) -> None:
        """Pause over the bound, resume when half of it is taken."""
        settings = self._settings
        if not self._paused:
            if self._records >= settings.buffer_records or self._bytes >= settings.buffer_bytes:
                self._paused = True
                self._pauses.add()
                self._consumer.pause(self._consumer.assignment())
        elif self._records <= settings.buffer_records // 2 and self._bytes <= settings.buffer_bytes // 2:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            consumer.incremental_assign(partitions)
        except KafkaException as error:
            self._refused(consumer, error)
            return
        if not partitions or consumer is not self._consumer:
            return
        self._rebalances.add()
        if self._paused:
            consumer.pause(partitions)
        with self._lock:
            self._generation += 1
            self._owned = {**self._owned, **dict.fromkeys((at.partition for at in partitions), self._generation)}
        log.info("%s: now owns %d partitions of %s", self._group, len(self._owned), self.topic)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions and consumer is self._consumer:
            self._rebalances.add()
            self._drop([at.partition for at in partitions])
            log.info("%s: now owns %d partitions of %s", self._group, len(self._owned), self.topic)
        try:
            consumer.incremental_unassign(partitions)
        except KafkaException as error:
            self._refused(consumer, error)

    def _refused(self, consumer: Consumer, error: KafkaException) -> None:
        """The driver does not do what the group decided: what it does from now on, nobody knows."""
        if consumer is self._consumer:
            self._broken = f"the driver refused a change of its partitions: {said(error)}"

    def _drop(self, partitions: Sequence[int]) -> None:
        with self._lock:
            gone = set(partitions)
            self._owned = {at: generation for at, generation in self._owned.items() if at not in gone}
            for partition in gone:
                entries = self._buffer.pop(partition, [])
                self._records -= len(entries)
                self._bytes -= sum(len(entry.value) for entry in entries)
                self._next.pop(partition, None)
