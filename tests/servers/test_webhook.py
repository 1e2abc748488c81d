"""The webhook over HTTP, against a real receiver."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from chatcluster.app.clock import SystemClock
from chatcluster.app.settings import BadSettings
from chatcluster.app.webhook import open_webhook
from chatcluster.client.webhook import BadSignature, verify
from chatcluster.ports import Posted
from webhooks import Handler, receiver, secret


async def post(handler: Handler, file: Path) -> Posted:
    async with (
        receiver(handler) as url,
        open_webhook(url=url, secret_file=file, timeout=0.5, clock=SystemClock()) as webhook,
    ):
        return await webhook.post("msg_1", b"{}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(secret())
    return path


async def test_signatures_and_rotation(file: Path) -> None:
    old, new = await asyncio.to_thread(file.read_text), secret()
    seen: list[tuple[dict[str, str], bytes]] = []

    async def take(request: web.Request) -> web.Response:
        seen.append((dict(request.headers), await request.read()))
        return web.Response()

    async with (
        receiver(take) as url,
        open_webhook(url=url, secret_file=file, timeout=5, clock=SystemClock()) as webhook,
    ):
        assert await webhook.post("msg_1", b"one") == Posted("taken")
        await asyncio.to_thread(file.write_text, f"{new}\n{old}\n")
        await webhook.post("msg_2", b"two")
        await asyncio.to_thread(file.write_text, "damaged!")
        await webhook.post("msg_3", b"three")
    verify([old], *seen[0])
    for headers, body in seen[1:]:
        verify([old, new], headers, body)
        with pytest.raises(BadSignature):
            verify([old], headers, body)
    with pytest.raises(BadSignature):
        verify([old], seen[0][0], b"other")
    stamp = int(seen[0][0]["webhook-timestamp"])
    for age in (-300, 300):
        verify([old], *seen[0], now=stamp + age)
    for age in (-301, 301):  # a request that was overheard is good for five minutes
        with pytest.raises(BadSignature):
            verify([old], *seen[0], now=stamp + age)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(204, "taken"), (302, "refused"), (400, "refused"), (410, "gone"), (429, "later"), (500, "later")],
)
async def test_what_an_answer_means(status: int, outcome: str, file: Path) -> None:
    calls = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(status=status, headers={"location": "/hook", "retry-after": "7"})

    posted = await post(answer, file)
    assert (posted.outcome, posted.after, calls) == (outcome, 7.0 if outcome == "later" else 0.0, 1)


async def test_a_receiver_that_does_not_answer_costs_the_timeout(file: Path) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    assert await post(hang, file) == Posted("later")


async def test_an_endless_answer_is_not_read(file: Path) -> None:
    async def pour(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65_536)

    assert await post(pour, file) == Posted("taken")


@pytest.mark.parametrize("url", ["http://example.com/", "ftp://127.0.0.1/", "nonsense"])
async def test_only_https_or_loopback(url: str, file: Path) -> None:
    with pytest.raises(BadSettings, match="webhook_url"):
        async with open_webhook(url=url, secret_file=file, timeout=1, clock=SystemClock()):
            pass
