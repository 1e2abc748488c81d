"""Tables, by version. Knows no driver and no rows.

A cell that has versions is one blob that begins with its rank (``rows.py``), so that the cluster itself keeps
the right one: the write timestamp decides, and between equal timestamps the greater bytes. Nothing is read
before it is written, and a replay of any rows in any order ends in the same cells.
"""

from __future__ import annotations

VERSION = 1
"""The schema that this code writes and reads."""

COMPATIBLE = 1
"""The oldest code that still works on this schema: told to older code, so that a deployment can be rolled back."""

_BY_TIME = (
    "compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', "
    "'compaction_window_size': '%d'}"
)
_LEVELED = "compaction = {'class': 'LeveledCompactionStrategy'}"

MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        (
            "CREATE TABLE IF NOT EXISTS buckets (series text, bucket bigint, first bigint, "
            f"PRIMARY KEY (series, bucket)) WITH CLUSTERING ORDER BY (bucket DESC) AND {_LEVELED}"
        ),
        (
            "CREATE TABLE IF NOT EXISTS widths (slice int, series text, since bigint, level int, "
            f"PRIMARY KEY (slice, series, since)) WITH {_LEVELED}"
        ),
        "CREATE TABLE IF NOT EXISTS messages (tenant text, channel text, bucket bigint, id bigint, first blob, "
        "edit blob, deleted bigint, reactions map<frozen<tuple<text, text>>, blob>, "
        "PRIMARY KEY ((tenant, channel, bucket), id)) WITH CLUSTERING ORDER BY (id DESC) AND " + _BY_TIME % 10,
        "CREATE TABLE IF NOT EXISTS events (tenant text, channel text, bucket bigint, id bigint, record blob, "
        "PRIMARY KEY ((tenant, channel, bucket), id)) WITH " + _BY_TIME % 10,
        "CREATE TABLE IF NOT EXISTS timelines (timeline text, bucket bigint, offset bigint, entry blob, "
        "PRIMARY KEY ((timeline, bucket), offset)) WITH " + _BY_TIME % 10,
        (
            "CREATE TABLE IF NOT EXISTS channels (tenant text, channel text, state blob, "
            f"PRIMARY KEY ((tenant, channel))) WITH {_LEVELED}"
        ),
        (
            "CREATE TABLE IF NOT EXISTS routes (tenant text, channel text, offset bigint, state blob, "
            f"PRIMARY KEY ((tenant, channel), offset)) WITH CLUSTERING ORDER BY (offset DESC) AND {_LEVELED}"
        ),
        (
            "CREATE TABLE IF NOT EXISTS members_by_channel (tenant text, channel text, slice int, user text, "
            "offset bigint, sliced boolean static, state blob, PRIMARY KEY ((tenant, channel, slice), user, offset)) "
            f"WITH CLUSTERING ORDER BY (user ASC, offset DESC) AND {_LEVELED}"
        ),
        (
            "CREATE TABLE IF NOT EXISTS member_changes (tenant text, channel text, offset bigint, count int, "
            "user text, state blob, PRIMARY KEY ((tenant, channel), offset, count, user)) "
            f"WITH CLUSTERING ORDER BY (offset DESC, count DESC, user ASC) AND {_LEVELED}"
        ),
        (
            "CREATE TABLE IF NOT EXISTS channels_by_user (tenant text, user text, channel text, state blob, "
            f"PRIMARY KEY ((tenant, user), channel)) WITH {_LEVELED}"
        ),
        "CREATE TABLE IF NOT EXISTS sends (tenant text, channel text, sender text, client_id text, offset bigint, "
        "verdict blob, PRIMARY KEY ((tenant, channel, sender, client_id), offset)) WITH " + _BY_TIME % 1,
        (
            "CREATE TABLE IF NOT EXISTS read_cursors (tenant text, user text, channel text, message_id bigint, "
            f"PRIMARY KEY ((tenant, user), channel)) WITH {_LEVELED}"
        ),
        (
            "CREATE TABLE IF NOT EXISTS revocations (slice int, tenant text, user text, before bigint, "
            f"PRIMARY KEY (slice, tenant, user)) WITH {_LEVELED}"
        ),
    ),
}
"""Steps by version, each safe to repeat. Only ever add tables and columns: older code must go on working."""

TABLES = (
    "buckets", "widths", "messages", "events", "timelines", "channels", "routes", "members_by_channel",
    "member_changes", "channels_by_user", "sends", "read_cursors", "revocations",
)  # fmt: skip
"""All tables with rows of the platform."""

