"""A small server that speaks the protocol from a script, one for each connection; for tests of the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from chatcluster.core.frames import (
    CODECS,
    JSON_PROTOCOL,
    MSGPACK_PROTOCOL,
    Ack,
    Event,
    Hello,
    Limits,
    Ping,
    Send,
    Welcome,
    WireMessage,
)

TIME = "2026-09-21T14:13:20.000Z"


class Peer:
    """The server's side of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.codec = CODECS[str(socket.subprotocol)]
        self.hello: Hello | None = None

    async def read(self, *, pings: bool = False) -> Any:
        while True:
            frame = self.codec.decode(await self.socket.recv(decode=False))
            if pings or not isinstance(frame, Ping):
                return frame

    async def say(self, *frames: Any) -> None:
        for frame in frames:
            await self.socket.send(self.codec.encode(frame), text=self.codec.text)

    async def welcome(self, *, heartbeat: int = 30_000, follow: dict[str, str] | None = None, page: int = 100) -> Hello:
        hello = await self.read()
        assert isinstance(hello, Hello)
        resume = hello.resume
        inbox = "i0" if resume is None or resume.inbox is None else resume.inbox
        if follow is None:
            follow = {} if resume is None else dict(resume.channels)
        await self.say(
            Welcome(
                "hello", "s1", "ann", "default", TIME, heartbeat, resume is not None, inbox, follow, Limits(page=page)
            )
        )
        return hello

    async def ack(self, send: Send, message_id: str, *, duplicate: bool = False) -> None:
        await self.say(Ack(send.rid, send.channel, message_id, TIME, duplicate))

    async def until_closed(self) -> None:
        try:
            while True:
                await self.socket.recv()
        except ConnectionClosed:
            pass


Script = Callable[[Peer], Awaitable[None]]
Jump = Callable[[Coroutine[Any, Any, None]], None]


class Refusal:
    """In place of a script: a handshake that is refused."""

    def __init__(self, status: int, retry_after: str | None = None) -> None:
        self.status = status
        self.retry_after = retry_after
        self.at = 0.0

    def answer(self, connection: ServerConnection) -> Response:
        self.at = now()
        response = connection.respond(self.status, "")
        if self.retry_after is not None:
            response.headers["Retry-After"] = self.retry_after
        return response


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def scripted(*scripts: Script | Refusal) -> AsyncIterator[str]:
    """A server whose n-th connection follows the n-th script; a script's error fails the test."""
    left = list(scripts)
    errors: list[BaseException] = []

    def open_(connection: ServerConnection, _: Request) -> Response | None:
        first = left[0] if left else None
        if not isinstance(first, Refusal):
            return None
        del left[0]
        return first.answer(connection)

    async def handle(socket: ServerConnection) -> None:
        if not left:
            await socket.close(4403, "more connections than scripts")
            return
        script = left.pop(0)
        assert not isinstance(script, Refusal)
        try:
            await script(Peer(socket))
        except ConnectionClosed:
            pass
        except BaseException as error:
            errors.append(error)
            raise

    async with serve(
        handle,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol(MSGPACK_PROTOCOL), Subprotocol(JSON_PROTOCOL)],
        close_timeout=1,
        process_request=open_,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}"
    if errors:
        raise errors[0]
    assert not left, "the client did not come as often as the scripts say"


def message(message_id: str, body: str, *, live: bool = True, sender: str = "bob", channel: str = "c") -> Event:
    wire = WireMessage(message_id, channel, sender, f"k{message_id}", TIME, body)
    return Event("inbox", message_id, channel, "message", live, message=wire)


async def stays(peer: Peer) -> None:
    await peer.welcome()
    await peer.until_closed()
