"""A socket until it is a connection: reads one request head, bounded in bytes and time, and answers it.

Knows HTTP and admission; nothing of frames and sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from chatcluster.services.gateway.handshake import Head, HttpRefusal, check_growth, parse_head, refuse

if TYPE_CHECKING:
    from chatcluster.services.gateway.sockets import Sockets

_END = b"\r\n\r\n"

Route = Callable[["Opening", Head, bytes], bytes | None]
"""What answers a head: bytes end the socket; None: it has become a connection. May raise ``HttpRefusal``.
The last argument: what came after the head."""


class Opening(asyncio.Protocol):
    """The protocol of a socket up to its answer."""

    __slots__ = ("_answered", "_buffer", "_deadline", "_route", "_sockets", "address", "refusal", "slot", "transport")

    def __init__(self, sockets: Sockets, route: Route) -> None:
        self.slot = -1
        self.address = ""
        self.refusal: HttpRefusal | None = None
        self._sockets = sockets
        self._route = route
        self._buffer = bytearray()
        self._answered = False
        self._deadline = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a socket was accepted. One over a limit waits for its refusal, so that probes are answered."""
        self.transport = transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        sockets = self._sockets
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self.refusal = sockets.admission.enter(self.address)
        if self.refusal is not None:
            if len(sockets.refused) >= sockets.settings.refused_sockets:
                self.abort()
                return
            sockets.refused.add(self)
        sockets.openings.add(self)
        self._deadline = sockets.monotonic() + sockets.settings.open_timeout
        sockets.wheel.watch(self, self._deadline)

    def data_received(self, data: bytes) -> None:
        """asyncio: a part of the head; after the answer whatever comes is discarded."""
        if self._answered:
            return
        buffer = self._buffer
        seen = max(0, len(buffer) - 3)
        buffer += data
        end = buffer.find(_END, seen)
        rest = b""
        try:
            if end < 0:
                check_growth(buffer)
                return
            head, rest = bytes(buffer[:end]), bytes(buffer[end + 4 :])
            reply = self._route(self, parse_head(head), rest)
        except HttpRefusal as refusal:
            reply = refuse(refusal)
        if reply is not None:
            self._answer(reply, complete=end >= 0 and not rest)
        self._buffer = bytearray()

    def _answer(self, reply: bytes, *, complete: bool) -> None:
        self._answered = True
        self.transport.write(reply)
        sockets = self._sockets
        self._deadline = sockets.monotonic() + sockets.settings.close_timeout
        sockets.wheel.watch(self, self._deadline)
        if complete:
            self.transport.close()
        else:
            # Closing over unread bytes would reset the connection and take the answer with it.
            self.transport.write_eof()

    def upgraded(self) -> str:
        """The socket has become a connection: forget it here. Its address, still counted in admission."""
        self._forget()
        return self.address

    def _forget(self) -> None:
        sockets = self._sockets
        sockets.wheel.forget(self)
        sockets.openings.discard(self)
        sockets.refused.discard(self)

    def check(self, now: float) -> float | None:
        """The wheel: a handshake that never finished, or a peer that never left."""
        if now < self._deadline:
            return self._deadline
        if not self._answered:
            self._sockets.metrics.open_timeouts.add()
        self.abort()
        return None

    def flush(self) -> int:
        """Nothing is batched before the upgrade."""
        return 0

    def relax(self, now: float) -> bool:
        """Nothing is throttled before the upgrade."""
        return True

    def fence(self) -> None:
        """We slept: whoever waited for us has left."""
        self.abort()

    def abort(self) -> None:
        """Drop the socket."""
        self._answered = True
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is gone before it became a connection."""
        self._forget()
        self._sockets.left()
        self._sockets.admission.leave(self.address)
