"""Tables of the log, and what is fixed when a data folder is made: its epoch and partition counts."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from uuid import uuid4

from chatcluster.backends.sqlite.files import PartitionsChanged
from chatcluster.core.records import INBOX, MESSAGES, TOPICS

VERSION = 1
PARTITIONS = {MESSAGES: 4, INBOX: 4}
"""Partitions of a new folder's topics; the others have one."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topics (name TEXT PRIMARY KEY, number INTEGER NOT NULL, partitions INTEGER NOT NULL)
    WITHOUT ROWID;
-- id: (topic number * 256 + partition) << 48 | first offset
CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, count INTEGER NOT NULL, time INTEGER NOT NULL,
    payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS positions (consumers TEXT, topic TEXT, partition INTEGER, offset INTEGER NOT NULL,
    PRIMARY KEY (consumers, topic, partition)) WITHOUT ROWID
"""


def identity(
    connection: sqlite3.Connection, wanted: dict[str, int], file: Path
) -> tuple[str, dict[str, tuple[int, int]]]:
    """The folder's epoch, and topic → (number, partitions). Raises ``PartitionsChanged``."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('epoch', ?)", (uuid4().hex[:12],))
        known = {name: (number, count) for name, number, count in connection.execute("SELECT * FROM topics")}
        for name in (*TOPICS, *(name for name in wanted if name not in TOPICS)):
            if name in known:
                count = wanted.get(name, known[name][1])
                if count != known[name][1]:
                    raise PartitionsChanged(
                        f"{file}: topic {name} has {known[name][1]} partitions, {count} are asked for; the number is "
                        f"fixed when the folder is made: set it back to {known[name][1]}, or choose another data folder"
                    )
            else:
                count = wanted.get(name, PARTITIONS.get(name, 1))
                if not 1 <= count <= 256:
                    raise PartitionsChanged(f"{file}: topic {name} cannot have {count} partitions; allowed: 1 to 256")
                known[name] = (len(known), count)
                connection.execute("INSERT INTO topics VALUES (?, ?, ?)", (name, *known[name]))
        epoch = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0]
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return epoch, known
