"""The topics: what each must be, making them, and the check at every start (delivery, section 2)."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from concurrent.futures import Future
from hashlib import blake2b
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]

from chatcluster.backends.kafka.client import Health, describe, kafka_error, said
from chatcluster.backends.kafka.settings import KafkaSettings, faults
from chatcluster.core.backoff import delay
from chatcluster.core.metrics import Metrics
from chatcluster.core.placement import partition_of
from chatcluster.core.records import DEAD_LETTERS, INBOX, MESSAGES, NOTIFICATIONS, READS, TOPICS
from chatcluster.ports import Misconfigured, Unavailable

log = logging.getLogger(__name__)

HOUR = 3_600_000
MIGRATE = "chatcluster migrate"
SPREAD = 2.0
"""Seconds until every broker surely knows a topic that another one has just made."""
RETRY_CAP = 5.0
"""Seconds: the longest wait between two tries to reach the brokers at a start."""


class KafkaPlaces(msgspec.Struct, frozen=True, kw_only=True):
    """What is fixed for an epoch: where each key's records are. The part of ``Log`` that needs no producer."""

    epoch: str
    """Incarnation of ``messages`` and ``inbox``, from the ids that the cluster gave them."""
    prefix: str
    """Before the name of every topic."""
    counts: Mapping[str, int]
    """Partitions by topic."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""
        return self.counts[topic]

    def partition_of(self, topic: str, key: str) -> int:
        """The partition of a key: the same in every process, for ever."""
        return partition_of(key, self.counts[topic])

    def name(self, topic: str) -> str:
        """The topic's name on the brokers."""
        return self.prefix + topic


class Plan(msgspec.Struct, frozen=True):
    """What one topic must be."""

    topic: str
    partitions: int
    key: str
    """The setting that says how many partitions."""
    config: Mapping[str, str]


def plans(settings: KafkaSettings) -> list[Plan]:
    """What the topics must be. Pure."""

    def kept(hours: int) -> dict[str, str]:
        return {"cleanup.policy": "delete", "retention.ms": str(hours * HOUR), "retention.bytes": "-1"}

    cleanup = {
        MESSAGES: kept(settings.message_retention_hours),
        INBOX: kept(settings.message_retention_hours),
        READS: {"cleanup.policy": "compact"},
        DEAD_LETTERS: kept(settings.dead_letter_retention_hours),
        NOTIFICATIONS: kept(settings.notification_retention_hours),
    }
    keys = {MESSAGES: "message_partitions", INBOX: "inbox_partitions"}
    every = {
        # Age and order are decided by the broker's clock, never by a producer's.
        "message.timestamp.type": "LogAppendTime",
        # A replica that is behind never becomes leader: what was durable stays so.
        "unclean.leader.election.enable": "false",
        "min.insync.replicas": str(settings.min_insync_replicas),
    }
    return [
        Plan(topic, getattr(settings, key), key, every | cleanup[topic])
        for topic in TOPICS
        for key in [keys.get(topic, "other_partitions")]
    ]


def _admin(settings: KafkaSettings, health: Health) -> AdminClient:
    wrong = faults(settings)
    if wrong:
        raise Misconfigured("; ".join(wrong))
    try:
        return AdminClient(describe(settings, health))
    except KafkaException as error:
        raise Misconfigured(f"[kafka] is not accepted by the driver: {said(error)}") from None


def _away(admin: AdminClient, health: Health, error: KafkaException) -> Unavailable:
    admin.poll(0)  # the driver says why only to those who ask
    return Unavailable(f"kafka: {health.problem or said(error)}")


def _result(future: Future[Any], settings: KafkaSettings) -> Any:
    try:
        return future.result(settings.request_timeout_ms / 1000 + 5)
    except TimeoutError:
        raise Unavailable("kafka: no broker answered in time") from None


def _create(settings: KafkaSettings, health: Health) -> list[str]:
    admin = _admin(settings, health)
    wanted = [
        NewTopic(
            settings.topic_prefix + plan.topic,
            num_partitions=plan.partitions,
            replication_factor=settings.replication_factor,
            config=dict(plan.config),
        )
        for plan in plans(settings)
    ]
    timeout = settings.request_timeout_ms / 1000
    made = []
    for name, future in admin.create_topics(wanted, request_timeout=timeout, operation_timeout=timeout).items():
        try:
            _result(future, settings)
        except KafkaException as error:
            inner = kafka_error(error)
            code = inner.code() if inner else None
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            if code == KafkaError.INVALID_REPLICATION_FACTOR:
                raise Misconfigured(
                    f"topic {name}: kafka.replication_factor = {settings.replication_factor} cannot be had: "
                    f"{said(error)}; allowed: up to the number of brokers"
                ) from None
            if code in {
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
                KafkaError.CLUSTER_AUTHORIZATION_FAILED,
                KafkaError.POLICY_VIOLATION,
                KafkaError.INVALID_CONFIG,
                KafkaError.TOPIC_EXCEPTION,
            }:
                raise Misconfigured(f"topic {name} cannot be made: {said(error)}") from None
            raise Unavailable(f"topic {name} could not be made: {said(error)}") from error
        else:
            made.append(name)
    _describe(admin, [settings.topic_prefix + plan.topic for plan in plans(settings)], settings, health)
    return made


async def create_topics(settings: KafkaSettings, *, metrics: Metrics) -> list[str]:
    """Make the topics that are not there; the names made. Two at once do no harm.

    Existing topics stay as they are: ``check_topics`` says what is wrong with them. Raises ``Misconfigured``,
    ``Unavailable``.
    """
    health = Health("topics", settings, metrics, told=False)
    return await asyncio.get_running_loop().run_in_executor(None, _create, settings, health)


