"""Consumer groups on a real Kafka: members that come, go, freeze and die; records that are no records."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

import kafka_topics
from chatcluster.app.clock import SystemClock
from chatcluster.backends.kafka import KafkaConsumer, KafkaLog, KafkaLogReader, create_topics, facts
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Batch, Fenced, Unavailable


@pytest.fixture
def settings(request):
    found = kafka_topics.settings_for(
        kafka_topics.address(request), message_partitions=6, session_timeout_ms=6_000, heartbeat_interval_ms=500
    )
    yield found
    kafka_topics.drop_topics(found)


async def places_of(settings):
    await create_topics(settings, metrics=Metrics())
    return await facts(settings, metrics=Metrics())


async def until(holds, seconds=30.0):
    deadline = asyncio.get_running_loop().time() + seconds
    while not holds():
        await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() < deadline, "never came"


async def put(settings, places, count, size=0):
    async with KafkaLog.open(settings, clock=SystemClock(), metrics=Metrics(), places=places) as log:
        reports = []
        for number in range(count):
            log.append("messages", f"k{number % 31}", b"%d" % number + b" " * size, reports.append)
        await until(lambda: len(reports) == count)


def committed(settings, places, group):
    """What the brokers hold, by partition."""
    client = Consumer(
        {"bootstrap.servers": ",".join(settings.bootstrap_servers), "group.id": settings.topic_prefix + group}
    )
    wanted = [TopicPartition(places.name("messages"), at) for at in range(places.partitions("messages"))]
    try:
        return {at.partition: at.offset for at in client.committed(wanted, timeout=10) if at.offset >= 0}
    finally:
        client.close()


class Member:
    """Fetches, does, commits the contiguous prefix; remembers what it did under which generation."""

    def __init__(self, consumer: KafkaConsumer, done: dict[int, set[int]]) -> None:
        self.consumer = consumer
        self.done = done
        self.progress: dict[int, tuple[int, int]] = {}  # partition: generation, next
        self.fenced = 0

    async def run(self) -> None:
        while True:
            self.take(await self.consumer.fetch())
            await asyncio.sleep(random.random() * 0.01)
            with contextlib.suppress(Unavailable):
                await self.commit()

    def take(self, batches: Sequence[Batch]) -> None:
        owned = self.consumer.owned()
        for batch in batches:
            if batch.partition not in owned:
                continue
            generation, following = self.progress.get(batch.partition, (0, 0))
            offsets = [entry.offset for entry in batch.entries]
            assert offsets == sorted(set(offsets))
            if generation == owned[batch.partition] and following:
                assert offsets[0] == following, "within an ownership each record comes once, without holes"
            self.done.setdefault(batch.partition, set()).update(offsets)
            self.progress[batch.partition] = (owned[batch.partition], offsets[-1] + 1)

    async def commit(self) -> None:
        for partition, (_, following) in list(self.progress.items()):
            try:
                await self.consumer.commit({partition: following})
            except Fenced:
                self.fenced += 1
                del self.progress[partition]


async def test_members_come_and_go_and_every_record_is_done_and_no_commit_is_ahead(settings):
    places = await places_of(settings)
    count = 6_000
    done: dict[int, set[int]] = {}
    settings = msgspec.structs.replace(settings, fetch_records=50)

    async def live(seconds: float | None) -> None:
        async with KafkaConsumer.open(settings, places, "g", "messages", metrics=Metrics()) as consumer:
            member = Member(consumer, done)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(member.run(), seconds)

    async def watch() -> None:
        while True:
            for partition, offset in (await asyncio.to_thread(committed, settings, places, "g")).items():
                assert set(range(offset)) <= done.get(partition, set()), "committed beyond what was done"
            await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        steady = group.create_task(live(None))
        putting = group.create_task(put(settings, places, count))
        for _ in range(4):
            await asyncio.gather(live(1 + random.random()), live(0.5 + random.random()))
        await putting
        await until(lambda: sum(map(len, done.values())) == count, 60)
        watching.cancel()
        steady.cancel()


async def test_a_member_that_leaves_gives_its_partitions_at_once(settings):
    places = await places_of(settings)
    async with KafkaConsumer.open(settings, places, "g", "messages", metrics=Metrics()) as first:
        await until(lambda: len(first.owned()) == 6)
        before = dict(first.owned())
        loop = asyncio.get_running_loop()
        async with KafkaConsumer.open(settings, places, "g", "messages", metrics=Metrics()) as second:
            await until(lambda: len(first.owned()) == 3 and len(second.owned()) == 3)
            kept = dict(first.owned())
            assert kept.items() <= before.items(), "what stays goes on under its generation"
            began = loop.time()
        await until(lambda: len(first.owned()) == 6)
        assert loop.time() - began < 6 + 3, "not by the session's end"
        for partition, generation in first.owned().items():
            if partition in kept:
                assert generation == kept[partition]
            else:
                assert generation > before[partition], "it was another's in between"


async def test_a_caller_that_does_not_fetch_is_paused_within_bounds_and_stays_a_member(settings):
    places = await places_of(settings)
    settings = msgspec.structs.replace(settings, buffer_records=500, buffer_bytes=300_000)
    async with KafkaConsumer.open(settings, places, "g", "messages", metrics=Metrics()) as consumer:
        await until(lambda: len(consumer.owned()) == 6)
        owned = dict(consumer.owned())
        await put(settings, places, 8_000, size=100)
        await asyncio.sleep(8)  # longer than a session
        assert consumer._records <= 500 + 2_001
        assert consumer.owned() == owned
        found: dict[int, list[int]] = {}
        while sum(map(len, found.values())) < 8_000:
            for batch in await asyncio.wait_for(consumer.fetch(), 20):
                found.setdefault(batch.partition, []).extend(entry.offset for entry in batch.entries)
        for offsets in found.values():
            assert offsets == list(range(len(offsets))), "each once, ascending, without holes"
        assert consumer._records == consumer._bytes == 0


async def test_what_is_assigned_while_partitions_are_paused_is_paused_too(settings):
    """Whoever is slow and gets the partitions of one that left does not read all of theirs ahead."""
    places = await places_of(settings)
    settings = msgspec.structs.replace(settings, buffer_bytes=50_000)
    async with KafkaConsumer.open(settings, places, "g", "messages", metrics=Metrics()) as first:
        await until(lambda: len(first.owned()) == 6)
        async with KafkaConsumer.open(settings, places, "g", "messages", metrics=Metrics()) as second:
            await until(lambda: len(first.owned()) == len(second.owned()) == 3)
            await put(settings, places, 12_000, size=100)
            await until(lambda: first._paused)
        await until(lambda: len(first.owned()) == 6)
        await asyncio.sleep(2)
        assert first._bytes <= 50_000 + 2_001 * 105
        found = 0
        while found < 12_000:
            found += sum(len(batch.entries) for batch in await asyncio.wait_for(first.fetch(), 20))


async def test_records_that_are_no_records_come_as_entries(settings):
    places = await places_of(settings)
    producer = Producer({"bootstrap.servers": ",".join(settings.bootstrap_servers)})
    name = places.name("messages")
    for key, value, headers in [
        (None, None, None),
        (b"\xff\xfe", b"\x00\xff", None),
        (b"", b"", [("h", b"\xff")]),
        (b"k", None, None),
        (None, b"v", None),
    ]:
        producer.produce(name, value, key, 0, headers=headers)
    producer.flush(10)
    expected = [("", b""), ("\ufffd\ufffd", b"\x00\xff"), ("", b""), ("k", b""), ("", b"v")]
    async with (
        KafkaConsumer.open(settings, places, "g", "messages", metrics=Metrics()) as consumer,
        KafkaLogReader.open(settings, places, metrics=Metrics()) as reader,
    ):
        found: list[tuple[str, bytes]] = []
        while len(found) < 5:
            for batch in await asyncio.wait_for(consumer.fetch(), 20):
                found += [(entry.key, entry.value) for entry in batch.entries]
        assert found == expected
        assert [(e.key, e.value) for e in await reader.read("messages", 0, 0, 10)] == expected


async def test_records_that_retention_took_are_skipped_by_readers(settings):
    from confluent_kafka.admin import AdminClient

    places = await places_of(settings)
    await put(settings, places, 600)
    admin = AdminClient({"bootstrap.servers": ",".join(settings.bootstrap_servers)})
    [gone] = admin.delete_records([TopicPartition(places.name("messages"), 0, 7)]).values()
    gone.result(10)
    async with KafkaLogReader.open(settings, places, metrics=Metrics()) as reader:
        end = await reader.end("messages", 0)
        assert end > 20
        found = await reader.read("messages", 0, 0, 5)
        assert [entry.offset for entry in found] == [7, 8, 9, 10, 11]
        assert [entry.offset for entry in await reader.read("messages", 0, 12, 2)] == [12, 13]
        assert await reader.read("messages", 0, end, 5) == []
        assert await reader.read("messages", 0, end + 100, 5) == []
        assert await reader.offset_at("messages", 0, 0) == 7


CHILD = """
import asyncio, json, os, sys
import msgspec
from chatcluster.backends.kafka import KafkaConsumer, KafkaPlaces, KafkaSettings
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Fenced, Unavailable

