"""Redis fails over, asks for TLS, kicks the slow, forgets its scripts, loses keys, or holds rubbish."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import shutil
import socket
import subprocess
import time
from contextlib import aclosing

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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
from chatcluster.core.envelope import Nudge
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import MessageRecord
from chatcluster.core.rows import ReadCursorRow
from chatcluster.ports import Beat, Claim, Committed, Delivery, Lost, TailEntry, Unavailable

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
PATIENCE = 30.0
QUICK = {"heartbeat": 0.1, "deadline": 0.6, "reconnect_cap": 0.2, "connect_timeout": 0.5}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A private redis-server: nothing on disk, so a restart is empty."""

    def __init__(self, *extra):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *extra]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert self.process.poll() is None
                time.sleep(0.02)

    def cli(self, *words):
        return subprocess.check_output(["redis-cli", "-p", str(self.port), *words], text=True)

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server():
    one = Server()
    yield one
    one.kill()


def opened(metrics=None, **where):
    settings = RedisSettings(**{**QUICK, **where})
    return RedisShards.open(settings, clock=SystemClock(), metrics=metrics or Metrics())


def hearing(shards, metrics=None):
    return RedisBuses.open(shards, clock=SystemClock(), metrics=metrics or Metrics())


async def until(batches, wanted):
    async with asyncio.timeout(PATIENCE):
        async for batch in batches:
            for item in batch:
                if wanted(item):
                    return item
    raise AssertionError("the bus ended")


def lost(item):
    return isinstance(item, Lost)


