"""Thousands of client connections in one process, as cheap as Python allows.

They speak the protocol's JSON form but look only at the bytes they must, so that the load generator stays
ahead of the server. Clients mask with a zero key: the bytes on the wire are valid RFC 6455, and unpredictable
masks guard proxies, of which there are none on loopback.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Sequence
from typing import cast
from urllib.parse import urlsplit

OnFrame = Callable[["Client", bytes], None]
_CLOSE, _PING, _PONG, _TEXT = 0x8, 0x9, 0xA, 0x1
_TEXT_FINAL = 0x81


def client_frame(payload: bytes, opcode: int = _TEXT) -> bytes:
    """A masked frame with a zero key."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


class Client(asyncio.Protocol):
    """One connection: says hello once upgraded, answers pings, hands each text payload to ``on_frame``."""

    __slots__ = (
        "_buffer",
        "_hello",
        "closed",
        "inbox",
        "index",
        "on_bytes",
        "on_frame",
        "ready",
        "transport",
        "welcome",
    )

    def __init__(self, index: int, hello: bytes, on_frame: OnFrame) -> None:
        self.index = index
        self._hello = hello
        self._buffer = b""
        self.on_frame = on_frame
        self.on_bytes: OnFrame | None = None
        """Instead of ``on_frame``: whole reads uncut, for those who only count. Other frames are cut as ever."""
        self.ready = False
        self.closed: int | None = None
        self.transport: asyncio.Transport | None = None
        self.inbox = b""  # the newest inbox cursor told
        self.welcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)  # uvloop's are not registered as such
        key = base64.b64encode(os.urandom(16))
        transport.write(
            b"GET /v1/connect HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chatcluster.v1.json\r\nSec-WebSocket-Key: "
            + key
            + b"\r\n\r\n"
            + client_frame(self._hello)  # sent on trust: saves a round trip, as the server reads in order
        )

    def send(self, payload: bytes) -> None:
        assert self.transport is not None
        self.transport.write(client_frame(payload))

    def data_received(self, data: bytes) -> None:
        if self.on_bytes is not None and not self._buffer and data[0] == _TEXT_FINAL:
            self.on_bytes(self, data)
            return
        if self._buffer:
            data = self._buffer + data
        position = 0
        if not self.ready:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self._fail(ConnectionError(data[:64].decode("latin-1")))
                return
            self.ready = True
            position = end + 4
        size = len(data)
        while size - position >= 2:
            length = data[position + 1]
            start = position + 2
            if length == 126:
                length = int.from_bytes(data[start : start + 2], "big")
                start += 2
            elif length == 127:
                length = int.from_bytes(data[start : start + 8], "big")
                start += 8
            if start + length > size:
                break
            opcode = data[position] & 15
            payload = data[start : start + length]
            position = start + length
            if opcode == _TEXT:
                if not self.welcome.done():
                    self._first(payload)
                else:
                    self.on_frame(self, payload)
            elif opcode == _PING and self.transport is not None:
                self.transport.write(client_frame(payload, _PONG))
            elif opcode == _CLOSE:
                self.closed = int.from_bytes(payload[:2], "big")
        self._buffer = data[position:]

    def _first(self, payload: bytes) -> None:
        if b'"type":"welcome"' in payload:
            self.inbox = between(payload, b'"inbox":"', b'"')
            self.welcome.set_result(payload)
        else:
            self._fail(ConnectionError(payload[:200].decode()))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._fail(exc or ConnectionError(f"closed with {self.closed}"))

    def _fail(self, error: Exception) -> None:
        if not self.welcome.done():
            self.welcome.set_exception(error)

    def drop(self) -> None:
        """Cut the connection without a word."""
        if self.transport is not None:
            self.transport.abort()


def between(payload: bytes, start: bytes, end: bytes) -> bytes:
    """What stands between two marks; empty when they are not there."""
    at = payload.find(start)
    if at < 0:
        return b""
    at += len(start)
    return payload[at : payload.find(end, at)]


async def connect_all(
    urls: Sequence[str], hellos: Sequence[bytes], on_frame: OnFrame, *, at_once: int = 200
) -> list[Client]:
    """One connection for each hello, in order, to the gateways in turn; at most ``at_once`` not yet welcomed.

    Raises what the first one met.
    """
    loop = asyncio.get_running_loop()
    parts = [urlsplit(url) for url in urls]
    gateways = [(part.hostname or "127.0.0.1", part.port or 80) for part in parts]
    slots = asyncio.Semaphore(at_once)

    async def one(index: int, hello: bytes) -> Client:
        async with slots:
            host, port = gateways[index % len(gateways)]
            _, client = await loop.create_connection(lambda: Client(index, hello, on_frame), host, port)
            await client.welcome
            return client

    return list(await asyncio.gather(*(one(index, hello) for index, hello in enumerate(hellos))))
