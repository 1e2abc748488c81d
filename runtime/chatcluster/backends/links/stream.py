"""One end of a link: frames in, frames out in one write per loop turn, signs of life, an end. Knows no request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from chatcluster.backends.links.wire import Cutter, Malformed, Ping, encode

_PING = encode(Ping())


class Stream(asyncio.Protocol):
    """``heard`` gets each decoded message; ``ended`` is called once. Subclasses decide what they mean."""

    def __init__(self, decode: Callable[[Any], Any], *, heartbeat: float, silence: float) -> None:
        self._decode = decode
        self._cutter = Cutter()
        self._heartbeat = heartbeat
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._last_heard = self._last_said = self._loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._clogged = False
        self.transport: asyncio.Transport | None = None
        self.gone = False

    # -- for subclasses -------------------------------------------------------------------------------

    def heard(self, message: Any) -> None:
        """A message came."""
        raise NotImplementedError

    def ended(self, why: str) -> None:
        """The connection is over."""
        raise NotImplementedError

    def unclogged(self) -> None:
        """The peer takes bytes again."""

    @property
    def clogged(self) -> bool:
        """Whether more than the bound waits for the peer."""
        return self._clogged

    def say(self, frame: bytes) -> None:
        """Write a frame now. After the end: nothing."""
        if self.transport is not None and not self.gone:
            self.transport.write(frame)
            self._last_said = self._loop.time()

    def end(self, why: str) -> None:
        """End it at once. Idempotent."""
        if self.gone:
            return
        self.gone = True
        if self._beat is not None:
            self._beat.cancel()
        if self.transport is not None:
            self.transport.abort()
        self.ended(why)

    def bound(self, buffer: int) -> None:
        """Bytes that may wait for the peer before it counts as clogged."""
        if self.transport is not None:
            self.transport.set_write_buffer_limits(high=buffer, low=buffer // 4)

    # -- asyncio --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._last_heard = self._last_said = self._loop.time()
        self._beat = self._loop.call_later(self._heartbeat, self._pulse)

    def data_received(self, data: bytes) -> None:
        self._last_heard = self._loop.time()
        try:
            for body in self._cutter.feed(data):
                self.heard(self._decode(body))
                if self.gone:
                    return
        except (Malformed, msgspec.MsgspecError, ValueError, RecursionError):
            self.end("it spoke another protocol")

    def connection_lost(self, exc: Exception | None) -> None:
        self.end("it was cut" if exc is None else type(exc).__name__)
        self.transport = None

    def pause_writing(self) -> None:
        self._clogged = True

    def resume_writing(self) -> None:
        self._clogged = False
        self.unclogged()

    def _pulse(self) -> None:
        now = self._loop.time()
        if now - self._last_heard > self._silence:
            self.end(f"it was silent for {self._silence:g} s")
            return
        if now - self._last_said >= self._heartbeat * 0.9:
            self.say(_PING)
        self._beat = self._loop.call_later(self._heartbeat, self._pulse)
