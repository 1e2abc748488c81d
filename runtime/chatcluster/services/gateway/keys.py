"""Keys that tokens are verified with: a shared secret for development, or a published set that rotates.

A source holds one algorithm family; a public key is never used as a shared secret, whatever a token says.
Knows no HTTP: what fetches the set is an argument.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import jwt
import msgspec

from chatcluster.ports import Clock

log = logging.getLogger("chatcluster.gateway")

FAMILIES: Final[Mapping[str, frozenset[str]]] = {
    "RSA": frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    "EC": frozenset({"ES256", "ES384", "ES512"}),
    "OKP": frozenset({"EdDSA"}),
}
"""Key type of a JWK to the algorithms that may use it. ``oct`` is missing: a published secret is none."""

ASYMMETRIC: Final = frozenset().union(*FAMILIES.values())
_CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_MAX_KEYS = 64
_MAX_SET_BYTES = 1 << 20
_MIN_RSA_BITS = 2048
_MIN_SECRET_BYTES = 32


class Key(msgspec.Struct, frozen=True):
    """A key and the one algorithm it is for."""

    algorithm: str
    material: Any


class Keys(Protocol):
    """A source of keys. ``version`` changes whenever a key came or went."""

    @property
    def version(self) -> int: ...

    @property
    def loaded(self) -> bool:
        """Whether there is a set at all; readiness asks. Until then no token is known to be bad."""
        ...

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key for a token's header; None: none that fits both."""
        ...

    async def refetch(self, kid: str | None) -> bool:
        """A key was not found: look for newer ones. True: there may be some."""
        ...


class SecretKeys:
    """One shared secret, HS256: for development. Raises ``ValueError`` for what is too short, or is no secret."""

    version = 0
    loaded = True

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _MIN_SECRET_BYTES:
            raise ValueError(f"a signing key has at least {_MIN_SECRET_BYTES} bytes")
        if b"-----BEGIN" in secret or secret.startswith(b"ssh-"):
            raise ValueError("a public or private key is not a shared secret")
        self._key = Key("HS256", secret)

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """See ``Keys``; any ``kid``."""
        return self._key if algorithm == "HS256" else None

    async def refetch(self, kid: str | None) -> bool:
        """See ``Keys``: never."""
        return False


class BadKeySet(Exception):
    """A set that cannot be used at all."""


def parse_key_set(data: bytes, algorithms: frozenset[str] = ASYMMETRIC) -> Mapping[str | None, Key]:
    """The usable keys of a JWK set (RFC 7517) by ``kid``. A key that is not usable is passed over.

    Raises ``BadKeySet`` when none is left.
    """
    if len(data) > _MAX_SET_BYTES:
        raise BadKeySet(f"key set over {_MAX_SET_BYTES} bytes")
    try:
        listed = msgspec.json.decode(data)["keys"]
        assert isinstance(listed, Sequence)
    except Exception:
        raise BadKeySet("not a JWK set") from None
    keys: dict[str | None, Key] = {}
    for entry in listed[:_MAX_KEYS]:
        key = _parse_key(entry, algorithms)
        if key is not None:
            kid = entry.get("kid")
            if kid in keys:
                raise BadKeySet("two keys with one kid")
            keys[kid] = key
    if not keys:
        raise BadKeySet("no usable key")
    return keys


def _parse_key(entry: Any, algorithms: frozenset[str]) -> Key | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str | None):
        return None
    kind = entry.get("kty")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    usable = entry.get("use", "sig") == "sig" and "verify" in entry.get("key_ops", ["verify"])
    if family is None or not usable or "d" in entry:  # a private key in public: not to be trusted
        return None
    algorithm = entry.get("alg")
    if algorithm is None:
        algorithm = {"RSA": "RS256", "OKP": "EdDSA"}.get(str(kind)) or _CURVES.get(str(entry.get("crv")))
    if algorithm not in family or algorithm not in algorithms:
        return None
    try:
        material = jwt.PyJWK(entry, algorithm=algorithm).key
    except Exception:
        return None
    if getattr(material, "key_size", _MIN_RSA_BITS) < _MIN_RSA_BITS and kind == "RSA":
        return None
    return Key(algorithm, material)


class PublishedKeys:
    """A JWK set that rotates: fetched again in time, and when a token names a key that is not in it.

    ``fetch`` returns the set's bytes or raises. A fetch that fails keeps the old set. ``algorithms``: the
    allow-list, asymmetric ones only. Times in seconds.
    """

    def __init__(
        self,
        *,
        fetch: Callable[[], Awaitable[bytes]],
        clock: Clock,
        algorithms: frozenset[str] = ASYMMETRIC,
        refresh: float = 300.0,
        cooldown: float = 10.0,
        timeout: float = 5.0,
    ) -> None:
        if not algorithms <= ASYMMETRIC:
            raise ValueError(f"algorithms of a published set are among {', '.join(sorted(ASYMMETRIC))}")
        self._fetch = fetch
        self._clock = clock
        self._algorithms = algorithms
        self._refresh = refresh
        self._cooldown = cooldown
        self._timeout = timeout
        self._keys: Mapping[str | None, Key] = {}
        self._data = b""
        self._lock = asyncio.Lock()
        self._tried: float | None = None
        self.version = 0

    @property
    def loaded(self) -> bool:
        """See ``Keys``."""
        return self.version > 0

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """See ``Keys``. Without ``kid`` only where the set holds a single key: no guessing."""
        keys = self._keys
        key = next(iter(keys.values())) if kid is None and len(keys) == 1 else keys.get(kid)
        return key if key is not None and key.algorithm == algorithm else None

    async def refetch(self, kid: str | None) -> bool:
        """See ``Keys``. At most one fetch per ``cooldown``, whatever strangers send; all who ask share it."""
        if kid in self._keys:
            return False  # known, but for another algorithm
        before = self.version
        async with self._lock:
            if self.version == before and self._may_fetch():
                await self._fetch_now()
        return self.version != before

    async def load(self) -> bool:
        """Fetch now. Whether there is a usable set afterwards."""
        async with self._lock:
            await self._fetch_now()
        return self.loaded

    async def run(self) -> None:
        """Fetch every ``refresh`` until cancelled; sooner while there is no set."""
        while True:
            await self.load()
            await asyncio.sleep(self._refresh if self.loaded else min(self._cooldown, self._refresh))

    def _may_fetch(self) -> bool:
        return self._tried is None or self._clock.monotonic() - self._tried >= self._cooldown

    async def _fetch_now(self) -> None:
        self._tried = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                data = await self._fetch()
            if data == self._data:
                return
            keys = parse_key_set(data, self._algorithms)
        except Exception as error:  # an issuer in trouble must not end the sessions of its users
            log.warning("key set not fetched, keeping the old one: %s", type(error).__name__)
            return
        self._keys, self._data = keys, data
        self.version += 1
