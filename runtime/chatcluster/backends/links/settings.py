"""Settings of the internal links. Seconds and bytes unless the text says otherwise."""

from __future__ import annotations

import msgspec


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Sections ``routers`` and ``presences``: whom a gateway connects to, and how."""

    addresses: tuple[str, ...] = ()
    """``host:port`` of each, or ``dns:name:port``: every address of the name, asked for again all the time."""
    secret_file: str | None = None
    """A file with what both ends must know; read at each connect. None: nobody is asked."""
    ca_file: str | None = None
    """Speak TLS, and believe certificates of this authority (PEM). None: plain TCP, for a network that is trusted."""
    cert_file: str | None = None
    """Our certificate (PEM), where the other end asks for one."""
    key_file: str | None = None
    """Its key."""
    resolve_interval: float = 3.0
    """Between two looks at a name's addresses."""
    connect_timeout: float = 3.0
    """A connection that is not ready within it is given up and tried again."""
    heartbeat: float = 1.0
    """Between two signs of life of an idle connection."""
    silence: float = 3.5
    """A connection silent for so long is cut: its other end is gone, frozen, or the path is (half-open)."""
    deadline: float = 25.0
    """A request without an answer for so long is answered here. Above the router's own deadlines (20 s)."""
    grace: float = 1.0
    """How long requests wait for a first connection when there is none, such as while the only router restarts."""
    max_waiting: int = 2_000
    """Requests that wait so; over it ``unavailable``."""
    max_in_flight: int = 50_000
    """Requests without an answer; over it ``overloaded``."""
    max_per_router: int = 20_000
    """Of these, at one router; over it ``overloaded``: a slow one does not take the room of the others."""
    max_buffer: int = 8 * 1024 * 1024
    """Bytes toward one peer that its socket does not take; over it new requests are ``overloaded``."""
    asleep: float = 10.0
    """A gap in the loop's time from which everything that waits is dropped (self-fencing)."""


class LinkServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Section ``link``: where a router or presence node is connected to, and by whom."""

    listen: str = "127.0.0.1:8090"
    """``host:port``; port 0: any."""
    secret_file: str | None = None
    """A file with what both ends must know; read at each connect. None: everybody who reaches the port is believed."""
    ca_file: str | None = None
    """Ask for certificates of this authority (PEM): mutual TLS. Needs ``cert_file``."""
    cert_file: str | None = None
    """Speak TLS with this certificate (PEM); loaded again when it changes. None: plain TCP."""
    key_file: str | None = None
    """Its key."""
    handshake: float = 5.0
    """A connection that has not said who it is within it is cut."""
    max_connections: int = 4_096
    """Connections; over it new ones are cut."""
    max_in_flight: int = 50_000
    """Requests of one connection without an answer; over it ``overloaded``."""
    max_buffer: int = 8 * 1024 * 1024
    """Bytes of answers that a peer does not take; over it nothing more is read from it until they are gone."""
    heartbeat: float = 1.0
    """Between two signs of life of an idle connection."""
    silence: float = 3.5
    """A connection silent for so long is cut."""
    leaving: float = 25.0
    """How long leaving waits for the answers to what was taken."""
    asleep: float = 10.0
    """A gap in the loop's time from which gateways are cut before anything of theirs is read (self-fencing)."""