async def answered(call):
    """The answer, once it is available."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(0.05)


async def heard_again(bus, batches, topic):
    told = asyncio.create_task(until(batches, lambda item: item == Delivery(topic, Nudge(7))))
    while not told.done():
        bus.publish([topic], Nudge(7))
        await asyncio.sleep(0.05)
    await told


def entry(offset, prev=-1):
    return TailEntry(offset, prev, offset, MessageRecord("t", "c", offset + 1, "u", f"c{offset}", 0, 0, "hi"))


async def test_a_fail_over_is_told_and_no_number_is_given_twice(redis_sentinel_nodes):
    name, _, sentinels = redis_sentinel_nodes.address.partition("@")
    where = {"shards": (name,), "sentinels": tuple(sentinels.split(",")), "prefix": "failover:"}
    clock, ttl = SystemClock(), 1.5
    async with opened(**where) as shards, opened(**where) as others, hearing(shards) as buses:
        tails, bus = RedisTails(shards, metrics=Metrics()), buses.subscriber("one")
        first, second = RedisWorkers(shards, clock=clock, ttl=ttl), RedisWorkers(others, clock=clock, ttl=ttl)
        held = await answered(lambda: first.lease("one"))
        await bus.subscribe(["a", "b"])
        async with aclosing(bus.listen()) as batches:
            host, _ = await shards.nodes[name].address()
            master = redis_sentinel_nodes.nodes[f"redis-ha-{host.rpartition('.')[2]}"]
            master.kill()
            killed = clock.monotonic()
            try:
                assert await until(batches, lost) == Lost(frozenset({"a", "b"}))
                await heard_again(bus, batches, "a")
                other = await answered(lambda: second.lease("two"))
                assert other.worker != held.worker or clock.monotonic() >= held.expires
                assert clock.monotonic() >= killed + ttl
                await answered(lambda: tails.append([("x", entry(5))]))
                assert [one.offset for one in (await answered(lambda: tails.read([("x", -1)])))[0]] == [5]
                await answered(lambda: tails.commit("inbox", {0: Committed(5, 5)}))
                assert await answered(lambda: tails.committed("inbox")) == {0: Committed(5, 5)}
            finally:
                master.start()


async def test_a_cluster_without_one_master_serves_the_others_and_recovers(redis_cluster_nodes):
    where = {"mode": "cluster", "cluster": (redis_cluster_nodes.address,), "prefix": f"gone{time.time_ns()}:"}
    async with opened(**where) as shards, hearing(shards) as buses:
        names = [f"p{number}" for number in range(60)]
        victim = redis_cluster_nodes.nodes["redis-cluster-3"]
        away = {one for one in names if shards.node_of(one).name.startswith("127.0.0.3")}
        assert 0 < len(away) < len(names)
        tails, bus = RedisTails(shards, metrics=Metrics()), buses.subscriber("one")
        await bus.subscribe(names)
        await tails.append([(one, entry(1)) for one in names])
        async with aclosing(bus.listen()) as batches:
            victim.kill()
            try:
                async with asyncio.timeout(PATIENCE):
                    while True:
                        found = await tails.read([(one, 1) for one in names])
                        if {one for one, got in zip(names, found, strict=True) if got is None} == away:
                            break
                        await asyncio.sleep(0.05)
                with pytest.raises(Unavailable):
                    await tails.append([(one, entry(2)) for one in names])
                here = min(set(names) - away)
                assert [one.offset for one in (await tails.read([(here, 1)]))[0]] == [2]
            finally:
                victim.start()
            told = await until(batches, lambda item: isinstance(item, Lost) and away <= item.topics)
            assert told.topics <= set(names)
            await heard_again(bus, batches, min(away))
            await answered(lambda: tails.append([(one, entry(3)) for one in names]))


@pytest.fixture
def secured(tmp_path):
    """A server that speaks TLS only and asks for a password; (server, settings)."""

    def key_and(name, issuer=None, issuer_key=None):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = builder.add_extension(names, critical=False).sign(issuer_key or key, hashes.SHA256())
        file = tmp_path / name
        file.with_suffix(".crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        file.with_suffix(".key").write_bytes(private)
        return subject, key

    subject, key = key_and("authority")
    key_and("node", subject, key)
    key_and("stranger")
    tls, plain = free_port(), tmp_path
    extra = ["--tls-port", str(tls), "--tls-cert-file", f"{plain}/node.crt", "--tls-key-file", f"{plain}/node.key"]
    extra += ["--tls-ca-cert-file", f"{plain}/authority.crt", "--tls-auth-clients", "no", "--requirepass", "hush"]
    server = Server(*extra)
    (tmp_path / "password").write_text("hush\n")
    where = {"shards": (f"127.0.0.1:{tls}",), "tls": True, "connect_timeout": 5.0, "timeout": 2.0}
    where["password_file"] = f"{tmp_path}/password"
    yield server, where, tmp_path
    server.kill()


async def test_tls_and_a_password(secured):
    _, where, folder = secured
    async with opened(**where, ca_file=f"{folder}/authority.crt") as shards, hearing(shards) as buses:
        assert shards.problems() is None
        bus = buses.subscriber("one")
        await bus.subscribe(["a"])
        async with aclosing(bus.listen()) as batches:
            await heard_again(bus, batches, "a")
        assert await RedisDedupe(shards, metrics=Metrics()).claim([Claim("k", 1, 1)]) == [None]
    async with opened(**where, ca_file=f"{folder}/stranger.crt") as shards, hearing(shards) as buses:
        assert shards.problems() is not None
        assert "hush" not in shards.problems()
        with pytest.raises(Unavailable):
            await RedisDedupe(shards, metrics=Metrics()).claim([Claim("k", 1, 1)])
        with pytest.raises(Unavailable):
            await buses.subscriber("one").subscribe(["a"])


async def test_a_certificate_for_another_name_is_refused_unless_the_settings_say_so(secured):
    _, where, folder = secured
    where["shards"] = (where["shards"][0].replace("127.0.0.1", "localhost"),)
    where["ca_file"] = f"{folder}/authority.crt"
    async with opened(**where) as shards, hearing(shards) as buses:
        assert shards.problems() is not None
        with pytest.raises(Unavailable):
            await buses.subscriber("one").subscribe(["a"])
    async with opened(**where, verify_names=False) as shards, hearing(shards) as buses:
        assert shards.problems() is None
        await buses.subscriber("one").subscribe(["a"])


async def test_a_listener_kicked_for_being_slow_is_told(server):
    server.cli("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 65536 1")
    async with opened(shards=(server.address,)) as shards, hearing(shards) as buses:
        bus = buses.subscriber("one")
        await bus.subscribe(["a"])
        body = "x" * 60_000
        speaker = await asyncio.open_connection("127.0.0.1", server.port)
        publish = f"*3\r\n$7\r\nPUBLISH\r\n$8\r\ncc:b:{{a}}\r\n${len(body)}\r\n{body}\r\n".encode()
        async with aclosing(bus.listen()) as batches:
            speaker[1].write(publish * 2000)
            drained = asyncio.create_task(speaker[1].drain())
            time.sleep(2)  # noqa: ASYNC251 - a loop that does not read: that is the fault
            assert await until(batches, lost) == Lost(frozenset({"a"}))
            await heard_again(bus, batches, "a")
            drained.cancel()
            speaker[1].transport.abort()


async def test_what_cannot_be_read_is_dropped_and_counted(server):
    metrics = Metrics()
    async with opened(metrics, shards=(server.address,)) as shards, hearing(shards, metrics) as buses:
        tails, bus = RedisTails(shards, metrics=metrics), buses.subscriber("one")
        await bus.subscribe(["a"])
        for rubbish in ("", "rubbish", "[1]"):
            server.cli("PUBLISH", shards.key("b", "a"), rubbish)
        async with aclosing(bus.listen()) as batches:
            await heard_again(bus, batches, "a")
        assert buses._corrupt.value == 3
        server.cli("XADD", shards.key("t", "x"), "5-0", "e", "rubbish")
        assert await tails.read([("x", -1)]) == [None]
        assert tails._corrupt.value == 1
        # One that is no tail at all takes nothing from the others of the same call.
        server.cli("SET", shards.key("t", "y"), "rubbish")
        server.cli("XADD", shards.key("t", "z"), "5-0", "f", "rubbish")
        good = TailEntry(4, -1, 4, MessageRecord("t", "c", 5, "u", "k", 0, 0, "hi"))
        await tails.append([("w", good)])
        assert await tails.read([("y", -1), ("z", -1), ("w", -1)]) == [None, None, [good]]
        await tails.append([("y", good), ("z", good), ("w", TailEntry(7, 4, 7, good.record))])
        assert [one and len(one) for one in await tails.read([("y", -1), ("z", -1), ("w", -1)])] == [1, None, 2]
        server.cli("SET", shards.key("d", "k"), "rubbish")
        assert await RedisDedupe(shards, metrics=metrics).claim([Claim("k", 1, 1)]) == [None]


async def test_a_full_server_refuses_aloud_and_takes_all_once_it_has_room(server):
    """What was not written must not look like nothing came: the writer is told, and writes again."""
    async with opened(shards=(server.address,)) as shards:
        tails = RedisTails(shards, metrics=Metrics())
        entries = [(f"u:t/{number}", entry(1)) for number in range(100)]
        await tails.append(entries)
        server.cli("CONFIG", "SET", "maxmemory", "1")
        later = [(timeline, TailEntry(2, 1, 2, one.record)) for timeline, one in entries]
        with pytest.raises(Unavailable):
            await tails.append(later)
        server.cli("CONFIG", "SET", "maxmemory", "0")
        await tails.append(later)
        assert [len(one) for one in await tails.read([(timeline, -1) for timeline, _ in entries])] == [2] * 100


async def test_a_connection_that_another_task_closes_is_no_answer(server):
    """At whatever moment of a call, as a cluster's client does when it reads its map anew."""
    async with opened(shards=(server.address,), timeout=2.0, heartbeat=60.0) as shards:
        tails = RedisTails(shards, metrics=Metrics())
        [client] = shards.clients()
        said = []
        for number in range(200):
            asked = asyncio.create_task(tails.read([("x", 1)]))
            for _ in range(number % 40):
                await asyncio.sleep(0)
            await client.connection_pool.disconnect()
            said += await asyncio.gather(asked, return_exceptions=True)
        assert {type(one) for one in said} == {list, Unavailable}
        assert await answered(lambda: tails.read([("x", 1)])) == [None]


