"""Rows of the store: its picture of the log, a deterministic function of it (law 3).

Every row is an upsert that a replay repeats without effect: where two rows share a key, the higher
version wins (named in each docstring). No row is ever deleted in the message path.
"""

from __future__ import annotations

from typing import Any

import msgspec

from chatcluster.core.records import EventRecord, Kind, Role, Route


class Row(msgspec.Struct, frozen=True, gc=False):
    """Base of all rows."""

    tenant: str


class MessageRow(Row, frozen=True, gc=False):
    """Key (tenant, channel, id). The first body; an edit's body lives in its own cell (``EditRow``).

    ``offset``: position in ``messages`` of the first record; the lower offset wins.
    """

    channel: str
    id: int
    offset: int
    sender: str
    client_id: str
    body: str
    data: dict[str, Any] | None = None
    reply_to: int | None = None


class EditRow(Row, frozen=True, gc=False):
    """Key (tenant, channel, message_id). The higher ``event_id`` wins."""

    channel: str
    message_id: int
    event_id: int
    body: str
    data: dict[str, Any] | None = None


class DeleteRow(Row, frozen=True, gc=False):
    """Key (tenant, channel, message_id). A sticky flag: once set it stays, whatever else arrives."""

    channel: str
    message_id: int
    event_id: int


class ReactionRow(Row, frozen=True, gc=False):
    """Key (tenant, channel, message_id, user, emoji). The higher ``event_id`` wins."""

    channel: str
    message_id: int
    user: str
    emoji: str
    event_id: int
    removed: bool


class EventRow(Row, frozen=True, gc=False):
    """Key (tenant, channel, id). Every event that is not a message, in its durable form."""

    channel: str
    id: int
    offset: int
    record: EventRecord


class MemberRow(Row, frozen=True, gc=False):
    """Key (tenant, channel, user, offset). ``role`` None: removed at this offset.

    ``count``: members of the channel after this row, so that the newest row knows the size.
    """

    channel: str
    user: str
    offset: int
    role: Role | None
    count: int


class ChannelRow(Row, frozen=True, gc=False):
    """Key (tenant, channel). Name, kind and creation; the higher ``offset`` wins.

    ``route`` and ``since`` are rows of their own (``RouteRow``): they have their own positions.
    """

    channel: str
    offset: int
    kind: Kind
    name: str | None
    creator: str
    created: int  # ms since 1970


class RouteRow(Row, frozen=True, gc=False):
    """Key (tenant, channel, offset). The route from this offset on; none: ``inbox``.

    ``since``: offset of the switch before this one, None for the first.
    """

    channel: str
    offset: int
    route: Route
    since: int | None


class UserChannelRow(Row, frozen=True, gc=False):
    """Key (tenant, user, channel): a user's conversation list. The higher ``offset`` wins."""

    user: str
    channel: str
    offset: int
    role: Role | None


class VerdictRow(Row, frozen=True, gc=False):
    """Key (tenant, channel, sender, client_id, offset): what became of one send.

    ``winner``: the id that stands for this client_id; None when the record was void.
    ``time``: append time, ms since 1970. Kept for RETRY_HORIZON plus the log's retention.
    """

    channel: str
    sender: str
    client_id: str
    offset: int
    id: int
    winner: int | None
    time: int
    digest: int


class TimelineRow(Row, frozen=True, gc=False):
    """Key (timeline, offset): what readers of an inbox or a large channel have got, by position.

    ``prev``: offset of this timeline's entry before it (START for the first). ``source``: offset of the
    event in ``messages``. ``record``: the event in its durable form; backends keep a reference where the
    event has a row of its own. ``time``: append time of the entry at ``offset``, ms since 1970: a backend may
    place rows by it; readers do not get it back.
    """

    timeline: str
    offset: int
    prev: int
    source: int
    record: EventRecord
    time: int = 0


class ReadCursorRow(Row, frozen=True, gc=False):
    """Key (tenant, user, channel). The higher ``message_id`` wins."""

    user: str
    channel: str
    message_id: int


class RevocationRow(Row, frozen=True, gc=False):
    """Key (tenant, user). Tokens issued before ``before`` (ms since 1970) are refused; the higher wins."""

    user: str
    before: int


AnyRow = (
    MessageRow
    | EditRow
    | DeleteRow
    | ReactionRow
    | EventRow
    | MemberRow
    | ChannelRow
    | RouteRow
    | UserChannelRow
    | VerdictRow
    | TimelineRow
    | ReadCursorRow
    | RevocationRow
)


# What readers get back.


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """A message as history shows it: the first row with its edit, delete flag and reactions applied.

    ``deleted``: body is "" and data None. ``edit_id``: event id of the edit in force.
    ``reactions``: emoji to the users who gave it, both in order of first appearance by event id.
    """

    id: int
    channel: str
    offset: int
    sender: str
    client_id: str
    body: str
    data: dict[str, Any] | None = None
    reply_to: int | None = None
    edit_id: int | None = None
    deleted: bool = False
    reactions: dict[str, list[str]] | None = None


class StoredChannel(msgspec.Struct, frozen=True, gc=False):
    """A channel as the router caches it. ``version``: the highest offset of its channel, route and member rows."""

    channel: str
    kind: Kind
    name: str | None
    creator: str
    created: int
    members: int
    route: Route
    route_offset: int  # START while it never switched
    since: int | None
    version: int


class Membership(msgspec.Struct, frozen=True, gc=False):
    """One user in one channel: the newest member row (or the newest at or below an offset asked for)."""

    user: str
    role: Role | None
    offset: int
