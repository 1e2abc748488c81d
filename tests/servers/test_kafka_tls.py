"""TLS and a login on a real broker: who may not is told which setting is wrong, passwords change while we run."""

from __future__ import annotations

import asyncio
import logging
import os

import pytest
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

import kafka_topics
from certificates import issue
from chatcluster.app.clock import SystemClock
from chatcluster.backends.kafka import KafkaConsumer, KafkaLog, KafkaLogReader, create_topics, facts
from chatcluster.backends.kafka import client as kafka_client
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Receipt
from chatcluster_stack import ports
from chatcluster_stack.kafka import kafka
from real_servers import needed

pytestmark = pytest.mark.slow
FIRST, SECOND = "first-word-7c1f", "second-word-92ab"


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """A broker with a listener for TLS (client certificates asked for) and SCRAM; its folder of certificates."""
    folder = tmp_path_factory.mktemp("secure")
    authority = issue(folder, "ca")
    issue(folder, "broker", authority)
    issue(folder, "client", authority)
    issue(folder, "stranger")
    base = ports.block([0, 1, 2, 3])
    tls = "listener.name.secure.ssl."
    extra = {
        "listeners": f"CLIENT://127.0.0.1:{base},INNER://127.0.0.1:{base + 1},CONTROLLER://127.0.0.1:{base + 2},"
        f"SECURE://127.0.0.1:{base + 3}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{base},INNER://127.0.0.1:{base + 1},SECURE://127.0.0.1:{base + 3}",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,INNER:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
        tls + "keystore.type": "PEM",
        tls + "keystore.location": str(folder / "broker.both.pem"),
        tls + "truststore.type": "PEM",
        tls + "truststore.location": str(folder / "ca.pem"),
        tls + "client.auth": "required",
        "listener.name.secure.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
        "listener.name.secure.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "listener.name.secure.plain.sasl.jaas.config": (
            f'org.apache.kafka.common.security.plain.PlainLoginModule required user_plain="{FIRST}";'
        ),
    }
    broker = kafka(folder / "run", base, base + 2, extra=extra)
    try:
        with needed("kafka"):
            broker.start()
        yield broker, folder, f"127.0.0.1:{base + 3}"
    finally:
        broker.stop(wipe=True)


def let_in(broker, word):
    client = AdminClient({"bootstrap.servers": broker.address})
    change = UserScramCredentialUpsertion(
        "chat", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), word.encode(), os.urandom(16)
    )
    for future in client.alter_user_scram_credentials([change]).values():
        future.result(10)


@pytest.fixture
def settings(secure):
    broker, folder, address = secure
    let_in(broker, FIRST)
    (folder / "password").write_text(FIRST + "\n")
    return kafka_topics.settings_for(
        address,
        ca_file=str(folder / "ca.pem"),
        cert_file=str(folder / "client.pem"),
        key_file=str(folder / "client.key"),
        username="chat",
        password_file=str(folder / "password"),
        request_timeout_ms=2_000,
    )


def with_(settings, **changes):
    return type(settings)(**{name: getattr(settings, name) for name in settings.__struct_fields__} | changes)


async def append(log, seconds=40.0):
    reports = []
    log.append("messages", "k", b"x", reports.append)
    deadline = asyncio.get_running_loop().time() + seconds
    while not reports:
        await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() < deadline
    return reports[0]


async def test_all_roles_work_over_tls_with_a_login(settings):
    await create_topics(settings, metrics=Metrics())
    places = await facts(settings, metrics=Metrics())
    async with (
        KafkaLog.open(settings, clock=SystemClock(), metrics=Metrics(), places=places) as log,
        KafkaLogReader.open(settings, places, metrics=Metrics()) as reader,
        KafkaConsumer.open(settings, places, "g", "messages", metrics=Metrics()) as consumer,
    ):
        receipt = await append(log)
        assert isinstance(receipt, Receipt)
        assert len(await reader.read("messages", receipt.partition, 0, 10)) == 1
        [batch] = await asyncio.wait_for(consumer.fetch(), 20)
        await consumer.commit({batch.partition: 1})
        assert not log.problems()
        assert not reader.problems()
        assert not consumer.problems()


async def test_plain_works_too(settings):
    plain = with_(settings, sasl_mechanism="PLAIN", username="plain")
    await create_topics(plain, metrics=Metrics())
    assert (await facts(plain, metrics=Metrics())).partitions("messages") == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"password_file": "wrong"}, "the login was refused: see kafka.username, kafka.password_file"),
        ({"username": "nobody"}, "the login was refused"),
        ({"ca_file": "stranger.pem"}, "_SSL"),
        ({"cert_file": "stranger.pem", "key_file": "stranger.key"}, "kafka"),
    ],
)
async def test_who_may_not_waits_and_says_why_without_the_password(secure, settings, caplog, capfd, changes, told):
    folder = secure[1]
    (folder / "wrong").write_text("wrong-word-55d0")
    changes = {key: value if key == "username" else str(folder / value) for key, value in changes.items()}
    caplog.set_level(logging.DEBUG)
    waiting = asyncio.create_task(facts(with_(settings, **changes), metrics=Metrics()))
    await asyncio.sleep(5)
    assert not waiting.done(), "it may be let in later: a password may be changed at any moment"
    waiting.cancel()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("chatcluster")]
    assert any(told in line for line in said if "waiting for the log" in line), said
    assert len([line for line in said if "waiting for the log" in line]) <= 3
    written = "\n".join(said) + "".join(capfd.readouterr())
    for word in (FIRST, "wrong-word"):
        assert word not in written
    assert not capfd.readouterr().err, "the driver writes to the log alone"


async def test_a_password_is_changed_while_we_run(secure, settings, monkeypatch, caplog):
    broker, folder, _ = secure
    monkeypatch.setattr(kafka_client, "PASSWORD_EVERY", 0.2)
    await create_topics(settings, metrics=Metrics())
    places = await facts(settings, metrics=Metrics())
    async with (
        KafkaLog.open(settings, clock=SystemClock(), metrics=Metrics(), places=places) as log,
        KafkaConsumer.open(settings, places, "g", "messages", metrics=Metrics()) as consumer,
    ):
        assert isinstance(await append(log), Receipt)
        await asyncio.wait_for(consumer.fetch(), 20)
        await asyncio.to_thread(let_in, broker, SECOND)
        (folder / "password").write_text(SECOND)
        await asyncio.sleep(1)
        # All connections are made anew: only the new password is let in.
        await asyncio.to_thread(broker.nodes["kafka-1"].restart)
        assert isinstance(await append(log), Receipt)
        await asyncio.wait_for(consumer.fetch(), 40)
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert FIRST not in said
    assert SECOND not in said
