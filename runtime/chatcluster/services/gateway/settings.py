"""Settings of the gateway's socket side. Sessions have their own in ``session_settings``."""

from __future__ import annotations

import msgspec


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Every number of the socket side. Times are seconds, sizes bytes."""

    path: str = "/v1/connect"
    """Where WebSocket clients connect: the public contract."""

    origins: frozenset[str] | None = None
    """Origins of web pages that may connect, compared whole (``https://app.example``); None: any."""

    allow_no_origin: bool = True
    """Whether clients without an Origin header may connect: everything that is not a browser."""

    max_frame_bytes: int = 65536
    """Largest message from a client; over it the connection fails with 1009. Told in ``welcome.limits``."""

    max_fragments: int = 1024
    """Most frames of one message: 64 bytes each still fill the largest message."""

    backlog: int = 4096
    """Connections that the kernel keeps for us; a reconnect storm waits there instead of failing."""

    reuse_port: bool = False
    """SO_REUSEPORT: several processes of one pod share the port."""

    max_sockets: int = 100_000
    """Sockets in all. Over it new ones are refused with 503 (law 7: the newcomer)."""

    preauth_sockets: int = 8192
    """Sockets that have not said a valid hello, in all."""

    preauth_per_address: int = 4096
    """The same per peer address. High, since a balancer or a carrier may stand for thousands; 0: no limit."""

    refused_sockets: int = 512
    """Sockets over a limit that may wait for their polite refusal; further ones are cut without a word."""

    handshakes_per_second: float = 2000.0
    """Upgrades taken per second: about two thirds of a core, so that established connections keep theirs."""

    handshake_burst: float = 4000.0
    """Upgrades that may be saved up."""

    retry_after: tuple[int, int] = (2, 30)
    """Bounds of the random Retry-After of a refusal: wide, so that a crowd does not come back as one."""

    open_timeout: float = 10.0
    """From accept to a complete request head."""

    authentication_timeout: float = 10.0
    """From the upgrade to a valid hello; then 4401 (the protocol says 10)."""

    close_timeout: float = 5.0
    """From our close frame (or HTTP answer) to the peer's end; then the socket is aborted."""

    heartbeat: float = 25.0
    """A socket quiet for so long gets a ping: below the 30 to 60 s after which proxies and NATs forget."""

    pong_timeout: float = 20.0
    """Quiet for so long after the ping: the peer is gone."""

    idle_timeout: float = 120.0
    """No complete frame, not even a pong, for so long: 4408. Catches frames that drip in and never end."""

    lifetime: float = 21_600.0
    """A connection older than this is moved on (1012 after a ``reconnect`` hint); keeps gateways balanced. 0: never."""

    lifetime_jitter: float = 0.25
    """The lifetime is random within this share around it: those who came together do not leave together."""

    lifetime_notice: float = 10.0
    """From the ``reconnect`` hint to the close at the end of the lifetime."""

    max_buffer_bytes: int = 1 << 20
    """Bytes queued toward one client; over it the client is cut with 4410."""

    send_buffer_bytes: int = 128 * 1024
    """The kernel's buffer toward one client (SO_SNDBUF, which Linux doubles). Left to itself it grows to
    megabytes per stalled reader; 0: leave it."""

    stall_timeout: float = 10.0
    """A client whose buffer does not move for so long is cut with 4410."""

    frames_per_second: float = 60.0
    """Messages taken from one client; a faster one is read more slowly, nothing is lost."""

    frames_burst: float = 240.0
    """Messages that may be saved up: a client that syncs after a night asks for much at once."""

    pings_per_second: float = 5.0
    """Pings and pongs taken from one client; a flood is cut with 1008."""

    pings_burst: float = 50.0
    """Pings and pongs that may be saved up."""

    sweep: float = 0.5
    """How often deadlines are looked at: their precision."""

    freeze_limit: float = 10.0
    """Slept longer than this (a frozen process): every connection is closed before anything queued is acted on."""

    drain_propagation: float = 5.0
    """From readiness off to the end of listening: until every balancer knows."""

    drain_rate: float = 500.0
    """Closes per second while draining, all gateways' clients together being the storm."""

    drain_notice: float = 2.0
    """From the ``reconnect`` hints to the first close."""

    drain_deadline: float = 50.0
    """The whole drain takes at most this long; then what is left is closed at once. Below the pod's grace."""
