"""Tokens as a client sees them: opaque, but for the time they end, which says when to renew."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable

import msgspec

Token = str | Callable[[], Awaitable[str]]
"""A token, or what fetches a fresh one each time it is needed."""


class _Claims(msgspec.Struct):
    exp: float | None = None


_claims = msgspec.json.Decoder(_Claims)


def expiry(token: str) -> float | None:
    """Seconds since 1970 at which a JWT ends; None when it does not say. Nothing is verified: that is the server's."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        return _claims.decode(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))).exp
    except (ValueError, msgspec.DecodeError):
        return None
