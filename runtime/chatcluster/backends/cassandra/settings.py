"""Settings of the Cassandra store: section ``[cassandra]``."""

from __future__ import annotations

import msgspec


class CassandraSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the store is and how much is asked of it at a time. Seconds unless said."""

    contact_points: tuple[str, ...] = ("127.0.0.1",)
    """Addresses asked first; one that answers names all others."""

    port: int = 9042
    """Port of the native protocol, the same on every node."""

    local_datacenter: str = "datacenter1"
    """The datacenter whose nodes are asked: LOCAL_QUORUM never waits for another one."""

    keyspace: str = "chatcluster"
    """Keyspace of all tables; made by ``chatcluster migrate`` only."""

    replication_factor: int = 3
    """Copies in the local datacenter. With 3 one node may be lost; 1 is for development alone."""

    other_datacenters: tuple[str, ...] = ()
    """Copies elsewhere, as ``name:copies``; they are written in the background."""

    username: str = ""
    """Role to log in as; none: the cluster asks for none."""

    password_file: str = ""
    """File with the password, read again at every new connection, so that it can be changed while we run."""

    ca_file: str = ""
    """Certificates that sign the nodes' certificates; none: the connection is not encrypted."""

    cert_file: str = ""
    """Our certificate, where nodes ask for one."""

    key_file: str = ""
    """Its private key."""

    verify_names: bool = True
    """Whether a node's certificate must name its IP address: names of contact points are resolved first."""

    bucket_days: int = 10
    """Width of a partition in time. 30, 10 or 2; a change takes effect for what is written from then on."""

    hot_rows: int = 20_000
    """Rows of one partition, counted by one process, from which on its series gets shorter buckets."""

    hot_bytes: int = 20 * 1024 * 1024
    """The same in bytes. A partition may grow to several times this until the shorter buckets take effect."""

    log_retention_hours: int = 168
    """How long the log keeps records. Verdicts live 24 h longer: no record comes again without its verdict."""

    write_timeout: float = 10.0
    """How long a batch of rows may take before its caller is told and repeats it."""

    read_timeout: float = 5.0
    """How long a read may take. Beyond it callers show what they have."""

    connect_timeout: float = 3.0
    """How long one connection may take to open."""

    reconnect_cap: float = 5.0
    """The longest wait between two tries to reach a node: how late we notice that it is back."""

    speculative_delay: float = 0.25
    """A read without an answer after this asks a second node too; well above the usual time of a read."""

    reads_in_flight: int = 256
    """Reads at the same time."""

    reads_waiting: int = 20_000
    """Reads that wait for their turn; over it ``Unavailable``."""

    batches_in_flight: int = 16
    """Batches of rows at the same time: enough to keep a small cluster busy, few enough for its queues."""

    batch_rows: int = 100
    """Rows of one batch over several partitions. Those of a single partition are bounded by ``batch_bytes`` alone."""

    batch_bytes: int = 40 * 1024
    """Bytes of one batch: stock servers refuse 50 KiB."""
