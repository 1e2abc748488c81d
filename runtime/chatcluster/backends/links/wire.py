"""What the internal links carry: length-prefixed MessagePack, many requests in one frame. No I/O.

A frame is four bytes of length (big-endian) and one message. Evolution: append fields with defaults, add messages;
both ends say their ``VERSION`` and the smaller one is spoken.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from hashlib import sha256
from typing import Literal

import msgspec

from chatcluster.core.envelope import PresenceChange
from chatcluster.core.frames import Answer, Request
from chatcluster.ports import Beat, Caller

VERSION = 1
MAX_FRAME = 16 * 1024 * 1024
"""Bytes of a frame. A batch is cut long before; what announces more is not one of us."""
NONCE = 16

Kind = Literal["router", "presence"]


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """What a router tells of the log: its incarnation, and partitions by topic."""

    epoch: str = ""
    partitions: dict[str, int] = {}


class Challenge(msgspec.Struct, frozen=True, array_like=True, tag="challenge"):
    """The server's first word. ``open``: no secret is asked for."""

    version: int
    kind: Kind
    name: str
    nonce: bytes
    open: bool


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


class Calls(msgspec.Struct, frozen=True, array_like=True, tag="calls", gc=False):
    """Requests of a gateway, in order."""

    calls: list[tuple[int, Caller, Request]]


class Answers(msgspec.Struct, frozen=True, array_like=True, tag="answers", gc=False):
    """Each call's answer, by its number."""

    answers: list[tuple[int, Answer]]


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
decode_from_client = _from_client.decode
decode_from_server = _from_server.decode


class Malformed(Exception):
    """What came is not of this protocol: the connection ends."""


def encode(message: FromClient | FromServer) -> bytes:
    """A message as a frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


class Cutter:
    """Cuts a stream into frames' bodies, however it was cut on its way. Bounded by ``MAX_FRAME``."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[memoryview | bytes]:
        """The bodies that are complete now. Raises ``Malformed``."""
        buffer = self._buffer
        if not buffer:
            at, size = 0, len(data)
            while size - at >= 4:
                length = int.from_bytes(data[at : at + 4], "big")
                if length > MAX_FRAME:
                    raise Malformed(f"a frame of {length} bytes was announced")
                if size - at - 4 < length:
                    break
                yield data[at + 4 : at + 4 + length]
                at += 4 + length
            buffer += data[at:]
            return
        buffer += data
        at = 0
        while len(buffer) - at >= 4:
            length = int.from_bytes(buffer[at : at + 4], "big")
            if length > MAX_FRAME:
                raise Malformed(f"a frame of {length} bytes was announced")
            if len(buffer) - at - 4 < length:
                break
            yield bytes(buffer[at + 4 : at + 4 + length])
            at += 4 + length
        del buffer[:at]


def proof(secret: bytes, side: Literal["client", "server"], first: bytes, second: bytes, name: str) -> bytes:
    """That ``side`` knows the secret: HMAC-SHA256 over both nonces and its name. Empty without a secret."""
    if not secret:
        return b""
    return hmac.new(secret, b"|".join([side.encode(), first, second, name.encode()]), sha256).digest()


def proven(expected: bytes, given: bytes) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(expected, given)
