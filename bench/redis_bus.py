"""What a message on the bus, and a heartbeat of presence, cost our side and a real Redis.

``python bench/redis_bus.py [host:port]`` (a Redis to be had). Bus: envelopes of about 300 bytes, each different, two
topics each (a 1:1 message), published and heard in one process. Prints processor time, not wall time.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid

from redis import Redis

from chatcluster.app.clock import SystemClock
from chatcluster.backends.redis import RedisBuses, RedisPresence, RedisSettings, RedisShards
from chatcluster.core.envelope import Live, encode_envelope
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import MessageRecord
from chatcluster.ports import Beat

MESSAGES, BEATS, TURN, TOPICS = 20_000, 50_000, 100, 2_000


def server_time(redis: Redis) -> float:
    info = redis.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


async def bus(shards: RedisShards, redis: Redis) -> None:
    async with RedisBuses.open(shards, clock=SystemClock(), metrics=Metrics()) as buses:
        one = buses.subscriber("bench")
        topics = [f"u:t/{number}" for number in range(TOPICS)]
        await one.subscribe(topics)
        envelopes = [
            Live(MessageRecord("t", "c", n + (1 << 61), "u", f"client-{n}", n, 0, f"{n:08}" + "x" * 240))
            for n in range(MESSAGES)
        ]
        size = len(encode_envelope(envelopes[0]))
        heard, batches = 0, one.listen()
        cpu, theirs = time.process_time(), server_time(redis)
        for at in range(0, MESSAGES, TURN):
            for n in range(at, at + TURN):
                one.publish([topics[n % TOPICS], topics[(n + 7) % TOPICS]], envelopes[n])
            while heard < 2 * (at + TURN):
                heard += len(await anext(batches))
        cpu, theirs = time.process_time() - cpu, server_time(redis) - theirs
        print(
            f"bus: {size} bytes, 2 topics: {cpu / MESSAGES * 1e6:.1f} µs a message here, "
            f"{theirs / MESSAGES * 1e6:.1f} µs there"
        )
        await batches.aclose()


async def presence(shards: RedisShards, redis: Redis) -> None:
    store = RedisPresence(shards, metrics=Metrics())
    for name in ("new", "renewed"):
        cpu, theirs, began = time.process_time(), server_time(redis), time.monotonic()
        for at in range(0, BEATS, 1_000):
            await store.touch([Beat("t", f"u{n}", "s", "online") for n in range(at, at + 1_000)], ttl=60_000)
        cpu, theirs, took = time.process_time() - cpu, server_time(redis) - theirs, time.monotonic() - began
        print(
            f"presence, {name}: {cpu / BEATS * 1e6:.1f} µs a beat here, {theirs / BEATS * 1e6:.1f} µs there, "
            f"{BEATS / took:.0f} a second"
        )


async def main(address: str) -> None:
    settings = RedisSettings(shards=(address,), prefix=f"bench-{uuid.uuid4().hex}:", timeout=5.0)
    host, _, port = address.rpartition(":")
    redis = Redis(host=host, port=int(port))
    async with RedisShards.open(settings, clock=SystemClock(), metrics=Metrics()) as shards:
        await bus(shards, redis)
        await presence(shards, redis)
    for key in redis.scan_iter(match=f"{settings.prefix}*", count=1000):
        redis.unlink(key)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:6379"))
