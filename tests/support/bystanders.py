"""Clients that only listen, by hand: they stay until they are closed, and note how they were told to go."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from chatcluster.app.tokens import mint


@dataclass
class Goodbye:
    """How one connection ended. Times: monotonic seconds."""

    code: int
    closed: float
    hinted: float | None
    """When ``reconnect`` came; None: it did not."""
    advised: float
    """Seconds within which the hint said to go."""
    back: float | None = None
    """When the next connection was welcomed."""


@dataclass
class Bystanders:
    """``count`` of them, each a user of its own."""

    goodbyes: list[Goodbye] = field(default_factory=list)
    here: int = 0

    def since(self, when: float) -> list[Goodbye]:
        """Ends of connections after a moment."""
        return sorted((one for one in self.goodbyes if one.closed >= when), key=lambda one: one.closed)

    async def stay(self, url: str, token: str) -> None:
        """Until cancelled."""
        last: Goodbye | None = None
        while True:
            try:
                async with connect(
                    f"{url}/v1/connect", subprotocols=["chatcluster.v1.json"], compression=None, open_timeout=5
                ) as socket:
                    await socket.send(json.dumps({"type": "hello", "rid": "1", "token": token, "device": "d"}))
                    last = await self._listen(socket, last)
            except (OSError, TimeoutError, WebSocketException):
                pass
            await asyncio.sleep(random.uniform(0.05, 0.3))

    async def _listen(self, socket, last: Goodbye | None) -> Goodbye:
        hinted, advised, welcomed = None, 0.0, False
        try:
            async for text in socket:
                frame = json.loads(text)
                if frame["type"] == "welcome":
                    welcomed = True
                    self.here += 1
                    if last is not None and last.back is None:
                        last.back = time.monotonic()
                elif frame["type"] == "reconnect":
                    hinted = time.monotonic()
                    advised = (frame["after_ms"] + frame["spread_ms"]) / 1000
        except ConnectionClosed:
            pass
        finally:
            self.here -= welcomed
        bye = Goodbye(socket.close_code or 0, time.monotonic(), hinted, advised)
        self.goodbyes.append(bye)
        return bye


@asynccontextmanager
async def bystanders(url: str, key: bytes, count: int) -> AsyncIterator[Bystanders]:
    """Connected for the time of the block."""
    crowd = Bystanders()
    tasks = []
    try:
        for number in range(count):
            tasks.append(asyncio.create_task(crowd.stay(url, mint(key, user=f"bystander-{number}"))))
            await asyncio.sleep(0.02)
        async with asyncio.timeout(30):
            while crowd.here < count:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield crowd
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
