"""From records and stored rows to the frames that clients see. Pure; the codecs are in ``frames``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from msgspec import UNSET

from chatcluster.core.codes import Refused
from chatcluster.core.cursor import Cursor, encode_cursor
from chatcluster.core.frames import Event, MemberInfo, WireMessage
from chatcluster.core.ids import id_time
from chatcluster.core.records import (
    AliasRecord,
    ChannelRecord,
    DeleteRecord,
    EditRecord,
    EventRecord,
    MemberRecord,
    MessageRecord,
    ReactionRecord,
    RouteRecord,
    channel_timeline,
)
from chatcluster.core.rows import StoredMessage

INBOX_WIRE = "inbox"
"""``timeline`` of an inbox event on the wire."""


def channel_wire(channel: str) -> str:
    """``timeline`` of a large channel's event on the wire."""
    return f"channel:{channel}"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(at: int) -> str:
    """RFC 3339 UTC with milliseconds, of ms since 1970."""
    return f"{_second(at // 1000)}.{at % 1000:03d}Z"


def parse_rfc3339(text: str, field: str) -> int:
    """ms since 1970. Raises ``Refused(bad_request)``."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError(text)
        return (moment - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError) as error:
        raise Refused("bad_request", f"{field} is not an RFC 3339 time with a zone", field=field) from error


def wire_message(stored: StoredMessage) -> WireMessage:
    """A stored message. A deleted one keeps its place, sender and time, and nothing of its content."""
    return WireMessage(
        id=str(stored.id),
        channel=stored.channel,
        sender=stored.sender,
        client_id=stored.client_id,
        time=rfc3339(id_time(stored.id)),
        body="" if stored.deleted else stored.body,
        data=UNSET if stored.data is None or stored.deleted else stored.data,
        reply_to=UNSET if stored.reply_to is None else str(stored.reply_to),
        edited=UNSET if stored.edit_id is None else rfc3339(id_time(stored.edit_id)),
        deleted=True if stored.deleted else UNSET,
        reactions=UNSET if not stored.reactions or stored.deleted else stored.reactions,
    )


def wire_event(record: EventRecord, timeline: str, *, live: bool, source: int, epoch: str) -> Event:
    """The event of a record. ``timeline``: ``INBOX_WIRE`` or ``channel_wire``.

    ``source``: the record's offset in ``messages``: the version of member, route and channel events
    (which are told only in their durable form); unused for the others, whose version is their id.
    """
    event_id = str(record.id)
    if isinstance(record, MessageRecord):
        return Event(
            timeline,
            event_id,
            record.channel,
            "message",
            live,
            message=WireMessage(
                event_id,
                record.channel,
                record.actor,
                record.client_id,
                rfc3339(id_time(record.id)),
                record.body,
                UNSET if record.data is None else record.data,
                UNSET if record.reply_to is None else str(record.reply_to),
            ),
        )
    if isinstance(record, EditRecord):
        return Event(
            timeline,
            event_id,
            record.channel,
            "edited",
            live,
            version=event_id,
            message=WireMessage(
                str(record.message_id),
                record.channel,
                record.author,
                record.author_client_id,
                rfc3339(id_time(record.message_id)),
                record.body,
                UNSET if record.data is None else record.data,
                UNSET if record.reply_to is None else str(record.reply_to),
                edited=rfc3339(id_time(record.id)),
            ),
        )
    if isinstance(record, DeleteRecord):
        return Event(
            timeline,
            event_id,
            record.channel,
            "deleted",
            live,
            version=event_id,
            message_id=str(record.message_id),
        )
    if isinstance(record, ReactionRecord):
        return Event(
            timeline,
            event_id,
            record.channel,
            "reaction",
            live,
            version=event_id,
            message_id=str(record.message_id),
            user=record.actor,
            emoji=record.emoji,
            removed=record.removed,
        )
    if isinstance(record, AliasRecord):
        return retracted(record.channel, record.id, timeline, of=record.of)
    version = str(source)
    if isinstance(record, MemberRecord):
        at = channel_timeline(record.tenant, record.channel)
        large = record.route == "channel"
        return Event(
            timeline,
            event_id,
            record.channel,
            "member",
            live,
            version=version,
            user=record.user,
            change=record.change,
            role=UNSET if record.change == "remove" else record.role,
            route=UNSET if record.route is None else record.route,
            cursor=encode_cursor(Cursor(epoch, source, record.id), at) if large else UNSET,
        )
    if isinstance(record, RouteRecord):
        at = channel_timeline(record.tenant, record.channel)
        return Event(
            timeline,
            event_id,
            record.channel,
            "route",
            live,
            version=version,
            to=record.to,
            cursor=encode_cursor(Cursor(epoch, source, record.id), at),
            since=UNSET if record.since is None else encode_cursor(Cursor(epoch, record.since, 0), at),
        )
    assert isinstance(record, ChannelRecord)
    return Event(
        timeline,
        event_id,
        record.channel,
        "channel",
        live,
        version=version,
        name=record.name,
        change=record.change,
        channel_kind=record.kind,
        members=[MemberInfo(user, role) for user, role in record.members] if record.members else UNSET,
        user=record.actor,
    )


def retracted(channel: str, message_id: int, timeline: str, *, of: int | None = None) -> Event:
    """A live event withdrawn: it never became durable, or is a second copy of ``of``."""
    return Event(
        timeline,
        f"{message_id}",
        channel,
        "retracted",
        False,
        message_id=str(message_id),
        of=UNSET if of is None else str(of),
    )
