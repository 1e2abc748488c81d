"""Making the tables, and checking that they are what this code needs. Blocks: run it in a thread.

Safe to repeat and to run by several at once. What runs before there is a lease converges by itself: a keyspace
has no identity besides its name, and the lease's tables are made with ids that are functions of their names, so two
that make one at the same moment make the same table. All else runs under the lease, a row that is taken by a
compare-and-set and expires by itself, step by step; each step may be repeated, and a version is recorded after
its last step.
"""

from __future__ import annotations

import random
import re
import time
import uuid
from contextlib import suppress
from typing import Any

from cassandra import ConsistencyLevel, OperationTimedOut, WriteTimeout
from cassandra.cluster import Cluster, NoHostAvailable, Session
from cassandra.query import SimpleStatement

from chatcluster.backends.cassandra.buckets import level_of_days
from chatcluster.backends.cassandra.cluster import describe, said
from chatcluster.backends.cassandra.schema import COMPATIBLE, MIGRATIONS, VERSION
from chatcluster.backends.cassandra.settings import CassandraSettings
from chatcluster.ports import Misconfigured, Unavailable

LEASE = 60
"""Seconds after which a migration that died gives way; renewed at every step."""

_ATTEMPTS = 5
_NO_ANSWER = (WriteTimeout, OperationTimedOut)

_name = re.compile(r"[a-z][a-z0-9_]{0,47}").fullmatch
_IDS = uuid.UUID("6f1c2b9e-52a7-4c0e-9a27-0d7d0f5b3c11")
_FIX = "run chatcluster migrate"


def replication(settings: CassandraSettings) -> dict[str, int]:
    """Copies by datacenter. Raises ``Misconfigured``."""
    copies = {settings.local_datacenter: settings.replication_factor}
    for one in settings.other_datacenters:
        name, _, number = one.partition(":")
        if not name or not number.isdigit():
            raise Misconfigured(f"cassandra.other_datacenters: {one!r}: allowed: name:copies, such as dc2:3")
        copies[name] = int(number)
    return copies


def sane(settings: CassandraSettings) -> None:
    """What can be seen without a server. Raises ``Misconfigured``."""
    if not _name(settings.keyspace):
        raise Misconfigured(
            f"cassandra.keyspace = {settings.keyspace!r}: allowed: a to z, 0 to 9 and _, a letter first, at most 48"
        )
    if level_of_days(settings.bucket_days) is None:
        raise Misconfigured(f"cassandra.bucket_days = {settings.bucket_days}: allowed: 30, 10 or 2")
    if not 1 <= settings.replication_factor <= 9:
        raise Misconfigured(f"cassandra.replication_factor = {settings.replication_factor}: allowed: 1 to 9; use 3")
    replication(settings)


def migrate(settings: CassandraSettings) -> int:
    """Bring the keyspace to this code's version; returns it. Raises ``Unavailable`` or ``Misconfigured``."""
    sane(settings)
    cluster = describe(settings)
    cluster.max_schema_agreement_wait = 30
    try:
        return _migrate(_connected(cluster, settings), settings)
    except (Misconfigured, Unavailable):
        raise
    except Exception as error:
        raise Unavailable(f"cassandra: the migration stopped ({said(error)}); it may be run again") from error
    finally:
        cluster.shutdown()


def _connected(cluster: Cluster, settings: CassandraSettings) -> Session:
    """A session. A datacenter that does not exist looks to the driver like a cluster without nodes."""
    try:
        return cluster.connect()
    except NoHostAvailable:
        local = settings.local_datacenter
        known = sorted({host.datacenter for host in cluster.metadata.all_hosts() if host.datacenter})
        if known and local not in known:
            raise Misconfigured(f"cassandra.local_datacenter = {local!r}: allowed: {', '.join(known)}") from None
        raise


