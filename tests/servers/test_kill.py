"""``chatcluster dev`` killed, stopped and frozen under load: nothing acknowledged is lost, nothing doubled.

A real process on real sockets and files, SDK clients that record what they see, and the audit of their recordings.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from chatcluster.app.commands.audit import records_of
from chatcluster.app.tokens import SIGNING_KEY, read_key
from chatcluster.core.history import Acked, Closed, Opened
from chatcluster.core.promises import Audit
from talking import USERS, Talk, faultless, talking

pytestmark = pytest.mark.slow


class Server:
    """The process, on one data folder and one port for all its lives."""

    def __init__(self, data: Path, *more: str) -> None:
        self.data = data
        self.more = more
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.said: list[str] = []

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chatcluster", "dev", "--no-demo", "--listen", f"127.0.0.1:{self.port}",
            "--management", "127.0.0.1:0", "--data", str(self.data), *self.more,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while True:
                line = (await self.process.stdout.readline()).decode()
                assert line, f"it ended before it listened: {''.join(self.said)}"
                self.said.append(line)
                if found := re.search(r"ws://127\.0\.0\.1:(\d+)", line):
                    self.port = int(found[1])
                if "Ctrl-C" in line:
                    break
        self._reading = asyncio.create_task(self._read(self.process.stdout))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self.said.append(line.decode())

    async def signal(self, number: int, *, within: float = 10.0) -> int:
        """Send a signal that ends it; its exit code."""
        assert self.process is not None
        assert self._reading is not None
        self.process.send_signal(number)
        code = await asyncio.wait_for(self.process.wait(), within)
        await self._reading
        return code

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            await self.signal(signal.SIGKILL)


@asynccontextmanager
async def serving(folder: Path, *more: str) -> AsyncIterator[Server]:
    server = Server(folder / "data", *more)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def through(
    server: Server, folder: Path, seed: int
) -> AbstractAsyncContextManager[tuple[Talk, Callable[[], Awaitable[Audit]]]]:
    """People who talk through ``server``."""
    return talking([server.url], read_key(server.data / SIGNING_KEY), folder, seed)


@pytest.mark.parametrize("loss", [0.0, 0.5, 1.0])
async def test_killed_at_random_moments_nothing_acknowledged_is_lost(tmp_path: Path, loss: float) -> None:
    rng = random.Random(int(os.environ.get("KILL_SEED", "7")) + int(loss * 10))
    more = ("--bus-loss", str(loss)) if loss else ()
    async with serving(tmp_path, *more) as server, through(server, tmp_path, rng.randrange(1 << 30)) as (_, judged):
        for _ in range(3 if not loss else 1):
            await asyncio.sleep(rng.uniform(0.5, 2.0))
            assert await server.signal(signal.SIGKILL) == -signal.SIGKILL
            await server.start()
        await asyncio.sleep(2.0)
        faultless(await judged())


async def test_leaving_under_load_closes_every_connection_resumably(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, through(server, tmp_path, 3) as (_, judged):
        await asyncio.sleep(1.5)
        assert await server.signal(signal.SIGTERM, within=25.0) == 0
        await server.start()
        await asyncio.sleep(1.5)
        faultless(await judged())
    records = list(records_of([tmp_path / "history.jsonl"]))
    first = {record.client: record for record in reversed(records) if isinstance(record, Closed)}
    # Told `reconnect` a client leaves by itself (1001); who has not left in time is closed with 1012.
    assert {first[user].code for user in USERS} <= {1001, 1012}
    opened = [record for record in records if isinstance(record, Opened)]
    assert all(record.resumed for record in opened if record.conn > 1)
    assert sum(record.conn > 1 for record in opened) >= len(USERS)


async def test_a_frozen_process_cuts_its_connections_when_it_wakes(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, through(server, tmp_path, 5) as (_, judged):
        await asyncio.sleep(1.0)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(12.0)
        server.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(3.0)
        faultless(await judged())
        assert server.process.returncode is None
    records = list(records_of([tmp_path / "history.jsonl"]))
    assert {record.client for record in records if isinstance(record, Closed)} == set(USERS)
    assert any(isinstance(record, Acked) for record in records)
