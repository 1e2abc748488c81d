"""What the internal links carry: length-prefixed MessagePack, many requests in one frame. No I/O.

A frame is four bytes of length (big-endian) and one message. Evolution: append fields with defaults, add messages;
both ends say their ``VERSION`` and the smaller one is spoken.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, Literal, TypeVar

import msgspec

from chatcluster.core.envelope import PresenceChange
from chatcluster.core.frames import Answer, Request
from chatcluster.ports import Beat, Caller

VERSION = 1
MAX_FRAME = 16 * 1024 * 1024
"""Bytes of a frame; what announces more is not one of us. A large page of history is under 2 MiB."""
GOOD_FRAME = 1024 * 1024
"""Bytes from which a batch is cut into smaller frames: nobody's loop is held for long."""
HANDSHAKE_FRAME = 8 * 1024
"""Bytes of a frame before both have shaken hands: a stranger gets no memory."""
NONCE = 16

T = TypeVar("T")

Kind = Literal["router", "presence"]


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """What a router tells of the log: its incarnation, and partitions by topic."""

    epoch: str = ""
    partitions: dict[str, int] = {}


class Challenge(msgspec.Struct, frozen=True, array_like=True, tag="challenge"):
    """The server's first word. ``open``: no secret is asked for. ``instance``: this run of the process."""

    version: int
    kind: Kind
    name: str
    nonce: bytes
    open: bool
    instance: bytes = b""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The client's answer: who it is, and that it knows the secret."""

    version: int
    kind: Kind
    name: str
    nonce: bytes
    proof: bytes


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The server knows the secret, too; from here on requests are taken."""

    proof: bytes
    facts: Facts


class Strange(msgspec.Struct, frozen=True, gc=False):
    """A request or an answer of a version that knows more than this one. Never on the wire."""

    rid: str | None = None


class Calls(msgspec.Struct, frozen=True, array_like=True, tag="calls", gc=False):
    """Requests of a gateway, in order."""

    calls: list[tuple[int, Caller, Request]]


class Answers(msgspec.Struct, frozen=True, array_like=True, tag="answers", gc=False):
    """Each call's answer, by its number."""

    answers: list[tuple[int, Answer]]


class _RawCalls(msgspec.Struct, array_like=True, tag="calls", gc=False):
    calls: list[tuple[int, Caller, msgspec.Raw]]


class _RawAnswers(msgspec.Struct, array_like=True, tag="answers", gc=False):
    answers: list[tuple[int, msgspec.Raw]]


class Beats(msgspec.Struct, frozen=True, array_like=True, tag="beats", gc=False):
    """Heartbeats of a gateway's sessions."""

    gateway: str
    beats: list[Beat]


class Watch(msgspec.Struct, frozen=True, array_like=True, tag="watch", gc=False):
    """Replace the part of a session's visible set that this node serves."""

    number: int
    gateway: str
    session: str
    tenant: str
    users: list[str]


class Watched(msgspec.Struct, frozen=True, array_like=True, tag="watched", gc=False):
    """The state now of what is watched."""

    number: int
    changes: list[PresenceChange]


class Forget(msgspec.Struct, frozen=True, array_like=True, tag="forget", gc=False):
    """These sessions are gone."""

    gateway: str
    sessions: list[str]


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="ping"):
    """A sign of life; not answered: both ends give theirs."""


class Goodbye(msgspec.Struct, frozen=True, array_like=True, tag="goodbye"):
    """The server is leaving: it takes no new requests and still answers those it has."""


FromClient = Hello | Calls | Beats | Watch | Forget | Ping
FromServer = Challenge | Welcome | Answers | Watched | Ping | Goodbye

_encoder = msgspec.msgpack.Encoder()
_from_client: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
_from_server: msgspec.msgpack.Decoder[FromServer] = msgspec.msgpack.Decoder(FromServer)
_raw_calls = msgspec.msgpack.Decoder(_RawCalls)
_raw_answers = msgspec.msgpack.Decoder(_RawAnswers)
_request: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Request)
_answer: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Answer)
_rid = msgspec.msgpack.Decoder(Strange)


class Malformed(Exception):
    """What came is not of this protocol: the connection ends."""


def encode(message: FromClient | FromServer) -> bytes:
    """A message as a frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


def frames(
    batch: Callable[[list[T]], FromClient | FromServer], items: list[T], unfit: Callable[[T], None]
) -> Iterator[bytes]:
    """All items in frames of a good size, in order. ``unfit`` gets an item that no frame can carry."""
    try:
        frame = encode(batch(items))
    except (TypeError, ValueError, OverflowError, RecursionError):
        frame = None
    if frame is not None and (len(frame) <= GOOD_FRAME or (len(items) == 1 and len(frame) <= MAX_FRAME)):
        yield frame
    elif len(items) == 1:
        unfit(items[0])
    else:
        half = len(items) // 2
        yield from frames(batch, items[:half], unfit)
        yield from frames(batch, items[half:], unfit)


def decode_from_client(body: bytes) -> FromClient:
    """A message of a gateway. A request that this version does not know is ``Strange``; the others count.

    Raises ``msgspec.MsgspecError``.
    """
    try:
        return _from_client.decode(body)
    except msgspec.ValidationError:
        raw = _raw_calls.decode(body)
        return Calls([(number, caller, _or_strange(_request, one)) for number, caller, one in raw.calls])


def decode_from_server(body: bytes) -> FromServer:
    """A message of a server; an answer that this version does not know is ``Strange``. Raises ``MsgspecError``."""
    try:
        return _from_server.decode(body)
    except msgspec.ValidationError:
        raw = _raw_answers.decode(body)
        return Answers([(number, _or_strange(_answer, one)) for number, one in raw.answers])


def _or_strange(decoder: msgspec.msgpack.Decoder[Any], raw: msgspec.Raw) -> Any:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        try:
            return _rid.decode(raw)
        except msgspec.ValidationError:
            return Strange(None)


class Cutter:
    """Cuts a stream into frames' bodies, however it was cut on its way. ``limit``: bytes of a body."""

    __slots__ = ("_buffer", "limit")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that are complete now. Raises ``Malformed`` for a frame over the limit."""
        buffer = self._buffer
        source: bytes | bytearray = data
        if buffer:
            buffer += data
            source = buffer
        at, size = 0, len(source)
        while size - at >= 4:
            length = int.from_bytes(source[at : at + 4], "big")
            if length > self.limit:
                raise Malformed(f"a frame of {length} bytes was announced")
            if size - at - 4 < length:
                break
            yield bytes(source[at + 4 : at + 4 + length])
            at += 4 + length
        if source is buffer:
            del buffer[:at]
        elif at < size:
            buffer += data[at:]


def proof(secret: bytes, side: Literal["client", "server"], first: bytes, second: bytes, name: str) -> bytes:
    """That ``side`` knows the secret: HMAC-SHA256 over both nonces and its name. Empty without a secret."""
    if not secret:
        return b""
    return hmac.new(secret, b"|".join([side.encode(), first, second, name.encode()]), sha256).digest()


def proven(expected: bytes, given: bytes) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(expected, given)
