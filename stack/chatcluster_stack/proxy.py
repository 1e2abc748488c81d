"""A TCP proxy between a client and a server that breaks as networks do; its behaviour changes while it runs.

Kafka tells clients its brokers' addresses: pass the proxies' to ``kafka(advertised=...)``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

_CHUNK = 16_384


@dataclass
class Faults:
    """What the proxy does to every chunk; read anew for each, so that a change bites at once."""

    latency: float = 0.0
    """Seconds each chunk is held, each way. Chunks are held one after the other, so it also limits throughput."""
    jitter: float = 0.0
    """Seconds, evenly spread, on top."""
    bytes_per_second: float = 0.0
    """Bandwidth of a connection, each way; 0 is unbounded."""
    drip: bool = False
    """One byte at a time, each held like a chunk."""
    swallow: bool = False
    """Half-open: connections stay, bytes vanish."""
    refuse: bool = False
    """New connections are reset at once."""
    cut_after: int | None = None
    """Bytes from the server after which a connection is reset in the middle of data."""


class Proxy:
    """One proxied server."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.faults = Faults()
        self.port = 0
        self.passed = 0
        """Bytes carried so far, both ways."""
        self.lost = 0
        """Bytes swallowed so far, both ways."""
        self._target = target
        self._streams: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    def heal(self) -> None:
        """No faults any more. Bytes swallowed stay lost: reset such connections."""
        self.faults = Faults()

    def reset(self) -> None:
        """Cuts every connection with a RST; bytes in flight are lost."""
        for writers in list(self._streams.values()):
            for writer in writers:
                writer.transport.abort()

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._streams)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._streams[task] = [writer]
        try:
            if self.faults.refuse:
                return
            there, back = await asyncio.open_connection(*self._target)
            writers.append(back)
            pipes = [
                asyncio.create_task(self._pipe(reader, back, answers=False)),
                asyncio.create_task(self._pipe(there, writer, answers=True)),
            ]
            try:
                await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pipe in pipes:
                    pipe.cancel()
                await asyncio.gather(*pipes, return_exceptions=True)
        except OSError:  # the server refuses: so do we
            pass
        finally:
            for one in writers:
                one.transport.abort()
            del self._streams[task]

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        passed = 0
        while data := await reader.read(1 if self.faults.drip else _CHUNK):
            faults = self.faults
            pause = faults.latency + random.random() * faults.jitter
            if faults.bytes_per_second:
                pause += len(data) / faults.bytes_per_second
            if pause:
                await asyncio.sleep(pause)
            if self.faults.swallow:
                self.lost += len(data)
                continue
            if answers and faults.cut_after is not None and passed + len(data) > faults.cut_after:
                writer.write(data[: max(0, faults.cut_after - passed)])
                await writer.drain()
                return
            passed += len(data)
            self.passed += len(data)
            writer.write(data)
            await writer.drain()

    async def close(self) -> None:
        """Ends every connection."""
        tasks = list(self._streams)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def proxied(host: str, port: int, *, listen: str = "127.0.0.1", listen_port: int = 0) -> AsyncIterator[Proxy]:
    """A proxy before host:port; ``proxy.port`` says where it listens."""
    proxy = Proxy((host, port))
    server = await asyncio.start_server(proxy._serve, listen, listen_port)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 2)
