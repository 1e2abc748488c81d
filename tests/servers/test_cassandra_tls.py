"""TLS and a login on a real Cassandra: who may not waits and is told why, a password is changed while we run."""

from __future__ import annotations

import asyncio
import ssl
import time

import pytest
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, NoHostAvailable

import cassandra_tables
from certificates import issue
from chatcluster.app.clock import SystemClock
from chatcluster.backends.cassandra import CassandraSettings, CassandraStore, migrate
from chatcluster.core.metrics import Metrics
from chatcluster.core.rows import MessageRow
from chatcluster.ports import Unavailable
from chatcluster_stack import ports
from chatcluster_stack.cassandra import cassandra
from chatcluster_stack.proxy import proxied
from real_servers import needed

pytestmark = pytest.mark.slow
FIRST, SECOND = "first-word-7c1f", "second-word-92ab"
PEM = "{class_name: org.apache.cassandra.security.PEMBasedSslContextFactory}"


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """A node that takes TLS with a client's certificate and a login only; its folder, port, and an administrator."""
    folder = tmp_path_factory.mktemp("secure")
    authority = issue(folder, "ca")
    issue(folder, "node", authority)
    issue(folder, "client", authority)
    issue(folder, "stranger")
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "client.pem", folder / "client.key")
    root = {"ssl_context": context, "auth_provider": PlainTextAuthProvider("cassandra", "cassandra")}
    base = ports.block([0, 1, 2])
    extra = {
        "authenticator": "PasswordAuthenticator",
        "authorizer": "CassandraAuthorizer",
        "credentials_validity": "1s",
        "client_encryption_options": (
            f"{{enabled: true, optional: false, require_client_auth: true, keystore: {folder / 'node.both.pem'}, "
            f"truststore: {folder / 'ca.pem'}, ssl_context_factory: {PEM}}}"
        ),
    }
    node = cassandra(folder / "run", base, base + 1, base + 2, extra=extra, client=root)
    try:
        with needed("cassandra"):
            node.start()
        cluster = Cluster(["127.0.0.1"], port=base, protocol_version=5, **root)
        session = cluster.connect()
        session.execute(f"CREATE ROLE chat WITH LOGIN = true AND PASSWORD = '{FIRST}'")
        session.execute("GRANT ALL ON ALL KEYSPACES TO chat")
        yield folder, base, session
        cluster.shutdown()
    finally:
        node.stop(wipe=True)


def change(session, word):
    """The server takes a new password of a role every 5 s only."""
    deadline = time.monotonic() + 30
    while True:
        try:
            session.execute(f"ALTER ROLE chat WITH PASSWORD = '{word}'")
            return
        except NoHostAvailable:
            assert time.monotonic() < deadline
            time.sleep(0.5)


@pytest.fixture
def settings(secure):
    folder, port, _ = secure
    (folder / "password").write_text(FIRST + "\n")
    return CassandraSettings(
        contact_points=("127.0.0.1",),
        port=port,
        replication_factor=1,
        username="chat",
        password_file=str(folder / "password"),
        ca_file=str(folder / "ca.pem"),
        cert_file=str(folder / "client.pem"),
        key_file=str(folder / "client.key"),
    )


async def read_back(settings, number):
    async with CassandraStore.open(settings, clock=SystemClock(), metrics=Metrics()) as store:
        deadline = time.monotonic() + 60
        while True:
            try:
                await store.write([MessageRow("t", "c", number, number, "u", f"x{number}", "body")])
                return (await store.heads("t", ["c"]))["c"]
            except Unavailable:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.2)


async def test_all_works_over_tls_with_a_login_and_a_new_password_is_taken(secure, settings):
    folder, _, session = secure
    await asyncio.to_thread(migrate, settings)
    assert await read_back(settings, 1) == 1
    await asyncio.to_thread(change, session, SECOND)
    (folder / "password").write_text(SECOND)
    assert await read_back(settings, 2) == 2
    await asyncio.to_thread(change, session, FIRST)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"password_file": "wrong"}, "the login was refused: see cassandra.username and cassandra.password_file"),
        ({"ca_file": "stranger.pem"}, "no node answers"),
        ({"cert_file": "stranger.pem", "key_file": "stranger.key"}, "no node answers"),
        ({"ca_file": ""}, "no node answers"),
    ],
    ids=["password", "authority", "certificate", "plain"],
)
async def test_who_may_not_waits_and_says_why_without_the_password(secure, settings, changes, told, caplog):
    folder = secure[0]
    (folder / "wrong").write_text("wrong-word-55d0")
    changes = {key: value and str(folder / value) for key, value in changes.items()}
    async with CassandraStore.open(
        cassandra_tables.changed(settings, **changes), clock=SystemClock(), metrics=Metrics()
    ) as store:
        async with asyncio.timeout(60):
            while told not in (store.problems() or ""):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        with pytest.raises(Unavailable):
            await store.heads("t", ["c"])
    written = "\n".join(record.getMessage() for record in caplog.records)
    for word in (FIRST, "wrong-word"):
        assert word not in written


async def test_a_node_whose_certificate_names_another_address_is_refused_unless_the_settings_say_so(secure, settings):
    await asyncio.to_thread(migrate, settings)
    async with proxied("127.0.0.1", settings.port, listen="127.0.0.2") as way:
        elsewhere = cassandra_tables.changed(settings, contact_points=("127.0.0.2",), port=way.port)
        for names, told in ((True, "no node answers"), (False, None)):
            changed = cassandra_tables.changed(elsewhere, verify_names=names)
            async with CassandraStore.open(changed, clock=SystemClock(), metrics=Metrics()) as store:
                async with asyncio.timeout(20):
                    while "not yet connected" in (said := store.problems() or ""):  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                assert told in said if told else not said
