"""Credentials of the server API: bearer keys from a file, each for one tenant and some scopes.

They are the product back end's own; users' tokens are no good here, nor the other way round.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from chatcluster.app.settings import BadSettings

Scope = Literal["channels:read", "channels:write", "messages:read", "messages:write", "users:write"]
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
MIN_KEY = 32
"""Characters of a key at least: nobody guesses 32 random ones."""


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry ``[[keys]]`` of the file. ``scopes``: all when not said. ``name``: for people, not secret."""

    key: Annotated[str, msgspec.Meta(min_length=MIN_KEY, max_length=512)]
    tenant: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "default"
    scopes: frozenset[Scope] = SCOPES
    name: str = ""


class Grant(msgspec.Struct, frozen=True):
    """What a key allows."""

    tenant: str
    scopes: frozenset[Scope]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[ApiKey]


class ApiKeys:
    """Keys to what they allow. Holds digests only, so that no dump of it shows a key."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._grants = [(sha256(key.key.encode()).digest(), Grant(key.tenant, key.scopes)) for key in keys]

    @classmethod
    def single(cls, key: str, tenant: str = "default") -> ApiKeys:
        """One key that may do everything in one tenant."""
        return cls([ApiKey(key, tenant)])

    @classmethod
    def load(cls, path: Path) -> ApiKeys:
        """From a TOML file with ``[[keys]]``. Raises ``BadSettings``, which never quotes a key."""
        try:
            return cls(msgspec.convert(tomllib.loads(path.read_text()), _File).keys)
        except FileNotFoundError:
            raise BadSettings(f"the API keys' file {path} does not exist") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            raise BadSettings(f"the API keys' file {path} is not TOML") from None
        except msgspec.ValidationError as error:
            raise BadSettings(f"the API keys' file {path}: {error}") from None

    def find(self, authorization: str | None) -> Grant | None:
        """What an ``Authorization`` header allows. Compares with every key, in constant time each."""
        scheme, _, key = (authorization or "").partition(" ")
        digest = sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found: Grant | None = None
        for known, grant in self._grants:
            if compare_digest(known, digest):
                found = grant
        return found if scheme.lower() == "bearer" else None


def load_keys(file: str | None) -> ApiKeys | None:
    """The keys of a file: TOML with ``[[keys]]``, or one key alone for the tenant ``default``. None: no file, no API.

    Raises ``BadSettings``, which never quotes a key.
    """
    if file is None:
        return None
    path = Path(file)
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise BadSettings(f"api.keys_file = {file!r}: {error.strerror}; allowed: a readable file") from None
    except UnicodeDecodeError:
        raise BadSettings(f"api.keys_file = {file!r}: not UTF-8; allowed: TOML with [[keys]], or one key") from None
    if "\n" in text or "[[" in text:
        return ApiKeys.load(path)
    if len(text) < MIN_KEY:
        raise BadSettings(f"api.keys_file = {file!r}: a key has at least {MIN_KEY} characters")
    return ApiKeys.single(text)
