"""A proxy before every process that others connect to, so that each can be cut off from them by its name."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager

from chatcluster_stack.proxy import Proxy, proxied


class Partitions:
    """Proxies in a thread of their own. Started by ``partitions``."""

    def __init__(self, targets: Mapping[str, str]) -> None:
        self.via: dict[str, str] = {}
        """Name to the ``host:port`` that all others are told."""
        self._targets = targets
        self._proxies: dict[str, Proxy] = {}
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="partitions")

    def cut(self, name: str) -> None:
        """As where packets are dropped: connections stay, or are made, and nothing comes through. Raises ``KeyError``

        for a process to which nobody connects.
        """
        self._proxies[name].faults.swallow = True

    def join(self, name: str) -> None:
        """Together again. Connections that lost bytes are reset, as the processes' kernels would find out."""
        proxy = self._proxies[name]
        proxy.heal()
        self._loop.call_soon_threadsafe(proxy.reset)

    def lost(self, name: str) -> int:
        """Bytes that did not come through so far, both ways."""
        return self._proxies[name].lost

    def start(self) -> None:
        """Returns when all listen."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """All connections end."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with AsyncExitStack() as running:
            for name, target in self._targets.items():
                host, _, port = target.rpartition(":")
                proxy = await running.enter_async_context(proxied(host, int(port)))
                self._proxies[name] = proxy
                self.via[name] = f"127.0.0.1:{proxy.port}"
            self._ready.set()
            await self._stop.wait()


@contextmanager
def partitions(targets: Mapping[str, str]) -> Iterator[Partitions]:
    """Of these processes (name to ``host:port``), for the time of the block."""
    found = Partitions(targets)
    found.start()
    try:
        yield found
    finally:
        found.stop()
