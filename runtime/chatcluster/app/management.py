"""The management address: probes, metrics and the server API. Not for clients, and never on the public port."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from aiohttp import hdrs, web

from chatcluster.app.api_keys import ApiKeys
from chatcluster.app.exposition import CONTENT_TYPE, Exposition
from chatcluster.app.lag import LoopLag
from chatcluster.app.server_api import ApiSettings, ServerApi, error_response, refuse
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Bus, Clock, Log, Router, Store

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[str | None]]
"""None when well, else what is wrong in a few words."""

CHECK_TIMEOUT = 2.0
"""Seconds: less than a kubelet waits by any sensible setting, so that it is told why."""
STALLED = 5.0
"""Seconds without a report from the log after which this process should get no new connections."""


class Draining(Protocol):
    """The gateway's server as readiness sees it."""

    draining: bool


class Served(Protocol):
    """What the management address serves: the platform, or what of it runs in this process."""

    @property
    def server(self) -> Draining: ...
    @property
    def router(self) -> Router: ...
    @property
    def store(self) -> Store: ...
    @property
    def bus(self) -> Bus: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def log(self) -> Log: ...


def platform_checks(served: Served) -> dict[str, Check]:
    """Readiness of the embedded platform."""

    async def gateway() -> str | None:
        return "draining" if served.server.draining else None

    async def the_log() -> str | None:
        stalled = served.log.stalled()
        return f"no report for {stalled:.1f} s" if stalled > STALLED else None

    async def store() -> str | None:
        await served.store.channel("-", "-")
        return None

    return {"gateway": gateway, "log": the_log, "store": store}


def management_app(
    served: Served,
    api_key: str | ApiKeys,
    clock: Clock,
    *,
    checks: Mapping[str, Check] | None = None,
    settings: ApiSettings | None = None,
) -> web.Application:
    """Everything on the management address. ``api_key``: one key for the tenant ``default``, or a file's keys."""
    metrics = served.metrics
    app = probes_app(platform_checks(served) if checks is None else checks, metrics)
    keys = ApiKeys.single(api_key) if isinstance(api_key, str) else api_key
    ServerApi(
        router=served.router,
        store=served.store,
        bus=served.bus,
        keys=keys,
        clock=clock,
        metrics=metrics,
        settings=settings,
    ).add_to(app)
    return app


def probes_app(
    checks: Mapping[str, Check], metrics: Metrics, *, degraded: Mapping[str, Check] | None = None
) -> web.Application:
    """An application with ``add_probes`` and errors in JSON."""
    app = web.Application(middlewares=[_plain_errors])
    add_probes(app, checks, metrics, degraded=degraded)
    return app


def add_probes(
    app: web.Application,
    checks: Mapping[str, Check],
    metrics: Metrics,
    *,
    degraded: Mapping[str, Check] | None = None,
) -> None:
    """``/healthz`` (the loop turns), ``/readyz`` (every check is well) and ``/metrics``.

    ``degraded``: what is told by ``/readyz`` but does not make it fail. A store that all pods share and that is gone
    must not take all of them out of service: what works without it goes on (law 1).
    """
    advice = degraded or {}
    exposition = Exposition(metrics)
    lag = LoopLag(metrics)

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        answers = await asyncio.gather(*(_checked(check) for check in checks.values()))
        wrong = dict(zip(checks, answers, strict=True))
        text = "".join(f"{name}: {problem or 'ok'}\n" for name, problem in wrong.items())
        said = await asyncio.gather(*(_checked(check) for check in advice.values()))
        text += "".join(
            f"{name}: {'ok' if problem is None else 'degraded: ' + problem}\n"
            for name, problem in zip(advice, said, strict=True)
        )
        return web.Response(
            status=503 if any(wrong.values()) else 200, text=text, headers={hdrs.CACHE_CONTROL: "no-store"}
        )

    async def scrape(request: web.Request) -> web.Response:
        return web.Response(body=exposition.render(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def sampling(app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(lag.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    app.cleanup_ctx.append(sampling)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)


async def _checked(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            return await check()
    except TimeoutError:
        return f"no answer in {CHECK_TIMEOUT:.0f} s"
    except Exception as error:
        return type(error).__name__  # its kind is enough: messages may hold addresses and secrets


@web.middleware
async def _plain_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every error is JSON and none shows a trace."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        refused = refuse("bad_request", (error.reason or "refused").lower(), status=error.status)
        response = error_response(refused)
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers[hdrs.ALLOW] = ", ".join(sorted(error.allowed_methods))
    except Exception as error:
        log.error("management: %s %s failed: %s", request.method, request.path, type(error).__name__)
        response = error_response(refuse("unknown_outcome", "the call failed", status=500))
    response.headers[hdrs.SERVER] = "chatcluster"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@asynccontextmanager
async def serve_management(
    app: web.Application, host: str, port: int, *, sock: socket.socket | None = None
) -> AsyncIterator[int]:
    """Serve on ``host`` and ``port`` (0: any), or on a bound ``sock``; yields the port.

    Leaving it lets running calls end for 5 s.
    """
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, keepalive_timeout=75.0, shutdown_timeout=5.0, max_field_size=8190
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port) if sock is None else web.SockSite(runner, sock)
        await site.start()
        address = runner.addresses[0] if sock is None else sock.getsockname()
        yield int(address[1]) if isinstance(address, tuple) else 0
    finally:
        await runner.cleanup()