async def test_twenty_thousand_topics_are_subscribed_and_again_after_a_cut(server):
    patient = {"subscribe_timeout": 20.0, "deadline": 10.0, "connect_timeout": 5.0}
    async with opened(shards=(server.address,), **patient) as shards, hearing(shards) as buses:
        topics = [f"u:t/{number}" for number in range(20_000)]
        bus = buses.subscriber("one")
        await bus.subscribe(topics)
        async with aclosing(bus.listen()) as batches:
            server.cli("CLIENT", "KILL", "TYPE", "pubsub")
            assert await until(batches, lost) == Lost(frozenset(topics))
            assert server.cli("PUBSUB", "NUMSUB", shards.key("b", topics[-1])).split()[-1] == "1"
            await heard_again(bus, batches, topics[-1])


async def test_scripts_forgotten_by_the_server_are_sent_again(server):
    async with opened(shards=(server.address,)) as shards:
        tails = RedisTails(shards, metrics=Metrics())
        await tails.append([("x", entry(1))])
        for _ in range(3):
            assert [one.offset for one in (await tails.read([("x", -1)]))[0]] == [1]
            server.cli("SCRIPT", "FLUSH")
        assert "cmdstat_evalsha" in server.cli("INFO", "commandstats")


async def test_each_kind_of_key_may_vanish(server):
    async with opened(shards=(server.address,)) as shards:
        metrics = Metrics()
        tails, dedupe = RedisTails(shards, metrics=metrics), RedisDedupe(shards, metrics=metrics)
        cursors, presence = RedisReadCursors(shards, metrics=metrics), RedisPresence(shards, metrics=metrics)
        beat, row, claim = Beat("t", "u", "s", "online"), ReadCursorRow("t", "u", "c", 7), Claim("k", 1, 1)

        async def written():
            await tails.append([("x", entry(1))])
            await tails.commit("inbox", {0: Committed(5, 5)})
            await dedupe.claim([claim])
            await cursors.advance(row)
            await presence.touch([beat], ttl=60_000)

        def gone(kind):
            names = server.cli("KEYS", f"cc:{kind}:*").split()
            assert names, kind
            server.cli("DEL", *names)

        await written()
        gone("t")
        assert await tails.read([("x", 1)]) == [None]
        gone("p")
        assert await tails.committed("inbox") == {}
        gone("d")
        assert await dedupe.claim([claim]) == [None]
        gone("r")
        assert await cursors.get("t", "u", ["c"]) == {}
        assert await cursors.dirty(9) == [row], "its flush does not need the cursor"
        gone("rv")
        assert await cursors.dirty(9) == [], "not flushed, gone: the store has the one before"
        assert await cursors.advance(row) == 7
        gone("rl")
        assert await cursors.dirty(9) == []
        gone("u")
        assert await presence.sessions([("t", "u")]) == [{}]
        await presence.touch([beat], ttl=60_000)
        gone("l")
        assert list((await presence.sessions([("t", "u")]))[0]) == ["s"]
        await written()


