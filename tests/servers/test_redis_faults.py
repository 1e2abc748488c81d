"""The Redis backend on a real server that is killed, wiped, frozen and given another password."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from contextlib import aclosing

import pytest

from chatcluster.app.clock import SystemClock
from chatcluster.backends.redis import RedisBuses, RedisDedupe, RedisSettings, RedisShards, RedisTails, RedisWorkers
from chatcluster.core.envelope import Nudge
from chatcluster.core.ids import id_time
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import MessageRecord
from chatcluster.ports import Claim, Delivery, Fenced, Lost, TailEntry, Unavailable

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
PATIENCE = 20.0


class Server:
    """A private redis-server: nothing on disk, so a restart is empty."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self, *extra: str) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *extra]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert self.process.poll() is None

    def kill(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def cli(self, *words: str) -> str:
        return subprocess.check_output(["redis-cli", "-p", str(self.port), *words], text=True)


@pytest.fixture
def server():
    one = Server()
    yield one
    one.kill()


def settings(*addresses, **others):
    values = {"heartbeat": 0.1, "deadline": 0.6, "reconnect_cap": 0.2, "connect_timeout": 0.5, **others}
    return RedisSettings(shards=addresses, **values)


def opened(given):
    return RedisShards.open(given, clock=SystemClock(), metrics=Metrics())


def hearing(shards):
    return RedisBuses.open(shards, clock=SystemClock(), metrics=Metrics())


async def until(bus_batches, wanted):
    async with asyncio.timeout(PATIENCE):
        async for batch in bus_batches:
            for item in batch:
                if wanted(item):
                    return item
    raise AssertionError("the bus ended")


async def eventually(probe):
    async with asyncio.timeout(PATIENCE):
        while not probe():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


def kicked(server):
    server.cli("CLIENT", "KILL", "TYPE", "pubsub")


def restarted(server):
    server.kill()
    server.start()


def frozen(server):
    os.kill(server.process.pid, signal.SIGSTOP)


@pytest.mark.parametrize("fault", [kicked, restarted, frozen])
async def test_a_gap_is_told_for_the_topics_of_that_node_and_hearing_goes_on(server, fault):
    other = Server()
    try:
        async with opened(settings(server.address, other.address)) as shards, hearing(shards) as buses:
            topics = [f"u:t/{number}" for number in range(50)]
            here = frozenset(one for one in topics if shards.node_of(one).name == server.address)
            assert 0 < len(here) < len(topics)
            bus = buses.subscriber("one")
            await bus.subscribe(topics)
            async with aclosing(bus.listen()) as batches:
                fault(server)
                if fault is frozen:
                    await eventually(lambda: shards.problems() is not None)
                    await asyncio.sleep(1)
                    os.kill(server.process.pid, signal.SIGCONT)
                assert await until(batches, lambda item: isinstance(item, Lost)) == Lost(here)
                await eventually(lambda: shards.problems() is None)
                topic = min(here)
                told = asyncio.create_task(until(batches, lambda item: item == Delivery(topic, Nudge(1))))
                while not told.done():
                    bus.publish([topic], Nudge(1))
                    await asyncio.sleep(0.05)
                await told
    finally:
        other.kill()


async def test_opens_without_a_server_and_refuses_quickly_until_it_comes(server):
    server.kill()
    async with opened(settings(server.address)) as shards, hearing(shards) as buses:
        assert shards.problems() is not None
        dedupe = RedisDedupe(shards, metrics=Metrics())
        with pytest.raises(Unavailable):
            await dedupe.claim([Claim("k", 1, 1)])
        buses.subscriber("one").publish(["a"], Nudge(1))
        server.start()
        await eventually(lambda: shards.problems() is None)
        assert await dedupe.claim([Claim("k", 1, 1)]) == [None]


async def test_a_frozen_server_is_unavailable_and_no_call_hangs(server):
    async with opened(settings(server.address)) as shards:
        tails = RedisTails(shards, metrics=Metrics())
        frozen(server)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(tails.read([("x", 1)]), PATIENCE)


async def test_a_large_entry_breaks_the_chain_and_is_not_kept(server):
    async with opened(settings(server.address, tail_entry_bytes=1000)) as shards:
        tails = RedisTails(shards, metrics=Metrics())

        def entry(offset, prev, body):
            return TailEntry(offset, prev, offset, MessageRecord("t", "c", offset + 1, "u", "c", 0, 0, body))

        await tails.append([("x", entry(0, -1, "a")), ("x", entry(1, 0, "b" * 2000)), ("x", entry(2, 1, "c"))])
        assert [one.offset for one in (await tails.read([("x", 0)]))[0]] == [2]
        assert (await tails.read([("x", 0)]))[0][0].prev == 1
        assert [one.offset for one in (await tails.read([("x", -1)]))[0]] == [2], "what was before it is gone"
        await tails.append([("x", entry(3, 2, "d" * 2000))])
        assert await tails.read([("x", 2)]) == [None], "nothing after 2 is not what a reader may believe now"


async def test_the_password_changes_by_its_file(server, tmp_path):
    file = tmp_path / "password"
    file.write_text("one\n")
    server.cli("CONFIG", "SET", "requirepass", "one")
    async with opened(settings(server.address, password_file=str(file))) as shards, hearing(shards) as buses:
        bus = buses.subscriber("one")
        await bus.subscribe(["a"])
        assert await RedisDedupe(shards, metrics=Metrics()).claim([Claim("k", 1, 1)]) == [None]
        server.cli("-a", "one", "CONFIG", "SET", "requirepass", "two")
        file.write_text("two\n")
        async with aclosing(bus.listen()) as batches:
            await until(batches, lambda item: isinstance(item, Lost))
        await eventually(lambda: shards.problems() is None)
        assert await RedisDedupe(shards, metrics=Metrics()).claim([Claim("j", 1, 1)]) == [None]


async def leased(workers, holder):
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await workers.lease(holder)
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_a_wiped_server_gives_no_number_that_is_still_held(server):
    clock = SystemClock()
    async with opened(settings(server.address)) as one, opened(settings(server.address)) as two:
        first = RedisWorkers(one, clock=clock, ttl=1.5)
        second = RedisWorkers(two, clock=clock, ttl=1.5)
        held = await leased(first, "one")
        server.cli("FLUSHALL")
        # The holder is frozen: it renews nothing. The other one gets its number only after the lease ended.
        other = await leased(second, "two")
        assert clock.monotonic() >= held.expires or other.worker != held.worker
        assert other.floor > 0
        third = await leased(first, "one")
        assert third.worker != other.worker


async def test_a_holder_renews_over_a_wipe_and_loses_to_another(server):
    clock = SystemClock()
    async with opened(settings(server.address)) as shards:
        workers = RedisWorkers(shards, clock=clock, ttl=1.5)
        held = await leased(workers, "one")
        server.cli("FLUSHALL")
        assert (await workers.lease("one")).worker == held.worker
        server.cli("HSET", shards.key("w", "workers"), f"h{held.worker}", "9 1500 another")
        with pytest.raises(Fenced):
            await workers.lease("one")


async def test_the_first_of_a_new_log_does_not_wait_and_after_a_wipe_the_next_does(server):
    clock = SystemClock()
    async with opened(settings(server.address)) as shards:
        workers = RedisWorkers(shards, clock=clock, epoch="new", ttl=60.0)
        with pytest.raises(Unavailable):
            await RedisWorkers(shards, clock=clock, epoch="old", ttl=60.0).lease("one")
        assert await workers.begin()
        first = await workers.lease("one")
        second = await RedisWorkers(shards, clock=clock, epoch="new", ttl=60.0).lease("two")
        assert first.worker != second.worker
        assert id_time(first.floor) <= clock.now()
        assert not await workers.begin(), "somebody holds a number: it is not new any more"
        server.cli("FLUSHALL")
        with pytest.raises(Unavailable):
            await RedisWorkers(shards, clock=clock, epoch="new", ttl=60.0).lease("three")
        assert (await workers.lease("one")).worker == first.worker


class OffClock(SystemClock):
    """A wall clock that is some ms ahead."""

    def __init__(self, ahead):
        super().__init__()
        self.ahead = ahead

    def now(self):
        return super().now() + self.ahead


class LaterClock(SystemClock):
    """A monotonic clock that may be moved on by some seconds."""

    ahead = 0.0

    def monotonic(self):
        return super().monotonic() + self.ahead


async def test_whose_clock_leaves_the_middle_is_told(server):
    async with opened(settings(server.address)) as shards:
        clocks = [OffClock(ahead) for ahead in (0, 0, 3_600_000)]
        holders = [RedisWorkers(shards, clock=clock, ttl=1.5) for clock in clocks]
        for number, workers in enumerate(holders):
            await leased(workers, f"h{number}")
        skews = [(await leased(workers, f"h{number}")).skew for number, workers in enumerate(holders)]
        assert [round(skew / 1000) for skew in skews] == pytest.approx([0, 0, 3600], abs=1)
        # The server's own clock is one among others: here it is the one that is wrong.
        for clock in clocks:
            clock.ahead = -3_600_000
        for _ in range(2):
            skews = [(await leased(workers, f"h{number}")).skew for number, workers in enumerate(holders)]
        assert [round(skew / 1000) for skew in skews] == pytest.approx([0, 0, 0], abs=1)


async def test_a_copy_of_the_server_lets_newcomers_wait(server):
    """As after a fail-over: it has the hash, and may lack the last leases."""
    clock = SystemClock()
    async with opened(settings(server.address)) as shards:
        workers = RedisWorkers(shards, clock=clock, ttl=60.0)
        assert await workers.begin()
        held = await workers.lease("one")
        server.cli("HSET", shards.key("w", "workers"), "server", "another")
        with pytest.raises(Unavailable):
            await RedisWorkers(shards, clock=clock, ttl=60.0).lease("two")
        assert (await workers.lease("one")).worker == held.worker


async def test_the_next_holder_mints_above_what_was_minted_before_a_clock_stepped_back(server):
    ttl, clock, later = 60.0, OffClock(0), LaterClock()
    async with opened(settings(server.address)) as one, opened(settings(server.address)) as two:
        first = RedisWorkers(one, clock=clock, ttl=ttl, highest=0)
        second = RedisWorkers(two, clock=later, ttl=ttl, highest=0)
        assert await first.begin()
        clock.ahead = 3_600_000
        minted = clock.now() + int(ttl * 1000)  # to the end of the lease
        await first.lease("one")
        clock.ahead = 0
        await first.lease("one")
        with pytest.raises(Unavailable):
            await second.lease("two")
        later.ahead = ttl + 1
        assert id_time((await second.lease("two")).floor) >= minted


async def test_a_lease_lasts_as_long_as_its_holder_was_told(server):
    """Not as long as whoever asks would have it: settings change one process after the other."""
    clock = SystemClock()
    async with opened(settings(server.address)) as one, opened(settings(server.address)) as two:
        held = await leased(RedisWorkers(one, clock=clock, ttl=2.0, highest=0), "one")
        await leased(RedisWorkers(two, clock=clock, ttl=0.5, highest=0), "two")
        assert clock.monotonic() >= held.expires


async def test_a_lease_renewed_at_the_last_moment_is_not_given_away(server):
    ttl, later = 60.0, LaterClock()
    async with opened(settings(server.address)) as one, opened(settings(server.address)) as two:
        first = RedisWorkers(one, clock=SystemClock(), ttl=ttl, highest=0)
        second = RedisWorkers(two, clock=later, ttl=ttl, highest=0)
        assert await first.begin()
        await first.lease("one")
        with pytest.raises(Unavailable):
            await second.lease("two")
        await first.lease("one")
        later.ahead = ttl + 1
        for _ in range(2):
            with pytest.raises(Unavailable):
                await second.lease("two")
        later.ahead = 2 * ttl + 2  # not renewed any more
        assert (await second.lease("two")).worker == 0


async def test_who_slept_over_the_end_of_its_lease_mints_above_what_others_may_have_minted(server):
    ttl, clock = 60.0, LaterClock()
    async with opened(settings(server.address)) as shards:
        workers = RedisWorkers(shards, clock=clock, ttl=ttl, highest=0)
        assert await workers.begin()
        held = await workers.lease("one")
        clock.ahead = ttl + 1
        assert id_time((await workers.lease("one")).floor) >= id_time(held.floor) + ttl * 1000