def _describe(admin: AdminClient, names: list[str], settings: KafkaSettings, health: Health) -> dict[str, Any]:
    """Each topic's description. One that is missing is asked for again for a while: brokers learn of it in turn."""
    found: dict[str, Any] = {}
    deadline = time.monotonic() + SPREAD
    while True:
        missing = [name for name in names if name not in found]
        wrong = []
        described = admin.describe_topics(TopicCollection(missing), request_timeout=settings.request_timeout_ms / 1000)
        for name, future in described.items():
            try:
                found[name] = _result(future, settings)
            except KafkaException as error:
                inner = kafka_error(error)
                code = inner.code() if inner else None
                if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    wrong.append(f"topic {name} does not exist; fix: {MIGRATE}")
                elif code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    wrong.append(f"topic {name}: kafka.username may not describe it; fix: allow it Describe")
                else:
                    raise _away(admin, health, error) from error
        if not wrong:
            return found
        if time.monotonic() > deadline:
            raise Misconfigured("; ".join(wrong))
        time.sleep(0.2)


def _check(settings: KafkaSettings, health: Health) -> KafkaPlaces:
    admin = _admin(settings, health)
    wanted = {settings.topic_prefix + plan.topic: plan for plan in plans(settings)}
    timeout = settings.request_timeout_ms / 1000
    found = _describe(admin, list(wanted), settings, health)
    wrong: list[str] = []
    resources = {name: ConfigResource(ConfigResource.Type.TOPIC, name) for name in wanted}
    configs = admin.describe_configs(list(resources.values()), request_timeout=timeout)
    for name, plan in wanted.items():
        try:
            actual = {key: entry.value for key, entry in _result(configs[resources[name]], settings).items()}
        except KafkaException as error:
            raise _away(admin, health, error) from error
        wrong += mismatches(plan, name, found[name].partitions, actual, settings)
    if wrong:
        raise Misconfigured("; ".join(wrong))
    ids = "/".join(str(found[settings.topic_prefix + topic].topic_id) for topic in (MESSAGES, INBOX))
    return KafkaPlaces(
        epoch=blake2b(ids.encode(), digest_size=6).hexdigest(),
        prefix=settings.topic_prefix,
        counts={plan.topic: plan.partitions for plan in wanted.values()},
    )


def mismatches(
    plan: Plan, name: str, partitions: list[Any], actual: Mapping[str, str], settings: KafkaSettings
) -> list[str]:
    """What a topic is not as it must be: topic, key, value, what is allowed, the fix."""
    wrong = []
    if len(partitions) != plan.partitions:
        wrong.append(
            f"topic {name} has {len(partitions)} partitions, kafka.{plan.key} = {plan.partitions}: the number is fixed "
            f"when the topic is made; fix: set kafka.{plan.key} = {len(partitions)} if it always was that, else choose "
            f"another kafka.topic_prefix and run {MIGRATE}"
        )
    copies = min(len(partition.replicas) for partition in partitions)
    least = int(actual["min.insync.replicas"])
    if copies < least:
        wrong.append(
            f"topic {name} has replication factor {copies} and min.insync.replicas = {least}: no record could ever be "
            f"durable; fix: kafka-reassign-partitions to {settings.replication_factor} copies"
        )
    elif copies < settings.replication_factor:
        wrong.append(
            f"topic {name} has replication factor {copies}, kafka.replication_factor = {settings.replication_factor}: "
            f"allowed: as many or more; fix: kafka-reassign-partitions, or set kafka.replication_factor = {copies}"
        )

    def alter(key: str, allowed: str, value: str) -> str:
        return (
            f"topic {name}: {key} = {actual.get(key)}: allowed: {allowed}; fix: kafka-configs --alter --entity-type "
            f"topics --entity-name {name} --add-config {key}={value}"
        )

    for key, value in plan.config.items():
        given = actual.get(key, "")
        if key == "retention.ms":
            if given != "-1" and int(given) < int(value):
                wrong.append(alter(key, f"{value} (from [kafka] retention) or more, or -1", value))
        elif key == "retention.bytes":
            if given != value:
                wrong.append(alter(key, "-1 (else a busy day cuts the retention short)", value))
        elif key == "min.insync.replicas":
            if int(given) < int(value):
                wrong.append(alter(key, f"{value} (kafka.min_insync_replicas) or more", value))
        elif given != value:
            wrong.append(alter(key, value, value))
    return wrong


async def check_topics(settings: KafkaSettings, *, metrics: Metrics) -> KafkaPlaces:
    """Whether the topics are what they must be, and their facts. Raises ``Misconfigured``, ``Unavailable``."""
    health = Health("topics", settings, metrics, told=False)
    return await asyncio.get_running_loop().run_in_executor(None, _check, settings, health)


async def facts(settings: KafkaSettings, *, metrics: Metrics) -> KafkaPlaces:
    """``check_topics`` until brokers answer. Raises ``Misconfigured`` at once."""
    attempt = 0
    told = ""
    while True:
        try:
            places = await check_topics(settings, metrics=metrics)
        except Unavailable as error:
            if str(error) != told:
                told = str(error)
                log.warning("waiting for the log: %s", told)
        else:
            if told:
                log.info("the log answers")
            return places
        await asyncio.sleep(0.1 + delay(attempt, random.random, cap=RETRY_CAP))
        attempt += 1
