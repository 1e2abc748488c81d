"""The seam inside the gateway: what a session sees of its connection, and a connection of its session.

``connection`` and ``server`` know sockets, ``session``, ``hub`` and ``prover`` know chat; they meet here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from chatcluster.core.codes import Close
from chatcluster.core.frames import BadFrame, ClientFrame, Codec, ServerFrame


class Link(Protocol):
    """One client's connection, as its session uses it. All methods are plain: nothing here can block."""

    codec: Codec
    closed: bool

    def send(self, frame: ServerFrame) -> None:
        """Encode one frame for this connection alone and queue it."""
        ...

    def write(self, wire: bytes) -> None:
        """Queue bytes that are a whole WebSocket message already (``frame_bytes``): encoded once for many.

        One write per socket and tick. Over the byte bound the connection is cut with SLOW_CONSUMER; after
        a close it does nothing.
        """
        ...

    def close(self, code: Close, reason: str) -> None:
        """Send what is queued, then the close frame; abort if the peer does not answer in time. Idempotent."""
        ...

    def authenticated(self, key: str, expires: float | None) -> None:
        """The session said hello: lifts the authentication deadline, leaves the pre-auth count.

        ``key``: tenant/user, for logs. ``expires``: wall seconds when TOKEN_EXPIRED closes it; again on renewal.
        """
        ...

    def pause(self) -> None:
        """Stop reading from the socket: this client has enough requests in flight."""
        ...

    def resume(self) -> None:
        """Read again."""
        ...


class Handler(Protocol):
    """One client's session, as its connection drives it."""

    def on_frame(self, frame: ClientFrame) -> None:
        """A decoded frame, in the order of arrival."""
        ...

    def on_bad_frame(self, bad: BadFrame) -> None:
        """A message that is no frame: the session answers and may close after too many."""
        ...

    def on_closed(self) -> None:
        """The connection is gone; called exactly once, also after ``Link.close``."""
        ...

    def on_drain(self, after_ms: int, spread_ms: int, reason: str) -> None:
        """The gateway will close soon: tell the client where its reconnect window is."""
        ...


Accept = Callable[[Link, str | None], Handler]
"""Makes the session of a new connection; the second argument is the bearer token of the handshake, if any."""
