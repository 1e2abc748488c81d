"""``chatcluster dev`` behind its command line: start, say where, serve until told to leave, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from chatcluster import __version__
from chatcluster.app import demo
from chatcluster.app.address import Address
from chatcluster.app.authentication import AuthSection, authentication, secret_in
from chatcluster.app.clock import SystemClock
from chatcluster.app.embedded import Platform, Settings, embedded
from chatcluster.app.pages import load_pages
from chatcluster.app.platform_settings import settings_from
from chatcluster.app.settings import BadSettings, convert
from chatcluster.app.tokens import ensure_secrets
from chatcluster.core.metrics import Metrics

log = logging.getLogger("chatcluster.dev")


class Options(msgspec.Struct, frozen=True):
    """What the command line says."""

    listen: Address
    management: Address
    data: Path
    demo: bool
    bus_loss: float


async def run(options: Options, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Run until SIGINT or SIGTERM, then drain. Raises ``BadSettings``, ``OSError``."""
    rest = {name: values for name, values in sections.items() if name != "auth"}
    auth = convert("auth", sections.get("auth", {}), AuthSection)
    settings = settings_from(rest, Settings)
    key, api_key = ensure_secrets(options.data)
    if auth.secret_file is not None:
        key = secret_in(auth.secret_file)
    if options.demo and options.listen.host not in demo.LOOPBACK:
        raise BadSettings(
            f"--listen {options.listen.host}: the demo hands tokens to anybody who asks, so it listens on this machine "
            "only; allowed: 127.0.0.1, or --no-demo"
        )
    clock, metrics = SystemClock(), Metrics()
    pages = demo.pages_with_demo(load_pages(), key) if options.demo else load_pages()
    leaving = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with authentication(auth, key, clock) as authenticator:
        starting = embedded(
            options.data,
            settings=settings,
            authenticator=authenticator,
            metrics=metrics,
            pages=pages,
            clock=clock,
            bus_loss=options.bus_loss,
        )
        async with starting as platform:
            await platform.server.listen(host=options.listen.host, port=options.listen.port)
            # Clients are answered already; half of the start is the import of the management address's web server.
            management = await loop.run_in_executor(None, _management)

            async def keys() -> str | None:
                return authenticator.problems()

            checks = {**management.platform_checks(platform), "keys": keys}
            app = management.management_app(platform, api_key, clock, checks=checks)
            async with management.serve_management(
                app, options.management.host, options.management.port
            ) as management_port:
                for name in (signal.SIGINT, signal.SIGTERM):  # before anybody is told that there is something to leave
                    loop.add_signal_handler(name, leaving.set)
                _say_where(options, platform, management_port)
                _settle_memory()
                await _until_left(platform, options, leaving)


def _management() -> ModuleType:
    from chatcluster.app import management

    return management


async def _until_left(platform: Platform, options: Options, leaving: asyncio.Event) -> None:
    marker = options.data / demo.SEEDED
    seeding = asyncio.create_task(_seed(platform, marker)) if options.demo and not marker.exists() else None
    await leaving.wait()
    if seeding is not None:
        seeding.cancel()
        (failed,) = await asyncio.gather(seeding, return_exceptions=True)
        if isinstance(failed, Exception):
            log.error("the demo was not seeded: %s", failed)
    print("leaving: clients are told where to reconnect", flush=True)
    await platform.server.drain()


async def _seed(platform: Platform, marker: Path) -> None:
    await demo.seed(platform.router)
    await asyncio.get_running_loop().run_in_executor(None, marker.touch)


def _say_where(options: Options, platform: Platform, management_port: int) -> None:
    listen, port = options.listen, platform.server.port
    print(
        f"ChatCluster {__version__}: the whole platform in one process\n"
        f"  page        {listen.url('http', port)}/\n"
        f"  socket      {listen.url('ws', port)}/v1/connect\n"
        f"  management  {options.management.url('http', management_port)}/\n"
        f"  data        {options.data.resolve()}\n"
        + (f"  users       {', '.join(demo.USERS)} (demo)\n" if options.demo else "")
        + "Ctrl-C to leave.",
        flush=True,
    )


def _settle_memory() -> None:
    """What is alive now lives for long: the collector need not walk it, nor run at every wave of frames."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
