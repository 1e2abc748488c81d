"""The gateway's public port: listens, upgrades, answers probes and pages, and leaves politely.

Everything behind ``Accept`` is chat and unknown here. One process, one event loop; several processes
may share the port (``reuse_port``).
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from http import HTTPStatus

from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock
from chatcluster.services.gateway import pages as static
from chatcluster.services.gateway.connection import Connection
from chatcluster.services.gateway.drain import drain
from chatcluster.services.gateway.handshake import Head, HttpRefusal, answer, bearer, switching, upgrade
from chatcluster.services.gateway.link import Accept
from chatcluster.services.gateway.opening import Opening
from chatcluster.services.gateway.settings import GatewaySettings
from chatcluster.services.gateway.sockets import Sockets


class GatewayServer:
    """The socket side of one gateway.

    ``accept`` makes the session of a new connection. ``pages``: what a browser may fetch here. ``ready`` is
    asked by ``/readyz`` (besides draining). ``chance``: for jitter, in [0, 1). ``port``: after ``listen``.
    """

    def __init__(
        self,
        *,
        accept: Accept,
        clock: Clock,
        metrics: Metrics,
        settings: GatewaySettings,
        pages: static.Pages | None = None,
        ready: Callable[[], bool] = lambda: True,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._accept = accept
        self._settings = settings
        self._pages = pages
        self._ready = ready
        self._listener: asyncio.Server | None = None
        self.sockets = Sockets(clock=clock, metrics=metrics, settings=settings, chance=chance)
        self.draining = False
        self.port = 0
        self._upgraded = metrics.counter("gateway_upgrades_total", "Handshakes that became connections")

    async def listen(
        self, *, host: str | None = None, port: int | None = None, sock: socket.socket | None = None
    ) -> None:
        """Begin to accept, on ``sock`` or on ``host`` and ``port`` (0: any). Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        settings = self._settings
        if sock is not None:
            self._listener = await loop.create_server(self._opening, sock=sock, backlog=settings.backlog)
        else:
            self._listener = await loop.create_server(
                self._opening, host, port or 0, backlog=settings.backlog, reuse_port=settings.reuse_port or None
            )
        if settings.send_buffer_bytes:
            for listening in self._listener.sockets:  # inherited by every socket accepted
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer_bytes)
        bound = self._listener.sockets[0].getsockname()
        self.port = bound[1] if isinstance(bound, tuple) else 0

    async def run(self) -> None:
        """Keep deadlines until cancelled; then stop listening and drop every socket."""
        try:
            await self.sockets.run()
        finally:
            await self.close()

    async def serve(
        self, *, host: str | None = None, port: int | None = None, sock: socket.socket | None = None
    ) -> None:
        """``listen`` and ``run``."""
        await self.listen(host=host, port=port, sock=sock)
        await self.run()

    async def drain(self) -> None:
        """Leave politely within ``drain_deadline`` (promise 22). ``run`` goes on meanwhile and is cancelled after."""
        self.draining = True
        await drain(self.sockets, self._stop_listening)

    async def close(self) -> None:
        """Stop at once."""
        self.draining = True
        self._stop_listening()
        self.sockets.stop()
        await asyncio.sleep(0)  # asyncio calls ``connection_lost`` one tick after an abort

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _opening(self) -> Opening:
        return Opening(self.sockets, self._route)

    def _route(self, opening: Opening, head: Head, rest: bytes) -> bytes | None:
        if head.path == self._settings.path:
            self._connect(opening, head, rest)
            return None
        if head.path == "/healthz":
            return answer(HTTPStatus.OK, b"ok\n")
        if head.path == "/readyz":
            ready = not self.draining and self._ready()
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            return answer(status, b"ready\n" if ready else b"not ready\n", headers=[("Cache-Control", "no-store")])
        if opening.refusal is not None:
            raise opening.refusal
        page = static.find(self._pages, head.path, head.headers)
        if page is None:
            raise HttpRefusal(HTTPStatus.NOT_FOUND, "nothing here")
        return static.serve(page, head.headers.get("if-none-match"))

    def _connect(self, opening: Opening, head: Head, rest: bytes) -> None:
        accept_key, codec, subprotocol = upgrade(head)
        self._check_origin(head.headers.get("origin"))
        if opening.refusal is not None:
            raise opening.refusal
        if self.draining:
            raise self.sockets.admission.draining()
        refusal = self.sockets.admission.upgrade(self.sockets.monotonic())
        if refusal is not None:
            raise refusal
        transport = opening.transport
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self.sockets, transport, codec, opening.upgraded())
        self._upgraded.add()
        transport.set_protocol(connection)
        transport.write(switching(accept_key, subprotocol))
        connection.start(self._accept, bearer(head), rest)

    def _check_origin(self, origin: str | None) -> None:
        settings = self._settings
        # Compared whole: a prefix or suffix test would let app.example.evil in.
        listed = settings.origins is None or origin in settings.origins
        if not (settings.allow_no_origin if origin is None else listed):
            raise HttpRefusal(HTTPStatus.FORBIDDEN, "origin not allowed")
