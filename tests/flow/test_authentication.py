"""What the settings of ``[auth]`` come to: key sets from files and URLs, audience and issuer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from chatcluster.app.authentication import AuthSection, authentication
from chatcluster.app.clock import SystemClock
from chatcluster.app.settings import BadSettings
from chatcluster.core.codes import Refused

PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEY_SET = json.dumps({"keys": [{**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(PRIVATE.public_key())), "kid": "1"}]})
SECRET = bytes(range(32))


def token(key: Any = PRIVATE, algorithm: str = "ES256", **claims: object) -> str:
    told = {"sub": "ann", "exp": time.time() + 60, "aud": "chat", "iss": "https://id.example", **claims}
    return jwt.encode(told, key, algorithm=algorithm, headers={"kid": "1"})


async def user(section: AuthSection, told: str) -> str | None:
    """Whose token it is under these settings; None: nobody's."""
    async with authentication(section, SECRET, SystemClock()) as authenticator:
        try:
            return (await authenticator.verify(told)).user
        except Refused:
            return None


@asynccontextmanager
async def issuer(answer: Any) -> AsyncIterator[str]:
    """An issuer that publishes its set as ``answer`` does, and properly at ``/moved``."""

    async def properly(_: web.Request) -> web.Response:
        return web.Response(text=KEY_SET)

    app = web.Application()
    app.router.add_get("/jwks", answer)
    app.router.add_get("/moved", properly)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    finally:
        await runner.cleanup()


async def test_a_set_that_comes_in_pieces_is_a_whole_one() -> None:
    async def dribble(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (KEY_SET[:40], KEY_SET[40:]):
            await response.write(part.encode())
            await asyncio.sleep(0.05)
        return response

    async with issuer(dribble) as url:
        assert await user(AuthSection(jwks_url=url), token()) == "ann"


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_an_answer_that_is_no_success_brings_no_keys(status: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"location": "/moved"}, text="" if status == 302 else KEY_SET)

    async with issuer(answer) as url:
        assert await user(AuthSection(jwks_url=url), token()) is None


async def test_an_answer_without_an_end_is_left() -> None:
    poured = 0
    left = asyncio.Event()

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal poured
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(KEY_SET.encode())
        try:
            while True:
                await response.write(b" " * 65_536)
                poured += 65_536
        finally:
            left.set()

    async with issuer(pour) as url:
        assert await user(AuthSection(jwks_url=url), token()) is None
        await asyncio.wait_for(left.wait(), 5)
    assert poured < 16 << 20


@pytest.mark.parametrize("source", ["secret", "file", "url"])
async def test_audience_and_issuer_count_wherever_keys_come_from(source: str, tmp_path: Path) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=KEY_SET)

    file = tmp_path / "jwks.json"
    file.write_text(KEY_SET)
    signing: tuple[Any, str] = (SECRET, "HS256") if source == "secret" else (PRIVATE, "ES256")
    async with issuer(answer) as url:
        section = AuthSection(
            jwks_file=str(file) if source == "file" else None,
            jwks_url=url if source == "url" else None,
            audience="chat",
            issuer="https://id.example",
        )
        assert await user(section, token(*signing)) == "ann"
        assert await user(section, token(*signing, aud="shop")) is None
        assert await user(section, token(*signing, iss="https://id.example.evil")) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example/jwks",
        "http://localhost.evil.example/jwks",
        "http://127.0.0.1.evil.example/jwks",
        "http://127.0.0.1@evil.example/jwks",
        "http://[::1",
        "ftp://127.0.0.1/jwks",
        "https://",
        "",
    ],
)
async def test_keys_are_not_asked_for_where_others_could_change_them(url: str) -> None:
    with pytest.raises(BadSettings, match=r"auth\.jwks_url"):
        await user(AuthSection(jwks_url=url), token())


async def test_a_key_set_comes_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="one of them"):
        await user(AuthSection(jwks_url="https://id.example/jwks", jwks_file=str(tmp_path / "jwks.json")), token())
