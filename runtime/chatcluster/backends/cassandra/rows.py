"""How each kind of row becomes cells, and back. Pure: knows rows and bytes, no driver.

Versions. A cell's write timestamp is a function of its row alone: the time in an id or of an append where there
is one (so that compaction by time windows works), else a base plus the log's offset. Where two rows of one key may
have one timestamp, the cell's first 8 bytes rank them, because the cluster keeps the greater bytes:
"the higher wins" puts the number there, "the lower wins" puts the largest number minus it.
No timestamp is ever beyond the time of what it tells, so limits on timestamps in the future never meet them.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any
from zlib import crc32

import msgspec

from chatcluster.core.ids import EPOCH, TIME_SHIFT
from chatcluster.core.records import PLAIN, AliasRecord, EventRecord, MessageRecord, Role, decode_event, encode
from chatcluster.core.rows import (
    ChannelRow,
    DeleteRow,
    EditRow,
    EventRow,
    MemberRow,
    MessageRow,
    ReactionRow,
    ReadCursorRow,
    RevocationRow,
    RouteRow,
    StoredMessage,
    TimelineRow,
    UserChannelRow,
    VerdictRow,
)

MAX = (1 << 63) - 1
MESSAGE, EVENT, INLINE = 0, 1, 2
"""Kind of a timeline's entry: where its record stands: in ``messages``, in ``events``, in the entry itself."""

REVOCATION_SLICES = 16
SLICE_MEMBERS = 5_000
"""Members up to which a channel's member rows stand in slice 0; beyond, each user's go to one of the others.

These numbers are part of the data: they must never change."""
SLICES = 16
BASE = EPOCH * 1000
"""Microseconds since 1970 to which offsets are added."""

long = Struct(">q").pack
int4 = Struct(">i").pack
_verdict = Struct(">qBqqq")
_entry = Struct(">qqBq")
_length = Struct(">H").pack
_unlong = Struct(">q").unpack_from
_pack = msgspec.msgpack.Encoder().encode
_body = msgspec.msgpack.Decoder(tuple[str, str, str, dict[str, Any] | None, int | None]).decode
_edit = msgspec.msgpack.Decoder(tuple[str, dict[str, Any] | None]).decode
_channel = msgspec.msgpack.Decoder(tuple[str, str | None, str, int]).decode
_route = msgspec.msgpack.Decoder(tuple[str, int | None]).decode
_role: Callable[[bytes], tuple[Role | None, int]] = msgspec.msgpack.Decoder(tuple[Role | None, int]).decode
_user_channel: Callable[[bytes], Role | None] = msgspec.msgpack.Decoder(Role | None).decode

_LOW = (1 << TIME_SHIFT) - 1
Cells = tuple[bytes, ...]


def by_id(event_id: int) -> bytes:
    """Write timestamp of an id: its time in microseconds; never goes down as ids go up."""
    return long(BASE + (event_id >> TIME_SHIFT) * 1000 + ((event_id & _LOW) * 1000 >> TIME_SHIFT))


def by_time(time: int) -> bytes:
    """Write timestamp of a time in ms."""
    return long(time * 1000)


def by_offset(offset: int) -> bytes:
    """Write timestamp of an offset: the higher wins."""
    return long(BASE + offset)


def routing_key(*parts: bytes) -> bytes:
    """A partition's key as the cluster hashes it."""
    if len(parts) == 1:
        return parts[0]
    return b"".join([_length(len(part)) + part + b"\0" for part in parts])


# -- to cells -------------------------------------------------------------------------------------------


def message(row: MessageRow, bucket: bytes) -> Cells:
    first = long(MAX - row.offset) + _pack((row.sender, row.client_id, row.body, row.data, row.reply_to))
    return row.tenant.encode(), row.channel.encode(), bucket, long(row.id), first, by_id(row.id)


def edit(row: EditRow, bucket: bytes) -> Cells:
    cell = long(row.event_id) + _pack((row.body, row.data))
    return row.tenant.encode(), row.channel.encode(), bucket, long(row.message_id), cell, by_id(row.event_id)


