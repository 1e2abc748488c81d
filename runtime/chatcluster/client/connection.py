"""One WebSocket connection: hello, requests by rid, heartbeats, how it ended. Knows nothing of reconnecting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count

import msgspec
from msgspec import UNSET
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from chatcluster.client.errors import ConnectionLost
from chatcluster.client.recorder import Observer
from chatcluster.core.frames import (
    CODECS,
    JSON,
    Ack,
    Answer,
    ErrorFrame,
    Hello,
    Ping,
    Pong,
    Reply,
    ServerFrame,
    Welcome,
)

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of the largest frame taken from a server: a page of the largest messages fits."""
CLOSE_TIMEOUT = 2.0
"""Seconds that a close handshake may take before the socket is cut."""


class Ending(msgspec.Struct, frozen=True):
    """Why there is no connection (any more). ``code``: of the close; ``status``: of a refused handshake."""

    reason: str
    code: int | None = None
    status: int | None = None
    retry_after: float | None = None


class NotConnected(Exception):
    """The connection could not be opened."""

    def __init__(self, ending: Ending, error: ErrorFrame | None = None) -> None:
        super().__init__(ending.reason)
        self.ending = ending
        self.error = error


class Connection:
    """Opened by ``connected``; ``run`` reads until the end. Requests may be made from any task."""

    def __init__(self, socket: ClientConnection) -> None:
        self.observer: Observer | None = None
        """Told of every frame, and of the connection's beginning and end."""
        self._socket = socket
        self._codec = CODECS.get(str(socket.subprotocol), JSON)
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._rids = count(1)
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._sent = self._received = loop.time()
        self._heartbeat = 30.0
        self._ending: Ending | None = None

    # -- opening ---------------------------------------------------------------------------------------

    async def hello(self, frame: Hello, timeout: float) -> Welcome:
        """Say hello and await the welcome. Raises ``NotConnected``."""
        try:
            async with asyncio.timeout(timeout):
                await self.send(frame)
                while True:
                    answer = self._decode(await self._socket.recv(decode=False))
                    if isinstance(answer, Welcome):
                        self._heartbeat = max(0.05, answer.heartbeat_ms / 1000)
                        self._received = self._time()
                        return answer
                    if isinstance(answer, ErrorFrame):
                        raise NotConnected(await self._refused(answer), answer)
        except TimeoutError:
            await self.close(1000, "no welcome")
            raise NotConnected(Ending("no answer to hello")) from None
        except (ConnectionClosed, ConnectionLost) as error:
            # A send that found the connection closed has kept how: the code may be one that ends the client.
            raise NotConnected(self._ending or _ending(error)) from None
        except msgspec.DecodeError:
            await self.close(1007, "not a frame")
            raise NotConnected(Ending("the server does not speak this protocol", code=1007)) from None

    async def _refused(self, answer: ErrorFrame) -> Ending:
        """The close that follows a refused hello; the refusal itself where none comes."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                while True:
                    await self._socket.recv(decode=False)
        except ConnectionClosed as error:
            closed = _ending(error)
            return Ending(answer.message, code=closed.code, retry_after=_seconds(answer))
        except TimeoutError:
            await self.close(1000, "hello was refused")
            code = 4401 if answer.code == "unauthorized" else None
            return Ending(answer.message, code=code, retry_after=_seconds(answer))

    @property
    def alive(self) -> bool:
        return self._ending is None

    # -- while it lives ----------------------------------------------------------------------------------

    async def send(self, frame: msgspec.Struct) -> None:
        """Write one frame; waits while the socket's buffer is full. Raises ``ConnectionLost``."""
        self._sent = self._time()
        if self.observer is not None:
            self.observer.out(frame)  # type: ignore[arg-type]
        try:
            await self._socket.send(self._codec.encode(frame), text=self._codec.text)
        except ConnectionClosed as error:
            raise ConnectionLost(self._end(_ending(error)).reason) from None

    async def request(self, make: Callable[[str], msgspec.Struct], timeout: float) -> Answer:
        """Send what ``make(rid)`` builds and await its answer.

        Raises ``ConnectionLost`` or ``TimeoutError``; an answer that comes after that is ignored.
        """
        if self._ending is not None:
            raise ConnectionLost(self._ending.reason)
        rid = f"{next(self._rids)}"
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[rid] = answer
        try:
            async with asyncio.timeout(timeout):
                await self.send(make(rid))
                return await answer
        finally:
            # The rid is given up or answered: later answers to it find nobody.
            del self._waiting[rid]

    async def run(self, on_frame: Callable[[ServerFrame], None]) -> Ending:
        """Read until the end; ``on_frame`` gets what is not an answer to a request, in order of arrival."""
        beat = asyncio.create_task(self._beat())
        try:
            while True:
                raw = await self._socket.recv(decode=False)
                self._received = self._time()
                try:
                    frame = self._decode(raw)
                except msgspec.DecodeError:
                    await self.close(1007, "not a frame")
                    return self._end(Ending("the server sent what is not a frame", code=1007))
                if frame is None or isinstance(frame, Pong):
                    continue
                if isinstance(frame, Ack | Reply | ErrorFrame):
                    self._answer(frame)
                else:
                    on_frame(frame)
        except ConnectionClosed as error:
            return self._end(_ending(error))
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            self._end(Ending("closed"))

    async def close(self, code: int, reason: str) -> None:
        """Close politely, at most CLOSE_TIMEOUT seconds."""
        await self._socket.close(code, reason)

    def _decode(self, raw: bytes) -> ServerFrame | None:
        """A frame; None for one of a newer protocol. Raises ``msgspec.DecodeError`` for what is no frame."""
        try:
            frame = self._codec.decode_server(raw)
        except msgspec.ValidationError:
            return None  # unknown types are ignored
        if self.observer is not None:
            if isinstance(frame, Welcome):
                self.observer.opened(resumed=frame.resumed)
            self.observer.got(frame)
        return frame

    def _answer(self, frame: Answer) -> None:
        if frame.rid is UNSET:
            return
        waiting = self._waiting.get(frame.rid)
        if waiting is not None and not waiting.done():
            waiting.set_result(frame)

    def _end(self, ending: Ending) -> Ending:
        if self._ending is None:
            self._ending = ending
            if self.observer is not None:
                self.observer.closed(ending.code or 0, ending.reason)
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionLost(ending.reason))
        return self._ending

    async def _beat(self) -> None:
        """Pings when quiet for about a heartbeat; cuts when nothing was heard for two."""
        quiet = 0.9 * self._heartbeat
        while True:
            await asyncio.sleep(self._heartbeat / 2)
            now = self._time()
            if now - self._received >= 2 * self._heartbeat:
                self._end(Ending("nothing heard for two heartbeats"))
                # No close handshake: the peer is gone, nobody would answer it.
                self._socket.transport.abort()
                return
            if now - self._sent >= quiet or now - self._received >= quiet:
                try:
                    async with asyncio.timeout(self._heartbeat / 2):
                        await self.send(Ping())
                except (ConnectionLost, TimeoutError):
                    pass  # the reader finds the end, or this loop the silence


