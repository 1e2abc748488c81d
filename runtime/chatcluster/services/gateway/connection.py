"""One client's open WebSocket: bytes to frames and frames to bytes, bounded both ways. Implements ``Link``.

Knows the protocol and its limits; nothing of chat (that is behind ``Handler``) and nothing of HTTP.
There are no tasks, timers or standing buffers per connection: thousands of idle ones are the rule.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import socket
import struct
import sys
import termios
from contextlib import suppress
from typing import Final

from chatcluster.core.codes import Close
from chatcluster.core.frames import BadFrame, Codec, ServerFrame, decode_request
from chatcluster.core.outbound import frame_bytes
from chatcluster.services.gateway.link import Accept, Handler
from chatcluster.services.gateway.parser import (
    BINARY,
    CLOSE,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    Parser,
    Violation,
    close_code,
    close_frame,
    control_frame,
)
from chatcluster.services.gateway.sockets import Sockets

# What ``_deadline`` ends: no hello yet; open; told to move on; our close frame sent; failed, discarding; gone.
_AUTH, _OPEN, _NOTICE, _CLOSING, _FAILED, _GONE = range(6)

_PAUSED: Final = 1
_THROTTLED: Final = 2

_PING_FRAME: Final = control_frame(PING, b"")
_RESET: Final = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """The protocol of a socket from its 101 on."""

    __slots__ = (
        "_address",
        "_deadline",
        "_expires",
        "_framed",
        "_handler",
        "_heard",
        "_held",
        "_key",
        "_out",
        "_parser",
        "_pending",
        "_phase",
        "_pinged",
        "_pings",
        "_reading",
        "_refilled",
        "_slow_since",
        "_slow_size",
        "_sockets",
        "_tokens",
        "_transport",
        "closed",
        "codec",
        "slot",
    )

    def __init__(self, sockets: Sockets, transport: asyncio.Transport, codec: Codec, address: str) -> None:
        settings = sockets.settings
        now = sockets.monotonic()
        self.codec = codec
        self.closed = False
        self.slot = -1
        self._sockets = sockets
        self._transport = transport
        self._parser = Parser(settings.max_frame_bytes, settings.max_fragments)
        self._handler: Handler | None = None
        self._address: str | None = address
        self._key = ""
        self._out: bytes | list[bytes] | None = None
        self._pending = 0
        self._phase = _AUTH
        self._deadline = now + settings.authentication_timeout
        self._expires = math.inf
        self._heard = now
        self._framed = now
        self._refilled = now
        self._pinged = 0.0
        self._tokens = settings.frames_burst
        self._pings = settings.pings_burst
        self._held = 0
        self._reading = False
        self._slow_since = 0.0
        self._slow_size = 0

    def start(self, accept: Accept, bearer: str | None, rest: bytes) -> None:
        """The 101 is written: make the session, and read what came with the handshake."""
        sockets = self._sockets
        sockets.connections.add(self)
        sockets.wheel.watch(self, self._deadline)
        # Water marks of zero: ``pause_writing`` says exactly when the kernel stops taking bytes.
        self._transport.set_write_buffer_limits(high=0)
        try:
            self._handler = accept(self, bearer)
        except Exception as error:
            sockets.complain(error)
            self.close(Close.INTERNAL, "internal error")
        if rest:
            self.data_received(rest)

    # -- Link: outgoing -------------------------------------------------------------------------------

    def send(self, frame: ServerFrame) -> None:
        """Encode one frame for this connection alone and queue it."""
        codec = self.codec
        self.write(frame_bytes(codec.encode(frame), codec.text))

    def write(self, wire: bytes) -> None:
        """Queue a whole message; it goes out at the end of this tick."""
        if self.closed:
            return
        out = self._out
        if out is None:
            self._out = wire
            self._pending = len(wire)
            self._sockets.dirty(self)
            return
        self._pending += len(wire)
        if self._pending > self._sockets.settings.max_buffer_bytes:
            # Much in one tick is no slow consumer yet: let the kernel take what it will first.
            self.flush()
            self.write(wire)
        elif isinstance(out, list):
            out.append(wire)
        else:
            self._out = [out, wire]

    def flush(self) -> int:
        """One write for everything queued; how many bytes. Over the bound: cut (law 7: the slow one)."""
        out = self._out
        if out is None:
            return 0
        self._out = None
        data = out if out.__class__ is bytes else b"".join(out)  # type: ignore[arg-type]
        size = len(data)
        if self._slow_since:
            if self._transport.get_write_buffer_size() + size > self._sockets.settings.max_buffer_bytes:
                self._cut(Close.SLOW_CONSUMER, "buffer is full")
                return 0
            self._slow_size += size
        self._transport.write(data)
        return size

    def pause_writing(self) -> None:
        """asyncio: the kernel's buffer is full, ours begins to fill."""
        self._slow_since = now = self._sockets.monotonic()
        self._slow_size = self._unsent()
        if self._phase < _CLOSING:
            self._sockets.wheel.watch(self, now + 1.0)

    def resume_writing(self) -> None:
        """asyncio: everything is with the kernel again."""
        self._slow_since = 0.0

    def _unsent(self) -> int:
        """Bytes that the peer has not acknowledged: ours and, where it tells, the kernel's.

        Ours alone would not do: the kernel takes more only when a third of its buffer is free again, which
        a slow phone may need longer for than the time to stall.
        """
        raw = self._transport.get_extra_info("socket")
        size = self._transport.get_write_buffer_size()
        if raw is not None:
            with suppress(OSError):
                size += int.from_bytes(fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return size

    def _stalled(self, now: float) -> bool:
        """Whether nothing left the buffer for too long. Progress counts, not size: a slow reader may catch up."""
        size = self._unsent()
        if size < self._slow_size:
            self._slow_size = size
            self._slow_since = now
        return now - self._slow_since >= self._sockets.settings.stall_timeout

    # -- Link: the rest ---------------------------------------------------------------------------------

    def authenticated(self, key: str, expires: float | None) -> None:
        """A valid hello, or a renewed token."""
        if self._phase >= _CLOSING:
            return
        sockets, now = self._sockets, self._sockets.monotonic()
        self._key = key
        self._expires = math.inf if expires is None else expires
        if self._address is not None:
            sockets.admission.authenticated(self._address)
            self._address = None
        if self._phase == _AUTH:
            settings = sockets.settings
            self._phase = _OPEN
            jitter = 1.0 + settings.lifetime_jitter * (2.0 * sockets.chance() - 1.0)
            self._deadline = now + settings.lifetime * jitter if settings.lifetime else math.inf
        sockets.wheel.watch(self, self._next(now))

    def close(self, code: Close, reason: str) -> None:
        """Queued frames, then the close frame; the peer has ``close_timeout`` to answer."""
        if self.closed:
            return
        self.flush()
        if self._phase >= _CLOSING:  # cut: the buffer was full
            return
        self._say_close(code, reason)
        self._wait_for_end(_CLOSING)
        if self._held:
            # The answer to our close is behind what we did not want to read: discard up to it.
            self._held = 0
            self._transport.resume_reading()
            self._sockets.loop.call_soon(self._read)

    def pause(self) -> None:
        """Stop reading."""
        self._hold(_PAUSED)

    def resume(self) -> None:
        """Read again."""
        self._release(_PAUSED)

    # -- endings ------------------------------------------------------------------------------------------

    def _say_close(self, code: Close, reason: str) -> None:
        self.closed = True
        self._sockets.metrics.closed(code)
        self._transport.write(close_frame(code, reason))

    def _wait_for_end(self, phase: int) -> None:
        self._phase = phase
        self._deadline = self._sockets.monotonic() + self._sockets.settings.close_timeout
        self._sockets.wheel.watch(self, self._deadline)

    def _cut(self, code: Close, reason: str) -> None:
        """End it for a peer that does not read: a close frame if the kernel takes it, else at once."""
        if self.closed:
            return
        self._out = None
        if self._transport.get_write_buffer_size():
            self._sockets.metrics.closed(code)
            self.abort()
        else:
            self._say_close(code, reason)
            self._wait_for_end(_CLOSING)

    def _fail(self, code: Close, reason: str) -> None:
        """RFC 6455 section 7.1.7. Half-closed, not closed: unread bytes would reset the close frame away."""
        if self._phase < _CLOSING:
            self.flush()
        if self._phase < _CLOSING:
            self._say_close(code, reason)
        if self._phase != _GONE:
            self._wait_for_end(_FAILED)
            self._parser = _SPENT
            if not self._transport.is_closing():
                self._transport.write_eof()

    def fence(self) -> None:
        """We slept: drop what is queued, both ways, and say goodbye."""
        self._out = None
        if self.closed or self._transport.get_write_buffer_size():
            self.abort()
        else:
            self._say_close(Close.RESTART, "gateway slept")
            self._wait_for_end(_FAILED)
            self._parser = _SPENT
            self._transport.write_eof()

    def abort(self) -> None:
        """Drop the socket and what the kernel holds for it, at once."""
        self.closed = True
        self._out = None
        self._phase = max(self._phase, _FAILED)
        if not self._transport.is_closing():
            raw = self._transport.get_extra_info("socket")
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def eof_received(self) -> None:
        """asyncio: the peer half-closed without a close frame; nobody is there to answer."""
        if not self.closed:
            self.flush()
            self.closed = True
        if self._phase < _CLOSING:
            self._wait_for_end(_CLOSING)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is gone. References are cut, so that nothing waits for the cycle collector."""
        if self._phase == _GONE:
            return
        self._phase = _GONE
        self.closed = True
        sockets, handler = self._sockets, self._handler
        self._handler = self._out = None
        self._parser = _SPENT
        sockets.wheel.forget(self)
        sockets.gone(self)
        sockets.admission.leave(self._address)
        if handler is not None:
            try:
                handler.on_closed()
            except Exception as error:
                sockets.complain(error)

    # -- incoming -------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the peer."""
        sockets = self._sockets
        now = sockets.monotonic()
        if now > sockets.fence_at:
            sockets.fence()
        self._heard = now
        if self._phase >= _FAILED:
            return
        self._parser.feed(data)
        self._read()

    def _read(self) -> None:
        """Every whole message that may be taken now, in order."""
        if self._reading or self._phase >= _FAILED:
            return
        self._reading = True
        try:
            self._take()
        except Violation as violation:
            self._fail(violation.code, violation.reason)
        except Exception as error:
            self._sockets.complain(error)
            self.close(Close.INTERNAL, "internal error")
        finally:
            self._reading = False

    def _take(self) -> None:
        sockets = self._sockets
        settings = sockets.settings
        now = self._heard
        elapsed = now - self._refilled
        if elapsed > 0.0:
            self._refilled = now
            self._tokens = min(settings.frames_burst, self._tokens + elapsed * settings.frames_per_second)
            self._pings = min(settings.pings_burst, self._pings + elapsed * settings.pings_per_second)
        parser = self._parser
        while not self._held:
            if self._tokens < 1.0 and not self.closed:
                self._hold(_THROTTLED)
                sockets.throttle(self)
                return
            message = parser.next()
            if message is None:
                return
            opcode, payload = message
            self._framed = now
            if opcode <= BINARY:
                if self.closed:
                    continue
                codec = self.codec
                if (opcode == TEXT) is not codec.text:
                    raise Violation(Close.WRONG_MESSAGE_TYPE, "text and binary are not interchangeable")
                self._tokens -= 1.0
                sockets.metrics.frames.value += 1
                handler = self._handler
                assert handler is not None
                try:
                    frame = decode_request(codec, payload)
                except BadFrame as bad:
                    sockets.metrics.bad_frames.add()
                    handler.on_bad_frame(bad)
                else:
                    handler.on_frame(frame)
            elif opcode == CLOSE:
                self._closed_by_peer(payload)
                return
            else:
                self._pings -= 1.0
                if self._pings < 0.0:
                    raise Violation(Close.POLICY, "too many pings")
                if opcode == PING and not self.closed:
                    self.write(control_frame(PONG, payload))

    def _closed_by_peer(self, payload: bytes) -> None:
        code = close_code(payload)
        if self._phase < _CLOSING:
            self.flush()
        if self._phase < _CLOSING:
            self.closed = True
            self._transport.write(control_frame(CLOSE, b"" if code == NO_CODE else payload[:2]))
        if self._phase < _FAILED:
            # Both close frames are out: a server closes TCP first (section 7.1.1); the deadline if it cannot.
            self._wait_for_end(_FAILED)
            self._transport.close()

    def _hold(self, why: int) -> None:
        if not self._held and not self.closed:
            self._transport.pause_reading()
        if not self.closed:
            self._held |= why

    def _release(self, why: int) -> None:
        if not self._held & why:
            return
        self._held &= ~why
        if not self._held and self._phase < _FAILED:
            self._heard = self._framed = self._sockets.monotonic()  # what it sent meanwhile we did not look at
            self._transport.resume_reading()
            self._read()

    def relax(self, now: float) -> bool:
        """Whether the brake could be loosened (then reading goes on)."""
        self._heard = now
        settings = self._sockets.settings
        if self._tokens + (now - self._refilled) * settings.frames_per_second < 1.0:
            return False
        self._release(_THROTTLED)
        return True

    # -- deadlines --------------------------------------------------------------------------------------------

    def check(self, now: float) -> float | None:
        """The wheel: act on what is due, say when to look again."""
        if self._phase == _GONE:
            return None
        sockets = self._sockets
        settings = sockets.settings
        try:
            if now >= self._deadline:
                self._deadline_passed(now)
            if self._phase < _CLOSING:
                if sockets.clock.now() >= self._expires * 1000.0:
                    self.close(Close.TOKEN_EXPIRED, "token expired")
                elif self._slow_since and self._stalled(now):
                    self._cut(Close.SLOW_CONSUMER, "nothing was read")
                elif self._held:
                    self._heard = self._framed = now
                elif now - self._framed >= settings.idle_timeout:
                    self.close(Close.IDLE, "idle")
                elif self._pinged > self._heard:
                    if now - self._pinged >= settings.pong_timeout:
                        self._cut(Close.INTERNAL, "no answer to a ping")
                        self._transport.close()
                elif now - self._heard >= settings.heartbeat:
                    self._pinged = now
                    self.write(_PING_FRAME)
        except Exception as error:
            sockets.complain(error)
            self.abort()
        return self._next(now) if self._phase != _GONE else None

    def _deadline_passed(self, now: float) -> None:
        settings = self._sockets.settings
        if self._phase == _AUTH:
            self.close(Close.UNAUTHORIZED, "no valid hello in time")
        elif self._phase == _OPEN:
            self._phase = _NOTICE
            self._deadline = now + settings.lifetime_notice
            self.hint(0, int(settings.lifetime_notice * 1000), "lifetime")
        elif self._phase == _NOTICE:
            self.close(Close.RESTART, "lifetime")
        else:
            self.abort()

    def hint(self, after_ms: int, spread_ms: int, reason: str) -> None:
        """Have the session tell its reconnect window."""
        if self._handler is not None and not self.closed:
            self._handler.on_drain(after_ms, spread_ms, reason)

    def _next(self, now: float) -> float:
        if self._phase >= _CLOSING:
            return self._deadline
        settings = self._sockets.settings
        quiet = self._pinged + settings.pong_timeout if self._pinged > self._heard else self._heard + settings.heartbeat
        at = min(self._deadline, quiet, self._framed + settings.idle_timeout)
        if self._slow_since:
            at = min(at, now + 1.0)
        if self._expires != math.inf:
            # By the wall clock each time, which may have been set since.
            at = min(at, now + max(0.0, self._expires - self._sockets.clock.now() / 1000.0))
        return at


_SPENT = Parser(0, 0)
"""In place of the parser of a connection that reads no more: frees what it held."""
