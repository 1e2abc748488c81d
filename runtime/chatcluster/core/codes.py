"""The two closed tables of the protocol: refusals (the connection lives) and closes (it ends)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal, get_args

ErrorCode = Literal[
    "bad_json",
    "bad_request",
    "unknown_type",
    "not_authenticated",
    "unauthorized",
    "already_authenticated",
    "no_such_channel",
    "not_a_member",
    "forbidden",
    "no_such_message",
    "body_empty",
    "body_too_long",
    "bad_client_id",
    "id_conflict",
    "bad_cursor",
    "cursor_ahead",
    "bad_limit",
    "too_many",
    "rate_limited",
    "overloaded",
    "unavailable",
    "unknown_outcome",
]

ERROR_CODES: Final[frozenset[str]] = frozenset(get_args(ErrorCode))
RETRYABLE: Final[frozenset[str]] = frozenset({"rate_limited", "overloaded", "unavailable", "unknown_outcome"})
"""Codes that invite the same request again. ``no_such_message`` is retryable where the router says so."""


class Close(IntEnum):
    """Close codes. 4401 and 4403: do not retry with this token; all others: reconnect and resume."""

    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    WRONG_MESSAGE_TYPE = 1003
    BAD_UTF8 = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_LATER = 1013
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    IDLE = 4408
    REPLACED = 4409
    SLOW_CONSUMER = 4410
    TOKEN_EXPIRED = 4413
    TOO_MANY = 4429


class Refused(Exception):
    """An answered no: becomes an ``error`` frame with the request's rid."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        field: str | None = None,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.field = field
        self.retryable = code in RETRYABLE if retryable is None else retryable
        self.retry_after_ms = retry_after_ms
