"""The bus's own connection: commands out, replies in by the batch, and a loop that keeps it up.

Thinner than redis-py's pub/sub because every rumour passes here. Knows no topic.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from typing import Any, cast

import hiredis

from chatcluster.backends.redis.access import read_password
from chatcluster.backends.redis.lanes import said
from chatcluster.backends.redis.settings import RedisSettings
from chatcluster.backends.redis.shards import Node
from chatcluster.core.backoff import delay

log = logging.getLogger(__name__)
RECONNECT_BASE = 0.1
PING = b"*1\r\n$4\r\nPING\r\n"


def command(*words: bytes) -> bytes:
    """A command as bytes of the protocol (RESP2)."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


class Wire(asyncio.Protocol):
    """One connection. ``heard``: loop time of its last byte; ``closed``: done when it is gone."""

    def __init__(self, line: Line) -> None:
        self._loop = asyncio.get_running_loop()
        self._line = line
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._greeting: asyncio.Future[Any] | None = None
        self.heard = self._loop.time()
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's are not registered as such
        # We look at the size ourselves and refuse the newcomer; nothing here can be paused. uvloop keeps it as an int.
        transport.set_write_buffer_limits(high=(1 << 31) - 1)

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        reader = self._reader
        replies: list[Any] = []
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                replies.append(reply)
        except hiredis.ProtocolError:
            self.abort()
            return
        if self._greeting is not None and replies:
            if not self._greeting.done():
                self._greeting.set_result(replies.pop(0))
            self._greeting = None
        if replies:
            self._line.take(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(ConnectionResetError())
        if not self.closed.done():
            self.closed.set_result(None)

    async def greet(self, settings: RedisSettings) -> None:
        """Say who we are. Raises ``OSError`` where the server does not let us in."""
        if not settings.password_file:
            words = [b"PING"]
        else:
            secret = read_password(settings.password_file).encode()
            words = [b"AUTH", settings.username.encode(), secret] if settings.username else [b"AUTH", secret]
        self._greeting = self._loop.create_future()
        greeting = self._greeting
        self.write(command(*words))
        reply = await greeting
        if isinstance(reply, Exception):
            # Its first word only: a server's text is not ours to repeat.
            raise ConnectionRefusedError(str(reply).partition(" ")[0])

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def waiting(self) -> int:
        """Bytes that the network has not taken."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Line:
    """Keeps a connection to one node up: heartbeat with a deadline, jitter between tries."""

    def __init__(self, node: Node, settings: RedisSettings, tls: ssl.SSLContext | None, what: str) -> None:
        self.node = node
        self._settings = settings
        self._tls = tls
        self._what = what
        self.wire: Wire | None = None
        self.stands = asyncio.Event()

    def take(self, replies: list[Any]) -> None:
        """Replies as they came."""
        raise NotImplementedError

    def up(self) -> None:
        """The connection stands."""

    def down(self) -> None:
        """The connection is gone."""

    async def run(self) -> None:
        """Until cancelled."""
        attempt = 0
        while True:
            generation = self.node.generation
            try:
                wire = await self._dial()
            except (OSError, TimeoutError) as error:
                log.debug("redis: no %s connection to %s: %s", self._what, self.node.name, said(error))
                pause = delay(attempt, random.random, base=RECONNECT_BASE, cap=self._settings.reconnect_cap)
                attempt += 1
                await asyncio.sleep(pause)
                continue
            attempt = 0
            self.wire = wire
            self.stands.set()
            try:
                self.up()
                await self._watch(wire, generation)
            finally:
                self.wire = None
                self.stands.clear()
                wire.abort()
                self.down()

    async def _dial(self) -> Wire:
        settings = self._settings
        async with asyncio.timeout(settings.connect_timeout):
            host, port = await self.node.address()
            loop = asyncio.get_running_loop()
            name = host if self._tls is not None else None
            _, wire = await loop.create_connection(lambda: Wire(self), host, port, ssl=self._tls, server_hostname=name)
            try:
                await wire.greet(settings)
            except BaseException:
                wire.abort()
                raise
            return wire

    async def _watch(self, wire: Wire, generation: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            wire.write(PING)
            await asyncio.wait([wire.closed], timeout=self._settings.heartbeat)
            if wire.closed.done() or self.node.generation != generation:
                return
            if loop.time() - wire.heard > self._settings.deadline:
                return
