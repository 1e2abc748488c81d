"""Who a client is: the seam that sessions ask, and what every key source checks alike.

Knows tokens and claims; nothing of sockets, and nothing of where keys come from (``keys``).
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Identity(msgspec.Struct, frozen=True, gc=False):
    """A verified token. ``expires`` and ``issued_at``: seconds since 1970; ``issued_at`` is 0.0 without ``iat``."""

    user: str
    tenant: str
    expires: float
    issued_at: float


class Authenticator(Protocol):
    """Verifies tokens."""

    async def verify(self, token: str) -> Identity:
        """Who the bearer is. Raises ``Refused("unauthorized")``, one text for every reason.

        Waits only for keys that are being fetched; it returns without a pause when they are at hand.
        """
        ...
