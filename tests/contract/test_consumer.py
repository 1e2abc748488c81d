"""Port Consumer: at least once, ascending, positions, fences."""

from __future__ import annotations

import asyncio
import os
import sqlite3

import pytest

from chatcluster.backends.sqlite import SqliteLog
from chatcluster.backends.sqlite import log as sqlite_log
from chatcluster.backends.sqlite.files import sync_wals
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Fenced, Receipt


async def put(log, count, topic="messages", start=0):
    left = [count]
    done = asyncio.get_running_loop().create_future()

    def report(outcome):
        assert isinstance(outcome, Receipt)
        left[0] -= 1
        if not left[0]:
            done.set_result(None)

    for number in range(start, start + count):
        log.append(topic, f"k{number % 13}", b"%d" % number, report)
    await done


async def drain(consumer, count):
    found = []
    while len(found) < count:
        for batch in await consumer.fetch():
            found += [(batch.partition, entry.offset, int(entry.value)) for entry in batch.entries]
    return found


def test_every_record_comes_once_ascending_per_partition(jump, loop_clock, open_log, consume):
    async def main():
        async with open_log(clock=loop_clock) as log, consume(log, "g", "messages") as consumer:
            await put(log, 3000)
            found = await drain(consumer, 3000)
            assert sorted(value for _, _, value in found) == list(range(3000))
            for partition in consumer.owned():
                offsets = [offset for at, offset, _ in found if at == partition]
                assert offsets == list(range(len(offsets)))

    jump(main())


@pytest.mark.parametrize("recent", [0, 1_000_000])
def test_fetch_is_bounded_and_waits_for_news(jump, loop_clock, open_log, consume, recent):
    async def main():
        async with (
            open_log(clock=loop_clock, recent_bytes=recent) as log,
            consume(log, "g", "messages") as consumer,
        ):
            waiting = asyncio.create_task(consumer.fetch())
            await asyncio.sleep(1)
            assert not waiting.done()
            await put(log, 10, topic="inbox")
            await asyncio.sleep(1)
            assert not waiting.done(), "another topic's records wake nobody"
            await put(log, 1)
            assert sum(len(batch.entries) for batch in await waiting) == 1
            await put(log, 5000, start=1)
            for batch in await consumer.fetch():
                assert len(batch.entries) <= 512

    jump(main())


def test_a_cancelled_fetch_loses_nothing(jump, loop_clock, open_log, consume):
    async def main():
        async with open_log(clock=loop_clock) as log, consume(log, "g", "messages") as consumer:
            for _ in range(3):
                waiting = asyncio.create_task(consumer.fetch())
                await asyncio.sleep(0.1)
                waiting.cancel()
            await put(log, 5)
            assert len(await drain(consumer, 5)) == 5

    jump(main())


def test_a_fetch_cancelled_between_two_partitions_loses_nothing(jump, loop_clock, open_sqlite_log):
    async def main():
        async with open_sqlite_log(clock=loop_clock) as log:
            consumer = log.consumer("g", "messages")
            await put(log, 20)
            read = log.read

            async def halfway(topic, partition, start, limit):
                if partition == max(consumer.owned()):
                    await asyncio.Event().wait()
                return await read(topic, partition, start, limit)

            log.read = halfway
            waiting = asyncio.create_task(consumer.fetch())
            await asyncio.sleep(0.1)
            waiting.cancel()
            log.read = read
            async with asyncio.timeout(30):
                assert len(await drain(consumer, 20)) == 20

    jump(main())


def test_the_next_of_the_group_starts_at_the_commit_and_groups_are_apart(jump, loop_clock, open_log, consume):
    async def main():
        async with open_log(clock=loop_clock) as log, consume(log, "g", "messages") as consumer:
            await put(log, 100)
            found = await drain(consumer, 100)
            assert all(generation >= 1 for generation in consumer.owned().values())
            done = {partition: 2 for partition, _, _ in found}
            await consumer.commit(done)
        async with open_log(clock=loop_clock) as log:
            async with consume(log, "g", "messages") as consumer:
                again = await drain(consumer, 100 - 2 * len(done))
            assert sorted(again) == sorted(entry for entry in found if entry[1] >= 2)
            async with consume(log, "other", "messages") as consumer:
                assert len(await drain(consumer, 100)) == 100

    jump(main())


def test_what_is_not_owned_is_not_committed(jump, loop_clock, open_log, consume):
    async def main():
        async with open_log(clock=loop_clock) as log, consume(log, "g", "messages") as consumer:
            await put(log, 10)
            await drain(consumer, 10)
            with pytest.raises(Fenced):
                await consumer.commit({99: 1})
            owned = min(consumer.owned())
            with pytest.raises(Fenced):
                await consumer.commit({owned: 1, 99: 1})
            await consumer.commit({})

    jump(main())


def test_who_lost_the_partitions_is_fenced(jump, loop_clock, open_sqlite_log):
    async def main():
        async with open_sqlite_log(clock=loop_clock) as log:
            zombie = log.consumer("g", "messages")
            assert set(zombie.owned().values()) == {1}
            await put(log, 10)
            await drain(zombie, 10)
            owner = log.consumer("g", "messages")
            assert set(owner.owned().values()) == {2}
            assert zombie.owned() == {}
            with pytest.raises(Fenced):
                await zombie.commit({0: 1})
            assert len(await drain(owner, 10)) == 10

    jump(main())


def test_every_other_write_ahead_log_of_the_folder_is_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.path.realpath(f"/proc/self/fd/{descriptor}")))
    for name in ("log", "store", "other"):
        (tmp_path / f"{name}.db-wal").write_bytes(b"")
    sync_wals(tmp_path, but=tmp_path / "log.db-wal")
    assert sorted(synced) == [os.path.realpath(tmp_path / f"{name}.db-wal") for name in ("other", "store")]


def test_positions_are_stored_soon_and_never_before_the_folder_was_synced(jump, loop_clock, tmp_path, monkeypatch):
    async def main():
        stored = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
        order = []
        real = sqlite_log.sync_wals

        def spy(folder, *, but):
            order.append(stored.execute("SELECT count(*) FROM positions").fetchone()[0])
            real(folder, but=but)

        async with SqliteLog.open(tmp_path, clock=loop_clock, metrics=Metrics()) as log:
            monkeypatch.setattr(
                sqlite_log,
                "sync_wals",
                spy,
            )
            consumer = log.consumer("g", "messages")
            await put(log, 10)
            await drain(consumer, 10)
            await consumer.commit({0: 1})
            await asyncio.sleep(1)
            assert order == [0], "synced once, while no position stood there"
            assert stored.execute("SELECT partition, offset FROM positions").fetchall() == [(0, 1)]

            def full(*_, **__):
                raise OSError("no space")

            monkeypatch.setattr(sqlite_log, "sync_wals", full)
            await consumer.commit({0: 2})
            await asyncio.sleep(2)
            assert stored.execute("SELECT offset FROM positions").fetchall() == [(1,)], "not synced, not stored"
            monkeypatch.setattr(sqlite_log, "sync_wals", real)
            await asyncio.sleep(1)
            assert stored.execute("SELECT offset FROM positions").fetchall() == [(2,)]
        stored.close()

    jump(main())
