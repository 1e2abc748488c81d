"""The store on Cassandra."""

from chatcluster.backends.cassandra.migrations import check, migrate
from chatcluster.backends.cassandra.settings import CassandraSettings
from chatcluster.backends.cassandra.store import CassandraStore

__all__ = ["CassandraSettings", "CassandraStore", "check", "migrate"]
