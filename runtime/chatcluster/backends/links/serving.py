"""The server's end of the links: listening, shaking hands, leaving politely. What is asked is the ``Guest``'s."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from chatcluster.backends.links.security import ServerCertificate, secret_of
from chatcluster.backends.links.settings import LinkServerSettings
from chatcluster.backends.links.stream import Fence, Stream
from chatcluster.backends.links.wire import (
    NONCE,
    VERSION,
    Challenge,
    Facts,
    Goodbye,
    Hello,
    Kind,
    Ping,
    Welcome,
    decode_from_client,
    encode,
    proof,
    proven,
)
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock, Misconfigured

log = logging.getLogger("chatcluster.links")

_GOODBYE = encode(Goodbye())
_RENEW = 5.0
"""Seconds between looks at the certificate's files."""


class Guest(Stream):
    """A gateway's connection. ``name``: the gateway's, once it has said it and proven that it knows the secret."""

    def __init__(self, server: LinkServer) -> None:
        settings = server.settings
        super().__init__(decode_from_client, heartbeat=settings.heartbeat, silence=settings.silence, fence=server.fence)
        self._server = server
        self._nonce = os.urandom(NONCE)
        self._secret = b""
        self._waiting: asyncio.TimerHandle | None = None
        self._busy = False
        self.name = ""
        self.ready = False

    def busy(self, is_busy: bool) -> None:
        """While it is, nothing more is read: what it asked for already is enough."""
        self._busy = is_busy
        self._read_on()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        server = self._server
        if server.leaving or not server.enter(self):
            self.end("nobody is let in")
            return
        try:
            self._secret = secret_of(server.settings.secret_file, "link")
        except Misconfigured as error:
            log.error("%s", error)
            self.end("no secret")
            return
        self._waiting = self._loop.call_later(server.settings.handshake, self.end, "it did not shake hands in time")
        self.say(encode(Challenge(VERSION, server.kind, server.name, self._nonce, not self._secret, server.instance)))

    def heard(self, message: Any) -> None:
        if type(message) is Ping:
            return
        if self.ready:
            self.asked(message)
        elif type(message) is Hello:
            self._hello(message)
        else:
            self.end("it did not shake hands")

    def asked(self, message: Any) -> None:
        """A message after the handshake."""
        raise NotImplementedError

    def _hello(self, hello: Hello) -> None:
        server = self._server
        expected = proof(self._secret, "client", self._nonce, hello.nonce, hello.name)
        trusted = len(hello.nonce) == NONCE and (not self._secret or proven(expected, hello.proof))
        if hello.kind != server.kind or not trusted:
            server.refused.add()
            log.warning("a gateway was refused: it wants another service, or does not know the secret")
            self.end("refused")
            return
        if self._waiting is not None:
            self._waiting.cancel()
        self.name = hello.name
        self.ready = True
        self.believed(server.settings.max_buffer)
        self.say(encode(Welcome(proof(self._secret, "server", hello.nonce, self._nonce, server.name), server.facts)))

    def ended(self, why: str) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._server.leave(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_on()

    def unclogged(self) -> None:
        self._read_on()

    def _read_on(self) -> None:
        self.listen(not (self._busy or self.clogged))  # who does not take answers asks nothing more


class LinkServer:
    """Listens for gateways. ``port``: after ``listening``."""

    def __init__(
        self,
        settings: LinkServerSettings,
        *,
        kind: Kind,
        name: str,
        facts: Facts,
        clock: Clock | None,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        # Without a clock: the loop's, which does not see its machine sleep.
        now = asyncio.get_running_loop().time if clock is None else clock.monotonic
        self.fence = Fence(now, asleep=settings.asleep, act=self._slept)
        self.instance = os.urandom(NONCE)
        self.kind: Kind = kind
        self.name = name
        self.facts = facts
        self.leaving = False
        self.port = 0
        self._guests: set[Guest] = set()
        self._server: asyncio.AbstractServer | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self.refused = metrics.counter("link_refused_total", "Connections of gateways that were refused.")
        metrics.gauge("link_guests", "Connections of gateways.", lambda: float(len(self._guests)))

    def enter(self, guest: Guest) -> bool:
        """A connection came; False: too many."""
        if len(self._guests) >= self.settings.max_connections:
            self.refused.add()
            return False
        self._guests.add(guest)
        self._empty.clear()
        return True

    def leave(self, guest: Guest) -> None:
        """A connection is over."""
        self._guests.discard(guest)
        if not self._guests:
            self._empty.set()

    def _slept(self) -> None:
        log.error("this process slept over %g s: gateways are cut, what they sent is dropped", self.settings.asleep)
        for guest in list(self._guests):
            guest.end("this process slept")

    async def goodbye(self) -> None:
        """Take nothing new, answer what is there, and return when all have left (or ``leaving`` seconds are over)."""
        self.leaving = True
        if self._server is not None:
            self._server.close()  # listens no more; connections stay
        for guest in list(self._guests):
            if guest.ready:
                guest.say(_GOODBYE)
            else:
                guest.end("this process is leaving")
        try:
            async with asyncio.timeout(self.settings.leaving):
                await self._empty.wait()
        except TimeoutError:
            log.warning("%d gateways still wait for answers", len(self._guests))

    @asynccontextmanager
    async def listening(self, guest: Callable[[], Guest]) -> AsyncIterator[None]:
        """Accept connections for the time of the block. Raises ``OSError``, ``Misconfigured``."""
        settings = self.settings
        secret_of(settings.secret_file, "link")  # refuses to start without it
        certificate = ServerCertificate(settings.ca_file, settings.cert_file, settings.key_file)
        host, _, port = settings.listen.rpartition(":")
        if not port.isdigit():
            raise Misconfigured(f"link.listen = {settings.listen!r}; allowed: host:port")
        loop = asyncio.get_running_loop()
        context = certificate.context
        server = await loop.create_server(
            guest,
            host.strip("[]") or None,
            int(port),
            ssl=context,
            ssl_handshake_timeout=None if context is None else settings.handshake,
        )
        self._server = server
        self.port = server.sockets[0].getsockname()[1]
        tasks = [asyncio.create_task(_renew(certificate)), asyncio.create_task(self.fence.run())]
        try:
            yield
        finally:
            self.leaving = True  # who was accepted in this turn is told of it later, and cut then
            server.close()
            for one in list(self._guests):
                one.end("this process ends")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # asyncio tells of an abort one turn later


async def _renew(certificate: ServerCertificate) -> None:
    while True:
        await asyncio.sleep(_RENEW)
        if certificate.refresh():
            log.info("link: the certificate changed: new connections use it")
