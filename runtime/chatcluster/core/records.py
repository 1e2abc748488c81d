"""Records of the log: the truth, as it is written to the ``messages`` and ``inbox`` topics.

Encoded as MessagePack arrays with a tag. Evolution: append fields with defaults; never rename,
retype or reorder. Ids are integers here and decimal strings on the wire.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Literal

import msgspec

MESSAGES = "messages"
INBOX = "inbox"
READS = "reads"
DEAD_LETTERS = "dead-letters"
NOTIFICATIONS = "notifications"
TOPICS = (MESSAGES, INBOX, READS, DEAD_LETTERS, NOTIFICATIONS)

MAX_AGE = 60_000
"""A of ``delivery``: ms between the time in a record's id and its append time; later records are void."""
DEDUPE_WINDOW = 600_000
"""ms for which every client's repeat of a client_id is recognised from memory."""
RETRY_HORIZON = 86_400_000
"""ms for which a repeat that says ``retry: true`` is recognised."""

Flag = Literal[0, 1, 2]
PLAIN: Flag = 0
CHECK: Flag = 1
"""Dedupe did not answer, or an older attempt is still pending: the persister's verdict decides."""
RETRY: Flag = 2
"""The client repeats after a lost answer: look back 24 h."""

Kind = Literal["direct", "group"]
Route = Literal["inbox", "channel"]
Role = Literal["owner", "admin", "member"]
Change = Literal["add", "remove", "role"]


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=False):
    """What every event of a channel has. ``actor`` is the user who caused it."""

    tenant: str
    channel: str
    id: int
    actor: str
    client_id: str  # idempotency key of the actor; "" where the event is idempotent by itself
    digest: int  # of the content, for id_conflict; 0 where client_id is ""
    flag: Flag


class MessageRecord(Record, frozen=True, array_like=True, gc=False, tag="message"):
    body: str
    data: dict[str, Any] | None = None
    reply_to: int | None = None


class EditRecord(Record, frozen=True, array_like=True, gc=False, tag="edit"):
    """A new body. Carries what the full message needs, so no reader has to look it up."""

    message_id: int
    body: str
    data: dict[str, Any] | None = None
    author: str = ""
    author_client_id: str = ""
    reply_to: int | None = None


class DeleteRecord(Record, frozen=True, array_like=True, gc=False, tag="delete"):
    message_id: int


class ReactionRecord(Record, frozen=True, array_like=True, gc=False, tag="reaction"):
    message_id: int
    emoji: str
    removed: bool


class MemberRecord(Record, frozen=True, array_like=True, gc=False, tag="member"):
    user: str
    change: Change
    role: Role = "member"
    # Filled by the persister in the durable form that readers get (delivery.md section 4, Route):
    route: Route | None = None
    since: int | None = None


class ChannelRecord(Record, frozen=True, array_like=True, gc=False, tag="channel"):
    """Created (with its first members, so creation is one atomic record) or renamed."""

    change: Literal["created", "renamed"]
    kind: Kind
    name: str | None = None
    members: list[tuple[str, Role]] = []


class RouteRecord(Record, frozen=True, array_like=True, gc=False, tag="route"):
    to: Route
    # Filled by the persister: offset of the previous switch.
    since: int | None = None


class AliasRecord(Record, frozen=True, array_like=True, gc=False, tag="alias"):
    """Never in the log: what a timeline holds for a second record of one client_id. ``id`` is the copy's."""

    of: int


class TickRecord(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="tick"):
    """In every partition of ``messages`` every few seconds: moves the log's time while nobody speaks."""

    time: int


class Reference(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record of the ``inbox`` topic: this user gets this event (the durable write fan-out).

    ``record`` carries the event so that stage 2 and the tails need no read.
    """

    tenant: str
    user: str
    source: int  # offset of the event in ``messages``
    record: EventRecord


class ReadFlush(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record of the ``reads`` topic, keyed by user and channel (compacted): a flushed read cursor."""

    tenant: str
    user: str
    channel: str
    message_id: int


class Notification(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record of the ``notifications`` topic: members without a live session, to push to."""

    tenant: str
    channel: str
    message_id: int
    sender: str
    users: list[str]
    preview: str
    collapse_key: str
    id: str = ""  # of the message and exactly these users
    time: int = 0  # when the message was appended, ms since 1970


class DeadLetter(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record of the ``dead-letters`` topic: what could not be read, and why."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    reason: str


EventRecord = (
    MessageRecord
    | EditRecord
    | DeleteRecord
    | ReactionRecord
    | MemberRecord
    | ChannelRecord
    | RouteRecord
    | AliasRecord
)
LogRecord = EventRecord | TickRecord
SendRecord = MessageRecord | EditRecord | DeleteRecord | ReactionRecord
"""Records that carry a client's idempotency key and leave a verdict row."""

_encoder = msgspec.msgpack.Encoder()
_log_decoder: msgspec.msgpack.Decoder[LogRecord] = msgspec.msgpack.Decoder(LogRecord)
_event_decoder: msgspec.msgpack.Decoder[EventRecord] = msgspec.msgpack.Decoder(EventRecord)
_reference_decoder = msgspec.msgpack.Decoder(Reference)
_notification_decoder = msgspec.msgpack.Decoder(Notification)

encode = _encoder.encode
"""Any record to bytes."""


def decode_log(value: bytes) -> LogRecord:
    """A value of the ``messages`` topic. Raises ``msgspec.DecodeError``: the caller dead-letters it."""
    return _log_decoder.decode(value)


def decode_event(value: bytes) -> EventRecord:
    """An event from a store's row or a tail. Raises ``msgspec.DecodeError``."""
    return _event_decoder.decode(value)


def decode_reference(value: bytes) -> Reference:
    """A value of the ``inbox`` topic. Raises ``msgspec.DecodeError``."""
    return _reference_decoder.decode(value)


def decode_notification(value: bytes) -> Notification:
    """A value of the ``notifications`` topic. Raises ``msgspec.DecodeError``."""
    return _notification_decoder.decode(value)


def digest(*parts: object) -> int:
    """63-bit digest of a send's content: same client_id, other digest is ``id_conflict``."""
    raw = _encoder.encode(parts)
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "big") >> 1


# Keys. The tenant is part of every key, everywhere; a tenant's name holds no "/" (see core.session).


def channel_key(tenant: str, channel: str) -> str:
    """Partition key of ``messages``, and the channel's timeline and topic without its prefix."""
    return f"{tenant}/{channel}"


def user_key(tenant: str, user: str) -> str:
    """Partition key of ``inbox`` and ``reads``."""
    return f"{tenant}/{user}"


def inbox_timeline(tenant: str, user: str) -> str:
    """Timeline and bus topic of a user's inbox."""
    return f"u:{tenant}/{user}"


def channel_timeline(tenant: str, channel: str) -> str:
    """Timeline and bus topic of a large channel."""
    return f"c:{tenant}/{channel}"
