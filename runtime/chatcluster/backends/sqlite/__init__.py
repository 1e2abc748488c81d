"""Backends on SQLite: the log and the store of one process, in one data folder."""

from chatcluster.backends.sqlite.consumer import SqliteConsumer
from chatcluster.backends.sqlite.files import BadDataFolder, DataFolderBusy, PartitionsChanged, WrongSchema
from chatcluster.backends.sqlite.log import SqliteLog
from chatcluster.backends.sqlite.store import SqliteStore

__all__ = [
    "BadDataFolder",
    "DataFolderBusy",
    "PartitionsChanged",
    "SqliteConsumer",
    "SqliteLog",
    "SqliteStore",
    "WrongSchema",
]
