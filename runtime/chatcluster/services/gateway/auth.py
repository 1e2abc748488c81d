"""Who a client is: the seam that sessions ask, and the checks that every token passes.

Knows tokens and claims; nothing of sockets, and nothing of where keys come from (``keys``).
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, Protocol, TypeGuard

import jwt
import msgspec

from chatcluster.core.codes import Refused
from chatcluster.core.session import valid_user
from chatcluster.ports import Clock
from chatcluster.services.gateway.keys import Keys

MAX_TOKEN = 16_384
"""Bytes of a token; a longer one is not looked at."""

DEFAULT_TENANT = "default"

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ALIEN_HEADERS = frozenset({"crit", "jku", "jwk", "x5u", "x5c", "b64", "zip", "enc"})
"""Headers that bring their own keys, or ask for rules that we do not implement (RFC 7515 4.1.11)."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """A verified token. ``expires`` and ``issued_at``: seconds since 1970; ``issued_at`` is 0.0 without ``iat``."""

    user: str
    tenant: str
    expires: float
    issued_at: float


class Authenticator(Protocol):
    """Verifies tokens."""

    async def verify(self, token: str) -> Identity:
        """Who the bearer is. Raises ``Refused("unauthorized")``, one text for every reason; ``unavailable`` while
        nobody can tell, as there are no keys yet.

        Waits only for keys that are being fetched; it returns without a pause when they are at hand.
        """
        ...


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What tokens must say."""

    audience: str | None = None
    """``aud`` must be exactly this, or a list with exactly this in it; None: not checked."""

    issuer: str | None = None
    """``iss`` must be exactly this; None: not checked."""

    leeway: float = 5.0
    """Seconds by which the issuer's clock may be ahead of ours (``nbf``, ``iat``). None for ``exp``: late is late."""

    cache: int = 8192
    """Verified tokens remembered until they expire: a reconnect storm costs no signatures twice."""


class TokenAuthenticator:
    """JWTs signed by ``keys``. One algorithm per key, fixed by the key and never by the token (RFC 8725 3.1)."""

    def __init__(self, *, keys: Keys, clock: Clock, settings: AuthSettings | None = None) -> None:
        self._keys = keys
        self._clock = clock
        self._settings = settings or AuthSettings()
        self._jws = jwt.PyJWS()
        self._cache: dict[bytes, Identity] = {}
        self._cache_version = keys.version

    def problems(self) -> str | None:
        """For readiness: what keeps every token from being verified."""
        return None if self._keys.loaded else "no key set yet"

    async def verify(self, token: str) -> Identity:
        """See ``Authenticator``."""
        if len(token) > MAX_TOKEN or not token.isascii():
            raise _unauthorized()
        known = self._known(token)
        if known is not None:
            return known
        header = self._header(token)
        kid, algorithm = header.get("kid"), header["alg"]
        key = self._keys.find(kid, algorithm)
        if key is None and await self._keys.refetch(kid):
            key = self._keys.find(kid, algorithm)
        if key is None:
            raise _unauthorized() if self._keys.loaded else Refused("unavailable", "there are no keys yet, try again")
        version = self._keys.version
        try:
            decoded = self._jws.decode_complete(token, key.material, algorithms=[key.algorithm])
            claims = msgspec.json.decode(decoded["payload"])
        except Exception:  # whatever a forged token provokes in a library is a refusal, not a crash
            raise _unauthorized() from None
        identity = self._identity(claims)
        self._remember(token, identity, version)
        return identity

    def _header(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except Exception:
            raise _unauthorized() from None
        kid = header.get("kid")
        if (
            not isinstance(header.get("alg"), str)
            or not _ALIEN_HEADERS.isdisjoint(header)
            or not (kid is None or (isinstance(kid, str) and len(kid) <= 256))
        ):
            raise _unauthorized()
        return header

    def _identity(self, claims: Any) -> Identity:
        settings = self._settings
        if not isinstance(claims, dict):
            raise _unauthorized()
        now = self._clock.now() / 1000.0
        expires, issued = _seconds(claims.get("exp")), _seconds(claims.get("iat", 0))
        begins = _seconds(claims.get("nbf", 0))
        user, tenant = claims.get("sub"), claims.get("tid", DEFAULT_TENANT)
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if (
            expires is None
            or expires <= now
            or begins is None
            or begins > now + settings.leeway
            or issued is None
            or issued > now + settings.leeway
            or (settings.audience is not None and settings.audience not in audiences)
            or (settings.issuer is not None and claims.get("iss") != settings.issuer)
            or not valid_user(user)
            or not valid_tenant(tenant)
        ):
            raise _unauthorized()
        return Identity(user, tenant, expires, issued)

    def _known(self, token: str) -> Identity | None:
        if self._cache_version != self._keys.version:
            # A key may have been withdrawn: nothing that it signed is believed any longer.
            self._cache.clear()
            self._cache_version = self._keys.version
        identity = self._cache.get(_digest(token))
        if identity is None or identity.expires <= self._clock.now() / 1000.0:
            return None
        return identity

    def _remember(self, token: str, identity: Identity, version: int) -> None:
        if version != self._cache_version or not self._settings.cache:
            return
        cache = self._cache
        while len(cache) >= self._settings.cache:
            del cache[next(iter(cache))]
        cache[_digest(token)] = identity


def valid_tenant(tenant: object) -> TypeGuard[str]:
    """``[A-Za-z0-9._-]{1,64}``: no separator of a key can be in it."""
    return isinstance(tenant, str) and _TENANT.fullmatch(tenant) is not None


def _unauthorized() -> Refused:
    return Refused("unauthorized", "the token is not valid")


def _seconds(value: object) -> float | None:
    """A NumericDate; None for what is none (also booleans and what no clock can reach)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) and 0.0 <= seconds < 1e11 else None


def _digest(token: str) -> bytes:
    return hashlib.blake2b(token.encode(), digest_size=32).digest()
