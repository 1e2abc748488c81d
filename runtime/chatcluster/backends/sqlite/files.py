"""The data folder: its lock, its connections, checkpoints and syncs. Knows files, nothing of records or rows."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

WAL_LIMIT = 64 * 1024 * 1024
"""Bytes over which a write-ahead log's file is cut back to when it is started anew."""


class BadDataFolder(Exception):
    """The data folder cannot be used as it is; the message says what to do."""


class DataFolderBusy(BadDataFolder):
    """Another process works on this folder."""


class WrongSchema(BadDataFolder):
    """The folder was written by a version that this one cannot read."""


class PartitionsChanged(BadDataFolder):
    """The settings ask for other partition counts than the folder was made with."""


@contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Hold the folder's lock ``name``: two writers would give out the same offsets. A killed holder's lock is free."""
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataFolderBusy(f"{path}: another process uses {name}; stop it, or choose another folder") from error
        yield
    finally:
        os.close(descriptor)


def connect(
    file: Path, synchronous: Literal["FULL", "NORMAL"], *, cache: int = 32, reader: bool = False
) -> sqlite3.Connection:
    """A connection in WAL mode without automatic checkpoints. ``cache``: MiB. Transactions are the caller's."""
    # Each connection is used by one job at a time; which thread runs the job does not matter.
    connection = sqlite3.connect(
        file, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=10.0
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT}")
    connection.execute(f"PRAGMA cache_size={-1024 * cache}")
    connection.execute("PRAGMA temp_store=MEMORY")
    if reader:
        connection.execute("PRAGMA query_only=1")
    return connection


def prepare(connection: sqlite3.Connection, schema: str, version: int, file: Path) -> None:
    """Make the tables, or check that they are of this version. Raises ``WrongSchema``."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found not in (0, version):
        raise WrongSchema(
            f"{file} has schema version {found}, this program reads {version}: "
            "start the version that wrote it, or choose another data folder"
        )
    connection.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version={version}; COMMIT;")


def wal_of(file: Path) -> Path:
    """The write-ahead log beside a database."""
    return file.with_name(file.name + "-wal")


def wal_size(file: Path) -> int:
    """Bytes of the write-ahead log; 0 when there is none."""
    try:
        return wal_of(file).stat().st_size
    except FileNotFoundError:
        return 0


def sync_wals(folder: Path, *, but: Path) -> None:
    """Bring every write-ahead log of the folder but one to the disk. Raises ``OSError``.

    A log that is not there has been checkpointed, which syncs.
    """
    for file in folder.glob("*.db-wal"):
        if file == but:
            continue
        with suppress(FileNotFoundError):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def checkpoint(connection: sqlite3.Connection) -> None:
    """Move the write-ahead log into the database as far as nobody hinders; never waits for anyone."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
