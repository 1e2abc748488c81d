"""Records of the log that cannot be read."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from wires import WITHDRAWN, eventually, group, history


def record(*fields: Any) -> bytes:
    return msgspec.msgpack.encode(list(fields))


def aliens(tenant_channel: str) -> list[tuple[str, bytes]]:
    """Keys and values of records that must not stand in ``messages``."""
    tenant, _, channel = tenant_channel.partition("/")
    message = ["message", tenant, channel, 1574577064676163584, "ann", "x", 0, 0, "body"]
    return [
        (tenant_channel, b""),  # null
        (tenant_channel, b"\xff\xfe\xfd rubbish"),
        (tenant_channel, record(*message)[:-3]),  # cut off
        (tenant_channel, record("post", *message[1:])),  # another schema's tag
        (tenant_channel, record(*message[:4])),  # an old schema without what is needed
        (tenant_channel, record(*message[:3], (1 << 64) - 1, *message[4:])),  # an id of 64 bits
        (tenant_channel, record(*message[:-1], "body").replace(b"body", b"b\xffdy")),  # no UTF-8
        (tenant_channel, b"\x91" * 10_000 + b"\x01"),  # 10,000 deep
        ("default/another", record(*message)),  # another channel's key
    ]


def append(data: Path, topic: str, partition: int, records: list[tuple[str, bytes]]) -> None:
    """Append to the log behind the back of a process that is stopped."""
    with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as log:
        number = log.execute("SELECT number FROM topics WHERE name = ?", (topic,)).fetchone()[0]
        base = (number * 256 + partition) << 48
        found = log.execute(
            "SELECT id + count, time FROM batches WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1",
            (base, base | (1 << 48) - 1),
        ).fetchone()
        at, written = found or (base, 0)
        now = max(written, int(time.time() * 1000))
        log.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (at, len(records), now, msgspec.msgpack.encode(records)))


def dead_letters(data: Path) -> list[Any]:
    with closing(sqlite3.connect(data / "log.db")) as log:
        number = log.execute("SELECT number FROM topics WHERE name = 'dead-letters'").fetchone()[0]
        rows = log.execute(
            "SELECT payload FROM batches WHERE id BETWEEN ? AND ? ORDER BY id",
            (number * 256 << 48, (number * 256 + 256 << 48) - 1),
        ).fetchall()
    return [msgspec.msgpack.decode(value) for (payload,) in rows for _, value in msgspec.msgpack.decode(payload)]


def test_records_that_cannot_be_read(serve: Any) -> None:
    """To the dead letters, with a metric; the partition goes on, before and after another start."""
    env = {"LOG__PARTITIONS": "1", **WITHDRAWN}
    first = serve(env=env)
    ann = first.sign_in("ann")
    channel = group(ann, "c", ["bob"])
    before = ann.ask("send", channel=channel, client_id="before", body="before")["id"]
    assert eventually(lambda: len(history(ann, channel)) == 1)
    first.kill()
    wrong = aliens(f"default/{channel}")
    append(first.data, "messages", 0, wrong)
    append(first.data, "inbox", 0, wrong[:4])

    second = serve(data=first.data, env=env)
    bob = second.sign_in("bob")
    ann = second.sign_in("ann")
    ack = ann.ask("send", channel=channel, client_id="after", body="after")

    assert ack["type"] == "ack", "one alien id must not push the clock of ids"
    assert before < ack["id"]
    assert bob.until(lambda message: message.get("id") == ack["id"])["message"]["body"] == "after"
    assert eventually(lambda: [m["id"] for m in history(bob, channel)] == [before, ack["id"]])
    assert second.metric("persister_dead_letters_total", topic="messages") == len(wrong)
    assert second.metric("persister_dead_letters_total", topic="inbox") == 4
    letters = dead_letters(second.data)
    assert [(key, value) for topic, _, _, key, value, _ in letters if topic == "messages"] == wrong
    assert [value for topic, _, _, _, value, _ in letters if topic == "inbox"] == [value for _, value in wrong[:4]]
    assert all(reason for *_, reason in letters)
    assert second.alive
    assert "Traceback" not in second.output()
    assert second.stop() == 0

    third = serve(data=first.data, env=env)
    bob = third.sign_in("bob")
    assert [m["id"] for m in history(bob, channel)] == [before, ack["id"]]
    assert len(dead_letters(third.data)) == len(wrong) + 4, "told once"
    third.hang_up()
