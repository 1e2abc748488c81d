"""What clients send, cut into messages: RFC 6455 section 5, the server's side, without I/O.

Pure: bytes in, messages out one at a time, so that a flood can be stopped between two frames. Knows no
sockets, no codec and no clock. ``tests/unit/test_parser.py`` holds it to the parser of ``websockets``.
"""

from __future__ import annotations

from codecs import getincrementaldecoder

try:  # the compiled one, as ``websockets.frames`` does it
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - wheels without the extension
    from websockets.utils import apply_mask

from chatcluster.core.codes import Close

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

NO_CODE = 1005
"""What a close frame without a code means; never sent."""

_Utf8Decoder = getincrementaldecoder("utf-8")
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


class Violation(Exception):
    """The peer broke the protocol or a limit: fail the connection with this code."""

    def __init__(self, code: Close, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Partial:
    """A message whose last fragment has not come. The decoder (text only) finds bad UTF-8 at once."""

    __slots__ = ("count", "data", "decoder", "opcode")

    def __init__(self, opcode: int, data: bytes) -> None:
        self.opcode = opcode
        self.data = bytearray(data)
        self.count = 1
        self.decoder = _Utf8Decoder() if opcode == TEXT else None


class Parser:
    """One connection's incoming stream. ``limit``: bytes of a message. ``fragments``: frames of a message.

    Holds at most one message and the chunk fed last (law 7): a size over the limit is refused from its
    header, before a byte of it is kept.
    """

    __slots__ = ("_at", "_data", "_fragments", "_limit", "_partial")

    def __init__(self, limit: int, fragments: int) -> None:
        self._limit = limit
        self._fragments = fragments
        self._data: bytes | bytearray = b""
        self._at = 0
        self._partial: _Partial | None = None

    def feed(self, data: bytes) -> None:
        """Add what came from the socket. Call ``next`` until it is None, or feed more later."""
        rest = self._data
        if self._at >= len(rest):
            self._data = data
        else:
            # A bytearray grows in place: a message that drips in costs no copy of itself per byte.
            if rest.__class__ is not bytearray:
                rest = bytearray(memoryview(rest)[self._at :])
            elif self._at:
                del rest[: self._at]
            rest += data
            self._data = rest
        self._at = 0

    def next(self) -> tuple[int, bytes] | None:
        """The next message as (opcode, payload), control frames included; None: more bytes are needed.

        Text is valid UTF-8. Raises ``Violation``: nothing after it may be read (section 7.1.7).
        """
        data = self._data
        while True:
            at = self._at
            left = len(data) - at
            if left < 2:
                if not left:
                    self._data = b""  # an idle connection holds no buffer
                    self._at = 0
                return None
            first, second = data[at], data[at + 1]
            opcode = first & 0x0F
            size = second & 0x7F
            partial = self._partial
            if first & 0x70:
                raise Violation(Close.PROTOCOL_ERROR, "reserved bits are set")
            if second < 0x80:
                raise Violation(Close.PROTOCOL_ERROR, "frame without a mask")
            if opcode >= CLOSE:
                if opcode > PONG:
                    raise Violation(Close.PROTOCOL_ERROR, "unknown opcode")
                if first < 0x80 or size > 125:
                    raise Violation(Close.PROTOCOL_ERROR, "control frame in fragments or over 125 bytes")
            elif opcode > BINARY:
                raise Violation(Close.PROTOCOL_ERROR, "unknown opcode")
            elif (opcode == CONTINUATION) is (partial is None):
                raise Violation(Close.PROTOCOL_ERROR, "continuation expected" if partial else "stray continuation")
            start = at + 6
            if size == 126:
                if left < 4:
                    return None
                size = data[at + 2] << 8 | data[at + 3]
                start = at + 8
            elif size == 127:
                if left < 10:
                    return None
                size = int.from_bytes(data[at + 2 : at + 10], "big")
                start = at + 14
            if opcode < CLOSE and size + (len(partial.data) if partial else 0) > self._limit:
                raise Violation(Close.TOO_BIG, f"message over {self._limit} bytes")
            end = start + size
            if len(data) < end:
                return None
            payload = apply_mask(data[start:end], data[start - 4 : start])
            self._at = end
            if opcode >= CLOSE:
                return opcode, payload
            if partial is None and first >= 0x80:
                if opcode == TEXT and not payload.isascii():
                    _check_utf8(payload)
                return opcode, payload
            message = self._fragment(opcode, payload, final=first >= 0x80)
            if message is not None:
                return message

    def _fragment(self, opcode: int, payload: bytes, *, final: bool) -> tuple[int, bytes] | None:
        partial = self._partial
        if partial is None:
            partial = self._partial = _Partial(opcode, payload)
        else:
            partial.count += 1
            if partial.count > self._fragments:
                # Tiny fragments cost a frame's work each and may be empty: bytes alone do not bound them.
                raise Violation(Close.TOO_BIG, f"message in over {self._fragments} fragments")
            partial.data += payload
        if partial.decoder is not None:
            try:
                partial.decoder.decode(payload, final)
            except UnicodeDecodeError:
                raise Violation(Close.BAD_UTF8, "text is not UTF-8") from None
        if not final:
            return None
        self._partial = None
        return partial.opcode, bytes(partial.data)


def _check_utf8(payload: bytes) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise Violation(Close.BAD_UTF8, "text is not UTF-8") from None


def close_code(payload: bytes) -> int:
    """The code in a close frame, ``NO_CODE`` for none. Raises ``Violation`` (sections 5.5.1 and 7.4)."""
    if not payload:
        return NO_CODE
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not (code in _CLOSE_CODES or 3000 <= code < 5000):
        raise Violation(Close.PROTOCOL_ERROR, "invalid close code")
    _check_utf8(payload[2:])
    return code


def control_frame(opcode: int, payload: bytes) -> bytes:
    """An unmasked control frame. ``payload``: at most 125 bytes."""
    assert len(payload) <= 125
    return bytes((0x80 | opcode, len(payload))) + payload


def close_frame(code: int, reason: str) -> bytes:
    """A close frame; a reason over 123 bytes of UTF-8 is cut at a character."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return control_frame(CLOSE, code.to_bytes(2, "big") + text)
