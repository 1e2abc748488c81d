"""Ports Log and LogReader: order, durability at the report, bounds, epochs, times."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatcluster.backends.sqlite import DataFolderBusy, PartitionsChanged, SqliteLog, WrongSchema
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Failure, Full, Receipt, Unavailable


async def until(condition, seconds=30.0):
    while not condition():
        await asyncio.sleep(0.001)
        seconds -= 0.001
        assert seconds > 0, "never came"


async def put(log, *records, topic="messages"):
    """Append and wait; the receipts in order of the calls."""
    reports = {}
    for number, (key, value) in enumerate(records):
        log.append(topic, key, value, lambda report, number=number: reports.setdefault(number, report))
    await until(lambda: len(reports) == len(records))
    return [reports[number] for number in range(len(records))]


def test_records_of_a_key_keep_the_order_of_the_calls(jump, loop_clock, open_log):
    async def main():
        async with open_log(clock=loop_clock) as log:
            records = [(f"t/c{i % 7}", b"%d" % i) for i in range(300)]
            receipts = await put(log, *records)
            for (key, value), receipt in zip(records, receipts, strict=True):
                assert receipt.partition == log.partition_of("messages", key)
                [entry] = await log.read("messages", receipt.partition, receipt.offset, 1)
                assert (entry.offset, entry.key, entry.value) == (receipt.offset, key, value)
                assert entry.time == receipt.time
            for partition in range(log.partitions("messages")):
                found = await log.read("messages", partition, 0, 1000)
                assert [entry.offset for entry in found] == list(range(len(found)))
                numbers = [int(entry.value) for entry in found]
                assert numbers == sorted(numbers)
                assert await log.end("messages", partition) == len(found)

    jump(main())


def test_a_report_never_comes_inside_the_call_and_comes_once(jump, loop_clock, open_log):
    async def main():
        async with open_log(clock=loop_clock) as log:
            reports = []
            log.append("messages", "t/c", b"x", reports.append)
            assert reports == []
            assert log.stalled() < 0.5
            await until(lambda: reports)
            await asyncio.sleep(1)
            assert len(reports) == 1
            assert log.stalled() == 0.0

    jump(main())


def test_stalled_counts_from_the_oldest_append_not_reported(jump, loop_clock, open_sqlite_log):
    async def main():
        async with open_sqlite_log(clock=loop_clock) as log:
            loop = asyncio.get_running_loop()
            gate = loop.create_future()
            run = loop.run_in_executor

            def gated(executor, function, *arguments):
                if "_insert" in getattr(function, "__name__", ""):
                    return asyncio.ensure_future(after_gate(run, executor, function, *arguments))
                return run(executor, function, *arguments)

            async def after_gate(run, *arguments):
                await gate
                return await run(*arguments)

            loop.run_in_executor = gated
            reports = []
            log.append("messages", "t/c", b"x", reports.append)
            await asyncio.sleep(2)
            log.append("messages", "t/c", b"y", reports.append)
            await asyncio.sleep(1)
            assert log.stalled() == pytest.approx(3.0)
            assert reports == []
            gate.set_result(None)
            await until(lambda: len(reports) == 2)
            assert log.stalled() == 0.0
            assert reports[0].offset + 1 == reports[1].offset
            loop.run_in_executor = run

    jump(main())


def test_over_the_bound_the_newcomer_is_refused_without_effect(jump, loop_clock, open_log):
    async def main():
        async with open_log(clock=loop_clock, max_records=3, max_bytes=100) as log:
            reports = []
            for _ in range(3):
                log.append("messages", "t/c", b"x", reports.append)
            with pytest.raises(Full):
                log.append("messages", "t/c", b"refused", reports.append)
            await until(lambda: len(reports) == 3)
            log.append("messages", "t/c", b"x" * 60, reports.append)
            with pytest.raises(Full):
                log.append("messages", "t/c", b"x" * 60, reports.append)
            await until(lambda: len(reports) == 4)
            log.append_to("messages", 1, b"tick", reports.append)
            await until(lambda: len(reports) == 5)
            assert [r.offset for r in reports[:4]] == [0, 1, 2, 3]
            assert reports[4].partition == 1

    jump(main())


def test_append_times_never_decrease_when_the_clock_steps_back(jump, loop_clock, open_log):
    async def main():
        async with open_log(clock=loop_clock) as log:
            [first] = await put(log, ("t/c", b"a"))
            loop_clock.skew = -3_600_000
            [second] = await put(log, ("t/c", b"b"))
            assert second.time >= first.time
        async with open_log(clock=loop_clock) as log:
            [third] = await put(log, ("t/c", b"c"))
            assert third.time >= first.time

    jump(main())


@pytest.mark.parametrize("recent", [0, 100, 1_000_000])
def test_reading_and_searching_by_time(jump, loop_clock, open_log, recent):
    async def main():
        async with open_log(clock=loop_clock, recent_bytes=recent, partitions={"messages": 1}) as log:
            times = []
            for number in range(40):
                receipts = await put(log, *[("t/c", b"%04d" % number)] * (1 + number % 3))
                times += [receipt.time for receipt in receipts]
                await asyncio.sleep(0.01)  # another ms
            end = len(times)
            assert await log.end("messages", 0) == end
            for start in range(end + 2):
                found = await log.read("messages", 0, start, 7)
                assert [entry.offset for entry in found] == list(range(start, end))[: len(found)]
                assert len(found) <= 7
                assert bool(found) == (start < end)
                assert [entry.time for entry in found] == times[start : start + len(found)]
            for moment in {*times, times[0] - 1, times[5] + 1, times[-1] + 1}:
                expected = next((at for at, given in enumerate(times) if given >= moment), end)
                assert await log.offset_at("messages", 0, moment) == expected

    jump(main())


@pytest.mark.parametrize("limit", [1, 7])
def test_pages_read_one_after_the_other_have_no_holes(jump, loop_clock, open_log, limit):
    async def main():
        async with open_log(clock=loop_clock, partitions={"messages": 1}) as log:
            await put(log, *[("k", b"%d" % number) for number in range(50)])
            at, pages = 0, []
            while page := await log.read("messages", 0, at, limit):
                assert [entry.offset for entry in page] == list(range(at, min(at + limit, 50)))
                pages += [int(entry.value) for entry in page]
                at = page[-1].offset + 1
            assert pages == list(range(50))

    jump(main())


def test_ends_grow_with_what_is_appended(jump, loop_clock, open_log):
    async def main():
        async with open_log(clock=loop_clock) as log:
            for _ in range(3):
                [receipt] = await put(log, ("k", b"x"))
                assert await log.end("messages", receipt.partition) == receipt.offset + 1
            reports = []
            for length in (1, 2, 3):
                for partition in (0, 1):
                    log.append_to("inbox", partition, b"x", reports.append)
                await until(lambda: len(reports) == 2 * length)  # noqa: B023
                await asyncio.sleep(0.6)  # ends that were asked for together are of one moment, at most so old
                assert [await log.end("inbox", partition) for partition in (0, 1)] == [length] * 2

    jump(main())


def test_what_was_reported_is_there_after_reopening_in_the_same_epoch(jump, loop_clock, open_log):
    async def main():
        async with open_log(clock=loop_clock) as log:
            epoch = log.epoch
            receipts = await put(log, *[(f"k{i}", b"%d" % i) for i in range(50)])
            unreported = []
            log.append("messages", "k1", b"last", unreported.append)
        assert isinstance(unreported[0], Receipt), "closing writes and reports what is queued"
        async with open_log(clock=loop_clock) as log:
            assert log.epoch == epoch
            for number, receipt in enumerate(receipts):
                [entry] = await log.read("messages", receipt.partition, receipt.offset, 1)
                assert entry.value == b"%d" % number
            [again] = await put(log, ("k1", b"next"))
            assert again.offset == unreported[0].offset + 1

    jump(main())


def test_an_append_is_reported_when_the_disk_has_it(jump, loop_clock, open_sqlite_log):
    async def main():
        async with open_sqlite_log(clock=loop_clock) as log:
            # A loss of power cannot be played here: 2 (FULL) is what SQLite calls durable at the commit.
            assert log._writer.execute("PRAGMA synchronous").fetchone() == (2,)
            assert log._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    jump(main())


def test_a_read_that_fails_is_unavailable(jump, loop_clock, open_sqlite_log):
    async def main():
        async with open_sqlite_log(clock=loop_clock, recent_bytes=0) as log:
            [receipt] = await put(log, ("k", b"value"))
            log._reader.execute("PRAGMA query_only=0")
            log._reader.execute("ALTER TABLE batches RENAME TO gone")
            for read in (
                log.read("messages", receipt.partition, 0, 1),
                log.offset_at("messages", receipt.partition, 1),
            ):
                with pytest.raises(Unavailable):
                    await read
            log._reader.execute("ALTER TABLE gone RENAME TO batches")
            assert len(await log.read("messages", receipt.partition, 0, 1)) == 1

    jump(main())


def test_what_is_kept_in_memory_is_bounded_and_the_rest_is_read_from_the_file(jump, loop_clock, open_sqlite_log):
    async def main():
        async with open_sqlite_log(clock=loop_clock, recent_bytes=2_500) as log:
            for number in range(6):
                [receipt] = await put(log, ("k", b"%d" % number * 1_000))
            recent = log._topics["messages"][receipt.partition].recent
            assert (recent.first, recent.end) == (4, 6)
            found = await log.read("messages", receipt.partition, 0, 10)
            assert [entry.value[:1] for entry in found] == [b"0", b"1", b"2", b"3", b"4", b"5"]

    jump(main())


def test_a_write_error_fails_the_batch_and_later_appends_go_on(jump, loop_clock, tmp_path):
    async def main():
        async with SqliteLog.open(tmp_path, clock=loop_clock, metrics=Metrics()) as log:
            await put(log, ("k", b"before"))
            pages = log._writer.execute("PRAGMA page_count").fetchone()[0]
            log._writer.execute(f"PRAGMA max_page_count={pages}")  # the disk is full
            [failed] = await put(log, ("k", b"x" * 100_000))
            assert isinstance(failed, Failure)
            log._writer.execute("PRAGMA max_page_count=1000000")
            [fine] = await put(log, ("k", b"after"))
            assert isinstance(fine, Receipt)
            found = await log.read("messages", fine.partition, 0, 10)
            assert [entry.value for entry in found] == [b"before", b"after"]
            assert log._count == log._bytes == 0

    jump(main())


def test_a_changed_partition_count_refuses_to_start_and_says_the_fix(jump, loop_clock, open_sqlite_log):
    async def main():
        async with open_sqlite_log(clock=loop_clock, partitions={"messages": 3}) as log:
            assert log.partitions("messages") == 3
        async with open_sqlite_log(clock=loop_clock) as log:
            assert log.partitions("messages") == 3, "the folder knows its own number"
        with pytest.raises(PartitionsChanged, match="set it back to 3"):
            async with open_sqlite_log(clock=loop_clock, partitions={"messages": 4}):
                pass

    jump(main())


def test_a_folder_in_use_and_one_of_another_version_are_refused_by_name(jump, loop_clock, open_sqlite_log, tmp_path):
    async def main():
        async with open_sqlite_log(clock=loop_clock):
            with pytest.raises(DataFolderBusy):
                async with open_sqlite_log(clock=loop_clock):
                    pass
        connection = sqlite3.connect(tmp_path / "log.db")
        connection.execute("PRAGMA user_version=99")
        connection.close()
        with pytest.raises(WrongSchema, match="99"):
            async with open_sqlite_log(clock=loop_clock):
                pass

    jump(main())


CHILD = """
import asyncio, sys, time
from chatcluster.backends.sqlite import SqliteLog
from chatcluster.core.metrics import Metrics