async def connected(url: str, *, codecs: Sequence[str], timeout: float) -> Connection:
    """Open a socket. ``codecs``: the subprotocols to offer, best first. Raises ``NotConnected``."""
    try:
        socket = await connect(
            url,
            subprotocols=[Subprotocol(name) for name in codecs],
            compression=None,
            open_timeout=timeout,
            close_timeout=CLOSE_TIMEOUT,
            ping_interval=None,  # the protocol has its own heartbeat
            max_size=MAX_FRAME,
        )
    except InvalidStatus as error:
        after = error.response.headers.get("Retry-After")
        retry_after = float(after) if after is not None and after.isdecimal() else None
        status = error.response.status_code
        raise NotConnected(Ending(f"handshake refused: {status}", status=status, retry_after=retry_after)) from None
    except (OSError, InvalidHandshake, TimeoutError, EOFError) as error:
        raise NotConnected(Ending(f"no connection: {error or type(error).__name__}")) from None
    return Connection(socket)


def _ending(error: Exception) -> Ending:
    if isinstance(error, ConnectionClosed):
        if error.rcvd is not None:
            return Ending(error.rcvd.reason or f"closed with {error.rcvd.code}", code=int(error.rcvd.code))
        return Ending("the connection broke")
    return Ending(str(error))


def _seconds(answer: ErrorFrame) -> float | None:
    return None if answer.retry_after_ms is UNSET else answer.retry_after_ms / 1000
