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


@pytest.fixture(params=["memory"])
def make_buses(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``make_buses(buffer=…)``: the size of a listener's buffer makes it clog."""
    return {"memory": MemoryBuses}[request.param]


@pytest.fixture(params=["memory"])
def make_tails(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``make_tails(clock=…, entries=…, ttl=…)``; ``wipe()`` empties it."""
    return {"memory": MemoryTails}[request.param]


@pytest.fixture(params=["memory"])
def make_dedupe(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``make_dedupe(clock=…)``; ``wipe()`` empties it."""
    return {"memory": MemoryDedupe}[request.param]


@pytest.fixture(params=["memory"])
def make_read_cursors(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return {"memory": MemoryReadCursors}[request.param]


@pytest.fixture(params=["memory"])
def make_presence(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``make_presence(clock=…)``; ``wipe()`` empties it."""
    return {"memory": MemoryPresence}[request.param]


@pytest.fixture(params=["memory"])
def make_workers(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return {"memory": MemoryWorkers}[request.param]