async def test_every_key_ends_but_those_that_must_not(server):
    async with opened(shards=(server.address,)) as shards:
        metrics = Metrics()
        tails, dedupe = RedisTails(shards, metrics=metrics), RedisDedupe(shards, metrics=metrics)
        cursors, presence = RedisReadCursors(shards, metrics=metrics), RedisPresence(shards, metrics=metrics)
        await tails.append([("x", entry(1))])
        await tails.commit("inbox", {0: Committed(5, 5)})
        await dedupe.claim([Claim("claimed", 1, 1), Claim("settled", 1, 1)])
        await dedupe.replace(Claim("replaced", 2, 1))
        dedupe.settle([Claim("settled", 1, 1)])
        await cursors.advance(ReadCursorRow("t", "u", "c", 7))
        await presence.touch([Beat("t", "u", "s", "online")], ttl=60_000)
        await RedisWorkers(shards, clock=SystemClock()).begin()
        async with asyncio.timeout(PATIENCE):
            while not (await dedupe.claim([Claim("settled", 2, 1)]))[0].durable:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        lives = {name.split(":")[1]: set() for name in server.cli("KEYS", "cc:*").split()}
        for name in server.cli("KEYS", "cc:*").split():
            lives[name.split(":")[1]].add(int(server.cli("TTL", name)) > 0)
        # docs/redis.md: without an end are positions, what waits for its flush or its look, and worker numbers.
        assert lives == {kind: {True} for kind in "tdru"} | {kind: {False} for kind in ("p", "rl", "rv", "l", "w")}


