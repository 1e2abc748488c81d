"""Settings of the log, and topics, that would lose messages are faults by themselves, whatever the brokers say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from certificates import issue
from chatcluster.backends.kafka.client import Health, describe
from chatcluster.backends.kafka.settings import KafkaSettings, faults
from chatcluster.backends.kafka.topics import mismatches, plans
from chatcluster.core.metrics import Metrics


def test_the_defaults_have_no_fault() -> None:
    assert faults(KafkaSettings()) == []


@pytest.mark.parametrize("acks", ["0", "1", "-1", ""])
def test_durable_is_on_all_copies_and_nothing_less(acks: str) -> None:
    (fault,) = faults(KafkaSettings(acks=acks))
    assert fault.startswith(f"kafka.acks = {acks!r}: only 'all' is allowed")


SETTINGS = KafkaSettings(message_partitions=2)
"""Three copies of which two are waited for, as everybody should have."""


def told(copies: list[int], **changes: str) -> list[str]:
    """What is said of a topic of so many copies by partition, with these settings otherwise than planned."""
    plan = plans(SETTINGS)[0]
    partitions = [SimpleNamespace(replicas=range(count)) for count in copies]
    actual = {**plan.config, **{key.replace("_", "."): value for key, value in changes.items()}}
    return mismatches(plan, "messages", partitions, actual, SETTINGS)


def test_every_topic_is_made_so_that_a_record_is_on_two_machines_by_the_brokers_clock() -> None:
    for plan in plans(SETTINGS):
        assert plan.config["min.insync.replicas"] == "2"
        assert plan.config["unclean.leader.election.enable"] == "false"
        assert plan.config["message.timestamp.type"] == "LogAppendTime"


def test_more_copies_and_more_in_sync_are_fine() -> None:
    assert told([3, 3]) == []
    assert told([5, 4], min_insync_replicas="3") == []


@pytest.mark.parametrize("copies", [[2, 2], [3, 2]])
def test_fewer_copies_than_the_settings_say_are_refused(copies: list[int]) -> None:
    (wrong,) = told(copies)
    assert "has replication factor 2, kafka.replication_factor = 3" in wrong


def test_fewer_in_sync_than_the_settings_say_are_refused() -> None:
    (wrong,) = told([3, 3], min_insync_replicas="1")
    assert "min.insync.replicas = 1: allowed: 2 (kafka.min_insync_replicas) or more" in wrong


def test_a_broker_must_have_the_name_that_we_connect_to_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    issue(tmp_path, "ca")
    settings = KafkaSettings(ca_file=str(tmp_path / "ca.pem"))
    for verify, wanted in ((True, "https"), (False, "none")):
        one = msgspec.structs.replace(settings, verify_names=verify)
        described = describe(one, Health("log", one, Metrics()))
        assert described["security.protocol"] == "ssl"
        assert described["ssl.endpoint.identification.algorithm"] == wanted
