"""Makers per port, parametrised by backend: a new backend adds a line to a table and has to pass every suite."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

import cassandra_tables
import kafka_topics
from chatcluster.backends.cassandra import CassandraStore
from chatcluster.backends.memory import (
    MemoryBuses,
    MemoryDedupe,
    MemoryPresence,
    MemoryReadCursors,
    MemoryTails,
    MemoryWorkers,
)
from chatcluster.backends.sqlite import SqliteLog, SqliteStore
from chatcluster.core.metrics import Metrics
from jumping import JumpingLoop, LoopClock, run_to_end
from redis_places import Makers, emptied, settings_for

Opener = Callable[..., AbstractAsyncContextManager[Any]]
T = TypeVar("T")

EMBEDDED = {"memory", "sqlite"}
"""Backends whose time jumps; all others are real servers and take real time."""


def embedded(request: pytest.FixtureRequest) -> bool:
    """Whether this test's backends all live in the test's process."""
    call = getattr(request.node, "callspec", None)
    names = {"open_log", "open_store", "make_buses", "make_tails", "make_dedupe", "make_read_cursors"}
    names |= {"make_presence", "make_workers"}
    chosen = {} if call is None else call.params
    return all(chosen[name] in EMBEDDED for name in names if name in chosen)


class SteppedClock:
    """The ``Clock`` port on real time; ``skew`` ms may be set to step the wall clock."""

    def __init__(self) -> None:
        self.skew = 0

    def now(self) -> int:
        return time.time_ns() // 1_000_000 + self.skew

    def monotonic(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.fixture
def loop_clock(request: pytest.FixtureRequest) -> Any:
    """A clock that jumps with the loop, or real time where the backend is a real server."""
    return LoopClock() if embedded(request) else SteppedClock()


@pytest.fixture
def jump(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine: on jumping time, or on real time where the backend is a real server."""
    loop = JumpingLoop if embedded(request) else None

    def run(main: Coroutine[Any, Any, T]) -> T:
        return run_to_end(main, loop)

    return run


@pytest.fixture(params=["sqlite", "kafka"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """``open_log(clock=…, **bounds)``: the log of this test; opening it again finds what was written."""
    if request.param == "kafka":
        settings = kafka_topics.settings_for(kafka_topics.address(request))
        yield kafka_topics.opener(settings)
        kafka_topics.drop_topics(settings)
    else:
        yield partial(SqliteLog.open, tmp_path, metrics=Metrics())


@pytest.fixture
def open_sqlite_log(tmp_path: Path) -> Opener:
    """The embedded log alone: for tests that look into its file or its insides."""
    return partial(SqliteLog.open, tmp_path, metrics=Metrics())


@pytest.fixture
def consume() -> Callable[[Any, str, str], AbstractAsyncContextManager[Any]]:
    """``consume(log, group, topic)``: a consumer of a log of ``open_log``, for the time of the block."""

    @asynccontextmanager
    async def opened(log: Any, group: str, topic: str) -> AsyncIterator[Any]:
        if isinstance(log, SqliteLog):
            yield log.consumer(group, topic)
        else:
            async with kafka_topics.consuming(log, group, topic) as consumer:
                yield consumer

    return opened


@pytest.fixture(params=["sqlite", "cassandra"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """``open_store(clock=…)``: the store of this test; opening it again finds what was written."""
    if request.param == "cassandra":
        server = cassandra_tables.address(request)
        return partial(CassandraStore.open, cassandra_tables.emptied(server), metrics=Metrics())
    return {"sqlite": partial(SqliteStore.open, tmp_path, metrics=Metrics())}[request.param]


REDIS = ["redis", "redis-cluster", "redis-sentinel"]


def maker(request: pytest.FixtureRequest, port: str, embedded_one: Callable[..., Any]) -> Opener:
    """Opens what serves a port for the time of a block: in this process, or on a real Redis."""
    if request.param in REDIS:
        opener: Opener = getattr(Makers(settings_for(request, request.param)), port)
        return opener

    @asynccontextmanager
    async def opened(**arguments: Any) -> AsyncIterator[Any]:
        yield embedded_one(**arguments)

    return opened


@pytest.fixture(params=["memory", *REDIS])
def make_buses(request: pytest.FixtureRequest) -> Opener:
    """``make_buses(buffer=…)``: the size of a listener's buffer makes it clog."""
    return maker(request, "buses", MemoryBuses)


@pytest.fixture(params=["memory", *REDIS])
def make_tails(request: pytest.FixtureRequest) -> Opener:
    """``make_tails(clock=…, entries=…, ttl=…)``: ttl in ms."""
    return maker(request, "tails", MemoryTails)


@pytest.fixture(params=["memory", *REDIS])
def make_dedupe(request: pytest.FixtureRequest) -> Opener:
    """``make_dedupe(clock=…, window=…)``: window in ms."""
    return maker(request, "dedupe", MemoryDedupe)


@pytest.fixture(params=["memory", *REDIS])
def make_read_cursors(request: pytest.FixtureRequest) -> Opener:
    """``make_read_cursors(dirty=…)``: how many changes may wait."""
    return maker(request, "read_cursors", MemoryReadCursors)


@pytest.fixture(params=["memory", *REDIS])
def make_presence(request: pytest.FixtureRequest) -> Opener:
    """``make_presence(clock=…, sessions=…)``."""
    return maker(request, "presence", MemoryPresence)


@pytest.fixture(params=["memory", *REDIS])
def make_workers(request: pytest.FixtureRequest) -> Opener:
    """``make_workers(clock=…, floor=…, ttl=…)``: one number, leased for ``ttl`` seconds."""
    return maker(request, "workers", MemoryWorkers)


@pytest.fixture
def wipe() -> Callable[[Any], Coroutine[Any, Any, None]]:
    """``await wipe(port)``: everything it kept is gone, as after a restart."""

    async def wiped(port: Any) -> None:
        if hasattr(port, "wipe"):
            port.wipe()
        else:
            await emptied(port._shards)

    return wiped