def delete(row: DeleteRow, bucket: bytes) -> Cells:
    event = row.event_id
    return row.tenant.encode(), row.channel.encode(), bucket, long(row.message_id), long(event), by_id(event)


def reaction(row: ReactionRow, bucket: bytes) -> Cells:
    user, emoji = row.user.encode(), row.emoji.encode()
    key = int4(len(user)) + user + int4(len(emoji)) + emoji
    cell = long(row.event_id) + (b"\1" if row.removed else b"\0")
    return (
        by_id(row.event_id), key, cell, row.tenant.encode(), row.channel.encode(), bucket, long(row.message_id)
    )  # fmt: skip


def event(row: EventRow, bucket: bytes) -> Cells:
    cell = long(MAX - row.offset) + encode(row.record)
    return row.tenant.encode(), row.channel.encode(), bucket, long(row.id), cell, by_id(row.id)


def timeline(row: TimelineRow, bucket: bytes) -> Cells:
    # Small rows: the record is a reference wherever the event has a row of its own.
    record = row.record
    if type(record) is MessageRecord:
        kind = MESSAGE
    elif type(record) is AliasRecord:
        kind = INLINE
    else:
        kind = EVENT
    cell = _entry.pack(row.prev, row.source, kind, record.id)
    if kind == INLINE:
        cell += encode(record)
    else:
        tenant = record.tenant.encode()
        cell += _length(len(tenant)) + tenant + record.channel.encode()
    return row.timeline.encode(), bucket, long(row.offset), cell, by_time(row.time)


def member(row: MemberRow, slice_: int) -> Cells:
    state = _pack((row.role, row.count))
    tenant, channel, user = row.tenant.encode(), row.channel.encode(), row.user.encode()
    return tenant, channel, int4(slice_), user, long(row.offset), state, by_offset(row.offset)


def user_slice(user: str) -> int:
    """Where a user's member rows of a large channel stand."""
    return 1 + crc32(user.encode()) % SLICES


def member_slice(row: MemberRow) -> int:
    """By the size of the channel as the row knows it, so that a replay puts it in the same place."""
    return 0 if row.count <= SLICE_MEMBERS else user_slice(row.user)


def change(row: MemberRow) -> Cells:
    state = _pack((row.role, row.count))
    tenant, channel, user = row.tenant.encode(), row.channel.encode(), row.user.encode()
    return tenant, channel, long(row.offset), int4(row.count), user, state, by_offset(row.offset)


def channel(row: ChannelRow) -> Cells:
    state = long(row.offset) + _pack((row.kind, row.name, row.creator, row.created))
    return row.tenant.encode(), row.channel.encode(), state, by_offset(row.offset)


def route(row: RouteRow) -> Cells:
    state = _pack((row.route, row.since))
    return row.tenant.encode(), row.channel.encode(), long(row.offset), state, by_offset(row.offset)


def user_channel(row: UserChannelRow) -> Cells:
    state = long(row.offset) + _pack(row.role)
    return row.tenant.encode(), row.user.encode(), row.channel.encode(), state, by_offset(row.offset)


def verdict(row: VerdictRow, ttl: bytes) -> Cells:
    winner = row.winner
    cell = _verdict.pack(row.id, winner is not None, winner or 0, row.time, row.digest)
    return (
        row.tenant.encode(), row.channel.encode(), row.sender.encode(), row.client_id.encode(),
        long(row.offset), cell, by_time(row.time), ttl,
    )  # fmt: skip


def read_cursor(row: ReadCursorRow) -> Cells:
    number = row.message_id
    return row.tenant.encode(), row.user.encode(), row.channel.encode(), long(number), by_id(number)


def revocation(row: RevocationRow) -> Cells:
    tenant, user = row.tenant.encode(), row.user.encode()
    slice_ = int4(crc32(tenant + b"/" + user) % REVOCATION_SLICES)
    return slice_, tenant, user, long(row.before), by_time(row.before)


# -- and back -----------------------------------------------------------------------------------------------


def rank(cell: bytes) -> int:
    """The number that a versioned cell begins with."""
    return int(_unlong(cell)[0])


