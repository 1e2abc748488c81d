"""Which keys tokens are verified with: the data folder's secret, or a JWK set from a file or URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from chatcluster.app.address import guarded
from chatcluster.app.settings import BadSettings
from chatcluster.app.tokens import MissingKey, read_key
from chatcluster.ports import Clock
from chatcluster.services.gateway.auth import AuthSettings, TokenAuthenticator
from chatcluster.services.gateway.keys import BadKeySet, PublishedKeys, SecretKeys, parse_key_set

_MAX_SET_BYTES = 1 << 20


class AuthSection(msgspec.Struct, frozen=True):
    """Section ``[auth]``. Without a key set: HS256 with a secret, for development or where the product signs itself."""

    secret_file: str | None = None
    """A file with the secret of HS256 tokens: hexadecimal text of at least 32 bytes. ``dev`` has its data folder's."""
    jwks_file: str | None = None
    """A JWK set (RFC 7517) in a file; read again every ``refresh`` seconds and when a token names an unknown key."""
    jwks_url: str | None = None
    """The same from a URL (https, or http on this machine)."""
    audience: str | None = None
    """``aud`` that tokens must name; none: not checked."""
    issuer: str | None = None
    """``iss`` that tokens must have, exactly; none: not checked."""
    refresh: float = 300.0
    """Seconds between two readings of the key set."""


def secret_in(file: str) -> bytes:
    """The secret of ``auth.secret_file``. Raises ``BadSettings``."""
    try:
        return read_key(Path(file))
    except MissingKey as error:
        raise BadSettings(f"auth.secret_file: {error}") from None


@asynccontextmanager
async def authentication(section: AuthSection, secret: bytes, clock: Clock) -> AsyncIterator[TokenAuthenticator]:
    """The authenticator of the settings, its key set kept fresh meanwhile. Raises ``BadSettings``."""
    settings = AuthSettings(audience=section.audience, issuer=section.issuer)
    if section.jwks_file is not None and section.jwks_url is not None:
        raise BadSettings(f"auth.jwks_url = {section.jwks_url!r}: auth.jwks_file is set too; allowed: one of them")
    url = section.jwks_url
    if url is not None and not guarded(url):
        raise BadSettings(f"auth.jwks_url = {url!r}: allowed: https://…, or http:// on this machine")
    if section.jwks_file is None and url is None:
        yield TokenAuthenticator(keys=SecretKeys(secret), clock=clock, settings=settings)
        return
    async with asyncio.TaskGroup() as tasks:
        if section.jwks_file is not None:
            path = Path(section.jwks_file)

            async def read() -> bytes:
                return await asyncio.get_running_loop().run_in_executor(None, path.read_bytes)

            try:
                parse_key_set(await read())
            except (OSError, BadKeySet) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise BadSettings(
                    f"auth.jwks_file = {section.jwks_file!r}: {reason}; allowed: a file with a JWK set and a usable "
                    "public key in it"
                ) from None
            keys = PublishedKeys(fetch=read, clock=clock, refresh=section.refresh)
            await keys.load()
            keeping = tasks.create_task(keys.run())
            yield TokenAuthenticator(keys=keys, clock=clock, settings=settings)
            keeping.cancel()
        elif url is not None:
            import aiohttp

            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:

                async def fetch() -> bytes:
                    async with http.get(url, allow_redirects=False) as response:
                        response.raise_for_status()
                        data = bytearray()
                        async for part in response.content.iter_any():
                            data += part
                            if len(data) > _MAX_SET_BYTES:
                                break  # no set: the rest need not come
                        return bytes(data)

                # A set that is not there yet keeps nobody from starting: readiness says it, hellos are to come later.
                keys = PublishedKeys(fetch=fetch, clock=clock, refresh=section.refresh)
                keeping = tasks.create_task(keys.run())
                yield TokenAuthenticator(keys=keys, clock=clock, settings=settings)
                keeping.cancel()
