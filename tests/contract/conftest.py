"""Makers per port, parametrised by backend: a new backend adds a line to a table and has to pass every suite."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

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

Opener = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture(params=["sqlite"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """``open_log(clock=…, **bounds)``: the log of this test; opening it again finds what was written."""
    return {"sqlite": partial(SqliteLog.open, tmp_path, metrics=Metrics())}[request.param]


@pytest.fixture(params=["sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """``open_store(clock=…)``: the store of this test; opening it again finds what was written."""
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
