"""One end of a link: frames in, frames out, signs of life, an end. Knows no request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from chatcluster.backends.links.wire import HANDSHAKE_FRAME, MAX_FRAME, Cutter, Malformed, Ping, encode

_PING = encode(Ping())
CUT = "it was cut"
_WATCH = 0.25
"""Seconds between two looks of a fence at the clock."""


class Fence:
    """Notices that this process slept, frozen or with its machine: what waited meanwhile must not be acted upon.

    ``act`` drops it. Everything that could act on old things calls ``check`` before (delivery.md section 1).
    """

    def __init__(self, now: Callable[[], float], *, asleep: float, act: Callable[[], None]) -> None:
        self._now = now
        self._asleep = asleep
        self._act = act
        self._seen = now()

    def check(self) -> None:
        """Look at the clock; over the bound since the last look: act."""
        seen, self._seen = self._seen, self._now()
        if self._seen - seen > self._asleep:
            self._act()

    async def run(self) -> None:
        """Look at it regularly, until cancelled."""
        while True:
            await asyncio.sleep(_WATCH)
            self.check()


class Stream(asyncio.Protocol):
    """``heard`` gets each decoded message; ``ended`` is called once. Subclasses decide what they mean."""

    def __init__(self, decode: Callable[[bytes], Any], *, heartbeat: float, silence: float, fence: Fence) -> None:
        self._decode = decode
        self._cutter = Cutter(HANDSHAKE_FRAME)
        self._heartbeat = heartbeat
        self._silence = silence
        self._fence = fence
        self._loop = asyncio.get_running_loop()
        self._last_heard = self._last_said = self._last_pulse = self._loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._clogged = False
        self._deaf = False
        self._waits = 0  # bytes that the peer had not taken at the last look
        self.transport: asyncio.Transport | None = None
        self.gone = False
        self.over: asyncio.Future[str] = self._loop.create_future()
        """Done, with the reason, when the connection is over."""

    # -- for subclasses -------------------------------------------------------------------------------

    def heard(self, message: Any) -> None:
        """A message came."""
        raise NotImplementedError

    def ended(self, why: str) -> None:
        """The connection is over."""
        raise NotImplementedError

    def unclogged(self) -> None:
        """The peer takes bytes again."""

    def listen(self, listens: bool) -> None:
        """Whether to read from the peer. What is not read says nothing about its life."""
        if self.transport is None or self.gone or listens is not self._deaf:
            return
        self._deaf = not listens
        self._last_heard = self._loop.time()
        if listens:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

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
        if not self.over.done():
            self.over.set_result(why)
        self.ended(why)

    def believed(self, buffer: int) -> None:
        """They have shaken hands: large frames are taken; ``buffer`` bytes may wait before the peer is clogged."""
        self._cutter.limit = MAX_FRAME
        if self.transport is not None:
            self.transport.set_write_buffer_limits(high=buffer, low=buffer // 4)

    # -- asyncio --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.gone:
            self.transport.abort()
            return
        self._last_heard = self._last_said = self._last_pulse = self._loop.time()
        self._beat = self._loop.call_later(self._heartbeat, self._pulse)

    def data_received(self, data: bytes) -> None:
        self._fence.check()
        self._last_heard = self._loop.time()
        bodies = self._cutter.feed(data)
        while not self.gone:
            try:
                body = next(bodies, None)
                if body is None:
                    return
                message = self._decode(body)
            except (Malformed, msgspec.MsgspecError, ValueError, RecursionError):
                self.end("it spoke another protocol")
                return
            self.heard(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(CUT if exc is None else type(exc).__name__)
        self.transport = None

    def pause_writing(self) -> None:
        self._clogged = True

    def resume_writing(self) -> None:
        self._clogged = False
        self.unclogged()

    def _pulse(self) -> None:
        now = self._loop.time()
        if now - self._last_pulse > 2 * self._heartbeat:
            # We were held ourselves, and timers come before what the sockets brought: hear it first.
            self._last_heard = max(self._last_heard, now - self._silence + self._heartbeat)
        self._last_pulse = now
        if self._deaf and self.transport is not None:
            # Unheard, its sign of life is that it takes what we say.
            waits = self.transport.get_write_buffer_size()
            if not self._clogged or waits < self._waits:
                self._last_heard = now
            self._waits = waits
        if now - self._last_heard > self._silence:
            self.end(f"it was silent for {self._silence:g} s")
            return
        if now - self._last_said >= self._heartbeat * 0.9:
            self.say(_PING)
        self._beat = self._loop.call_later(self._heartbeat, self._pulse)
