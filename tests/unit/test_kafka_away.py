"""The log, its reader and its consumer while no broker answers: nothing is left without an outcome."""

from __future__ import annotations

import asyncio
import threading
from typing import ClassVar

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from chatcluster.app.clock import SystemClock
from chatcluster.backends.kafka import KafkaConsumer, KafkaLog, KafkaLogReader, KafkaPlaces, KafkaSettings
from chatcluster.backends.kafka import client as kafka_client
from chatcluster.backends.kafka import consumer as kafka_consumer
from chatcluster.backends.kafka import log as kafka_log
from chatcluster.backends.kafka import reader as kafka_reader
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import TOPICS
from chatcluster.ports import Failure, Fenced, Full, Unavailable

SETTINGS = KafkaSettings(bootstrap_servers=("127.0.0.1:1",), close_timeout=0.3, request_timeout_ms=200, max_in_flight=3)
PLACES = KafkaPlaces(epoch="e", prefix="nobody.", counts=dict.fromkeys(TOPICS, 4))


async def until(holds):
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def opened():
    return KafkaLog.open(SETTINGS, clock=SystemClock(), metrics=Metrics(), places=PLACES)


def fill(log, reports):
    for _ in range(3):
        log.append("messages", "k", b"x", reports.append)


async def test_what_a_leaving_process_could_not_write_is_reported_and_no_more_is_taken():
    reports = []
    async with opened() as log:
        fill(log, reports)
        assert reports == []
    assert [type(report) for report in reports] == [Failure] * 3
    with pytest.raises(Full):
        log.append("messages", "k", b"x", reports.append)


async def test_what_a_replaced_producer_had_is_reported_once_and_the_bound_holds():
    reports = []
    async with opened() as log:
        fill(log, reports)
        log.broken = True
        await until(lambda: len(reports) >= 3)
        await asyncio.sleep(0.5)  # for what else the old producer says
        assert [type(report) for report in reports] == [Failure] * 3
        fill(log, reports)
        with pytest.raises(Full):
            log.append("messages", "k", b"x", reports.append)


@pytest.mark.parametrize(("fatal", "replaced"), [(True, 1), (False, 0)])
async def test_a_fatal_error_alone_replaces_the_producer(monkeypatch, fatal, replaced):
    class Failing(Producer):
        def produce(self, _topic, _value, _key, _partition, report):
            report(KafkaError(KafkaError._FENCED, "another has its epoch", fatal=fatal), None)

    monkeypatch.setattr(kafka_log, "Producer", Failing)
    reports = []
    async with opened() as log:
        log.append("messages", "k", b"x", reports.append)
        await until(lambda: reports)
        await asyncio.sleep(0.3)
        assert log._rebuilt.value == replaced
    assert [type(report) for report in reports] == [Failure]


async def test_reads_without_an_answer_are_unavailable_in_time():
    async with KafkaLogReader.open(SETTINGS, PLACES, metrics=Metrics()) as reader:
        for ask in (
            reader.read("messages", 0, 0, 5),
            reader.offset_at("messages", 0, 1),
            reader.end("messages", 0),
        ):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(ask, 10)
        assert reader.problems()


async def test_reads_over_the_bound_are_refused(monkeypatch):
    monkeypatch.setattr(kafka_reader, "WAITING", 4)
    async with KafkaLogReader.open(SETTINGS, PLACES, metrics=Metrics()) as reader:
        reads = (reader.read("messages", 0, 0, 1) for _ in range(9))
        said = [str(one) for one in await asyncio.gather(*reads, return_exceptions=True)]
        assert [one for one in said if "too many" in one] == said[4:]


def test_a_password_file_that_is_gone_is_told_and_the_next_password_is_taken_by_all(tmp_path, monkeypatch):
    class Client(list):
        def set_sasl_credentials(self, *given):
            self.append(given)

    monkeypatch.setattr(kafka_client, "PASSWORD_EVERY", 0.0)
    file, clients = tmp_path / "password", (Client(), Client())
    file.write_text("first")
    health = kafka_client.Health("log", KafkaSettings(username="u", password_file=str(file)), Metrics())
    file.unlink()
    health.refresh(*clients)
    assert "cannot be read" in health.problem
    file.write_text("second\n")
    health.refresh(*clients)
    health.refresh(*clients)
    assert clients == ([("u", "second")], [("u", "second")])


# -- commits ------------------------------------------------------------------------------------------


class Answering(Consumer):
    """Commits are answered at once with ``error``."""

    error: KafkaError | None = None
    commits: ClassVar[list[dict[int, int]]] = []
    member: KafkaConsumer

    def commit(self, *, offsets, asynchronous):
        assert asynchronous
        self.commits.append({at.partition: at.offset for at in offsets})
        self.member._committed(self.error, offsets)


