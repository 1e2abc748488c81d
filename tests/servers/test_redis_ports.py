"""The ports on Redis where places are spread: two shards, a Sentinel's master, a cluster."""

from __future__ import annotations

import os
import uuid

import pytest

from chatcluster.app.clock import SystemClock
from chatcluster.backends.redis import (
    RedisBuses,
    RedisDedupe,
    RedisPresence,
    RedisReadCursors,
    RedisSettings,
    RedisShards,
    RedisTails,
)
from chatcluster.core.envelope import Nudge
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import MessageRecord
from chatcluster.core.rows import ReadCursorRow
from chatcluster.ports import Beat, Claim, Claimed, Committed, Delivery, TailEntry


def address(request, variable, fixture):
    return os.environ.get(variable) or request.getfixturevalue(fixture)


@pytest.fixture(params=["standalone", "sentinel", "cluster"])
def shards(request):
    prefix = f"test-{uuid.uuid4().hex}:"
    if request.param == "standalone":
        where = {"shards": (address(request, "CHATCLUSTER_TEST_REDIS", "redis_server"),)}
    elif request.param == "sentinel":
        name, _, sentinels = address(request, "CHATCLUSTER_TEST_REDIS_SENTINEL", "redis_sentinel").partition("@")
        where = {"shards": (name,), "sentinels": tuple(sentinels.split(","))}
    else:
        nodes = address(request, "CHATCLUSTER_TEST_REDIS_CLUSTER", "redis_cluster")
        where = {"mode": "cluster", "cluster": tuple(nodes.split(","))}
    settings = RedisSettings(prefix=prefix, timeout=2.0, **where)
    return RedisShards.open(settings, clock=SystemClock(), metrics=Metrics())


async def test_bus(shards):
    async with shards as opened, RedisBuses.open(opened, clock=SystemClock(), metrics=Metrics()) as buses:
        topics = [f"u:t/{number}" for number in range(200)]
        bus = buses.subscriber("one")
        await bus.subscribe(topics)
        await bus.unsubscribe(topics[:1])
        heard = []
        while not heard:  # the speaking connection may still be on its way
            bus.publish(topics, Nudge(1))
            async for batch in bus.listen():
                heard += batch
                if len(heard) >= len(topics) - 1:
                    break
        assert set(heard) == {Delivery(topic, Nudge(1)) for topic in topics[1:]}


async def test_tails(shards):
    def entry(offset, prev=-1):
        return TailEntry(offset, prev, offset, MessageRecord("t", "c", offset + 1, "u", f"c{offset}", 0, 0, "hi"))

    async with shards as opened:
        tails = RedisTails(opened, metrics=Metrics(), entries=3)
        await tails.append([("a", entry(0)), ("b", entry(4)), ("a", entry(7, 0)), ("a", entry(9, 7))])
        await tails.append([("a", entry(8, 7)), ("a", entry(9, 8))])
        found = await tails.read([("a", -1), ("a", 0), ("a", 5), ("a", 9), ("a", 10), ("x", 1)])
        assert [None if one is None else list(one) for one in found] == [
            [entry(0), entry(7, 0), entry(9, 7)],
            [entry(7, 0), entry(9, 7)],
            [entry(7, 0), entry(9, 7)],
            [],
            None,
            None,
        ]
        await tails.append([("a", entry(11, 9))])
        assert [one.offset for one in (await tails.read([("a", -1)]))[0]] == [7, 9, 11]
        await tails.commit("messages", {0: Committed(10, 500), 1: Committed(1, 1)})
        await tails.commit("messages", {0: Committed(7, 400)})
        assert await tails.committed("messages") == {0: Committed(10, 500), 1: Committed(1, 1)}
        assert await tails.committed("inbox") == {}


async def test_dedupe(shards):
    async with shards as opened:
        dedupe = RedisDedupe(opened, metrics=Metrics())
        assert await dedupe.claim([Claim("k", 1, 11), Claim("k", 2, 22)]) == [None, Claimed(1, 11, False)]
        await dedupe.replace(Claim("k", 2, 11))
        dedupe.settle([Claim("k", 1, 11), Claim("unknown", 1, 1)])
        assert await dedupe.claim([Claim("k", 3, 11)]) == [Claimed(2, 11, False)]
        dedupe.settle([Claim("k", 2, 11)])
        while await dedupe.claim([Claim("k", 3, 11)]) != [Claimed(2, 11, True)]:
            pass


async def test_read_cursors(shards):
    def row(message_id, user="u", channel="c"):
        return ReadCursorRow("t", user, channel, message_id)

    async with shards as opened:
        cursors = RedisReadCursors(opened, metrics=Metrics())
        assert [await cursors.advance(row(one)) for one in (5, 3, 9)] == [5, 5, 9]
        await cursors.advance(row(2, "v"))
        await cursors.advance(row(10))
        taken = await cursors.dirty(1)
        assert taken == [row(10)]
        await cursors.advance(row(2**62))
        await cursors.flushed([*taken, row(2, "v")])
        assert await cursors.dirty(9) == [row(2**62)]
        assert await cursors.get("t", "u", ["c", "x"]) == {"c": 2**62}


async def test_presence(shards):
    def beat(session, status="online", user="u"):
        return Beat("t", user, session, status)

    async with shards as opened:
        store = RedisPresence(opened, metrics=Metrics())
        assert await store.touch([beat("a"), beat("a"), beat("b", "away"), beat("x", user="v")], ttl=60_000) == [
            True,
            False,
            False,
            True,
        ]
        found = await store.sessions([("t", "u"), ("other", "u")])
        assert {name: one[0] for name, one in found[0].items()} == {"a": "online", "b": "away"}
        assert found[1] == {}
        assert await store.touch([beat("a", "offline"), beat("b", "offline")], ttl=1) == [True, True]
        await store.touch([beat("x", user="v")], ttl=1)
        gone = []
        while not gone:
            gone += await store.expired(100)
        assert gone == [("t", "v")]
        assert await store.expired(100) == []
