"""An event loop with a network of its own: connections are pipes in memory that a test cuts, freezes and refuses.

Time jumps as in ``jumping``, so that a run with deadlines takes milliseconds and is the same every time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from jumping import JumpingLoop

DELAY = 0.001
"""Seconds that bytes travel."""


class End(asyncio.Transport):
    """One end of a pipe."""

    def __init__(self, loop: PipeLoop, protocol: asyncio.Protocol, port: int) -> None:
        super().__init__()
        self._loop = loop
        self.protocol = protocol
        self.port = port
        self.other: End | None = None
        self.closed = False
        self.frozen = False
        self._reading = True
        self._inbox: list[bytes] = []
        self._high, self._low = 65536, 16384
        self._clogged = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if self.closed or self.other is None:
            return
        self._loop.call_later(DELAY, self.other._arrive, bytes(data))
        self.other._inbox_check()

    def _arrive(self, data: bytes) -> None:
        self._inbox.append(data)
        self._pump()
        self._inbox_check()

    def _inbox_check(self) -> None:
        """Tells the other end's protocol whether too much waits here."""
        other, waiting = self.other, sum(len(data) for data in self._inbox)
        if other is None or other.closed:
            return
        if not other._clogged and waiting > other._high:
            other._clogged = True
            other.protocol.pause_writing()
        elif other._clogged and waiting <= other._low:
            other._clogged = False
            other.protocol.resume_writing()

    def _pump(self) -> None:
        while self._inbox and self._reading and not self.frozen and not self.closed:
            self.protocol.data_received(self._inbox.pop(0))

    def freeze(self, frozen: bool) -> None:
        """While frozen, nothing that was sent here is seen, and nobody is told."""
        self.frozen = frozen
        self._loop.call_soon(self._pump)

    def abort(self) -> None:
        self.cut()

    def close(self) -> None:
        self.cut()

    def cut(self, *, telling: bool = True) -> None:
        """End the pipe for both; ``telling`` False: the other end does not notice."""
        if self.closed:
            return
        self.closed = True
        self._loop.call_soon(self.protocol.connection_lost, None)
        if telling and self.other is not None:
            self._loop.call_later(DELAY, self.other.cut)

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._loop.call_soon(self._pump)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high, self._low = high or 65536, low or 0


class Listening:
    """What ``create_server`` gives."""

    def __init__(self, loop: PipeLoop, port: int) -> None:
        self._loop = loop
        self.sockets = [self]
        self._port = port

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", self._port)

    def close(self) -> None:
        self._loop.listening.pop(self._port, None)


class PipeLoop(JumpingLoop):
    """``ends``: both ends of every pipe that was made, the dialling one first."""

    def __init__(self) -> None:
        super().__init__()
        self.listening: dict[int, Callable[[], asyncio.Protocol]] = {}
        self.ends: list[tuple[End, End]] = []
        self._port = 40_000

    async def create_server(self, factory: Any, host: Any = None, port: Any = 0, **_: Any) -> Any:  # type: ignore[override]
        if not port:
            self._port += 1
            port = self._port
        self.listening[port] = factory
        return Listening(self, port)

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(DELAY)
        if port not in self.listening:
            raise ConnectionRefusedError(111, "Connection refused")
        dialling, accepting = factory(), self.listening[port]()
        here, there = End(self, dialling, port), End(self, accepting, port)
        here.other, there.other = there, here
        self.ends.append((here, there))
        dialling.connection_made(here)
        accepting.connection_made(there)
        return here, dialling
