"""Settings of a Redis: where it is, how it is spoken to, and every bound on what is kept there."""

from __future__ import annotations

from typing import Literal

import msgspec


class RedisSettings(msgspec.Struct, frozen=True):
    """Sections ``redis`` and ``presence_redis``. Seconds unless the name says otherwise."""

    mode: Literal["sharded", "cluster"] = "sharded"
    """``sharded``: separate nodes, chosen here by rendezvous hashing. ``cluster``: Redis Cluster."""
    shards: tuple[str, ...] = ("127.0.0.1:6379",)
    """``sharded``: ``host:port`` of each node; with ``sentinels``: names of masters. A changed list moves keys."""
    sentinels: tuple[str, ...] = ()
    """``host:port`` of the Sentinels that know the masters named in ``shards``; empty: ``shards`` are addresses."""
    cluster: tuple[str, ...] = ()
    """``cluster``: ``host:port`` of some nodes; the others are learnt from them."""
    username: str = ""
    """User of Redis' access lists; empty: the default user."""
    password_file: str = ""
    """File with the password, read at each connect: a changed one makes us connect anew within seconds."""
    sentinel_password_file: str = ""
    """The same for the Sentinels; empty: they ask for none."""
    tls: bool = False
    """Speak TLS to nodes and Sentinels."""
    ca_file: str = ""
    """PEM of the authorities believed; empty: the system's."""
    cert_file: str = ""
    """PEM of our certificate, where the server asks for one."""
    key_file: str = ""
    """PEM of its key."""
    verify_names: bool = True
    """Whether the server's certificate has to hold the name that we connect to."""
    prefix: str = "cc:"
    """In front of every key and topic: two platforms may share a Redis."""
    connect_timeout: float = 1.0
    """A connect (TCP, TLS, AUTH) that takes longer has failed."""
    timeout: float = 0.25
    """A command that takes longer is ``Unavailable``: every user of Redis has a way without it."""
    subscribe_timeout: float = 2.0
    """How long a subscription may take to be confirmed before ``Unavailable``: a start subscribes thousands."""
    heartbeat: float = 1.0
    """Pause between looks at each node (PING on the bus, INFO replication beside it)."""
    deadline: float = 3.0
    """A connection of the bus without a word for so long is dead (half open), and is made anew."""
    reconnect_cap: float = 2.0
    """Longest window of the jitter between tries to connect."""
    connections: int = 16
    """Connections per node for commands; more callers wait ``timeout`` for one, then ``Unavailable``."""
    pipeline: int = 1_000
    """Most commands (and topics of a SUBSCRIBE) written together: bounds how long one reply keeps others waiting."""
    posts: int = 20_000
    """Commands per node that nobody waits for (settled ids); over it they are dropped and counted."""
    publish_bytes: int = 8 * 1024 * 1024
    """Bytes per node published and not yet taken by the network; over it rumours are dropped and counted."""
    listen_buffer: int = 32_768
    """Deliveries that wait for one listener; over it the buffer is dropped and told as ``Lost``."""
    tail_entries: int = 200
    """Entries kept per timeline: a reader that was away longer reads the store."""
    tail_ttl: int = 3_600
    """A tail goes so long after its last entry."""
    tail_entry_bytes: int = 4_096
    """Largest encoded entry that a tail carries; a larger one breaks the chain, so its readers ask the store."""
    dedupe_window: int = 600
    """Life of a client_id's entry (delivery.md section 3)."""
    cursor_ttl: int = 86_400
    """Read cursors of a user go so long after the last change; the store has them."""
    dirty_cursors: int = 200_000
    """Read cursors that wait for their flush at most; over it a new one is refused."""
    sessions: int = 1_000_000
    """Sessions that presence keeps at most; over it new ones are not taken (they show as offline)."""
    lease: float = 90.0
    """Life of a worker number's lease, renewed every few seconds: how long sends go on while Redis is away. A Redis
    that was wiped, restarted or failed over gives *new* numbers only after that long; holders keep theirs at once. The
    first routers of a new log do not wait: ``migrate`` notes that nobody can have one."""
    bus_loss: float = 0.0
    """Experiments only: the share of publications that this process loses without knowing it, 0 to 1."""
    bus_repeat: float = 0.0
    """Experiments only: the share of publications told twice."""
    bus_delay: float = 0.0
    """Experiments only: the share of publications told up to 0.3 s late, so behind others."""

    def __post_init__(self) -> None:
        for share in ("bus_loss", "bus_repeat", "bus_delay"):
            if not 0 <= getattr(self, share) <= 1:
                raise ValueError(f"{share} is {getattr(self, share)!r}; allowed: a share, 0 to 1")
        if self.mode == "cluster" and not self.cluster:
            raise ValueError("cluster is empty; allowed: host:port of at least one node with mode cluster")
        if self.mode == "sharded" and not self.shards:
            raise ValueError("shards is empty; allowed: at least one host:port, or master name with sentinels")
        if len(set(self.shards)) != len(self.shards):
            raise ValueError("shards names a node twice; allowed: each node once")
        named = self.cluster if self.mode == "cluster" else (self.sentinels or self.shards)
        for address in (*named, *self.sentinels):
            split(address)


def split(address: str) -> tuple[str, int]:
    """``host:port``. Raises ``ValueError``."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"{address!r} is no address; allowed: host:port")
    return host.strip("[]"), int(port)
