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
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from chatcluster.app.commands.audit import records_of
from chatcluster.app.tokens import SIGNING_KEY, mint, read_key
from chatcluster.client.client import Client
from chatcluster.client.recorder import Recorder
from chatcluster.core.frames import History, WireMessage
from chatcluster.core.history import Acked, Closed, Opened
from chatcluster.core.promises import Audit, check

pytestmark = pytest.mark.slow

USERS = ("ann", "bob", "cid", "dan")
RATE = 25.0
"""Sends per second of all users together."""


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


class Talk:
    """Users who talk in one direct channel and one group, until told to end."""

    def __init__(self, clients: dict[str, Client], rng: random.Random) -> None:
        self.clients = clients
        self.rng = rng
        self.sends: list[asyncio.Task[object]] = []
        self.channels: dict[str, tuple[str, ...]] = {}
        self._ended = False

    async def open(self) -> None:
        ann = self.clients["ann"]
        self.channels[await ann.create_direct("bob")] = ("ann", "bob")
        self.channels[await ann.create_group(list(USERS[1:]))] = USERS

    async def run(self) -> None:
        number = 0
        while not self._ended:
            number += 1
            channel, members = self.rng.choice(list(self.channels.items()))
            client = self.clients[self.rng.choice(members)]
            send = client.send(channel, f"message {number}", client_id=f"m{number}", timeout=90)
            self.sends.append(asyncio.create_task(send))
            await asyncio.sleep(self.rng.expovariate(RATE))

    def end(self) -> None:
        self._ended = True


@asynccontextmanager
async def talking(
    server: Server, folder: Path, seed: int
) -> AsyncIterator[tuple[Talk, Callable[[], Awaitable[Audit]]]]:
    """People who talk through ``server``; the callable waits until all is answered and told, and judges."""
    key = read_key(server.data / SIGNING_KEY)
    path = folder / "history.jsonl"
    recorder = Recorder(path)
    observers = {user: recorder.observer(user, user=user) for user in USERS}
    async with AsyncExitStack() as stack:
        clients = {
            user: await stack.enter_async_context(
                Client(server.url, token=mint(key, user=user), device=user, observer=observers[user])
            )
            for user in USERS
        }
        listening = [asyncio.create_task(drink(client)) for client in clients.values()]
        talk = Talk(clients, random.Random(seed))
        await talk.open()
        for channel, members in talk.channels.items():
            for user in members:
                observers[user].joined(channel)
        running = asyncio.create_task(talk.run())

        async def judged() -> Audit:
            talk.end()
            await running
            acked = [await send for send in talk.sends]
            assert len(acked) == len(talk.sends)
            async with asyncio.timeout(100):  # what died between bus and log is withdrawn after A and the clock's bound
                for channel, members in talk.channels.items():
                    for user in members:
                        await quiet(clients[user], channel)
            for channel, members in talk.channels.items():
                for user in members:
                    observers[user].final(channel, await whole(clients[user], channel))
            recorder.close()
            return check(records_of([path]))

        try:
            yield talk, judged
        finally:
            for task in (running, *listening, *talk.sends):
                task.cancel()
            await asyncio.gather(running, *listening, *talk.sends, return_exceptions=True)
            recorder.close()


async def drink(client: Client) -> None:
    async for _ in client.events():
        pass


async def whole(client: Client, channel: str) -> list[WireMessage]:
    messages: list[WireMessage] = []
    before: str | None = None
    while True:
        at = before
        reply = await client._engine.ask(lambda rid, _: History(rid, channel, before=at, limit=100), timeout=30)  # noqa: B023
        page = list(reply.messages)  # type: ignore[union-attr, arg-type]
        messages = page + messages
        if reply.more is not True:  # type: ignore[union-attr]
            return messages
        before = page[0].id


async def quiet(client: Client, channel: str) -> None:
    """Until the client has every message that history has, and nothing waits for its proof."""
    wanted = {message.id for message in await whole(client, channel)}
    state = client._engine.state
    while len(state.pending) or not all(message in state._told for message in wanted):  # noqa: ASYNC110
        await asyncio.sleep(0.1)


def faultless(audit: Audit) -> None:
    assert [violation.text for violation in audit.violations] == []
    assert audit.unchecked == []
    names = (
        "missing",
        "phantoms",
        "double_messages",
        "order_violations",
        "sender_fifo",
        "cursor_gaps",
        "ids_not_unique",
    )
    assert {name: audit.counts[name] for name in names} == dict.fromkeys(names, 0)
    assert audit.counts["excused"] == 0
    assert audit.counts["acked"] == audit.counts["messages"] > 20


@asynccontextmanager
async def serving(folder: Path, *more: str) -> AsyncIterator[Server]:
    server = Server(folder / "data", *more)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.mark.parametrize("loss", [0.0, 0.5, 1.0])
async def test_killed_at_random_moments_nothing_acknowledged_is_lost(tmp_path: Path, loss: float) -> None:
    rng = random.Random(int(os.environ.get("KILL_SEED", "7")) + int(loss * 10))
    more = ("--bus-loss", str(loss)) if loss else ()
    async with serving(tmp_path, *more) as server, talking(server, tmp_path, rng.randrange(1 << 30)) as (_, judged):
        for _ in range(3 if not loss else 1):
            await asyncio.sleep(rng.uniform(0.5, 2.0))
            assert await server.signal(signal.SIGKILL) == -signal.SIGKILL
            await server.start()
        await asyncio.sleep(2.0)
        faultless(await judged())


async def test_leaving_under_load_closes_every_connection_resumably(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, talking(server, tmp_path, 3) as (_, judged):
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
    async with serving(tmp_path) as server, talking(server, tmp_path, 5) as (_, judged):
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
