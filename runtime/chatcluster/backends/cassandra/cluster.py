"""The driver: how a cluster is described to it, and its answers on the event loop.

The driver connects, reads and decodes on threads of its own. Answers are handed over in batches: one wake-up of
the loop for all that came meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from cassandra import ConsistencyLevel, InvalidRequest
from cassandra.auth import AuthProvider, PlainTextAuthenticator
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    ExecutionProfile,
    NoHostAvailable,
    ResponseFuture,
    Session,
)
from cassandra.policies import (
    ConstantSpeculativeExecutionPolicy,
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    TokenAwarePolicy,
)
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement, tuple_factory

from chatcluster.backends.cassandra.schema import INSERTS, SELECTS
from chatcluster.backends.cassandra.settings import CassandraSettings
from chatcluster.core.backoff import delay
from chatcluster.ports import Unavailable

log = logging.getLogger(__name__)
# What the driver warns of (each lost connection, each batch over several partitions) is told here in one line a change.
logging.getLogger("cassandra").setLevel(logging.ERROR)

WRITES = "writes"
RECONNECT_BASE = 0.5
PROTOCOL = 4
"""Of the native protocol: all that is needed, spoken by every server meant, and cheaper than 5 (no checksums)."""
PAGE = 1_000
Rows = list[tuple[Any, ...]]
Write = tuple[str, tuple[bytes, ...]]


class _FilePassword(AuthProvider):  # type: ignore[misc]
    """Reads the password at every new connection: it may be changed while we run."""

    def __init__(self, username: str, file: str) -> None:
        self._username = username
        self._file = file

    def new_authenticator(self, host: str) -> PlainTextAuthenticator:
        password = Path(self._file).read_text().strip() if self._file else ""
        return PlainTextAuthenticator(self._username, password)


def _tls(settings: CassandraSettings) -> ssl.SSLContext | None:
    if not settings.ca_file:
        return None
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.ca_file)
    context.check_hostname = settings.verify_names
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file or None)
    return context


def describe(settings: CassandraSettings) -> Cluster:
    """A driver's cluster, not yet connected. Raises ``OSError`` where a file of TLS cannot be read."""
    nodes = TokenAwarePolicy(DCAwareRoundRobinPolicy(local_dc=settings.local_datacenter))
    quorum = ConsistencyLevel.LOCAL_QUORUM
    reads = ExecutionProfile(
        load_balancing_policy=nodes,
        consistency_level=quorum,
        request_timeout=settings.read_timeout,
        row_factory=tuple_factory,
        speculative_execution_policy=ConstantSpeculativeExecutionPolicy(settings.speculative_delay, 1),
    )
    writes = ExecutionProfile(
        load_balancing_policy=nodes,
        consistency_level=quorum,
        request_timeout=settings.write_timeout,
        row_factory=tuple_factory,
    )
    return Cluster(
        settings.contact_points,
        port=settings.port,
        auth_provider=_FilePassword(settings.username, settings.password_file) if settings.username else None,
        ssl_context=_tls(settings),
        execution_profiles={EXEC_PROFILE_DEFAULT: reads, WRITES: writes},
        reconnection_policy=ExponentialReconnectionPolicy(RECONNECT_BASE, settings.reconnect_cap),
        connect_timeout=settings.connect_timeout,
        control_connection_timeout=settings.connect_timeout,
        idle_heartbeat_interval=5,
        idle_heartbeat_timeout=settings.connect_timeout,
        protocol_version=PROTOCOL,
        monitor_reporting_enabled=False,
    )


def said(error: BaseException) -> str:
    """An error in a few words, without values and secrets."""
    if isinstance(error, NoHostAvailable) and isinstance(error.errors, dict) and error.errors:
        kinds = sorted({type(one).__name__ for one in error.errors.values()})
        if kinds == ["AuthenticationFailed"]:
            return "the login was refused: see cassandra.username and cassandra.password_file"
        return f"no node answers ({', '.join(kinds)})"
    return type(error).__name__


