"""A keyspace for tests on a real Cassandra: made once per process, emptied before each test."""

from __future__ import annotations

import contextlib
import os

import msgspec
import pytest
from cassandra.cluster import Session

from chatcluster.backends.cassandra import CassandraSettings, migrate
from chatcluster.backends.cassandra.cluster import describe
from chatcluster.backends.cassandra.schema import TABLES

_cleanups: list[object] = []


def address(request: pytest.FixtureRequest) -> str:
    """``host:port`` of the server for tests; the fixture ``cassandra`` starts one where none is named."""
    found = os.environ.get("CHATCLUSTER_TEST_CASSANDRA") or request.getfixturevalue("cassandra")
    assert isinstance(found, str)
    if not _cleanups:
        _cleanups.append(_drop)
        request.config.add_cleanup(_drop)
    return found


def settings_for(server: str, keyspace: str, **others: object) -> CassandraSettings:
    """Settings for one node."""
    hosts, _, port = server.rpartition(":")
    values = {"replication_factor": 1, **others}
    return CassandraSettings(
        contact_points=tuple(host.partition(":")[0] for host in hosts.split(",")),
        port=int(port),
        keyspace=keyspace,
        **values,  # type: ignore[arg-type]
    )


_sessions: dict[CassandraSettings, Session] = {}


def _session(settings: CassandraSettings) -> Session:
    if settings not in _sessions:
        migrate(settings)
        _sessions[settings] = describe(settings).connect(settings.keyspace)
    return _sessions[settings]


def _drop() -> None:
    """At the end of the run: the driver's threads must end before the interpreter does."""
    for settings, session in _sessions.items():
        with contextlib.suppress(Exception):  # the server may have been stopped before
            session.execute(f"DROP KEYSPACE IF EXISTS {settings.keyspace}", timeout=60)
        session.cluster.shutdown()
    _sessions.clear()


def emptied(server: str, **others: object) -> CassandraSettings:
    """Settings of this process's keyspace, whose tables are empty now."""
    keyspace = f"chatcluster_test_{os.getpid()}"
    session = _session(settings_for(server, keyspace))
    for table in TABLES:
        if session.execute(f"SELECT * FROM {table} LIMIT 1").one() is not None:
            session.execute(f"TRUNCATE {table}")
    return settings_for(server, keyspace, **others)


def changed(settings: CassandraSettings, **others: object) -> CassandraSettings:
    """The same with some fields changed."""
    return msgspec.structs.replace(settings, **others)
