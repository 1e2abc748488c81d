"""Topics on a real Kafka: made once, checked at every start, refused by topic, key, value and fix."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic

import kafka_topics
from chatcluster.app.clock import SystemClock
from chatcluster.backends.kafka import KafkaLog, check_topics, create_topics, facts
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import TOPICS
from chatcluster.ports import Failure, Misconfigured, Unavailable


@pytest.fixture
def settings(request):
    found = kafka_topics.settings_for(kafka_topics.address(request))
    yield found
    kafka_topics.drop_topics(found)


def admin(settings):
    return AdminClient({"bootstrap.servers": ",".join(settings.bootstrap_servers)})


def alter(settings, topic, key, value):
    resource = ConfigResource(
        ConfigResource.Type.TOPIC,
        settings.topic_prefix + topic,
        incremental_configs=[ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)],
    )
    client = admin(settings)
    for future in client.incremental_alter_configs([resource]).values():
        future.result(10)


async def until(holds):
    deadline = asyncio.get_running_loop().time() + 20
    while not holds():
        await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() < deadline


async def refused(settings):
    deadline = asyncio.get_running_loop().time() + 20
    while True:
        try:
            await facts(settings, metrics=Metrics())
        except Misconfigured as error:
            return str(error)
        # A broker learns of a change a moment after the controller took it.
        assert asyncio.get_running_loop().time() < deadline, "not refused"
        await asyncio.sleep(0.1)


async def test_made_by_two_at_once_each_once_and_again_for_nothing(settings):
    made = await asyncio.gather(*(create_topics(settings, metrics=Metrics()) for _ in range(2)))
    assert sorted(made[0] + made[1]) == sorted(settings.topic_prefix + topic for topic in TOPICS)
    first = await facts(settings, metrics=Metrics())
    assert await create_topics(settings, metrics=Metrics()) == []
    assert await facts(settings, metrics=Metrics()) == first
    assert first.partitions("messages") == settings.message_partitions
    assert {first.partition_of("messages", f"t/c{i}") for i in range(100)} == set(range(4))


async def test_topics_made_anew_are_another_epoch(settings):
    await create_topics(settings, metrics=Metrics())
    first = await facts(settings, metrics=Metrics())
    kafka_topics.drop_topics(settings)
    deadline = asyncio.get_running_loop().time() + 20
    while True:  # a deleted topic's name is free a little later
        assert asyncio.get_running_loop().time() < deadline
        await create_topics(settings, metrics=Metrics())
        try:
            second = await check_topics(settings, metrics=Metrics())
        except (Misconfigured, Unavailable):
            await asyncio.sleep(0.1)
            continue
        if second.epoch != first.epoch:
            break
    assert second.counts == first.counts


async def test_missing_topics_are_named_with_the_command(settings):
    said = await refused(settings)
    for topic in TOPICS:
        assert f"topic {settings.topic_prefix}{topic} does not exist" in said
    assert "chatcluster migrate" in said


@pytest.mark.parametrize(
    ("topic", "key", "value"),
    [
        ("messages", "message.timestamp.type", "CreateTime"),
        ("inbox", "message.timestamp.type", "CreateTime"),
        ("messages", "retention.ms", "3600000"),
        ("messages", "retention.bytes", "1000000"),
        ("messages", "cleanup.policy", "compact"),
        ("reads", "cleanup.policy", "delete"),
        ("inbox", "unclean.leader.election.enable", "true"),
    ],
)
async def test_a_wrong_setting_of_a_topic_is_refused_with_the_fix(settings, topic, key, value):
    await create_topics(settings, metrics=Metrics())
    alter(settings, topic, key, value)
    said = await refused(settings)
    assert f"topic {settings.topic_prefix}{topic}: {key} = {value}: allowed:" in said
    assert f"kafka-configs --alter --entity-type topics --entity-name {settings.topic_prefix}{topic}" in said
    assert "; topic" not in said, "nothing else is wrong"


async def test_a_longer_retention_is_nobodys_business(settings):
    await create_topics(settings, metrics=Metrics())
    alter(settings, "messages", "retention.ms", "-1")
    await facts(settings, metrics=Metrics())


async def test_a_changed_partition_count_is_refused_either_way(settings):
    await create_topics(settings, metrics=Metrics())
    said = await refused(msgspec.structs.replace(settings, message_partitions=5))
    assert "has 4 partitions, kafka.message_partitions = 5" in said
    assert "set kafka.message_partitions = 4" in said
    name = settings.topic_prefix + "inbox"
    client = admin(settings)
    for future in client.create_partitions([NewPartitions(name, 6)]).values():
        future.result(10)
    said = await refused(settings)
    assert "has 6 partitions" in said
    assert "another kafka.topic_prefix" in said


async def test_fewer_copies_than_a_record_needs_are_refused(request):
    settings = kafka_topics.settings_for(kafka_topics.address(request, "kafka3"))
    try:
        name = settings.topic_prefix + "messages"
        wrong = {"message.timestamp.type": "LogAppendTime", "min.insync.replicas": "2"}
        client = admin(settings)
        for future in client.create_topics([NewTopic(name, 4, replication_factor=1, config=wrong)]).values():
            future.result(10)
        await create_topics(settings, metrics=Metrics())
        said = await refused(settings)
        assert f"topic {name} has replication factor 1 and min.insync.replicas = 2" in said
        assert "kafka-reassign-partitions" in said
    finally:
        kafka_topics.drop_topics(settings)


async def test_more_copies_than_brokers_are_refused(settings):
    said = ""
    with pytest.raises(Misconfigured) as caught:
        await create_topics(msgspec.structs.replace(settings, replication_factor=7), metrics=Metrics())
    said = str(caught.value)
    assert "kafka.replication_factor = 7" in said
    assert "allowed" in said


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"acks": "1"}, "kafka.acks = '1': only 'all'"),
        ({"message_timeout_ms": 5_000}, "kafka.message_timeout_ms = 5000: allowed: 30000"),
        ({"message_timeout_ms": 60_000}, "kafka.message_timeout_ms = 60000"),
        ({"min_insync_replicas": 2}, "kafka.min_insync_replicas = 2: allowed: 1 to kafka.replication_factor (1)"),
        ({"message_retention_hours": 24}, "kafka.message_retention_hours = 24: allowed: more than 24"),
        ({"message_partitions": 0}, "kafka.message_partitions = 0"),
        ({"sasl_mechanism": "NTLM"}, "kafka.sasl_mechanism = 'NTLM'"),
        ({"username": "u"}, "kafka.password_file"),
        ({"heartbeat_interval_ms": 9_000}, "kafka.heartbeat_interval_ms = 9000"),
        ({"ca_file": "/nowhere"}, "kafka.ca_file = '/nowhere'"),
        ({"username": "u", "password_file": "/nowhere"}, "kafka.password_file = '/nowhere'"),
        ({"connect_timeout_ms": 10}, "kafka.connect_timeout_ms = 10"),
    ],
)
async def test_settings_that_lose_messages_are_refused_without_asking_a_broker(changes, told):
    settings = kafka_topics.settings_for("127.0.0.1:1", **changes)
    assert told in await refused(settings)


async def test_a_record_without_an_append_time_is_no_receipt(settings):
    """Somebody alters the topic while we run: better an unknown outcome than a wrong age."""
    await create_topics(settings, metrics=Metrics())
    async with KafkaLog.open(settings, clock=SystemClock(), metrics=Metrics()) as log:
        alter(settings, "messages", "message.timestamp.type", "CreateTime")
        deadline = asyncio.get_running_loop().time() + 20
        outcome = None
        while not isinstance(outcome, Failure):
            assert asyncio.get_running_loop().time() < deadline
            reports = []
            log.append("messages", "k", b"x", reports.append)
            await until(lambda: reports)  # noqa: B023
            [outcome] = reports
        assert "LogAppendTime" in outcome.reason


async def test_a_record_that_is_too_large_fails_and_the_next_goes_on(settings):
    await create_topics(settings, metrics=Metrics())
    async with KafkaLog.open(settings, clock=SystemClock(), metrics=Metrics()) as log:
        reports = []
        log.append("messages", "k", bytes(2_000_000), reports.append)
        assert reports == []
        log.append("messages", "k", b"x", reports.append)
        await until(lambda: len(reports) == 2)
        assert [type(report).__name__ for report in reports] == ["Failure", "Receipt"]