def offset_of(cell: bytes) -> int:
    """Offset in a cell where the lower one wins."""
    return MAX - rank(cell)


class Found:
    """The cells of one message, of one partition or merged from several."""

    __slots__ = ("deleted", "edit", "first", "reactions")

    def __init__(self, first: bytes | None, edit: bytes | None, deleted: int | None, reactions: Any) -> None:
        self.first = first
        self.edit = edit
        self.deleted = deleted
        self.reactions: dict[tuple[str, str], bytes] | None = dict(reactions.items()) if reactions else None

    def merge(self, other: Found) -> None:
        """By the cluster's own rule: the greater bytes stay."""
        self.first = max(self.first or b"", other.first or b"") or None
        self.edit = max(self.edit or b"", other.edit or b"") or None
        self.deleted = other.deleted if self.deleted is None else self.deleted
        for key, cell in (other.reactions or {}).items():
            if self.reactions is None:
                self.reactions = {}
            self.reactions[key] = max(cell, self.reactions.get(key, b""))


def stored_message(channel: str, number: int, found: Found) -> StoredMessage | None:
    """The message as readers see it; None where only what belongs to it is there yet."""
    first = found.first
    if first is None:
        return None
    sender, client_id, body, data, reply_to = _body(memoryview(first)[8:])
    edit_id = None
    if found.edit is not None:
        edit_id = rank(found.edit)
        body, data = _edit(memoryview(found.edit)[8:])
    deleted = found.deleted is not None
    if deleted:
        body, data = "", None
    reactions: dict[str, list[str]] | None = None
    if found.reactions:
        given = sorted((rank(cell), user, emoji) for (user, emoji), cell in found.reactions.items() if not cell[8])
        if given:
            reactions = {}
            for _, user, emoji in given:
                reactions.setdefault(emoji, []).append(user)
    return StoredMessage(
        number, channel, offset_of(first), sender, client_id, body, data, reply_to, edit_id, deleted, reactions
    )


def first_record(tenant: str, channel: str, number: int, first: bytes) -> MessageRecord:
    """A message as its timelines show it: digest and flag are the log's and the verdict's; nobody asks for them."""
    sender, client_id, body, data, reply_to = _body(memoryview(first)[8:])
    return MessageRecord(tenant, channel, number, sender, client_id, 0, PLAIN, body, data, reply_to)


def event_record(cell: bytes) -> EventRecord:
    """The record of an event's cell."""
    return decode_event(cell[8:])


class Entry:
    """A timeline's row before its record is there. ``where``: tenant, channel and id of the event."""

    __slots__ = ("kind", "offset", "prev", "record", "source", "where")

    def __init__(self, offset: int, cell: bytes) -> None:
        self.offset = offset
        self.prev, self.source, self.kind, number = _entry.unpack_from(cell)
        at = _entry.size
        if self.kind == INLINE:
            self.record: EventRecord | None = decode_event(cell[at:])
            self.where = (self.record.tenant, self.record.channel, number)
        else:
            length = int.from_bytes(cell[at : at + 2], "big")
            self.record = None
            self.where = (cell[at + 2 : at + 2 + length].decode(), cell[at + 2 + length :].decode(), number)


def channel_of(state: bytes) -> tuple[int, str, str | None, str, int]:
    """Offset, kind, name, creator, creation of a channel's cell."""
    return rank(state), *_channel(memoryview(state)[8:])


def route_of(state: bytes) -> tuple[str, int | None]:
    """Route and since."""
    return _route(state)


def member_of(state: bytes) -> tuple[Role | None, int]:
    """Role and count."""
    return _role(state)


def user_channel_of(state: bytes) -> tuple[int, Role | None]:
    """Offset and role."""
    return rank(state), _user_channel(state[8:])


def verdict_of(key: tuple[str, str, str, str], offset: int, cell: bytes) -> VerdictRow:
    """The row of a send's cell."""
    number, won, winner, time, digest = _verdict.unpack(cell)
    return VerdictRow(*key, offset, number, winner if won else None, time, digest)