class Now:
    now = staticmethod(lambda: int(time.time() * 1000))
    monotonic = staticmethod(time.monotonic)

async def main():
    async with SqliteLog.open(sys.argv[1], clock=Now(), metrics=Metrics()) as log:
        number = 0
        while True:
            for _ in range(20):
                value = b"%d" % number
                log.append("messages", f"k{number % 11}", value,
                    lambda r, v=value: print(r.partition, r.offset, v.decode(), flush=True))
                number += 1
            while log._count > 200:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)

asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_reported(jump, loop_clock, tmp_path):
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE)
        lines = b""
        deadline = time.monotonic() + 30
        while lines.count(b"\n") < 400 and time.monotonic() < deadline:
            if select.select([child.stdout], [], [], 1)[0]:
                lines += os.read(child.stdout.fileno(), 65536)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read()
        child.wait()
        child.stdout.close()
        reported = [line.split() for line in lines.decode().split("\n")[:-1]]
        assert len(reported) >= 400

        async def main(reported=reported):
            async with SqliteLog.open(tmp_path, clock=loop_clock, metrics=Metrics()) as log:
                kept = {}
                for partition in range(log.partitions("messages")):
                    start = 0
                    while found := await log.read("messages", partition, start, 1000):
                        kept.update({(partition, entry.offset): entry.value.decode() for entry in found})
                        start = found[-1].offset + 1
                for partition, offset, value in reported:
                    assert kept[int(partition), int(offset)] == value

        jump(main())


def test_the_write_ahead_log_stays_bounded(jump, loop_clock, tmp_path):
    async def main():
        async with SqliteLog.open(tmp_path, clock=loop_clock, metrics=Metrics()) as log:
            for _ in range(60):
                await put(log, ("k", b"x" * 500_000))
                await asyncio.sleep(0.6)
            assert (Path(tmp_path) / "log.db-wal").stat().st_size < 16 * 1024 * 1024

    jump(main())