async def test_of_positions_on_several_nodes_the_highest_counts(server):
    other = Server()
    try:
        async with opened(shards=(server.address, other.address)) as shards:
            tails = RedisTails(shards, metrics=Metrics())
            await tails.commit("inbox", {0: Committed(5, 5)})
            for node in (server, other):  # one of them was away while the other got on
                [name] = node.cli("KEYS", "cc:p:*").split()
                node.cli("HSET", name, "o0", "3", "t0", "3")
                assert await tails.committed("inbox") == {0: Committed(5, 5)}
                node.cli("HSET", name, "o0", "5", "t0", "5")
    finally:
        other.kill()


async def test_a_lease_ends_here_before_it_ends_for_those_who_watch(server):
    clock, ttl = SystemClock(), 60.0
    async with opened(shards=(server.address,)) as shards:
        workers = RedisWorkers(shards, clock=clock, ttl=ttl)
        assert await workers.begin()
        ask = shards.ask

        async def slowly(*command):
            answer = await ask(*command)
            await asyncio.sleep(0.2)  # the answer is on its way: they may have seen the lease meanwhile
            return answer

        shards.ask = slowly
        began = clock.monotonic()
        lease = await workers.lease("one")
        assert lease.expires <= began + ttl + 0.1


async def test_numbers_evicted_are_renewed_by_holders_and_new_ones_wait(server):
    clock, ttl = SystemClock(), 1.0
    async with opened(shards=(server.address,)) as one, opened(shards=(server.address,)) as two:
        first, second = RedisWorkers(one, clock=clock, ttl=ttl), RedisWorkers(two, clock=clock, ttl=ttl)
        held = await answered(lambda: first.lease("one"))
        server.cli("DEL", one.key("w", "workers"))
        evicted = clock.monotonic()
        assert (await first.lease("one")).worker == held.worker
        with pytest.raises(Unavailable):
            await second.lease("two")
        waiting = asyncio.create_task(answered(lambda: second.lease("two")))
        while not waiting.done():
            held = await first.lease("one")
            await asyncio.sleep(ttl / 5)
        assert (await waiting).worker != held.worker
        assert clock.monotonic() >= evicted + ttl


async def test_a_call_that_fails_ends_in_bounded_time(server):
    async with opened(shards=(server.address,), timeout=0.25, heartbeat=60.0, pipeline=10) as shards:
        tails = RedisTails(shards, metrics=Metrics())
        await tails.read([("x", 1)])
        server.process.send_signal(19)
        positions = [(f"x{number}", 1) for number in range(5_000)]
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await tails.read(positions)
        many = await asyncio.gather(*(tails.read([("x", 1)]) for _ in range(40)), return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in many)
        assert time.monotonic() - began < 10 * 0.25, "two calls, each two timeouts; with room for a busy machine"
        server.process.send_signal(18)


async def test_a_node_that_is_known_to_be_away_is_not_waited_for(server):
    async with opened(shards=(server.address,), timeout=10.0) as shards:
        dedupe = RedisDedupe(shards, metrics=Metrics())
        server.process.send_signal(19)
        async with asyncio.timeout(PATIENCE):
            while shards.problems() is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable):
                await dedupe.claim([Claim("k", 1, 1)])
        server.process.send_signal(18)


async def test_a_copy_that_is_no_master_is_not_asked(server):
    """It would answer with what it has, and may be behind."""
    async with opened(shards=(server.address,)) as shards:
        tails = RedisTails(shards, metrics=Metrics())
        await tails.append([("x", entry(1))])
        server.cli("REPLICAOF", "127.0.0.1", str(free_port()))
        async with asyncio.timeout(PATIENCE):
            while shards.problems() is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert shards.problems().endswith("is no master")
        with pytest.raises(Unavailable):
            await tails.read([("x", 0)])


async def test_a_server_that_is_not_the_one_it_was_is_told_though_its_connections_stand(server):
    async with opened(shards=(server.address,), heartbeat=1.0, deadline=60.0) as shards, hearing(shards) as buses:
        bus = buses.subscriber("one")
        await bus.subscribe(["a"])
        server.cli("REPLICAOF", "127.0.0.1", str(free_port()))
        server.cli("REPLICAOF", "NO", "ONE")
        async with aclosing(bus.listen()) as batches:
            assert await until(batches, lost) == Lost(frozenset({"a"}))


