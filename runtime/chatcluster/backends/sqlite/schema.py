"""Tables of the store, and how each kind of row becomes an upsert. Knows rows, no connections.

Tables are clustered by their keys (WITHOUT ROWID); the columns stand in the order of the row's fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import astuple

from chatcluster.core.records import AliasRecord, MessageRecord, encode
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
    Row,
    TimelineRow,
    UserChannelRow,
    VerdictRow,
)

VERSION = 1
MESSAGE, EVENT, INLINE = 0, 1, 2
"""``timelines.kind``: where the record stands: in ``messages``, in ``events``, in the row itself."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (tenant TEXT, channel TEXT, id INTEGER, offset INTEGER, sender TEXT,
    client_id TEXT, body TEXT, data BLOB, reply_to INTEGER, PRIMARY KEY (tenant, channel, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS edits (tenant TEXT, channel TEXT, message_id INTEGER, event_id INTEGER, body TEXT,
    data BLOB, PRIMARY KEY (tenant, channel, message_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deletes (tenant TEXT, channel TEXT, message_id INTEGER, event_id INTEGER,
    PRIMARY KEY (tenant, channel, message_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reactions (tenant TEXT, channel TEXT, message_id INTEGER, user TEXT, emoji TEXT,
    event_id INTEGER, removed INTEGER, PRIMARY KEY (tenant, channel, message_id, user, emoji)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (tenant TEXT, channel TEXT, id INTEGER, offset INTEGER, record BLOB,
    PRIMARY KEY (tenant, channel, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS members (tenant TEXT, channel TEXT, user TEXT, offset INTEGER, role TEXT,
    count INTEGER, PRIMARY KEY (tenant, channel, user, offset)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS members_by_offset ON members (tenant, channel, offset, count, user, role);
CREATE TABLE IF NOT EXISTS channels (tenant TEXT, channel TEXT, offset INTEGER, kind TEXT, name TEXT,
    creator TEXT, created INTEGER, PRIMARY KEY (tenant, channel)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS routes (tenant TEXT, channel TEXT, offset INTEGER, route TEXT, since INTEGER,
    PRIMARY KEY (tenant, channel, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS user_channels (tenant TEXT, user TEXT, channel TEXT, offset INTEGER, role TEXT,
    PRIMARY KEY (tenant, user, channel)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS verdicts (tenant TEXT, channel TEXT, sender TEXT, client_id TEXT, offset INTEGER,
    id INTEGER, winner INTEGER, time INTEGER, digest INTEGER,
    PRIMARY KEY (tenant, channel, sender, client_id, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS timelines (timeline TEXT, offset INTEGER, prev INTEGER, source INTEGER, kind INTEGER,
    tenant TEXT, channel TEXT, id INTEGER, record BLOB, PRIMARY KEY (timeline, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS read_cursors (tenant TEXT, user TEXT, channel TEXT, message_id INTEGER,
    PRIMARY KEY (tenant, user, channel)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revocations (tenant TEXT, user TEXT, before INTEGER,
    PRIMARY KEY (tenant, user)) WITHOUT ROWID
"""

pack = msgspec.msgpack.Encoder().encode
Values = tuple[Any, ...]


def _message(row: MessageRow) -> Values:
    values = astuple(row)
    return values if row.data is None else (*values[:7], pack(row.data), values[8])


def _edit(row: EditRow) -> Values:
    values = astuple(row)
    return values if row.data is None else (*values[:5], pack(row.data))


def _event(row: EventRow) -> Values:
    return row.tenant, row.channel, row.id, row.offset, encode(row.record)


def _timeline(row: TimelineRow) -> Values:
    # Small rows: the record is a reference wherever the event has a row of its own.
    record = row.record
    if type(record) is MessageRecord:
        kind, inline = MESSAGE, None
    elif type(record) is AliasRecord:
        kind, inline = INLINE, encode(record)
    else:
        kind, inline = EVENT, None
    return (
        row.timeline, row.offset, row.prev, row.source, kind, record.tenant, record.channel, record.id, inline
    )  # fmt: skip


class Upsert:
    """How rows of one kind are written: ``insert (columns) values … on conflict …``."""

    __slots__ = ("_head", "_one", "_tail", "values")

    def __init__(self, table: str, width: int, key: str, version: str, values: Callable[[Any], Values]) -> None:
        """``version``: "column op" by which a newcomer replaces what stands; "" for: what stands stays."""
        self.values = values
        self._head = f"INSERT INTO {table} VALUES "
        self._one = f"({','.join('?' * width)})"
        self._tail = " ON CONFLICT DO NOTHING"
        if version:
            column, than, *others = version.split()
            sets = ",".join(f"{name}=excluded.{name}" for name in (column, *others))
            self._tail = f" ON CONFLICT ({key}) DO UPDATE SET {sets} WHERE excluded.{column} {than} {table}.{column}"

    def statement(self, rows: int) -> str:
        """The statement for so many rows at once."""
        return self._head + ",".join([self._one] * rows) + self._tail


_CHANNEL = "tenant,channel"
UPSERTS: dict[type[Row], Upsert] = {
    MessageRow: Upsert("messages", 9, "tenant,channel,id", "offset < sender client_id body data reply_to", _message),
    EditRow: Upsert("edits", 6, "tenant,channel,message_id", "event_id > body data", _edit),
    DeleteRow: Upsert("deletes", 4, "", "", astuple),
    ReactionRow: Upsert("reactions", 7, "tenant,channel,message_id,user,emoji", "event_id > removed", astuple),
    EventRow: Upsert("events", 5, "tenant,channel,id", "offset < record", _event),
    MemberRow: Upsert("members", 6, "", "", astuple),
    ChannelRow: Upsert("channels", 7, _CHANNEL, "offset > kind name creator created", astuple),
    RouteRow: Upsert("routes", 5, "", "", astuple),
    UserChannelRow: Upsert("user_channels", 5, "tenant,user,channel", "offset > role", astuple),
    VerdictRow: Upsert("verdicts", 9, "", "", astuple),
    TimelineRow: Upsert("timelines", 9, "", "", _timeline),
    ReadCursorRow: Upsert("read_cursors", 4, "tenant,user,channel", "message_id >", astuple),
    RevocationRow: Upsert("revocations", 3, "tenant,user", "before >", astuple),
}
