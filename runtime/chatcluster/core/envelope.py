"""What the bus carries: rumours, told at once and checked against the log afterwards."""

from __future__ import annotations

from typing import Literal

import msgspec

from chatcluster.core.records import EventRecord

Status = Literal["online", "away", "offline"]


class Live(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="live"):
    """An event before the log has answered. On ``u:`` topics of each member or the ``c:`` topic."""

    record: EventRecord


class Nudge(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="nudge"):
    """Something durable stands at ``offset`` of this topic's timeline: read the tail now, not at the next poll."""

    offset: int


class Typing(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="typing"):
    """Somebody types. Shed before a message is delayed (law 9)."""

    channel: str
    user: str


class Read(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="read"):
    """A read cursor moved; ``id`` is the event's own id."""

    channel: str
    user: str
    message_id: int
    id: int


class PresenceChange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``user`` shows as ``status`` since ``since`` (ms since 1970)."""

    user: str
    status: Status
    since: int


class Presence(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="presence"):
    """Changes for one gateway, coalesced: per watched tenant the users that changed. On ``g:`` topics."""

    changes: dict[str, list[PresenceChange]]


class Revoke(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="revoke"):
    """On a ``u:`` topic: close this user's sessions whose token was issued before ``before`` (ms since 1970)."""

    before: int
    reason: str


class Disconnect(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="disconnect"):
    """On a ``u:`` topic: close this user's sessions; they may reconnect with the same token."""

    reason: str


class Changed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="changed"):
    """On the ``routers`` topic: a channel's members, name or route changed.

    Caches drop what they hold of it below ``version``.
    """

    tenant: str
    channel: str
    version: int


Envelope = Live | Nudge | Typing | Read | Presence | Revoke | Disconnect | Changed

ROUTERS_TOPIC = "routers"
"""Bus topic that every router listens to (``Changed``)."""


def gateway_topic(gateway: str) -> str:
    """Bus topic of one gateway (``Presence``)."""
    return f"g:{gateway}"


_decoder: msgspec.msgpack.Decoder[Envelope] = msgspec.msgpack.Decoder(Envelope)
encode_envelope = msgspec.msgpack.Encoder().encode


def decode_envelope(value: bytes) -> Envelope:
    """An envelope from a bus that carries bytes. Raises ``msgspec.DecodeError``: dropped and counted."""
    return _decoder.decode(value)