async def test_what_nobody_waits_for_is_dropped_and_counted_over_its_bound(server):
    metrics = Metrics()
    async with opened(metrics, shards=(server.address,), posts=100) as shards:
        dedupe = RedisDedupe(shards, metrics=metrics)
        claims = [Claim(f"k{number}", number, 1) for number in range(150)]
        await dedupe.claim(claims)
        dedupe.settle(claims)
        assert shards._dropped.value == 50

        async def durable():
            return sum(claimed.durable for claimed in await dedupe.claim(claims))

        async with asyncio.timeout(PATIENCE):
            while await durable() < 100:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await durable() == 100


async def test_a_subscription_that_no_node_confirms_is_unavailable_and_heard_once_it_answers(server):
    async with (
        opened(shards=(server.address,), subscribe_timeout=0.3, deadline=60.0) as shards,
        hearing(shards) as buses,
    ):
        bus = buses.subscriber("one")
        server.process.send_signal(19)
        with pytest.raises(Unavailable):
            await bus.subscribe(["a"])
        server.process.send_signal(18)
        async with aclosing(bus.listen()) as batches:
            await heard_again(bus, batches, "a")


async def test_a_subscription_that_was_refused_is_heard_once_it_is_allowed(server):
    async with opened(shards=(server.address,), subscribe_timeout=0.3) as shards, hearing(shards) as buses:
        bus = buses.subscriber("one")
        server.cli("ACL", "SETUSER", "default", "resetchannels")
        with pytest.raises(Unavailable):
            await bus.subscribe(["a"])
        server.cli("ACL", "SETUSER", "default", "allchannels")
        await answered(lambda: bus.subscribe(["a"]))
        async with aclosing(bus.listen()) as batches:
            await heard_again(bus, batches, "a")


async def test_what_is_published_faster_than_a_node_takes_it_is_dropped_over_the_bound(server):
    metrics = Metrics()
    slow = {"publish_bytes": 20_000, "heartbeat": 60.0, "deadline": 60.0}
    async with opened(metrics, shards=(server.address,), **slow) as shards, hearing(shards, metrics) as buses:
        bus = buses.subscriber("one")
        [mouth] = buses._mouths.values()
        server.process.send_signal(19)
        most = 0
        for _ in range(1_000):
            for _ in range(800):  # more than the bound in one turn
                bus.publish(["a"], Nudge(1))
            most = max(most, mouth._size)
            await asyncio.sleep(0)
        assert most < 20_000 + 100
        assert mouth.wire.waiting() < 2 * 20_000 + 100, "what the network does not take counts, too"
        assert buses._dropped.value > 0
        server.process.send_signal(18)
        await bus.subscribe(["a"])
        async with aclosing(bus.listen()) as batches:
            await heard_again(bus, batches, "a")


async def test_a_gap_is_told_when_all_topics_are_heard_again(server):
    """Whoever reads the tails then misses nothing in between."""
    async with opened(shards=(server.address,)) as shards, hearing(shards) as buses:
        bus = buses.subscriber("one")
        await bus.subscribe([f"t{number}" for number in range(2_000)])
        server.cli("CLIENT", "KILL", "TYPE", "pubsub")
        async with aclosing(bus.listen()) as batches:
            await until(batches, lost)
        assert all(topic.heard for topic in buses.topics.values())


async def test_a_gap_is_told_though_the_connection_before_went_with_a_subscription_unconfirmed(server):
    async with opened(shards=(server.address,), subscribe_timeout=0.3) as shards, hearing(shards) as buses:
        bus = buses.subscriber("one")
        await bus.subscribe(["a"])
        [ear] = buses._ears.values()
        server.process.send_signal(19)
        with pytest.raises(Unavailable):
            await bus.subscribe(["b"])
        async with asyncio.timeout(PATIENCE):
            while ear.wire is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        server.process.send_signal(18)
        async with aclosing(bus.listen()) as batches:
            assert "a" in (await until(batches, lost)).topics