@pytest.fixture
async def member(monkeypatch):
    """A member that owns two partitions."""
    monkeypatch.setattr(kafka_consumer, "Consumer", Answering)
    monkeypatch.setattr(Answering, "commits", [])
    settings = msgspec.structs.replace(SETTINGS, request_timeout_ms=3_000)
    async with KafkaConsumer.open(settings, PLACES, "g", "messages", metrics=Metrics()) as consumer:
        monkeypatch.setattr(Answering, "member", consumer, raising=False)
        consumer._owned = {0: 1, 1: 1}
        yield consumer


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (KafkaError.ILLEGAL_GENERATION, Fenced),
        (KafkaError.UNKNOWN_MEMBER_ID, Fenced),
        (KafkaError.FENCED_INSTANCE_ID, Fenced),
        (KafkaError._ASSIGNMENT_LOST, Fenced),
        (KafkaError.REQUEST_TIMED_OUT, Unavailable),
        (KafkaError.COORDINATOR_NOT_AVAILABLE, Unavailable),
    ],
)
async def test_who_is_no_member_any_more_is_fenced_and_who_got_no_answer_is_not(member, monkeypatch, code, told):
    monkeypatch.setattr(Answering, "error", KafkaError(code))
    with pytest.raises(told):
        await member.commit({0: 5})


@pytest.mark.parametrize("owned", [{1: 1}, {0: 2, 1: 1}], ids=["gone", "gone and back"])
async def test_a_commit_is_not_sent_when_its_partition_went_while_it_waited(member, monkeypatch, owned):
    gate, send = threading.Event(), member._send_commit
    monkeypatch.setattr(member, "_send_commit", lambda: send() if gate.is_set() else None)
    committing = asyncio.create_task(member.commit({0: 5}))
    await asyncio.sleep(0.1)
    member._owned = owned
    gate.set()
    with pytest.raises(Fenced):
        await committing
    assert Answering.commits == []
    await member.commit({1: 7})
    assert Answering.commits == [{1: 7}]


async def test_a_late_answer_to_a_commit_that_was_given_up_is_not_taken_for_another(member, monkeypatch):
    monkeypatch.setattr(Answering, "commit", lambda *_, **__: None)
    committing = asyncio.create_task(member.commit({0: 5}))
    await until(lambda: member._commit is not None and member._commit.sent)
    member._committed(None, [TopicPartition("nobody.messages", 0, 4)])
    await asyncio.sleep(0.1)
    assert not committing.done()
    member._committed(None, [TopicPartition("nobody.messages", 0, 5)])
    await committing


# -- what the driver hands out ------------------------------------------------------------------------


class Record:
    """A record as the driver has it."""

    def __init__(self, partition, offset):
        self.at = partition, offset

    def error(self):
        return None

    def key(self):
        return b"k"

    def value(self):
        return b"v"

    def timestamp(self):
        return 2, 1

    def partition(self):
        return self.at[0]

    def offset(self):
        return self.at[1]


async def test_records_of_what_is_not_owned_and_those_read_twice_are_not_handed_out(member):
    member._put([Record(0, 5), Record(0, 6), Record(3, 1)])
    member._put([Record(0, 5), Record(0, 6), Record(0, 7), Record(1, 2)])
    batches = await member.fetch()
    assert {batch.partition: [entry.offset for entry in batch.entries] for batch in batches} == {0: [5, 6, 7], 1: [2]}
    member._put([Record(0, 6)])
    member._put([Record(0, 8)])
    [batch] = await asyncio.wait_for(member.fetch(), 10)
    assert [entry.offset for entry in batch.entries] == [8], "also when they were taken meanwhile"


async def test_what_was_read_ahead_goes_with_its_partition_and_comes_again_with_it(member):
    member._put([Record(0, 5), Record(0, 6), Record(1, 2)])
    member._drop([0])
    [batch] = await member.fetch()
    assert (batch.partition, len(batch.entries)) == (1, 1)
    assert member._records == member._bytes == 0
    member._owned = {**member._owned, 0: 2}
    member._put([Record(0, 5)])
    [batch] = await asyncio.wait_for(member.fetch(), 10)
    assert [entry.offset for entry in batch.entries] == [5]


async def test_a_fetch_is_bounded_in_bytes_and_no_partition_starves_another(member, monkeypatch):
    monkeypatch.setattr(member, "_settings", msgspec.structs.replace(SETTINGS, fetch_bytes=3))
    member._put([Record(0, at) for at in range(6)] + [Record(1, at) for at in range(3)])
    async with asyncio.timeout(10):
        taken = [[(batch.partition, len(batch.entries)) for batch in await member.fetch()] for _ in range(3)]
    assert taken == [[(0, 3)], [(1, 3)], [(0, 3)]]
