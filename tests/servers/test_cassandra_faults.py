"""The Cassandra store when the way to its node is cut, stands still or was never there; migrations and checks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import time
import uuid

import msgspec
import pytest
from cassandra import WriteTimeout, WriteType

import cassandra_tables
from chatcluster.backends.cassandra import CassandraSettings, CassandraStore, check, migrate, migrations
from chatcluster.backends.cassandra.cluster import describe
from chatcluster.backends.cassandra.schema import VERSION
from chatcluster.core.metrics import Metrics
from chatcluster.core.rows import MessageRow
from chatcluster.ports import Misconfigured, Unavailable


class Now:
    def now(self):
        return time.time_ns() // 1_000_000

    def monotonic(self):
        return time.monotonic()


class Way:
    """A way to the server that can be cut and held. (With one node the driver stays on the address it was given.)"""

    def __init__(self, server):
        self.host, _, port = server.partition(":")
        self.there = int(port)
        self.port = 0
        self.open = asyncio.Event()
        self.open.set()
        self._writers = set()
        self._tasks = set()
        self._server = None

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        try:
            far_reader, far_writer = await asyncio.open_connection(self.host, self.there)
            self._writers |= {writer, far_writer}
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(asyncio.current_task())

    async def _pump(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self.open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self):
        """Every connection ends."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def stop(self):
        self.open.set()
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
def server(request):
    return cassandra_tables.address(request)


@pytest.fixture
def table_settings(server):
    return cassandra_tables.emptied(server)


def through(way, settings, **others):
    quick = {"connect_timeout": 1.0, "read_timeout": 1.0, "write_timeout": 1.0, "reconnect_cap": 1.0}
    return cassandra_tables.changed(settings, contact_points=("127.0.0.1",), port=way.port, **quick | others)


def message(number):
    return MessageRow("t", "c", number, number, "u", f"x{number}", "body " * 20)


