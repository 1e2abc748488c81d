"""What can go wrong, by type. Everything the SDK raises is a ``ChatError``."""

from __future__ import annotations

from chatcluster.core.frames import ErrorFrame


class ChatError(Exception):
    """Base of all errors of the SDK."""


class RequestRefused(ChatError):
    """The server's answered no. ``code`` is one of the protocol's error codes."""

    def __init__(self, code: str, message: str, *, field: str | None = None, retryable: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.field = field
        self.retryable = retryable


class NoSuchChannel(RequestRefused):
    """The channel does not exist, or you may not know that it does: the server says the same for both."""


class NotAMember(RequestRefused):
    """You are not a member of the channel (any more)."""


class IdConflict(RequestRefused):
    """This client_id was used for another content before; nothing was sent."""


class TimedOut(ChatError):
    """No answer within the time given. What became of a send is unknown: repeat it with the same client_id."""


class Stopped(ChatError):
    """The client was closed, or was never opened."""


class ConnectionRefused(ChatError):
    """The server will not have this connection, and trying again cannot help."""


class Unauthorized(ConnectionRefused):
    """The token was refused (4401, 401) or expired without anybody to renew it."""


class Forbidden(ConnectionRefused):
    """Origin or tenant are not served here (4403, 403)."""


class Replaced(ConnectionRefused):
    """Another connection of the same device took over (4409)."""


class ConnectionLost(ChatError):
    """The connection ended while an answer was awaited. Inside the SDK only: requests are repeated."""


_BY_CODE: dict[str, type[RequestRefused]] = {
    "no_such_channel": NoSuchChannel,
    "not_a_member": NotAMember,
    "id_conflict": IdConflict,
}


def from_frame(frame: ErrorFrame) -> RequestRefused:
    """The error of an ``error`` frame."""
    kind = _BY_CODE.get(frame.code, RequestRefused)
    field = frame.field if isinstance(frame.field, str) else None
    return kind(frame.code, frame.message, field=field, retryable=frame.retryable)