INSERTS = {
    "bucket": "INSERT INTO buckets (series, bucket, first) VALUES (?, ?, ?) USING TIMESTAMP ?",
    "width": "INSERT INTO widths (slice, series, since, level) VALUES (0, ?, ?, ?) USING TIMESTAMP ? AND TTL ?",
    "message": "INSERT INTO messages (tenant, channel, bucket, id, first) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
    "edit": "INSERT INTO messages (tenant, channel, bucket, id, edit) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
    "delete": "INSERT INTO messages (tenant, channel, bucket, id, deleted) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
    "reaction": (
        "UPDATE messages USING TIMESTAMP ? SET reactions[?] = ? "
        "WHERE tenant = ? AND channel = ? AND bucket = ? AND id = ?"
    ),
    "event": "INSERT INTO events (tenant, channel, bucket, id, record) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
    "member": (
        "INSERT INTO members_by_channel (tenant, channel, slice, user, offset, state) "
        "VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
    ),
    "sliced": (
        "INSERT INTO members_by_channel (tenant, channel, slice, sliced) VALUES (?, ?, ?, true) USING TIMESTAMP ?"
    ),
    "change": (
        "INSERT INTO member_changes (tenant, channel, offset, count, user, state) "
        "VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
    ),
    "channel": "INSERT INTO channels (tenant, channel, state) VALUES (?, ?, ?) USING TIMESTAMP ?",
    "route": "INSERT INTO routes (tenant, channel, offset, state) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    "user_channel": "INSERT INTO channels_by_user (tenant, user, channel, state) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    "verdict": (
        "INSERT INTO sends (tenant, channel, sender, client_id, offset, verdict) "
        "VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
    ),
    "timeline": "INSERT INTO timelines (timeline, bucket, offset, entry) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    "read": "INSERT INTO read_cursors (tenant, user, channel, message_id) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    "revocation": "INSERT INTO revocations (slice, tenant, user, before) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
}
"""Writes, by name."""

_MESSAGE = "SELECT id, first, edit, deleted, reactions FROM messages WHERE tenant = ? AND channel = ? AND bucket = ?"
_HEAD = "SELECT id, writetime(first) FROM messages WHERE tenant = ? AND channel = ? AND bucket = ?"
_ENTRY = "SELECT offset, entry, writetime(entry) FROM timelines WHERE timeline = ? AND bucket = ?"
_MEMBER = "SELECT user, offset, state FROM members_by_channel WHERE tenant = ? AND channel = ? AND slice = ?"

SELECTS = {
    "buckets": "SELECT bucket, first FROM buckets WHERE series = ?",
    "widths": "SELECT series, since, level FROM widths WHERE slice = ?",
    "history_down": f"{_MESSAGE} AND id < ? AND id > ? LIMIT ?",
    "history_up": f"{_MESSAGE} AND id > ? AND id < ? ORDER BY id ASC LIMIT ?",
    "messages": f"{_MESSAGE} AND id IN ?",
    "firsts": "SELECT id, first FROM messages WHERE tenant = ? AND channel = ? AND bucket = ? AND id IN ?",
    "events": "SELECT id, record FROM events WHERE tenant = ? AND channel = ? AND bucket = ? AND id IN ?",
    "head": f"{_HEAD} AND id < ? LIMIT ?",
    "ids_up": f"{_HEAD} AND id > ? ORDER BY id ASC LIMIT ?",
    "timeline": f"{_ENTRY} AND offset >= ? LIMIT ?",
    "newest": f"{_ENTRY} ORDER BY offset DESC LIMIT 1",
    "channel": "SELECT state FROM channels WHERE tenant = ? AND channel = ?",
    "route": "SELECT offset, state FROM routes WHERE tenant = ? AND channel = ? AND offset < ? LIMIT 1",
    "change": (
        "SELECT offset, count, user, state FROM member_changes WHERE tenant = ? AND channel = ? AND offset < ? LIMIT 1"
    ),
    "members_all": _MEMBER,
    "members_after": f"{_MEMBER} AND user > ? LIMIT ?",
    "member": f"{_MEMBER} AND user = ? AND offset <= ? LIMIT 1",
    # The first row of each group is the user's newest: rows stand by offset, the highest first.
    "members_of": f"{_MEMBER} AND user IN ? AND offset <= ? GROUP BY tenant, channel, slice, user",
    "sliced": "SELECT sliced FROM members_by_channel WHERE tenant = ? AND channel = ? AND slice = ? LIMIT 1",
    "channels_of": "SELECT channel, state FROM channels_by_user WHERE tenant = ? AND user = ? AND channel > ? LIMIT ?",
    "verdicts": ("SELECT offset, verdict FROM sends WHERE tenant = ? AND channel = ? AND sender = ? AND client_id = ?"),
    "read": "SELECT channel, message_id FROM read_cursors WHERE tenant = ? AND user = ? AND channel IN ?",
    "revocations": "SELECT tenant, user, before FROM revocations WHERE slice = ?",
}
"""Reads, by name: each of one partition."""
