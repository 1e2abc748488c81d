"""Development tokens and the data folder's secrets: the signing key and the server API's key."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

SIGNING_KEY = "signing.key"
API_KEY = "api.key"
KEY_BYTES = 32


class MissingKey(Exception):
    """The data folder has no signing key."""


def mint(key: bytes, *, user: str, tenant: str = "default", ttl: float = 3600.0) -> str:
    """A JWT (HS256) for ``user`` that lives ``ttl`` seconds. ``key``: at least 32 bytes."""
    import jwt

    now = time.time()
    claims = {"sub": user, "tid": tenant, "iat": int(now), "exp": int(now + ttl), "jti": secrets.token_hex(8)}
    return jwt.encode(claims, key, algorithm="HS256")


def load_key(data: Path) -> bytes:
    """The signing key of a data folder. Raises ``MissingKey`` with the command that makes one."""
    return read_key(data / SIGNING_KEY)


def read_key(path: Path) -> bytes:
    """A signing key from its file: hexadecimal text, at least 32 bytes. Raises ``MissingKey``."""
    try:
        key = bytes.fromhex(path.read_text().strip())
    except FileNotFoundError:
        raise MissingKey(f"no signing key at {path}: `chatcluster dev` creates one in its data folder") from None
    except ValueError:
        raise MissingKey(f"{path} is not a signing key: hexadecimal text of at least 32 bytes") from None
    if len(key) < KEY_BYTES:
        raise MissingKey(f"{path} is too short: a signing key has at least 32 bytes")
    return key


def ensure_secrets(data: Path) -> tuple[bytes, str]:
    """The signing key and the API key of a data folder, created on first use, readable by the owner only."""
    data.mkdir(parents=True, exist_ok=True)
    signing = data / SIGNING_KEY
    if not signing.exists():
        _write_secret(signing, secrets.token_hex(KEY_BYTES))
    api = data / API_KEY
    if not api.exists():
        _write_secret(api, secrets.token_urlsafe(KEY_BYTES))
    return read_key(signing), api.read_text().strip()


def _write_secret(path: Path, value: str) -> None:
    # Written whole under another name first: a crash leaves no half key behind.
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(value + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
