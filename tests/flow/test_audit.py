"""A run of the whole platform on a bus that loses a third of everything, recorded and audited."""

from __future__ import annotations

import asyncio
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from chatcluster.app.clock import SystemClock
from chatcluster.app.commands.audit import records_of
from chatcluster.app.embedded import Settings, embedded
from chatcluster.app.tokens import mint
from chatcluster.client.recorder import Observer, Recorder
from chatcluster.core.frames import (
    JSON,
    JSON_PROTOCOL,
    Ack,
    ChannelCreate,
    ClientFrame,
    Event,
    Hello,
    History,
    Reply,
    Send,
    ServerFrame,
    Welcome,
)
from chatcluster.core.history import Acked, Final, Got, Record
from chatcluster.core.metrics import Metrics
from chatcluster.core.promises import check
from chatcluster.services.gateway.auth import TokenAuthenticator
from chatcluster.services.gateway.keys import SecretKeys

SECRET = b"s" * 32
MESSAGES = 60


class Chatter:
    """The smallest client that can be recorded: answers by rid, messages by id."""

    def __init__(self, socket: ClientConnection, observer: Observer) -> None:
        self.socket, self.observer = socket, observer
        self.answers: dict[str, asyncio.Future[ServerFrame]] = {}
        self.messages: set[str] = set()
        self.came = asyncio.Event()

    async def listen(self) -> None:
        async for raw in self.socket:
            frame = JSON.decode_server(raw.encode() if isinstance(raw, str) else raw)
            self.observer.got(frame)
            if isinstance(frame, Event) and frame.kind == "message":
                self.messages.add(frame.id)
                self.came.set()
            waiter = self.answers.pop(str(getattr(frame, "rid", "")), None)
            if waiter is not None:
                waiter.set_result(frame)

    async def ask(self, frame: ClientFrame) -> ServerFrame:
        waiter: asyncio.Future[ServerFrame] = asyncio.get_running_loop().create_future()
        self.answers[str(getattr(frame, "rid", ""))] = waiter
        self.observer.out(frame)
        await self.socket.send(JSON.encode(frame).decode())
        return await asyncio.wait_for(waiter, 10)

    async def has(self, ids: set[str]) -> None:
        async with asyncio.timeout(15):
            while not ids <= self.messages:
                self.came.clear()
                await self.came.wait()


async def record(folder: Path) -> Path:
    """Two users talk at once; everything heals; history is read."""
    path, clock = folder / "history.jsonl", SystemClock()
    authenticator = TokenAuthenticator(keys=SecretKeys(SECRET), clock=clock)
    starting = embedded(
        folder / "data", settings=Settings(), authenticator=authenticator, metrics=Metrics(), bus_loss=0.3
    )
    async with starting as platform:
        await platform.server.listen(host="127.0.0.1", port=0)
        url = f"ws://127.0.0.1:{platform.server.port}/v1/connect"
        with Recorder(path) as recorder:
            async with (
                connect(url, subprotocols=[JSON_PROTOCOL]) as one,  # type: ignore[list-item]
                connect(url, subprotocols=[JSON_PROTOCOL]) as two,  # type: ignore[list-item]
            ):
                ada = Chatter(one, recorder.observer("ada-1", user="ada"))
                bob = Chatter(two, recorder.observer("bob-1", user="bob"))
                listening = [asyncio.create_task(chatter.listen()) for chatter in (ada, bob)]
                await talk(ada, bob)
                for task in listening:
                    task.cancel()
                await asyncio.gather(*listening, return_exceptions=True)
                recorder.close()  # while both are connected: to the end
    return path


async def talk(ada: Chatter, bob: Chatter) -> None:
    for name, chatter in (("ada", ada), ("bob", bob)):
        welcome = await chatter.ask(Hello("hello", mint(SECRET, user=name), device="d"))
        assert isinstance(welcome, Welcome)
        chatter.observer.opened()
    made = await ada.ask(ChannelCreate("create", "c1", "direct", ["bob"]))
    assert isinstance(made, Reply)
    channel = str(made.channel)
    for chatter in (ada, bob):
        chatter.observer.joined(channel)

    async def send(chatter: Chatter, number: int) -> str:
        ack = await chatter.ask(Send(f"s{number}", channel, f"m{number}", f"message {number}"))
        assert isinstance(ack, Ack), ack
        return ack.id

    sends = [send(chatter, number) for number in range(MESSAGES // 2) for chatter in (ada, bob)]
    ids = set(await asyncio.gather(*sends))
    assert len(ids) == MESSAGES
    await ada.has(ids)
    await bob.has(ids)
    for chatter in (ada, bob):
        reply = await chatter.ask(History("history", channel, limit=100))
        assert isinstance(reply, Reply)
        assert isinstance(reply.messages, list)
        chatter.observer.final(channel, reply.messages, complete=reply.more is False)


async def test_a_lossy_run_keeps_every_promise_and_a_doctored_history_does_not(tmp_path: Path) -> None:
    history = list(records_of([await record(tmp_path)]))
    audit = check(history)
    assert audit.violations == []
    assert audit.unchecked == []
    counts = audit.counts
    assert (counts["acked"], counts["messages"], counts["delivered"]) == (MESSAGES, MESSAGES, 2 * MESSAGES)
    assert counts["excused"] == counts["late"] == 0
    # The same history without one thing each: the audit sees what is missing.
    some = next(record.id for record in history if isinstance(record, Acked))

    def broken(keep: list[Record]) -> set[int]:
        return set(check(keep).broken)

    got = [r for r in history if not (isinstance(r, Got) and r.client == "bob-1" and r.id == some)]
    assert broken(got) == {9}
    unread = [r for r in history if not (isinstance(r, Final) and r.client == "ada-1")]
    assert broken(unread) == set()
    emptied = [type(r)(r.client, r.at, r.channel, []) if isinstance(r, Final) else r for r in history]
    assert broken(emptied) == {1, 2}
