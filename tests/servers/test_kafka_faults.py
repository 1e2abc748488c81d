"""The log while brokers die, freeze and come back: nothing reported is lost, order per key is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import kafka_topics
from chatcluster.app.clock import SystemClock
from chatcluster.backends.kafka import KafkaLog, KafkaLogReader, create_topics, facts
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Failure, Full, Receipt

pytestmark = pytest.mark.slow


class Load:
    """Appends numbered values to a few keys; knows what became of each."""

    def __init__(self, log: KafkaLog) -> None:
        self.log = log
        self.appended = 0
        self.refused = 0
        self.outcomes: dict[int, Receipt | Failure] = {}
        self.waits: list[float] = []
        self.stalled = 0.0

    def append(self) -> None:
        number = self.appended
        began = time.monotonic()

        def report(outcome: Receipt | Failure) -> None:
            assert number not in self.outcomes, "reported twice"
            self.outcomes[number] = outcome
            self.waits.append(time.monotonic() - began)

        try:
            self.log.append("messages", f"k{number % 11}", b"%d" % number, report)
        except Full:
            self.refused += 1
        else:
            self.appended += 1

    async def run(self) -> None:
        while True:
            for _ in range(4):
                self.append()
            self.stalled = max(self.stalled, self.log.stalled())
            await asyncio.sleep(0.02)

    async def settled(self, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while len(self.outcomes) < self.appended:
            assert time.monotonic() < deadline, f"{self.appended - len(self.outcomes)} appends without a report"
            await asyncio.sleep(0.05)

    async def check(self, reader: KafkaLogReader, *, repeated: bool = False) -> None:
        """All that was reported stands where the report says, once, each key in the order of the calls.

        ``repeated``: a record may stand a second time, before the place that was reported.
        """
        found: dict[tuple[int, int], int] = {}
        for partition in range(self.log.partitions("messages")):
            at = 0
            while entries := await reader.read("messages", partition, at, 1000):
                found.update({(partition, entry.offset): int(entry.value) for entry in entries})
                at = entries[-1].offset + 1
        last: dict[int, Receipt] = {}
        for number in range(self.appended):
            outcome = self.outcomes[number]
            assert isinstance(outcome, Receipt), f"{number}: {outcome}"
            assert found.pop((outcome.partition, outcome.offset)) == number
            before = last.get(number % 11)
            assert before is None or (before.partition == outcome.partition and before.offset < outcome.offset)
            assert before is None or before.time <= outcome.time + 1_000
            last[number % 11] = outcome
        if repeated:
            for (partition, offset), number in found.items():
                outcome = self.outcomes[number]
                assert isinstance(outcome, Receipt)
                assert (outcome.partition, outcome.offset > offset) == (partition, True)
        else:
            assert not found, f"stand there and were never reported, or twice: {sorted(found.values())[:9]}"
        assert self.log.stalled() == 0.0


@asynccontextmanager
async def opened(servers: str, **others: object) -> AsyncIterator[tuple[Load, KafkaLogReader]]:
    settings = kafka_topics.settings_for(servers, **others)
    metrics = Metrics()
    await create_topics(settings, metrics=metrics)
    places = await facts(settings, metrics=metrics)
    async with (
        KafkaLog.open(settings, clock=SystemClock(), metrics=metrics, places=places) as log,
        KafkaLogReader.open(settings, places, metrics=metrics) as reader,
    ):
        load = Load(log)
        load.append()
        await load.settled()
        yield load, reader
    kafka_topics.drop_topics(settings)


@pytest.fixture
def brokers(kafka3_nodes):
    """Three brokers, all well before and after."""
    yield kafka3_nodes
    for node in kafka3_nodes.nodes.values():
        if node.pid is None:
            node.start(wait=False)
        else:
            node.resume()
    kafka3_nodes.start()


def node(brokers, number):
    return brokers.nodes[f"kafka-{number}"]


@pytest.mark.parametrize("number", [1, 2])
async def test_a_killed_broker_costs_nothing_that_was_appended(brokers, number):
    async with opened(brokers.address) as (load, reader):
        running = asyncio.create_task(load.run())
        await asyncio.sleep(1)
        node(brokers, number).kill()
        await asyncio.sleep(6)
        await asyncio.to_thread(node(brokers, number).start)
        await asyncio.sleep(2)
        running.cancel()
        await load.settled()
        await load.check(reader)
        print(f"longest wait {max(load.waits):.1f} s")  # with -s: the figure of docs/kafka.md


async def test_a_frozen_broker_costs_nothing_that_was_appended(brokers):
    async with opened(brokers.address, socket_timeout_ms=3_000) as (load, reader):
        running = asyncio.create_task(load.run())
        await asyncio.sleep(1)
        node(brokers, 2).pause()
        await asyncio.sleep(8)
        node(brokers, 2).resume()
        await asyncio.sleep(2)
        running.cancel()
        await load.settled()
        await load.check(reader)
        print(f"longest wait {max(load.waits):.1f} s")  # with -s: the figure of docs/kafka.md


async def test_below_min_isr_nothing_is_durable_and_the_bound_holds(brokers):
    async with opened(brokers.address, max_in_flight=100) as (load, reader):
        node(brokers, 2).kill()
        node(brokers, 3).kill()
        await asyncio.sleep(1)  # what was under way when they died
        before = len(load.outcomes)
        began = time.monotonic()
        running = asyncio.create_task(load.run())
        while not load.refused:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.05)
        assert load.log.stalled() > 0
        await asyncio.sleep(2)
        assert load.log.stalled() > 1.0, "the router refuses sends by this"
        assert load.appended - before <= 100
        assert not [outcome for at, outcome in load.outcomes.items() if at >= before]
        for number in (2, 3):
            await asyncio.to_thread(node(brokers, number).start, wait=False)
        while len(load.outcomes) <= before:
            assert time.monotonic() - began < 60
            await asyncio.sleep(0.05)
        running.cancel()
        await load.settled()
        await load.check(reader)
        assert load.log.problems() == ""


async def test_all_brokers_down_and_back(brokers):
    async with opened(brokers.address) as (load, reader):
        running = asyncio.create_task(load.run())
        await asyncio.sleep(1)
        for one in brokers.nodes.values():
            one.kill()
        await asyncio.sleep(3)
        assert load.log.stalled() > 1.0
        assert load.log.problems(), "not ready while no broker answers"
        for one in brokers.nodes.values():
            await asyncio.to_thread(one.start, wait=False)
        deadline = time.monotonic() + 60
        while load.log.stalled() > 1.0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        running.cancel()
        await load.settled()
        # All killed at once may have forgotten that they answered a batch which they kept: the driver, with a new
        # producer id, sends it again. The persister tells a repeat by its id.
        await load.check(reader, repeated=True)
        assert load.log.problems() == ""


async def test_a_start_waits_for_brokers_that_are_away(brokers, caplog):
    settings = kafka_topics.settings_for(brokers.address, request_timeout_ms=2_000)
    await create_topics(settings, metrics=Metrics())
    for one in brokers.nodes.values():
        one.kill()
    waiting = asyncio.create_task(facts(settings, metrics=Metrics()))
    await asyncio.sleep(6)
    assert not waiting.done()
    told = [record for record in caplog.records if "waiting for the log" in record.getMessage()]
    assert 1 <= len(told) <= 2, "told once, not at every try"
    for one in brokers.nodes.values():
        await asyncio.to_thread(one.start, wait=False)
    places = await asyncio.wait_for(waiting, 60)
    assert places.partitions("messages") == 4


async def test_a_driver_that_owes_a_report_is_replaced(brokers):
    async with opened(brokers.address) as (load, _):
        load.log._patience = 2.0  # seconds; the driver itself would try for 40
        node(brokers, 2).pause()
        node(brokers, 3).pause()
        for _ in range(5):
            load.append()
        await load.settled(20)
        assert any(isinstance(outcome, Failure) for outcome in load.outcomes.values())
        assert load.log._rebuilt.value >= 1
        node(brokers, 2).resume()
        node(brokers, 3).resume()
        load.log._patience = 60.0
        after = load.appended
        load.append()
        await load.settled()
        assert isinstance(load.outcomes[after], Receipt)


async def test_a_loop_that_takes_no_reports_does_not_make_the_driver_owe_them(brokers):
    async with opened(brokers.address) as (load, _):
        load.append()
        await load.settled()
        load.log._patience = 0.5
        load.append()
        time.sleep(3)  # noqa: ASYNC251 - the fault
        load.log._patience = 60.0
        await load.settled()
        assert load.log._rebuilt.value == 0


async def test_a_producer_with_a_fatal_error_is_replaced_and_what_it_had_is_reported(brokers):
    async with opened(brokers.address) as (load, reader):
        node(brokers, 2).pause()
        node(brokers, 3).pause()
        for _ in range(20):
            load.append()
        await asyncio.sleep(0.2)
        load.log.broken = True  # what the driver's fatal flag sets
        await load.settled(20)
        assert isinstance(load.outcomes[load.appended - 1], Failure)
        assert load.log.stalled() == 0.0
        node(brokers, 2).resume()
        node(brokers, 3).resume()
        after = load.appended
        load.append()
        await load.settled()
        assert isinstance(load.outcomes[after], Receipt)
        assert reader.problems() == ""