def say(**what):
    print(json.dumps(what), flush=True)

async def main():
    settings = msgspec.json.decode(sys.argv[1], type=KafkaSettings)
    places = msgspec.json.decode(sys.argv[2], type=KafkaPlaces)
    loop = asyncio.get_running_loop()
    async with KafkaConsumer.open(settings, places, "g", "messages", metrics=Metrics()) as consumer:
        following = {}
        while sum(following.values()) < 300:
            for batch in await consumer.fetch():
                following[batch.partition] = batch.entries[-1].offset + 1
        before = dict(consumer.owned())
        say(took=len(following))
        await loop.run_in_executor(None, sys.stdin.readline)
        # Thawed: the first thing is a commit, as if nothing had been.
        outcomes = {}
        for partition, offset in following.items():
            try:
                await consumer.commit({partition: offset})
                outcomes[partition] = "committed"
            except Fenced:
                outcomes[partition] = "fenced"
            except Unavailable as error:
                outcomes[partition] = str(error)
        say(outcomes=outcomes)
        for _ in range(1000):
            if all(consumer.owned().get(at) != generation for at, generation in before.items()):
                break
            await asyncio.sleep(0.01)
        say(before=before, after=dict(consumer.owned()))
        for _ in range(500):
            if consumer.owned():
                break
            await asyncio.sleep(0.01)
        say(again=len(consumer.owned()))

asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_frozen_member_that_thaws_commits_nothing(settings):
    places = await places_of(settings)
    await put(settings, places, 300)
    arguments = [msgspec.json.encode(settings).decode(), msgspec.json.encode(places).decode()]
    child = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", CHILD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        line = asyncio.to_thread(child.stdout.readline)
        assert json.loads(await asyncio.wait_for(line, 30)) == {"took": 6}
        os.kill(child.pid, signal.SIGSTOP)
        async with KafkaConsumer.open(settings, places, "g", "messages", metrics=Metrics()) as other:
            await until(lambda: len(other.owned()) == 6, 30)
            await other.commit(dict.fromkeys(range(6), 3))
            child.stdin.write("\n")
            child.stdin.flush()
            os.kill(child.pid, signal.SIGCONT)
            said = json.loads(await asyncio.wait_for(asyncio.to_thread(child.stdout.readline), 60))
            assert "committed" not in said["outcomes"].values(), said
            assert set(committed(settings, places, "g").values()) == {3}
            said = json.loads(await asyncio.wait_for(asyncio.to_thread(child.stdout.readline), 60))
            assert not said["before"].items() & said["after"].items(), "it sees that it lost them"
            said = json.loads(await asyncio.wait_for(asyncio.to_thread(child.stdout.readline), 60))
            assert said["again"] > 0, "it is a member again"
    finally:
        os.kill(child.pid, signal.SIGCONT)
        child.kill()
        child.communicate()
