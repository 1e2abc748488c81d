"""A role's process: signals, probes from the first moment, logs, a start that waits, an end that loses nothing.

Knows no role. A role is an asynchronous context manager that yields a ``Running``: entering it may take as long
as what it needs is away, and leaving it stops it in the order that loses nothing.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
from aiohttp import web

from chatcluster import __version__
from chatcluster.app.address import Address
from chatcluster.app.clock import SystemClock
from chatcluster.app.management import Check, probes_app, serve_management
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock

log = logging.getLogger("chatcluster.process")


class Troubled(Protocol):
    """A backend as readiness sees it."""

    def problems(self) -> str | None:
        """None or nothing when well, else what is wrong in a few words, without addresses' secrets."""
        ...


class Awaited:
    """A dependency that is being waited for at the start; ``there`` puts the real one in its place."""

    def __init__(self) -> None:
        self._real: Troubled | None = None

    def there(self, real: Troubled) -> None:
        """It can be asked from now on."""
        self._real = real

    def problems(self) -> str | None:
        """For readiness."""
        return "not reached yet" if self._real is None else self._real.problems()


class ProcessSettings(msgspec.Struct, frozen=True):
    """Section ``process``."""

    name: str = ""
    """Name of this process among all of its role: in logs, leases and topics. Default: host name and pid."""
    grace: float = 60.0
    """Seconds that leaving may take; over it the process ends as it is. The pod's grace period is longer."""

    def named(self) -> str:
        """The name, made when none was given."""
        return self.name or f"{socket.gethostname()}-{os.getpid()}"


@dataclass
class Running:
    """A role that runs. ``leave``: politely, before its block is left. ``checks``: what makes it unready."""

    checks: Mapping[str, Check] = field(default_factory=dict)
    leave: Callable[[], Awaitable[None]] | None = None
    add_to: Callable[[web.Application], None] | None = None
    said: str = ""


class Process:
    """What every role is given: its name, its time, its metrics, and a place to say what it waits for."""

    def __init__(self, *, role: str, name: str, clock: Clock, metrics: Metrics) -> None:
        self.role = role
        self.name = name
        self.clock = clock
        self.metrics = metrics
        self.dependencies: dict[str, Troubled] = {}

    def depends(self, name: str, on: Troubled) -> None:
        """Its problems are told by readiness and as ``dependency_up``."""
        self.dependencies[name] = on
        self.metrics.gauge(
            "dependency_up",
            "Whether what this process needs answers.",
            lambda: float(not on.problems()),
            dependency=name,
        )

    def awaits(self, name: str) -> Awaited:
        """Told as not reached until it is there."""
        awaited = Awaited()
        self.depends(name, awaited)
        return awaited

    def advice(self) -> dict[str, Check]:
        """One check per dependency."""

        def check(of: Troubled) -> Check:
            async def problems() -> str | None:
                return of.problems() or None

            return problems

        return {name: check(of) for name, of in self.dependencies.items()}


Role = Callable[[Process], AbstractAsyncContextManager[Running]]


async def run_role(
    role: Role, *, kind: str, settings: ProcessSettings, management: Address | Path, ready: Callable[[str], None]
) -> None:
    """Run until SIGTERM or SIGINT, then leave. ``management``: an address, or the path of a Unix socket.

    The management address answers from the first moment: alive, not ready, and why.
    """
    loop = asyncio.get_running_loop()
    leaving = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leaving.set)
    process = Process(role=kind, name=settings.named(), clock=SystemClock(), metrics=Metrics())
    process.metrics.gauge("build_info", "1; the version is its label.", lambda: 1.0, version=__version__, role=kind)
    listening = bind(management)
    async with AsyncExitStack() as stack:
        stack.callback(listening.close)
        starting = await stack.enter_async_context(AsyncExitStack())
        await starting.enter_async_context(_starting(process, listening))
        running = await _entered(stack, role(process), leaving)
        if running is None:
            log.info("told to leave before it was ready")
            return
        app = probes_app(running.checks, process.metrics, degraded=process.advice())
        if running.add_to is not None:
            running.add_to(app)
        # On a second handle of the same socket: nobody who asks meanwhile is refused.
        port = await stack.enter_async_context(serve_management(app, "", 0, sock=listening.dup()))
        await starting.aclose()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        ready(f"{running.said}  management {port}")
        log.info("ready")
        await leaving.wait()
        log.info("leaving")
        if running.leave is not None:
            try:
                async with asyncio.timeout(settings.grace):
                    await running.leave()
            except TimeoutError:
                log.warning("leaving took over %.0f s: what is left ends as it is", settings.grace)


async def _entered(
    stack: AsyncExitStack, role: AbstractAsyncContextManager[Running], leaving: asyncio.Event
) -> Running | None:
    """The running role; None when told to leave while it was still starting."""
    current = asyncio.current_task()
    assert current is not None
    entered = False

    async def give_up() -> None:
        await leaving.wait()
        if not entered:
            current.cancel()

    watching = asyncio.create_task(give_up())
    try:
        running = await stack.enter_async_context(role)
        entered = True
        return running
    except asyncio.CancelledError:
        if leaving.is_set() and current.uncancel() == 0:
            return None
        raise
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _starting(process: Process, listening: socket.socket) -> AbstractAsyncContextManager[int]:
    async def starting() -> str | None:
        problems = [f"{name}: {told}" for name, one in process.dependencies.items() if (told := one.problems())]
        return "starting" + (f"; {'; '.join(problems)}" if problems else "")

    return serve_management(probes_app({process.role: starting}, process.metrics), "", 0, sock=listening.dup())


def bind(where: Address | Path) -> socket.socket:
    """A listening socket. Raises ``OSError``."""
    if isinstance(where, Path):
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        where.unlink(missing_ok=True)
        listening.bind(str(where))
    else:
        family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((where.host, where.port))
    listening.listen(128)
    listening.setblocking(False)
    return listening
