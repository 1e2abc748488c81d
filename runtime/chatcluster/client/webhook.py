"""For receivers of the push webhook: is this request really from the platform? Standard library only."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence

TOLERANCE = 300
"""Seconds that a request's timestamp may be off."""


class BadSignature(Exception):
    """The request is not from a holder of the secret, or it is old."""


def sign(secret: str, id: str, timestamp: int, body: bytes) -> str:  # noqa: A002
    """The ``webhook-signature`` of Standard Webhooks. Raises ``ValueError`` for a secret that is no base64."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise ValueError("a webhook secret is `whsec_` and base64") from None
    mac = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(mac.digest()).decode()


def verify(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, *, now: float | None = None) -> None:
    """Raises ``BadSignature`` unless one of the secrets signed exactly this body, lately."""
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        name, stamp, given = (lower[f"webhook-{part}"] for part in ("id", "timestamp", "signature"))
        timestamp = int(stamp)
    except (KeyError, ValueError):
        raise BadSignature("headers are missing or damaged") from None
    if abs((time.time() if now is None else now) - timestamp) > TOLERANCE:
        raise BadSignature("too old, or from the future")
    candidates = [one.encode() for one in given.split(" ")]
    for secret in secrets:
        expected = sign(secret, name, timestamp, body).encode()
        if any(hmac.compare_digest(expected, one) for one in candidates):
            return
    raise BadSignature("no signature fits")
