"""The embedded platform: every role in one process, on memory and SQLite. Lifetimes are owned here.

The same services, ports and protocol as in a cluster; only the backends differ.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from chatcluster.app.clock import SystemClock
from chatcluster.app.settings import BadSettings, convert
from chatcluster.backends.memory.bus import MemoryBuses
from chatcluster.backends.memory.dedupe import MemoryDedupe
from chatcluster.backends.memory.presence import MemoryPresence
from chatcluster.backends.memory.read_cursors import MemoryReadCursors
from chatcluster.backends.memory.tails import MemoryTails
from chatcluster.backends.memory.workers import MemoryWorkers
from chatcluster.backends.sqlite.log import SqliteLog
from chatcluster.backends.sqlite.store import SqliteStore
from chatcluster.core.envelope import Envelope
from chatcluster.core.ids import first_id
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import INBOX, MESSAGES
from chatcluster.ports import Clock, Store
from chatcluster.services.gateway.auth import Authenticator
from chatcluster.services.gateway.pages import Pages
from chatcluster.services.gateway.server import GatewayServer
from chatcluster.services.gateway.session_settings import SessionSettings
from chatcluster.services.gateway.sessions import Sessions
from chatcluster.services.gateway.settings import GatewaySettings
from chatcluster.services.persister.service import PersisterService
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.presence.node import PresenceNode
from chatcluster.services.presence.settings import PresenceSettings
from chatcluster.services.router.service import RouterService
from chatcluster.services.router.settings import RouterSettings


class LogSettings(msgspec.Struct, frozen=True):
    """The embedded log."""

    partitions: int = 4
    """Partitions of ``messages`` and ``inbox``; fixed when a data folder is created."""


class Settings(msgspec.Struct, frozen=True):
    """All sections of the embedded platform."""

    gateway: GatewaySettings = GatewaySettings()
    sessions: SessionSettings = SessionSettings()
    router: RouterSettings = RouterSettings()
    persister: PersisterSettings = PersisterSettings()
    presence: PresenceSettings = PresenceSettings()
    log: LogSettings = LogSettings()


def settings_from(sections: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Typed settings of raw sections. Raises ``BadSettings`` by name of what is wrong."""
    types = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    for name in sections:
        if name not in types:
            raise BadSettings(f"[{name}]: no such section; allowed: {', '.join(types)}")
    return Settings(**{name: convert(name, values, types[name]) for name, values in sections.items()})


class Platform:
    """A running embedded platform."""

    def __init__(
        self,
        server: GatewayServer,
        router: RouterService,
        store: Store,
        buses: MemoryBuses,
        metrics: Metrics,
        log: SqliteLog,
    ) -> None:
        self.server = server
        self.router = router
        self.store = store
        self.bus = buses.subscriber("server-api")
        self.metrics = metrics
        self.log = log


def lossy(share: float) -> Callable[[str, Envelope], bool] | None:
    """Loses this share of what the bus carries, by chance: an experiment. 0: nothing."""
    return (lambda _topic, _envelope: random.random() < share) if share > 0 else None


@asynccontextmanager
async def embedded(
    data: Path,
    *,
    settings: Settings,
    authenticator: Authenticator,
    metrics: Metrics,
    pages: Pages | None = None,
    clock: Clock | None = None,
    bus_loss: float = 0.0,
) -> AsyncIterator[Platform]:
    """Start every role on ``data``; leaving the block stops them in the order that loses nothing.

    The gateway does not listen yet: ``server.listen`` is the caller's. A role that fails ends the block.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(
            SqliteLog.open(data / "log.db", clock=clock, metrics=metrics, partitions=settings.log.partitions)
        )
        store = await stack.enter_async_context(SqliteStore.open(data / "store.db", clock=clock, metrics=metrics))
        buses = MemoryBuses(drop=lossy(bus_loss))
        tails = MemoryTails(clock=clock)
        cursors = MemoryReadCursors()
        # Ids go on above everything that this log may hold, whatever the clock does meanwhile.
        floor = first_id(log.newest_time() + 1)
        presence = PresenceNode(
            store=MemoryPresence(clock=clock),
            bus=buses.subscriber("presence"),
            clock=clock,
            metrics=metrics,
            settings=settings.presence,
        )
        router = RouterService(
            log=log,
            bus=buses.subscriber("router"),
            store=store,
            dedupe=MemoryDedupe(clock=clock),
            cursors=cursors,
            tails=tails,
            workers=MemoryWorkers(clock=clock, floor=floor),
            clock=clock,
            metrics=metrics,
            settings=settings.router,
        )
        persister = PersisterService(
            log=log,
            reader=log,
            messages=log.consumer("stage1", MESSAGES),
            inbox=log.consumer("stage2", INBOX),
            store=store,
            tails=tails,
            bus=buses.subscriber("persister"),
            cursors=cursors,
            clock=clock,
            metrics=metrics,
            settings=settings.persister,
        )
        sessions = Sessions(
            name="gateway",
            router=router,
            bus=buses.subscriber("gateway"),
            tails=tails,
            store=store,
            presence=presence,
            log=log,
            authenticator=authenticator,
            clock=clock,
            metrics=metrics,
            settings=settings.sessions,
        )
        server = GatewayServer(
            accept=sessions.accept, clock=clock, metrics=metrics, settings=settings.gateway, pages=pages
        )
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = [tasks.create_task(role.run()) for role in (presence, persister, router, sessions, server)]
        try:
            yield Platform(server, router, store, buses, metrics, log)
        finally:
            # The gateway first, so that nobody is accepted whom nobody serves; the persister last.
            for task in reversed(running):
                task.cancel()
