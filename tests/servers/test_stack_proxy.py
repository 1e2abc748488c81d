"""The fault proxy against a small echo server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chatcluster_stack.proxy import Proxy, proxied


@asynccontextmanager
async def echo() -> AsyncIterator[Proxy]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with proxied(*server.sockets[0].getsockname()) as proxy:
        yield proxy
    server.close()


async def ask(proxy: Proxy, data: bytes = b"hello") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(data)
        return await reader.readexactly(len(data))
    finally:
        writer.transport.abort()


async def test_carries_and_slows() -> None:
    async with echo() as proxy:
        assert await ask(proxy) == b"hello"
        proxy.faults.latency = 0.05
        began = asyncio.get_running_loop().time()
        assert await ask(proxy) == b"hello"
        assert asyncio.get_running_loop().time() - began >= 0.1  # each way
        proxy.heal()
        proxy.faults.drip = True
        assert await ask(proxy) == b"hello"


async def test_refuses_and_heals() -> None:
    async with echo() as proxy:
        proxy.faults.refuse = True
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await ask(proxy)
        proxy.heal()
        assert await ask(proxy) == b"hello"


async def test_swallows_without_a_word() -> None:
    async with echo() as proxy:
        proxy.faults.swallow = True
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(proxy), 0.1)


async def test_cuts_in_the_middle_of_data() -> None:
    async with echo() as proxy:
        proxy.faults.cut_after = 3
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await ask(proxy)


async def test_resets_open_connections() -> None:
    async with echo() as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert proxy.connections == 1
        proxy.reset()
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.transport.abort()
