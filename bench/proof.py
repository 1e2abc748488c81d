"""What the proof costs a gateway, step by step, against a real Redis.

``python bench/proof.py [host:port]`` (a Redis to be had). ``TOPICS`` inboxes with one session each hear ``EACH`` live
messages per round, which then stand in their tails; a round reads, proves and tells marks. Prints processor time of
this process, not wall time, per entry (a 1:1 message has two).
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from typing import Any

from redis import Redis

from chatcluster.app.clock import SystemClock
from chatcluster.backends.redis import RedisSettings, RedisShards, RedisTails
from chatcluster.core.frames import JSON
from chatcluster.core.metrics import Metrics
from chatcluster.core.outbound import frame_bytes
from chatcluster.core.records import MessageRecord, inbox_timeline
from chatcluster.ports import TailEntry
from chatcluster.services.gateway.hub import Hub
from chatcluster.services.gateway.marks import Marks
from chatcluster.services.gateway.prover import Prover
from chatcluster.services.gateway.session import Session
from chatcluster.services.gateway.session_settings import SessionSettings
from chatcluster.services.reader import TimelineReader

TOPICS, ROUNDS = 1_000, 10


class Sink:
    """A connection that takes bytes and keeps none."""

    codec = JSON
    closed = False
    written = 0

    def write(self, wire: bytes) -> None:
        Sink.written += len(wire)


class OneLog:
    epoch = "e"

    def partitions(self, topic: str) -> int:
        return 8

    def partition_of(self, topic: str, key: str) -> int:
        return 0


async def measure(shards: RedisShards, each: int) -> None:
    nothing: Any = None
    metrics, clock, settings = Metrics(), SystemClock(), SessionSettings()
    tails = RedisTails(shards, metrics=metrics)
    hub = Hub(bus=nothing, frame_bytes=frame_bytes, linger=15.0)
    prover = Prover(
        hub=hub,
        reader=TimelineReader(tails=tails, store=nothing, metrics=metrics),
        tails=tails,
        store=nothing,
        log=OneLog(),
        clock=clock,
        metrics=metrics,
        settings=settings,
    )
    marks = Marks(hub=hub, epoch="e", clock=clock, metrics=metrics, settings=settings)
    topics = []
    for n in range(TOPICS):
        topic = hub.topic(inbox_timeline("t", f"u{each}-{n}"), "t", f"u{each}-{n}")
        topic.start(-1, 0)
        topic.newest_at = float("inf")
        sink: Any = Sink()
        session = Session(sink, nothing, None)
        session.inbox, session.joined = topic, True
        topic.attach(session)
        topics.append(topic)
    spent = {"read": 0.0, "apply": 0.0, "marks": 0.0}
    offset, number = 0, int(time.time() * 1000) << 22
    for _ in range(ROUNDS):
        entries = []
        for topic in topics:
            prev = topic.cursor
            for _ in range(each):
                number += 1
                offset += 1
                record = MessageRecord("t", "c", number, "u", f"client-{number}", number, 0, "x" * 200)
                topic.hear(record, 1000)
                hub.pending += 1
                entries.append((topic.key, TailEntry(offset, prev, offset, record)))
                prev = offset
        for at in range(0, len(entries), 1_000):
            await tails.append(entries[at : at + 1_000])
        for at in range(0, TOPICS, settings.batch):
            some = topics[at : at + settings.batch]
            began = time.process_time()
            pages = await prover._reader.covered([(topic.key, topic.cursor) for topic in some], settings.page)
            read = time.process_time()
            for topic, page in zip(some, pages, strict=True):
                prover.apply(topic, page.entries)
            spent["apply"] += time.process_time() - read
            spent["read"] += read - began
        began = time.process_time()
        for topic in topics:
            assert topic.pending is None
            topic.next_mark = 0.0
        marks.tell()
        spent["marks"] += time.process_time() - began
    proven = TOPICS * each * ROUNDS
    told = ", ".join(f"{name} {seconds / proven * 1e6:.2f}" for name, seconds in spent.items())
    print(f"{each} entries a topic and round: {sum(spent.values()) / proven * 1e6:.2f} µs an entry ({told})")


async def main(address: str) -> None:
    settings = RedisSettings(shards=(address,), prefix=f"bench-{uuid.uuid4().hex}:", timeout=5.0)
    host, _, port = address.rpartition(":")
    redis = Redis(host=host, port=int(port))
    async with RedisShards.open(settings, clock=SystemClock(), metrics=Metrics()) as shards:
        for each in (1, 3, 6, 12):
            await measure(shards, each)
    for key in redis.scan_iter(match=f"{settings.prefix}*", count=1000):
        redis.unlink(key)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:6379"))
