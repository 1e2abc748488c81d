"""The push hook on the platform's processes: from a socket to a signed post, over a persister's death."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from chatcluster.app.tokens import mint
from chatcluster.client import Client
from chatcluster.client.webhook import verify
from chatcluster_stack.named import Stack
from ordeals import given
from webhooks import receiver, secret

pytestmark = pytest.mark.slow
PERSISTERS = ("persister-1", "persister-2")


async def test_who_is_away_is_pushed_to_whoever_dies(stack: Stack, tmp_path: Path) -> None:
    shared = secret()
    file = tmp_path / "secret"
    file.write_text(shared)
    posted: list[dict[str, Any]] = []
    refusals = 3

    async def hook(request: web.Request) -> web.Response:
        nonlocal refusals
        body = await request.read()
        verify([shared], request.headers, body)
        if refusals:
            refusals -= 1
            return web.Response(status=503)
        posted.extend(json.loads(body)["notifications"])
        return web.Response()

    def told(channel: str) -> dict[str, set[str]]:
        """By preview, who was pushed to."""
        found: dict[str, set[str]] = {}
        for one in posted:
            if one["channel"] == channel:
                found.setdefault(one["preview"], set()).update(one["users"])
        return found

    async with receiver(hook) as url:
        settings = {
            "CHATCLUSTER_PUSH__ENABLED": "true",
            "CHATCLUSTER_PUSH__DELAY": "1",
            "CHATCLUSTER_PUSH__MAX_AGE": "300",
            "CHATCLUSTER_PUSH__WEBHOOK_URL": url,
            "CHATCLUSTER_PUSH__SECRET_FILE": str(file),
        }
        async with (
            given(stack, settings, *PERSISTERS),
            Client(stack.urls[0], token=mint(stack.key, user="pia"), device="d") as pia,
            Client(stack.urls[1], token=mint(stack.key, user="quin"), device="d"),
        ):
            group = await pia.create_group(["quin", "rob", "sue"])
            for number in range(30):
                await pia.send(group, f"push {number}", timeout=60)
                if number in {10, 20}:
                    await asyncio.to_thread(stack.node(PERSISTERS[number // 20]).kill)
                    await asyncio.to_thread(stack.node(PERSISTERS[number // 20]).start)
            wanted = {f"push {number}": {"rob", "sue"} for number in range(30)}
            async with asyncio.timeout(240):
                while told(group) != wanted:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
    assert refusals == 0
