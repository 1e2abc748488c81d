"""Reads of the store. Every answer comes as one JSON text in one step of one statement.

Why: each row that SQLite steps to costs one hand-over of the interpreter's lock, up to 5 ms beside a busy
event loop. So SQLite folds the rows to JSON (blobs in hex) and the loop decodes them in one go. One
statement also is one snapshot: what the rows said at some moment.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from chatcluster.backends.sqlite.schema import MESSAGE
from chatcluster.core.cursor import START
from chatcluster.core.records import PLAIN, EventRecord, MessageRecord, Role, decode_event
from chatcluster.core.rows import (
    MemberRow,
    Membership,
    RevocationRow,
    RouteRow,
    StoredChannel,
    StoredMessage,
    TimelineRow,
    UserChannelRow,
    VerdictRow,
)
from chatcluster.ports import Unavailable

KEYS = (256, 16, 1)
"""Keys of one statement; a shorter list is filled up with NULL, which equals nothing."""
MAX_REVOCATIONS = 100_000

Query = tuple[str, Sequence[Any]]
_unpack = msgspec.msgpack.decode
_MAX = (1 << 63) - 1

_MESSAGE = """json_array(m.id, m.offset, m.sender, m.client_id,
    CASE WHEN d.event_id IS NOT NULL THEN '' WHEN e.event_id IS NULL THEN m.body ELSE e.body END,
    CASE WHEN d.event_id IS NOT NULL THEN '' WHEN e.event_id IS NULL THEN hex(m.data) ELSE hex(e.data) END,
    m.reply_to, e.event_id, d.event_id,
    json((SELECT json_group_array(json_array(r.event_id, r.user, r.emoji)) FROM reactions r
        WHERE r.tenant = m.tenant AND r.channel = m.channel AND r.message_id = m.id AND r.removed = 0)))"""
_CELLS = """LEFT JOIN edits e ON e.tenant = m.tenant AND e.channel = m.channel AND e.message_id = m.id
    LEFT JOIN deletes d ON d.tenant = m.tenant AND d.channel = m.channel AND d.message_id = m.id"""
_ENTRY = """json_array(t.timeline, t.offset, t.prev, t.source, t.kind, t.tenant, t.channel, t.id,
    hex(coalesce(t.record, e.record)), m.sender, m.client_id, m.body, hex(m.data), m.reply_to)"""
_EVENTS = """LEFT JOIN messages m ON t.kind = 0 AND m.tenant = t.tenant AND m.channel = t.channel AND m.id = t.id
    LEFT JOIN events e ON t.kind = 1 AND e.tenant = t.tenant AND e.channel = t.channel AND e.id = t.id"""

_Reaction = tuple[int, str, str]
_messages = msgspec.json.Decoder(
    list[tuple[int, int, str, str, str, str, int | None, int | None, int | None, list[_Reaction]]]
).decode
_timeline = msgspec.json.Decoder(
    list[tuple[str, int, int, int, int, str, str, int, str, str | None, str | None, str | None, str, int | None]]
).decode
_text_int = msgspec.json.Decoder(list[tuple[str, int]]).decode
_pair_int = msgspec.json.Decoder(list[tuple[str, int, int]]).decode
_members = msgspec.json.Decoder(list[tuple[str, Role | None, int]]).decode
_member_rows = msgspec.json.Decoder(list[tuple[str, int, Role | None, int]]).decode
_channels = msgspec.json.Decoder(list[tuple[str, int, Role | None]]).decode
_verdicts = msgspec.json.Decoder(list[tuple[int, int, int | None, int, int]]).decode
_revocations = msgspec.json.Decoder(list[tuple[str, str, int]]).decode


def _keyed(width: int, keys: Sequence[Sequence[Any]]) -> list[tuple[str, list[Any]]]:
    """``WITH k(a, b) AS (VALUES …)`` and its values, for all keys, in statements of few sizes."""
    found = []
    at = 0
    names = ",".join("abc"[:width])
    while at < len(keys):
        left = len(keys) - at
        size = KEYS[0] if left > KEYS[1] else KEYS[1] if left > KEYS[2] else 1
        values = [value for key in keys[at : at + size] for value in key]
        values += [None] * (size * width - len(values))
        rows = ",".join(["(" + ",".join("?" * width) + ")"] * size)
        found.append((f"WITH k({names}) AS (VALUES {rows})", values))
        at += size
    return found


class SqliteReads:
    """Port ``StoreReader`` on some connections, each used by one job at a time."""

    def __init__(self, connections: Sequence[sqlite3.Connection]) -> None:
        self._free = deque(connections)
        self._reading = ThreadPoolExecutor(len(connections), "store-read")

    def stop_reading(self) -> None:
        """Wait for reads under way and close."""
        self._reading.shutdown()
        for connection in self._free:
            connection.close()

    async def _ask(self, *queries: Query) -> list[Any]:
        """The single row of each query."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, self._run, queries)
        except sqlite3.Error as error:
            raise Unavailable(f"the store could not be read: {error}") from error

    def _run(self, queries: Sequence[Query]) -> list[Any]:
        connection = self._free.popleft()
        try:
            answers = []
            for statement, values in queries:
                cursor = connection.execute(statement, values)
                answers.append(cursor.fetchone())
                cursor.close()
            return answers
        finally:
            self._free.append(connection)

    # -- messages and events --------------------------------------------------------------------

    async def history(
        self, tenant: str, channel: str, *, before: int | None, after: int | None, limit: int
    ) -> Sequence[StoredMessage]:
        order = "DESC" if after is None else "ASC"
        (row,) = await self._ask(
            (
                (
                    f"SELECT json_group_array({_MESSAGE}) FROM (SELECT * FROM messages WHERE tenant "
                    f"= ? AND channel = ? "
                    f"AND id > ? AND id < ? ORDER BY id {order} LIMIT ?) m {_CELLS}"
                ),
                (tenant, channel, -1 if after is None else after, _MAX if before is None else before, limit),
            )
        )
        return sorted(_stored(channel, row[0]), key=lambda message: message.id)

    async def messages(self, tenant: str, channel: str, ids: Sequence[int]) -> Mapping[int, StoredMessage]:
        rows = await self._ask(
            *(
                (
                    (
                        f"{keys} SELECT json_group_array({_MESSAGE}) FROM k JOIN messages m ON m.id = k.a {_CELLS} "
                        "WHERE m.tenant = ? AND m.channel = ?"
                    ),
                    (*values, tenant, channel),
                )
                for keys, values in _keyed(1, [(number,) for number in ids])
            )
        )
        return {message.id: message for row in rows for message in _stored(channel, row[0])}

    async def has_events(self, tenant: str, keys: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        rows = await self._ask(
            *(
                (
                    (
                        f"{given} SELECT json_group_array(json_array(k.a, k.b, coalesce(m.offset, e.offset))) FROM k "
                        "LEFT JOIN messages m ON m.tenant = ? AND m.channel = k.a AND m.id = k.b "
                        "LEFT JOIN events e ON e.tenant = ? AND e.channel = k.a AND e.id = k.b "
                        "WHERE coalesce(m.offset, e.offset) IS NOT NULL"
                    ),
                    (*values, tenant, tenant),
                )
                for given, values in _keyed(2, keys)
            )
        )
        return {(channel, number): offset for row in rows for channel, number, offset in _pair_int(row[0])}

    async def heads(self, tenant: str, channels: Sequence[str]) -> Mapping[str, int]:
        rows = await self._ask(
            *(
                (
                    (
                        f"{keys} SELECT json_group_array(json_array(a, id)) FROM (SELECT a, (SELECT "
                        f"max(id) FROM messages "
                        "WHERE tenant = ? AND channel = k.a) AS id FROM k) WHERE id IS NOT NULL"
                    ),
                    (*values, tenant),
                )
                for keys, values in _keyed(1, [(channel,) for channel in channels])
            )
        )
        return {channel: number for row in rows for channel, number in _text_int(row[0])}

    async def count_after(self, tenant: str, channel: str, after: int, *, limit: int) -> int:
        (row,) = await self._ask(
            (
                "SELECT count(*) FROM (SELECT 1 FROM messages WHERE tenant = ? AND channel = ? AND id > ? LIMIT ?)",
                (tenant, channel, after, limit),
            )
        )
        return int(row[0])

    async def verdicts(self, tenant: str, channel: str, sender: str, client_id: str) -> Sequence[VerdictRow]:
        (row,) = await self._ask(
            (
                (
                    "SELECT json_group_array(json_array(offset, id, winner, time, digest)) FROM verdicts "
                    "WHERE tenant = ? AND channel = ? AND sender = ? AND client_id = ?"
                ),
                (tenant, channel, sender, client_id),
            )
        )
        return [
            VerdictRow(tenant, channel, sender, client_id, offset, number, winner, time, digest)
            for offset, number, winner, time, digest in sorted(_verdicts(row[0]), key=lambda found: found[0])
        ]

    # -- timelines ------------------------------------------------------------------------------

    async def timeline(self, timeline: str, *, after: int, limit: int) -> Sequence[TimelineRow]:
        (row,) = await self._ask(
            (
                (
                    f"SELECT json_group_array({_ENTRY}) FROM (SELECT * FROM timelines WHERE "
                    f"timeline = ? AND offset > ? "
                    f"ORDER BY offset LIMIT ?) t {_EVENTS}"
                ),
                (timeline, after, limit),
            )
        )
        return sorted(_entries(row[0]), key=lambda entry: entry.offset)

    async def newest(self, timelines: Sequence[str]) -> Mapping[str, TimelineRow]:
        rows = await self._ask(
            *(
                (
                    (
                        f"{keys} SELECT json_group_array({_ENTRY}) FROM k JOIN timelines t ON t.timeline = k.a AND "
                        f"t.offset = (SELECT max(offset) FROM timelines WHERE timeline = k.a) {_EVENTS}"
                    ),
                    values,
                )
                for keys, values in _keyed(1, [(timeline,) for timeline in timelines])
            )
        )
        return {entry.timeline: entry for row in rows for entry in _entries(row[0])}

    # -- channels and members ----------------------------------------------------------------------

    async def channel(self, tenant: str, channel: str) -> StoredChannel | None:
        key = (tenant, channel)
        (row,) = await self._ask(
            (
                (
                    "SELECT c.kind, c.name, c.creator, c.created, c.offset, r.route, r.offset, "
                    "r.since, m.offset, m.count "
                    "FROM channels c "
                    "LEFT JOIN (SELECT * FROM routes WHERE tenant = ? AND channel = ? ORDER BY offset DESC LIMIT 1) r "
                    "LEFT JOIN (SELECT offset, count FROM members WHERE tenant = ? AND channel = ? "
                    "ORDER BY offset DESC, count DESC LIMIT 1) m WHERE c.tenant = ? AND c.channel = ?"
                ),
                key * 3,
            )
        )
        if row is None:
            return None
        kind, name, creator, created, offset, route, route_offset, since, member_offset, count = row
        return StoredChannel(
            channel,
            kind,
            name,
            creator,
            created,
            count or 0,
            route or "inbox",
            START if route_offset is None else route_offset,
            since,
            max(version for version in (offset, route_offset, member_offset) if version is not None),
        )

    async def memberships(
        self, tenant: str, channel: str, users: Sequence[str], *, at: int | None = None
    ) -> Mapping[str, Membership]:
        rows = await self._ask(
            *(
                (
                    (
                        f"{keys} SELECT json_group_array(json_array(m.user, m.role, m.offset)) FROM k JOIN members m "
                        "ON m.user = k.a AND m.offset = (SELECT max(offset) FROM members WHERE "
                        "tenant = ? AND channel = ? "
                        "AND user = k.a AND offset <= ?) WHERE m.tenant = ? AND m.channel = ?"
                    ),
                    (*values, tenant, channel, _MAX if at is None else at, tenant, channel),
                )
                for keys, values in _keyed(1, [(user,) for user in users])
            )
        )
        return {user: Membership(user, role, offset) for row in rows for user, role, offset in _members(row[0])}

    async def members(self, tenant: str, channel: str, *, after: str, limit: int) -> Sequence[Membership]:
        # A bare column beside max() is that of the row with the maximum: SQLite promises it.
        (row,) = await self._ask(
            (
                (
                    "SELECT json_group_array(json_array(user, role, at)) FROM (SELECT user, role, max(offset) AS at "
                    "FROM members WHERE tenant = ? AND channel = ? AND user > ? GROUP BY user HAVING role IS NOT NULL "
                    "ORDER BY user LIMIT ?)"
                ),
                (tenant, channel, after, limit),
            )
        )
        return [Membership(user, role, offset) for user, role, offset in sorted(_members(row[0]))]

    async def member_rows(self, tenant: str, channel: str, *, below: int) -> Sequence[MemberRow]:
        (row,) = await self._ask(
            (
                (
                    "SELECT json_group_array(json_array(user, at, role, count)) FROM (SELECT user, max(offset) AS at, "
                    "role, count FROM members WHERE tenant = ? AND channel = ? AND offset < ? GROUP BY user LIMIT -1)"
                ),
                (tenant, channel, below),
            )
        )
        return [MemberRow(tenant, channel, *found) for found in _member_rows(row[0])]

    async def newest_member_row(self, tenant: str, channel: str, *, below: int) -> MemberRow | None:
        (row,) = await self._ask(
            (
                # Members that came with one record share its offset: the last of them knows the size.
                (
                    "SELECT user, offset, role, count FROM members WHERE tenant = ? AND channel = ? AND offset < ? "
                    "ORDER BY offset DESC, count DESC LIMIT 1"
                ),
                (tenant, channel, below),
            )
        )
        return None if row is None else MemberRow(tenant, channel, *row)

    async def route(self, tenant: str, channel: str, *, below: int) -> RouteRow | None:
        (row,) = await self._ask(
            (
                (
                    "SELECT offset, route, since FROM routes WHERE tenant = ? AND channel = ? AND offset < ? "
                    "ORDER BY offset DESC LIMIT 1"
                ),
                (tenant, channel, below),
            )
        )
        return None if row is None else RouteRow(tenant, channel, *row)

    # -- users ------------------------------------------------------------------------------------

    async def channels_of(self, tenant: str, user: str, *, after: str, limit: int) -> Sequence[UserChannelRow]:
        (row,) = await self._ask(
            (
                (
                    "SELECT json_group_array(json_array(channel, offset, role)) FROM (SELECT "
                    "channel, offset, role FROM "
                    "user_channels WHERE tenant = ? AND user = ? AND channel > ? AND role IS NOT NULL "
                    "ORDER BY channel LIMIT ?)"
                ),
                (tenant, user, after, limit),
            )
        )
        return [UserChannelRow(tenant, user, *found) for found in sorted(_channels(row[0]))]

    async def read_cursors(self, tenant: str, user: str, channels: Sequence[str]) -> Mapping[str, int]:
        rows = await self._ask(
            *(
                (
                    (
                        f"{keys} SELECT json_group_array(json_array(r.channel, r.message_id)) FROM k "
                        "JOIN read_cursors r ON r.channel = k.a WHERE r.tenant = ? AND r.user = ?"
                    ),
                    (*values, tenant, user),
                )
                for keys, values in _keyed(1, [(channel,) for channel in channels])
            )
        )
        return {channel: number for row in rows for channel, number in _text_int(row[0])}

    async def revocations(self) -> Sequence[RevocationRow]:
        (row,) = await self._ask(
            (
                (
                    "SELECT json_group_array(json_array(tenant, user, before)) FROM (SELECT * FROM revocations "
                    "ORDER BY before DESC LIMIT ?)"
                ),
                (MAX_REVOCATIONS,),
            )
        )
        return [RevocationRow(*found) for found in _revocations(row[0])]


def _stored(channel: str, text: str) -> list[StoredMessage]:
    found = []
    for number, offset, sender, client_id, body, data, reply_to, edit_id, deleted, given in _messages(text):
        reactions: dict[str, list[str]] | None = None
        if given:
            reactions = {}
            for _, user, emoji in sorted(given):
                reactions.setdefault(emoji, []).append(user)
        found.append(
            StoredMessage(
                number, channel, offset, sender, client_id, body,
                _unpack(bytes.fromhex(data)) if data else None,
                reply_to, edit_id, deleted is not None, reactions,
            )
        )  # fmt: skip
    return found


def _entries(text: str) -> list[TimelineRow]:
    found = []
    for (
        timeline, offset, prev, source, kind, tenant, channel, number, record, sender, client_id, body, data, reply_to
    ) in _timeline(text):  # fmt: skip
        event: EventRecord
        if kind == MESSAGE:
            if sender is None or client_id is None or body is None:
                raise Unavailable(f"{timeline}@{offset} stands before its message {number}")
            # The digest and the flag are the log's and the verdict's; no reader of a timeline asks for them.
            event = MessageRecord(
                tenant, channel, number, sender, client_id, 0, PLAIN, body,
                _unpack(bytes.fromhex(data)) if data else None, reply_to,
            )  # fmt: skip
        else:
            if not record:
                raise Unavailable(f"{timeline}@{offset} stands before its event {number}")
            event = decode_event(bytes.fromhex(record))
        found.append(TimelineRow(tenant, timeline, offset, prev, source, event))
    return found