def _migrate(session: Session, settings: CassandraSettings) -> int:
    copies = ", ".join(f"'{name}': {number}" for name, number in replication(settings).items())
    session.execute(
        f"CREATE KEYSPACE IF NOT EXISTS {settings.keyspace} "
        f"WITH replication = {{'class': 'NetworkTopologyStrategy', {copies}}}"
    )
    session.set_keyspace(settings.keyspace)
    for table, columns in (
        ("migration_lease", "id int PRIMARY KEY, holder uuid"),
        ("schema_migrations", "id int, version int, compatible int, at timestamp, PRIMARY KEY (id, version)"),
    ):
        table_id = uuid.uuid5(_IDS, f"{settings.keyspace}.{table}")
        session.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns}) WITH id = {table_id}")
    holder = uuid.uuid4()
    _take(session, holder)
    try:
        have = _versions(session)
        newest = max(have, default=0)
        for version in range(newest + 1, VERSION + 1):
            for step in MIGRATIONS[version]:
                _renew(session, holder)
                session.execute(step, timeout=60)
            session.execute(
                "INSERT INTO schema_migrations (id, version, compatible, at) VALUES (0, %s, %s, toTimestamp(now()))",
                (version, COMPATIBLE),
            )
        return max(newest, VERSION)
    finally:
        with suppress(*_NO_ANSWER):  # then it ends by itself
            _agree(session, "DELETE FROM migration_lease WHERE id = 0 IF holder = %s", (holder,))


def _agree(session: Session, statement: str, values: tuple[uuid.UUID, ...]) -> tuple[Any, ...]:
    """The row of a lightweight transaction that may be repeated: contention ends in timeouts, done or not."""
    attempt = 0
    while True:
        try:
            row: tuple[Any, ...] = session.execute(statement, values).one()
            return row
        except _NO_ANSWER:
            attempt += 1
            if attempt == _ATTEMPTS:
                raise
            time.sleep(random.uniform(0.1, 0.5) * attempt)


def _take(session: Session, holder: uuid.UUID) -> None:
    until = time.monotonic() + 3 * LEASE
    statement = f"INSERT INTO migration_lease (id, holder) VALUES (0, %s) IF NOT EXISTS USING TTL {LEASE}"  # noqa: S608
    while True:
        # An attempt without an answer may have taken it: the row then holds our name.
        row = _agree(session, statement, (holder,))
        if row[0] or holder in row:
            return
        if time.monotonic() > until:
            raise Unavailable("another migration holds the lease and does not end")
        time.sleep(0.5)


def _renew(session: Session, holder: uuid.UUID) -> None:
    statement = f"UPDATE migration_lease USING TTL {LEASE} SET holder = %s WHERE id = 0 IF holder = %s"  # noqa: S608
    if not _agree(session, statement, (holder, holder))[0]:
        raise Unavailable("the migration took longer than its lease; run it again")


def _versions(session: Session) -> dict[int, int]:
    """Compatible version by version done."""
    statement = SimpleStatement(
        "SELECT version, compatible FROM schema_migrations WHERE id = 0",
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
    )
    return dict(session.execute(statement))


def check(settings: CassandraSettings) -> None:
    """Whether the cluster is what the settings say and this code needs. Raises ``Misconfigured`` or ``Unavailable``."""
    sane(settings)
    cluster = describe(settings)
    try:
        _check(_connected(cluster, settings), settings)
    except (Misconfigured, Unavailable):
        raise
    except Exception as error:
        raise Unavailable(f"cassandra: {said(error)}") from error
    finally:
        cluster.shutdown()


def _check(session: Session, settings: CassandraSettings) -> None:
    keyspace = settings.keyspace
    metadata = session.cluster.metadata
    found = metadata.keyspaces.get(keyspace)
    if found is None:
        known = f"cassandra.keyspace = {keyspace!r}: the cluster has no such keyspace"
        raise Misconfigured(f"{known}; allowed: one made by chatcluster; {_FIX}")
    local = settings.local_datacenter
    strategy = found.replication_strategy
    factors = getattr(strategy, "dc_replication_factors", None)
    copies = factors.get(local, 0) if factors is not None else getattr(strategy, "replication_factor", 0)
    if copies < settings.replication_factor:
        raise Misconfigured(
            f"cassandra.replication_factor = {settings.replication_factor}: keyspace {keyspace} has {copies} in "
            f"{local}; allowed: at most {copies}; or alter the keyspace's replication and repair it"
        )
    if "schema_migrations" not in found.tables:
        raise Misconfigured(f"cassandra.keyspace = {keyspace!r}: it has no tables of chatcluster; {_FIX}")
    session.set_keyspace(keyspace)
    have = _versions(session)
    newest = max(have, default=0)
    if newest < VERSION:
        raise Misconfigured(
            f"cassandra.keyspace = {keyspace!r}: schema version {newest}; allowed: {VERSION} or newer; {_FIX}"
        )
    if newest > VERSION and have[newest] > VERSION:
        raise Misconfigured(
            f"cassandra.keyspace = {keyspace!r}: schema version {newest} is for code from {have[newest]} on; allowed: "
            f"{VERSION}; start a newer release"
        )
