"""``token``: a signed token of a user. The one command that shows something made of a Secret, and it says so.

What the runtime's own command makes (``chatcluster token mint``), from the Secret that ``spec.auth.secretRef`` names.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import re
import secrets
import sys
import time
from typing import Any

from chatcluster_operator.plugin.api import Api, cluster_of, path_of
from chatcluster_operator.plugin.errors import FAILED, IMPOSSIBLE, USAGE, Failure, NotFound

KEY_BYTES = 32
"""The least that the gateways take as a key of HS256."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def run(options: argparse.Namespace) -> int:
    """Print the token, alone, on stdout."""
    seconds = duration(options.ttl, "--ttl")
    if not 1 <= len(options.user) <= 128 or any(ord(char) < 32 for char in options.user):
        raise Failure("--user has 1 to 128 characters, none of them a control character", USAGE)
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", options.tenant):
        raise Failure("--tenant has 1 to 64 of A-Z a-z 0-9 . _ -", USAGE)
    api = Api.of(options)
    cluster = cluster_of(api, options.name)
    name, auth = cluster["metadata"]["name"], cluster["spec"]["auth"]
    if auth.get("jwks"):
        raise Failure(
            f"{name} verifies tokens with the key set at {auth['jwks']['url']}: only who has its private key, the "
            "identity provider behind it, can sign one; ask it for a token",
            IMPOSSIBLE,
        )
    ref = auth["secretRef"]
    print(f"reading the Secret {ref['name']} (key {ref['key']}), for this token alone", file=sys.stderr)
    try:
        secret = api.get(path_of("v1", "secrets", api.namespace, ref["name"]))
    except NotFound:
        raise NotFound(f"the Secret {ref['name']} that spec.auth.secretRef names is not there") from None
    print(mint(key_of(secret, ref), auth, user=options.user, tenant=options.tenant, ttl=seconds))
    return 0


def duration(text: str, option: str) -> int:
    """Seconds in ``90``, ``90s``, ``15m``, ``1h`` or ``30d``. Raises ``Failure``."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    if match is None or int(match[1]) == 0:
        raise Failure(f"{option} {text!r} is not a time: a number over 0 with s, m, h or d, such as 15m", USAGE)
    return int(match[1]) * _UNITS[match[2] or "s"]


def key_of(secret: Any, ref: Any) -> bytes:
    """The key in a Secret: hexadecimal text of at least 32 bytes. Raises ``Failure`` that does not quote it."""
    where = f"the key {ref['key']} of the Secret {ref['name']}"
    data = (secret.get("data") or {}).get(ref["key"])
    if data is None:
        raise NotFound(f"{where} is not there")
    try:
        key = bytes.fromhex(base64.b64decode(data, validate=True).decode().strip())
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise Failure(f"{where} is no signing key: hexadecimal text of at least {KEY_BYTES} bytes", FAILED)
    return key


def mint(key: bytes, auth: Any, *, user: str, tenant: str, ttl: int) -> str:
    """A JWT (RFC 7519) by HS256, with the audience and issuer that the gateways ask for."""
    now = int(time.time())
    claims = {"sub": user, "tid": tenant, "iat": now, "exp": now + ttl, "jti": secrets.token_hex(8)}
    claims |= {name: auth[field] for name, field in (("aud", "audience"), ("iss", "issuer")) if auth.get(field)}
    body = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(claims)}"
    return f"{body}.{_text(hmac.new(key, body.encode(), hashlib.sha256).digest())}"


def _part(what: object) -> str:
    return _text(json.dumps(what, separators=(",", ":")).encode())


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
