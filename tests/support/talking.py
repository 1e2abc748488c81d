"""People who talk through a running platform and record what they see, and the audit of their recordings."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from chatcluster.app.commands.audit import records_of
from chatcluster.app.tokens import mint
from chatcluster.client.client import Client
from chatcluster.client.recorder import Recorder
from chatcluster.core.frames import History, WireMessage
from chatcluster.core.promises import Audit, check

USERS = ("ann", "bob", "cid", "dan")
RATE = 25.0
"""Sends per second of all users together."""
NEWEST = 2_000
"""Messages of a channel that a client surely remembers: the window of its state is 8,192 ids of all channels."""
SLOW = 20.0
"""Seconds after which whoever reads the output is told who still waits, and for what."""


class Talk:
    """Users who talk in one direct channel and one group, until told to end."""

    def __init__(self, clients: dict[str, Client], rng: random.Random, rate: float = RATE, after: str = "") -> None:
        self.clients = clients
        self.patience = 90.0
        """Seconds after which a send is given up, and the test with it."""
        self.after = after
        self.rng = rng
        self.rate = rate
        self.sends: list[asyncio.Task[object]] = []
        self.channels: dict[str, tuple[str, ...]] = {}
        self._ended = False

    async def open(self) -> None:
        ann = self.clients["ann"]
        self.channels[await ann.create_direct(f"bob{self.after}")] = ("ann", "bob")
        self.channels[await ann.create_group([user + self.after for user in USERS[1:]])] = USERS

    async def run(self) -> None:
        number = 0
        while not self._ended:
            number += 1
            channel, members = self.rng.choice(list(self.channels.items()))
            client = self.clients[self.rng.choice(members)]
            send = client.send(channel, f"message {number}", client_id=f"m{number}", timeout=self.patience)
            self.sends.append(asyncio.create_task(send))
            await asyncio.sleep(self.rng.expovariate(self.rate))

    def end(self) -> None:
        self._ended = True


@asynccontextmanager
async def talking(
    urls: Sequence[str], key: bytes, folder: Path, seed: int, *, rate: float = RATE, after: str = ""
) -> AsyncIterator[tuple[Talk, Callable[[], Awaitable[Audit]]]]:
    """People who talk through the gateways at ``urls``, one after another; the callable waits until all is answered

    and told, and judges. ``key``: what their tokens are signed with. ``rate``: sends per second of all together.
    ``after``: put behind their names, so that they are others than who talked on the platform before.
    """
    path = folder / "history.jsonl"
    recorder = Recorder(path)
    observers = {user: recorder.observer(user, user=user + after) for user in USERS}
    async with AsyncExitStack() as stack:
        clients = {
            user: await stack.enter_async_context(
                Client(
                    urls[number % len(urls)], token=mint(key, user=user + after), device=user, observer=observers[user]
                )
            )
            for number, user in enumerate(USERS)
        }
        listening = [asyncio.create_task(drink(client)) for client in clients.values()]
        talk = Talk(clients, random.Random(seed), rate, after)
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
            telling = asyncio.create_task(_told_late(talk, clients))
            try:
                # What died between bus and log is withdrawn after A and the clock's bound.
                async with asyncio.timeout(100):
                    for channel, members in talk.channels.items():
                        for user in members:
                            await quiet(clients[user], channel)
            except TimeoutError:
                raise AssertionError(await unquiet(talk, clients)) from None
            finally:
                telling.cancel()
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


async def stored(client: Client, channel: str, count: int) -> list[str]:
    """Bodies of the channel's history, oldest first, once there are ``count``: the store follows what is acked."""
    async with asyncio.timeout(30):
        while len(messages := await whole(client, channel)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return [message.body for message in messages]


async def quiet(client: Client, channel: str) -> None:
    """Until the client has the newest messages that history has, and nothing waits for its proof.

    A client remembers a window of ids; whether it had the older ones, the audit judges.
    """
    wanted = {message.id for message in (await whole(client, channel))[-NEWEST:]}
    state = client._engine.state
    while len(state.pending) or not all(message in state._told for message in wanted):  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def _told_late(talk: Talk, clients: dict[str, Client]) -> None:
    await asyncio.sleep(SLOW)
    print(f"\nafter {SLOW:g} s still not quiet, {await unquiet(talk, clients)}")


async def unquiet(talk: Talk, clients: dict[str, Client]) -> str:
    """Who still waits, and for what."""
    found = []
    for channel, members in talk.channels.items():
        history = {message.id: message for message in (await whole(clients[members[0]], channel))[-NEWEST:]}
        for user in members:
            state = clients[user]._engine.state
            missing = [message for message in history if message not in state._told]
            if missing:
                found.append(f"{user} was never told {missing} of {channel}")
    for user, client in clients.items():
        told = client._engine.state._told
        waiting = [f"{one} (told: {one in told})" for one in client._engine.state.pending.keys()]  # noqa: SIM118
        if waiting:
            found.append(f"{user} waits for the proof of {waiting}")
    return "after all was answered:\n" + "\n".join(found)


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