async def insist(step):
    """Repeat what is ``Unavailable``, as callers do; fails only when it never ends."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await step()
            except Unavailable:
                await asyncio.sleep(0.05)


def test_it_opens_without_a_server_and_recovers_by_itself(server, table_settings):
    async def main():
        way = Way(server)
        await way.start()
        await way.stop()  # the port is known, nobody answers
        async with CassandraStore.open(through(way, table_settings), clock=Now(), metrics=Metrics()) as store:
            with pytest.raises(Unavailable, match="cassandra"):
                await store.write([message(1)])
            with pytest.raises(Unavailable):
                await store.heads("t", ["c"])
            assert "no node answers" in store.problems()
            await way.start()
            await insist(lambda: store.write([message(1)]))
            assert store.problems() is None
            assert await store.heads("t", ["c"]) == {"c": 1}
        await way.stop()

    asyncio.run(main())


def test_a_way_that_stands_still_is_unavailable_and_then_works_again(server, table_settings):
    async def main():
        way = Way(server)
        await way.start()
        async with CassandraStore.open(through(way, table_settings), clock=Now(), metrics=Metrics()) as store:
            await insist(lambda: store.write([message(1)]))
            way.open.clear()
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.05)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            with pytest.raises(Unavailable):
                await store.write([message(2)])
            with pytest.raises(Unavailable):
                await store.history("t", "c", before=None, after=None, limit=9)
            ticking.cancel()
            assert ticks >= 4, "the loop goes on while the store does not answer"
            way.open.set()
            await insist(lambda: store.write([message(2)]))
            found = await insist(lambda: store.history("t", "c", before=None, after=None, limit=9))
            assert [one.id for one in found] == [1, 2]
        await way.stop()

    asyncio.run(main())


def test_nothing_acknowledged_is_lost_while_connections_are_cut(server, table_settings):
    async def main():
        chance = random.Random(3)
        way = Way(server)
        await way.start()
        failed = 0
        async with CassandraStore.open(through(way, table_settings), clock=Now(), metrics=Metrics()) as store:

            async def cuts():
                while True:
                    await asyncio.sleep(chance.uniform(0.02, 0.3))
                    way.cut()

            cutting = asyncio.create_task(cuts())
            acknowledged = 0
            until = time.monotonic() + 6
            while time.monotonic() < until:
                rows = [message(acknowledged + n + 1) for n in range(300)]
                try:
                    await store.write(rows)
                    acknowledged += 300
                except Unavailable:
                    failed += 1
                    await asyncio.sleep(0.05)
            cutting.cancel()
            assert failed
            assert acknowledged
            found = await insist(lambda: store.messages("t", "c", range(1, acknowledged + 1)))
            assert len(found) == acknowledged
        await way.stop()

    asyncio.run(main())


def test_reads_over_the_bound_are_refused(table_settings):
    async def main():
        small = cassandra_tables.changed(table_settings, reads_in_flight=2, reads_waiting=10)
        async with CassandraStore.open(small, clock=Now(), metrics=Metrics()) as store:
            answers = await asyncio.gather(
                *(store.verdicts("t", "c", "u", f"x{n}") for n in range(50)), return_exceptions=True
            )
            assert sum(isinstance(one, Unavailable) for one in answers) == 40
            assert [one for one in answers if not isinstance(one, Unavailable)] == [[]] * 10

    asyncio.run(main())


# -- migrations and checks ----------------------------------------------------------------------------------------


@pytest.fixture
def fresh(server):
    """Settings of a keyspace that is not there, and that is removed afterwards."""
    settings = cassandra_tables.settings_for(server, f"chatcluster_fresh_{os.getpid()}")
    yield settings
    session = describe(settings).connect()
    session.execute(f"DROP KEYSPACE IF EXISTS {settings.keyspace}", timeout=60)
    session.cluster.shutdown()


MIGRATE = """
import sys, msgspec
from chatcluster.backends.cassandra import CassandraSettings, migrate
print(migrate(msgspec.json.decode(sys.argv[1], type=CassandraSettings)))
"""


def test_two_that_migrate_at_once_make_one_schema(fresh):
    text = msgspec.json.encode(fresh).decode()
    running = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, text], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process, (out, err) in [(process, process.communicate(timeout=180)) for process in running]:
        assert process.returncode == 0, err.decode()
        assert out.decode().strip() == str(VERSION)
    check(fresh)
    assert migrate(fresh) == VERSION, "again: nothing to do"

    async def main():
        async with CassandraStore.open(fresh, clock=Now(), metrics=Metrics()) as store:
            await store.write([message(1)])
            assert await store.heads("t", ["c"]) == {"c": 1}

    asyncio.run(main())


def test_answers_about_the_lease_may_be_lost(fresh, monkeypatch):
    """Many at once contend for one row: the server gives up waiting for what it may have done."""
    connected, lost = migrations._connected, []

    class Lossy:
        def __init__(self, session):
            self._session = session

        def __getattr__(self, name):
            return getattr(self._session, name)

        def execute(self, statement, *more, **options):
            answer = self._session.execute(statement, *more, **options)
            text = str(statement)
            of_lease = "migration_lease" in text and not text.startswith("CREATE")
            if of_lease and (text.startswith("DELETE") or text not in lost):
                lost.append(text)
                raise WriteTimeout("nobody answered", write_type=WriteType.CAS)
            return answer

    monkeypatch.setattr(migrations, "_connected", lambda *given: Lossy(connected(*given)))
    assert migrate(fresh) == VERSION
    assert {text.split()[0] for text in lost} == {"INSERT", "UPDATE", "DELETE"}
    check(fresh)


def test_a_migration_that_lost_its_lease_stops_and_records_nothing(fresh, monkeypatch):
    """Another one is at work: two that change the schema at once may each undo what the other takes for done."""
    connected = migrations._connected

    class Slow:
        def __init__(self, session):
            self._session = session

        def __getattr__(self, name):
            return getattr(self._session, name)

        def execute(self, statement, *more, **options):
            if str(statement).startswith("CREATE TABLE IF NOT EXISTS widths"):
                taken = "UPDATE migration_lease SET holder = %s WHERE id = 0 IF EXISTS"
                self._session.execute(taken, (uuid.uuid4(),))
            return self._session.execute(statement, *more, **options)

    with monkeypatch.context() as patched:
        patched.setattr(migrations, "_connected", lambda *given: Slow(connected(*given)))
        with pytest.raises(Unavailable, match="longer than its lease"):
            migrate(fresh)
    with pytest.raises(Misconfigured, match="schema version 0"):
        check(fresh)
    session = describe(fresh).connect(fresh.keyspace)
    assert session.execute("SELECT holder FROM migration_lease").one() is not None, "it is not ours to give back"
    session.execute("DELETE FROM migration_lease WHERE id = 0 IF EXISTS")
    session.cluster.shutdown()
    assert migrate(fresh) == VERSION


def test_what_does_not_fit_is_refused_by_name(fresh, table_settings):
    with pytest.raises(Misconfigured, match=r"cassandra\.keyspace = .*no such keyspace.*chatcluster migrate"):
        check(fresh)
    check(table_settings)
    with pytest.raises(Misconfigured, match=r"replication_factor = 3.* has 1 in .*at most 1"):
        check(cassandra_tables.changed(table_settings, replication_factor=3))
    with pytest.raises(Misconfigured, match=r"local_datacenter = 'mars'"):
        check(cassandra_tables.changed(table_settings, local_datacenter="mars"))
    for field, value in (("bucket_days", 7), ("keyspace", "No Such"), ("replication_factor", 0)):
        with pytest.raises(Misconfigured, match=rf"cassandra\.{field} = .*allowed"):
            check(cassandra_tables.changed(table_settings, **{field: value}))
    with pytest.raises(Unavailable):
        check(CassandraSettings(port=1, connect_timeout=1.0))


def test_schema_versions_older_and_newer(fresh):
    migrate(fresh)
    session = describe(fresh).connect(fresh.keyspace)
    write = "INSERT INTO schema_migrations (id, version, compatible) VALUES (0, %s, %s)"
    session.execute(write, (VERSION + 1, VERSION))
    check(fresh)  # newer, and it says that this code still works: a deployment was rolled back
    assert migrate(fresh) == VERSION + 1
    session.execute(write, (VERSION + 1, VERSION + 1))
    with pytest.raises(Misconfigured, match=f"schema version {VERSION + 1} is for code from {VERSION + 1}"):
        check(fresh)
    session.execute("TRUNCATE schema_migrations")
    with pytest.raises(Misconfigured, match=r"schema version 0; allowed: .*chatcluster migrate"):
        check(fresh)
    session.cluster.shutdown()
