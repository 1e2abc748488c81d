"""Probes and metrics on the management address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from chatcluster.app import management
from chatcluster.app.lag import LoopLag
from chatcluster.app.management import Check, add_probes, platform_checks, probes_app, serve_management
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Unavailable


@asynccontextmanager
async def probed(checks: dict[str, Check], metrics: Metrics | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    app = web.Application()
    add_probes(app, checks, metrics or Metrics())
    async with (
        serve_management(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        yield http


async def get(http: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with http.get(path) as response:
        return response.status, await response.text()


async def well() -> str | None:
    return None


async def test_ready_names_every_check_and_what_is_wrong() -> None:
    async def draining() -> str | None:
        return "draining"

    async def broken() -> str | None:
        raise Unavailable("host db.internal password=hunter2")

    async with probed({"store": well, "log": well}) as http:
        assert await get(http, "/readyz") == (200, "store: ok\nlog: ok\n")
    async with probed({"store": well, "gateway": draining, "log": broken}) as http:
        assert await get(http, "/readyz") == (503, "store: ok\ngateway: draining\nlog: Unavailable\n")
        assert await get(http, "/healthz") == (200, "ok\n")  # alive: a restart would not mend it


async def test_a_fault_is_told_by_its_kind_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_: web.Request) -> web.Response:
        raise ValueError("password=hunter2")

    app = probes_app({}, Metrics())
    app.router.add_get("/broken", broken)
    async with (
        serve_management(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        status, text = await get(http, "/broken")
    assert status == 500
    assert "unknown_outcome" in text
    assert "ValueError" in caplog.text
    for told in (text, caplog.text):
        assert "hunter2" not in told
        assert "Traceback" not in told


async def test_a_check_that_hangs_is_not_ready() -> None:
    async def hangs() -> str | None:
        await asyncio.Event().wait()
        return None

    before, management.CHECK_TIMEOUT = management.CHECK_TIMEOUT, 0.05
    try:
        async with probed({"store": hangs, "log": well}) as http:
            status, text = await get(http, "/readyz")
    finally:
        management.CHECK_TIMEOUT = before
    assert status == 503
    assert "store: no answer in" in text
    assert "log: ok" in text


async def test_the_platform_is_ready_by_gateway_log_and_store() -> None:
    class Served:
        draining = False
        stall = 0.0
        down = False

        @property
        def server(self) -> Served:
            return self

        log = store = server

        def stalled(self) -> float:
            return self.stall

        async def channel(self, tenant: str, channel: str) -> None:
            if self.down:
                raise Unavailable("down")

    served = Served()
    checks = platform_checks(served)  # type: ignore[arg-type]

    async def wrong() -> set[str]:
        async with probed(checks) as http:
            _, text = await get(http, "/readyz")
        return {line.partition(":")[0] for line in text.splitlines() if not line.endswith(": ok")}

    assert await wrong() == set()
    served.draining = True
    assert await wrong() == {"gateway"}
    served.stall = management.STALLED + 1
    assert await wrong() == {"gateway", "log"}
    served.down = True
    assert await wrong() == {"gateway", "log", "store"}


async def test_metrics_are_rendered_for_prometheus() -> None:
    metrics = Metrics()
    metrics.counter("sends_total", "Sends.", outcome="acked").add(3)
    metrics.counter("sends_total", "Sends.", outcome="refused").add()
    metrics.gauge("sockets", "Sockets.", lambda: 7)
    metrics.gauge("broken", "Raises.", lambda: 1 / 0)
    delays = metrics.histogram("delay_seconds", "Delay.", (0.1, 1.0))
    for value in (0.05, 0.5, 5.0):
        delays.observe(value)
    async with probed({}, metrics) as http:
        _, text = await get(http, "/metrics")
        async with http.get("/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=")
    lines = text.splitlines()
    for line in (
        "# HELP chatcluster_sends_total Sends.",
        "# TYPE chatcluster_sends_total counter",
        'chatcluster_sends_total{outcome="acked"} 3.0',
        'chatcluster_sends_total{outcome="refused"} 1.0',
        "chatcluster_sockets 7.0",
        'chatcluster_delay_seconds_bucket{le="0.1"} 1.0',
        'chatcluster_delay_seconds_bucket{le="1.0"} 2.0',
        'chatcluster_delay_seconds_bucket{le="+Inf"} 3.0',
        "chatcluster_delay_seconds_count 3.0",
        "chatcluster_delay_seconds_sum 5.55",
    ):
        assert line in lines, line
    assert lines.count("# TYPE chatcluster_sends_total counter") == 1
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    assert any(line.startswith("chatcluster_event_loop_lag_seconds ") for line in lines)


def test_lag_is_the_worst_delay_of_the_last_seconds(jump: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def main() -> None:
        metrics = Metrics()
        lag = LoopLag(metrics)
        task = asyncio.create_task(lag.run())
        await asyncio.sleep(1.1)
        assert lag.worst() == pytest.approx(0.0)
        # Something holds the loop for 0.4 s: the sample due after 0.15 s of it comes late.
        asyncio.get_running_loop().offset += 0.4  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        assert lag.worst() == pytest.approx(0.25)
        (gauge,) = [metric for metric in metrics if metric.name == "event_loop_lag_seconds"]
        assert callable(gauge.source)
        assert gauge.source() == lag.worst()
        await asyncio.sleep(16)
        assert lag.worst() == pytest.approx(0.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    jump(main())
