"""Redis for tests: two shards, a Sentinel's master, a cluster; a prefix of its own for each opening."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
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
    RedisWorkers,
)
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock


def settings_for(request: pytest.FixtureRequest, kind: str, **others: Any) -> RedisSettings:
    """Settings for a kind of Redis, under a prefix that nobody has."""
    where: dict[str, Any]
    if kind == "redis":
        where = {"shards": tuple(request.getfixturevalue("redis2_nodes").address.split(","))}
    elif kind == "redis-sentinel":
        name, _, sentinels = _address(request, "redis_sentinel").partition("@")
        where = {"shards": (name,), "sentinels": tuple(sentinels.split(","))}
    else:
        where = {"mode": "cluster", "cluster": tuple(_address(request, "redis_cluster").split(","))}
    return RedisSettings(**{"prefix": f"test-{uuid.uuid4().hex}:", "timeout": 2.0, **where, **others})


def _address(request: pytest.FixtureRequest, name: str) -> str:
    found = os.environ.get(f"CHATCLUSTER_TEST_{name.upper()}") or request.getfixturevalue(name)
    assert isinstance(found, str)
    return found


class Makers:
    """Openers with the arguments of the embedded twins (milliseconds); nothing is left behind."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings

    @asynccontextmanager
    async def _shards(self, clock: Clock, **settings: Any) -> AsyncIterator[RedisShards]:
        given = msgspec.structs.replace(self._settings, **settings)
        async with RedisShards.open(given, clock=clock, metrics=Metrics()) as shards:
            assert shards.problems() is None
            try:
                yield shards
            finally:
                await emptied(shards)

    @asynccontextmanager
    async def buses(self, *, buffer: int = 32_768) -> AsyncIterator[RedisBuses]:
        clock = SystemClock()
        async with (
            self._shards(clock, listen_buffer=buffer) as shards,
            RedisBuses.open(shards, clock=clock, metrics=Metrics()) as buses,
        ):
            yield buses

    @asynccontextmanager
    async def tails(self, *, clock: Clock, entries: int = 200, ttl: int = 60_000) -> AsyncIterator[RedisTails]:
        async with self._shards(clock) as shards:
            yield RedisTails(shards, metrics=Metrics(), entries=entries, ttl=ttl / 1000)

    @asynccontextmanager
    async def dedupe(self, *, clock: Clock, window: int = 600_000) -> AsyncIterator[RedisDedupe]:
        async with self._shards(clock, dedupe_window=window // 1000) as shards:
            yield RedisDedupe(shards, metrics=Metrics())

    @asynccontextmanager
    async def read_cursors(self, *, dirty: int = 1000) -> AsyncIterator[RedisReadCursors]:
        async with self._shards(SystemClock()) as shards:
            yield RedisReadCursors(shards, metrics=Metrics(), dirty=dirty, slices=1)

    @asynccontextmanager
    async def presence(self, *, clock: Clock, sessions: int = 1000) -> AsyncIterator[RedisPresence]:
        async with self._shards(clock) as shards:
            yield RedisPresence(shards, metrics=Metrics(), sessions=sessions, slices=1)

    @asynccontextmanager
    async def workers(self, *, clock: Clock, floor: int = 0, ttl: float = 1.5) -> AsyncIterator[RedisWorkers]:
        async with self._shards(clock) as shards:
            yield RedisWorkers(shards, clock=clock, ttl=ttl, floor=floor, highest=0)


async def emptied(shards: RedisShards) -> None:
    """Forget every key of the prefix, on every node."""
    for client in shards.clients():
        keys = [key async for key in client.scan_iter(match=f"{shards.prefix}*", count=1000)]
        for key in keys:
            await client.unlink(key)