class _Statements:
    """A session with everything prepared on it."""

    __slots__ = ("inserts", "selects", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.selects = {name: _prepare(session, text) for name, text in SELECTS.items()}
        self.inserts = {name: BoundStatement(_prepare(session, text)) for name, text in INSERTS.items()}


def _prepare(session: Session, text: str) -> PreparedStatement:
    statement = session.prepare(text)
    statement.is_idempotent = True  # every write says its own timestamp
    return statement


class CassandraLink:
    """A connection that is kept up in the background; calls raise ``Unavailable`` meanwhile."""

    def __init__(self, settings: CassandraSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._cluster: Cluster | None = None
        self._statements: _Statements | None = None
        self._problem: str | None = "not yet connected"
        self._connecting = ThreadPoolExecutor(1, "cassandra-connect")
        self._arrived: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._woken = False
        self._reads = asyncio.Semaphore(settings.reads_in_flight)
        self._waiting = 0
        self._batches = asyncio.Semaphore(settings.batches_in_flight)
        self.generation = 0
        """Changes with every new connection."""

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: CassandraSettings) -> AsyncIterator[CassandraLink]:
        """For the time of the block. Returns after ``connect_timeout`` at the latest, connected or not."""
        link = cls(settings)
        task = asyncio.create_task(link._connect(), name="cassandra-connect")
        try:
            await asyncio.wait([task], timeout=settings.connect_timeout)
            yield link
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            link._statements = None
            link._problem = "closed"
            await link._loop.run_in_executor(link._connecting, link._shut)
            link._connecting.shutdown()

    def problems(self) -> str | None:
        """Why reads and writes cannot work now; None: nothing known."""
        if self._statements is None:
            return self._problem
        cluster = self._cluster
        if cluster is not None and not any(host.is_up is not False for host in cluster.metadata.all_hosts()):
            return "no node is up"
        return None

    def spread(self) -> bool:
        """Whether there are more nodes than copies, so that partitions stand on different ones."""
        cluster = self._cluster
        return cluster is not None and len(cluster.metadata.all_hosts()) > self._settings.replication_factor

    def replicas(self, key: bytes) -> frozenset[Any]:
        """The nodes that hold a partition."""
        cluster = self._cluster
        return frozenset(() if cluster is None else cluster.metadata.get_replicas(self._settings.keyspace, key))

    # -- connecting -------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        attempt = 0
        while True:
            try:
                self._statements = await self._loop.run_in_executor(self._connecting, self._dial)
                self._problem = None
                self.generation += 1
                log.info("cassandra: connected to keyspace %s", self._settings.keyspace)
                return
            except Exception as error:  # any: a role must come up without its store and get it later
                problem = said(error)
                if isinstance(error, InvalidRequest):
                    problem = f"keyspace {self._settings.keyspace} or a table of it is missing: run chatcluster migrate"
                if problem != self._problem:
                    self._problem = problem
                    log.warning("cassandra: not connected: %s", problem)
            await asyncio.sleep(delay(attempt, random.random, base=RECONNECT_BASE, cap=self._settings.reconnect_cap))
            attempt += 1

    def _dial(self) -> _Statements:
        self._shut()
        cluster = self._cluster = describe(self._settings)
        try:
            return _Statements(cluster.connect(self._settings.keyspace))
        except BaseException:
            self._shut()
            raise

    def _shut(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.shutdown()

    # -- answers ------------------------------------------------------------------------------------------

    def _arrive(self, item: tuple[asyncio.Future[Any], Any, BaseException | None]) -> None:
        """On a thread of the driver."""
        self._arrived.append(item)
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        self._woken = False
        arrived = self._arrived
        while arrived:
            waiter, rows, error = arrived.popleft()
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(rows)
            else:
                waiter.set_exception(error)

    def _ready(self) -> _Statements:
        statements = self._statements
        if statements is None:
            raise Unavailable(f"cassandra: {self._problem}")
        return statements

    async def _answer(self, future: ResponseFuture, waiter: asyncio.Future[Any]) -> Any:
        try:
            return await waiter
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise Unavailable(f"cassandra: {said(error)}") from error

    async def ask(self, name: str, values: Sequence[bytes], key: bytes, *, most: int | None = None) -> Rows:
        """All rows of a prepared read (at least ``most`` where there are so many). Raises ``Unavailable``."""
        statements = self._ready()
        if self._waiting >= self._settings.reads_waiting:
            raise Unavailable(f"{self._waiting} reads wait for the store")
        self._waiting += 1
        try:
            async with self._reads:
                bound = BoundStatement(statements.selects[name], routing_key=key, fetch_size=PAGE)
                bound.values = values
                arrive = self._arrive
                waiter: asyncio.Future[Any] = self._loop.create_future()
                box = [waiter]
                try:
                    future = statements.session.execute_async(bound)
                except Exception as error:
                    raise Unavailable(f"cassandra: {said(error)}") from error
                future.add_callbacks(
                    lambda rows: arrive((box[0], rows, None)), lambda error: arrive((box[0], None, error))
                )
                rows: Rows = list(await self._answer(future, waiter))
                while future.has_more_pages and (most is None or len(rows) < most):
                    box[0] = self._loop.create_future()
                    try:
                        future.start_fetching_next_page()
                    except Exception as error:
                        raise Unavailable(f"cassandra: {said(error)}") from error
                    rows += await self._answer(future, box[0])
                return rows
        finally:
            self._waiting -= 1

    async def send(self, writes: Sequence[Write], key: bytes) -> None:
        """One unlogged batch. ``key``: of a partition in it. Raises ``Unavailable``."""
        async with self._batches:
            statements = self._ready()
            what: Any
            if len(writes) == 1:  # alone, because servers refuse batches of a size that they take as a row
                [(name, values)] = writes
                what = BoundStatement(statements.inserts[name].prepared_statement, routing_key=key)
                what.values = values
            else:
                what = self._batch(writes, key, statements.inserts)
            arrive = self._arrive
            waiter: asyncio.Future[Any] = self._loop.create_future()
            try:
                future = statements.session.execute_async(what, execution_profile=WRITES)
            except Exception as error:
                raise Unavailable(f"cassandra: {said(error)}") from error
            future.add_callbacks(lambda _: arrive((waiter, None, None)), lambda error: arrive((waiter, None, error)))
            await self._answer(future, waiter)

    def _batch(self, writes: Sequence[Write], key: bytes, inserts: dict[str, BoundStatement]) -> BatchStatement:
        batch = BatchStatement(BatchType.UNLOGGED, consistency_level=ConsistencyLevel.LOCAL_QUORUM)
        batch.is_idempotent = True
        batch.routing_key = key
        batch.keyspace = self._settings.keyspace
        for name, values in writes:
            statement = inserts[name]
            statement.values = values
            batch.add(statement)
        return batch
