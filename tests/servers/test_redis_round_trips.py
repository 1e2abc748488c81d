"""What a 1:1 message costs in round trips to Redis: counted on the wire, message by message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from chatcluster.backends.redis import RedisBuses, RedisDedupe, RedisSettings, RedisShards
from chatcluster.core.frames import Ack, Answer, Send
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Caller, Delivery
from chatcluster_stack.servers import Group
from trivial import RealClock, trivial_router

MESSAGES = 40


class Wire:
    """A pipe to a server that counts what clients write: each time is one request, or one pipeline."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self.writes = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, int(self._port))

        async def requests() -> None:
            while data := await reader.read(1 << 20):
                self.writes += 1
                back.write(data)

        async def replies() -> None:
            while data := await there.read(1 << 20):
                writer.write(data)

        with suppress(OSError):
            await asyncio.wait(
                [asyncio.create_task(requests()), asyncio.create_task(replies())], return_when=asyncio.FIRST_COMPLETED
            )
        for one in (back, writer):
            one.close()


@asynccontextmanager
async def wired(target: str) -> AsyncIterator[tuple[Wire, str]]:
    wire = Wire(target)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    try:
        yield wire, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_a_direct_message_is_two_round_trips(redis2_nodes: Group) -> None:
    """Claim and publish; both inboxes in one write. What settles the claim afterwards nobody waits for."""
    clock = RealClock()
    async with (
        wired(redis2_nodes.address.split(",")[0]) as (wire, address),
        RedisShards.open(
            RedisSettings(shards=(address,), heartbeat=5.0, prefix="trips:"), clock=clock, metrics=Metrics()
        ) as shards,
        RedisBuses.open(shards, clock=clock, metrics=Metrics()) as buses,
    ):
        dedupe = RedisDedupe(shards, metrics=Metrics())
        settled: list[Any] = []
        dedupe.settle = settled.extend  # type: ignore[method-assign]
        router = trivial_router(bus=buses.subscriber("router"), dedupe=dedupe)
        ear = buses.subscriber("gateway")
        await ear.subscribe(["u:t/ann", "u:t/bob"])
        service = asyncio.create_task(router.run())
        await asyncio.sleep(0)
        heard: list[Delivery] = []
        try:
            async with aclosing(ear.listen()) as batches, asyncio.timeout(30):
                for number in range(MESSAGES + 1):
                    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
                    router.submit(Caller("t", "ann", "s"), Send("r", "d", f"c{number}", "hello"), answered.set_result)
                    assert isinstance(await answered, Ack)
                    while len(heard) < 2 * (number + 1):
                        heard += [item for item in await anext(batches) if isinstance(item, Delivery)]
                    if number == 0:  # connections were opened and subscriptions made
                        wire.writes = 0
        finally:
            service.cancel()
            await asyncio.gather(service, return_exceptions=True)
        assert len(settled) == MESSAGES + 1
        # Beside them PINGs, one per connection in five seconds: far less than a third trip per message.
        assert 2 * MESSAGES <= wire.writes < 2.5 * MESSAGES
