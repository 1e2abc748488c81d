"""A proxy between an operator and the API server, which does what networks and servers do: real TCP, real TLS.

Answers some requests itself (409, 410, 429, 403, 500), is slow, ends watches, lets watches fall silent without ending
them, and goes dark: takes what comes and answers nothing, as where packets are dropped.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from control_plane import ControlPlane

REASONS = {403: "Forbidden", 409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError"}
_HOP = {"connection", "content-length", "transfer-encoding", "host", "content-encoding", "keep-alive"}


@dataclass(frozen=True)
class Fault:
    """Of the requests that match, this share is answered with this status; ``within``: as an event of a watch."""

    status: int
    share: float = 1.0
    methods: str = "GET|POST|PATCH|PUT|DELETE"
    path: str = "."
    watches: bool | None = None
    """True: only watches; False: none of them; None: both."""
    retry_after: int | None = None
    within: bool = False

    def meets(self, method: str, path: str, *, watch: bool) -> bool:
        return (
            re.fullmatch(self.methods, method) is not None
            and re.search(self.path, path) is not None
            and self.watches in (None, watch)
            and random.random() < self.share
        )

    def body(self) -> dict[str, object]:
        reason = REASONS[self.status]
        head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        return {**head, "message": f"the test says {reason}", "reason": reason, "code": self.status}


@dataclass
class FaultProxy:
    """Started by ``fault_proxy``. Leases are spared, but when it is dark and by ``leases``."""

    plane: ControlPlane
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    leases: list[Fault] = field(default_factory=list)
    """The same for the requests of the election."""
    latency: float = 0.0
    """Seconds before a request goes on, at most; uniformly."""
    silent: str = ""
    """Watches whose path matches this expression give nothing, new ones among them."""
    dark: bool = False
    done: Counter[str] = field(default_factory=Counter)
    """What it did, by name."""

    def __post_init__(self) -> None:
        self._open: dict[asyncio.Task[object], tuple[str, web.Request]] = {}
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy")

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def cut(self, path: str = ".") -> int:
        """End watches that are open, in the middle; how many."""

        async def now() -> int:
            found = [request for where, request in self._open.values() if re.search(path, where)]
            for request in found:
                if request.transport is not None:
                    request.transport.abort()
            self.done["cut"] += len(found)
            return len(found)

        return asyncio.run_coroutine_threadsafe(now(), self._loop).result(10)

    def heal(self) -> None:
        """No faults any more."""
        self.faults, self.leases, self.latency, self.silent, self.dark = [], [], 0.0, "", False

    # -- in its thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        pki = self.plane.folder / "pki"
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(pki / "api.crt", pki / "api.key")
        client = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        connector = aiohttp.TCPConnector(ssl=client, limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            self._session = session
            app = web.Application(client_max_size=16 << 20)
            app.router.add_route("*", "/{path:.*}", self._pass)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server)
            await site.start()
            self.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
            self._started.set()
            await self._stop.wait()
            self.dark = False
            await runner.cleanup()

    async def _light(self) -> None:
        while self.dark and not self._stop.is_set():  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(0.05)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        if self.dark:
            self.done["dark"] += 1
            await self._light()
        watch = request.query.get("watch") == "true"
        election = "/leases" in request.path
        if self.latency and not election:
            self.done["late"] += 1
            await asyncio.sleep(random.uniform(0, self.latency))
        for fault in self.leases if election else self.faults:
            if fault.meets(request.method, request.path, watch=watch):
                self.done["lease" if election else str(fault.status)] += 1
                return self._refuse(fault)
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        try:
            async with self._session.request(
                request.method,
                f"{self.plane.url}{request.raw_path}",
                data=body or None,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            ) as answer:
                if not watch or answer.status != 200:
                    raw = await answer.read()
                    await self._light()
                    kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
                    if "Content-Encoding" in answer.headers:
                        kept["Content-Encoding"] = answer.headers["Content-Encoding"]
                    return web.Response(status=answer.status, body=raw, headers=kept)
                return await self._stream(request, answer)
        except (aiohttp.ClientError, OSError):
            if request.transport is not None:
                request.transport.abort()  # as if there were no proxy
            raise

    def _refuse(self, fault: Fault) -> web.Response:
        headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
        if fault.within:
            event = {"type": "ERROR", "object": fault.body()}
            return web.Response(text=json.dumps(event) + "\n", content_type="application/json")
        return web.json_response(fault.body(), status=fault.status, headers=headers)

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        told = web.StreamResponse(headers={"Content-Type": "application/json"})
        await told.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = request.path, request
        try:
            async for chunk in answer.content.iter_any():
                await self._light()
                if self.silent and re.search(self.silent, request.path):
                    self.done["silent"] += 1  # and it stays so: what was held back is not told later
                    await self._stop.wait()
                with suppress(ConnectionResetError):
                    await told.write(chunk)
            return told
        finally:
            del self._open[task]


@contextmanager
def fault_proxy(plane: ControlPlane) -> Iterator[FaultProxy]:
    """For the time of the block."""
    proxy = FaultProxy(plane)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.heal()
        proxy.stop()
