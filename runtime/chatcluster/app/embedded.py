"""The embedded platform: every role in one process, on memory and SQLite. Lifetimes are owned here.

The same services, ports and protocol as in a cluster; only the backends differ.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from chatcluster.app.clock import SystemClock
from chatcluster.app.platform_settings import PlatformSettings
from chatcluster.app.settings import BadSettings
from chatcluster.backends.memory.bus import MemoryBuses
from chatcluster.backends.memory.dedupe import MemoryDedupe
from chatcluster.backends.memory.presence import MemoryPresence
from chatcluster.backends.memory.read_cursors import MemoryReadCursors
from chatcluster.backends.memory.tails import MemoryTails
from chatcluster.backends.memory.workers import MemoryWorkers
from chatcluster.backends.sqlite.log import SqliteLog
from chatcluster.backends.sqlite.store import SqliteStore
from chatcluster.core.envelope import Envelope
from chatcluster.core.ids import CLOCK_BOUND, MAX_WORKER, id_time
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import INBOX, MESSAGES, NOTIFICATIONS, TOPICS, TickRecord, decode_log
from chatcluster.ports import Clock, Store
from chatcluster.services.gateway.auth import Authenticator
from chatcluster.services.gateway.pages import Pages
from chatcluster.services.gateway.server import GatewayServer
from chatcluster.services.gateway.sessions import Sessions
from chatcluster.services.persister.push import PushService
from chatcluster.services.persister.push_webhook import WebhookService
from chatcluster.services.persister.service import PersisterService
from chatcluster.services.presence.node import PresenceNode
from chatcluster.services.router.service import RouterService


class LogSettings(msgspec.Struct, frozen=True):
    """The embedded log."""

    partitions: int = 4
    """Partitions of ``messages`` and ``inbox``; fixed when a data folder is created."""

    def by_topic(self) -> dict[str, int]:
        """Partitions of every topic."""
        return {topic: self.partitions if topic in {MESSAGES, INBOX} else 1 for topic in TOPICS}


class Settings(PlatformSettings, frozen=True, kw_only=True):
    """All sections of the embedded platform."""

    log: LogSettings = LogSettings()


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


_LOOK_BACK = 512
_STARTS = "starts"


async def newest_id(log: SqliteLog) -> int:
    """The largest id among the newest records of each partition: new ones go on above it, whatever the clock says.

    A record that the persister will dead-letter, or whose id is ahead of its own append time, says nothing: one
    alien record must not push the clock of ids out of reach for ever.
    """
    newest = 0
    for partition in range(log.partitions(MESSAGES)):
        end = await log.end(MESSAGES, partition)
        for entry in await log.read(MESSAGES, partition, max(0, end - _LOOK_BACK), _LOOK_BACK):
            try:
                record = decode_log(entry.value)
            except (msgspec.DecodeError, ValueError, RecursionError):
                continue  # the persister dead-letters it
            if not isinstance(record, TickRecord) and id_time(record.id) <= entry.time + CLOCK_BOUND:
                newest = max(newest, record.id)
    return newest


def next_worker(data: Path) -> int:
    """Another worker number for each start of a data folder.

    An id that the process before told live and never wrote must not be minted again for another message.
    """
    file = data / _STARTS
    try:
        starts = int(file.read_text()) + 1 if file.exists() else 0
    except ValueError:
        raise BadSettings(f"{file} is damaged; allowed: the number of starts so far, larger if in doubt") from None
    partial = file.with_suffix(".partial")
    with partial.open("w") as writing:  # on the disk before it has the name: a power loss leaves no empty file
        writing.write(str(starts))
        writing.flush()
        os.fsync(writing.fileno())
    partial.rename(file)
    return starts % (MAX_WORKER + 1)


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
            SqliteLog.open(data, clock=clock, metrics=metrics, partitions=settings.log.by_topic())
        )
        store = await stack.enter_async_context(SqliteStore.open(data, clock=clock, metrics=metrics))
        buses = MemoryBuses(metrics=metrics)
        buses.drop = lossy(bus_loss)
        tails = MemoryTails(clock=clock)
        cursors = MemoryReadCursors()
        seen = MemoryPresence(clock=clock)
        presence = PresenceNode(
            store=seen,
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
            workers=MemoryWorkers(clock=clock, floor=await newest_id(log), worker=next_worker(data)),
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
        pushing: list[PushService | WebhookService] = []
        if settings.push.enabled:
            pushing.append(
                PushService(
                    log=log,
                    inbox=log.consumer("push", INBOX),
                    store=store,
                    presence=seen,
                    clock=clock,
                    metrics=metrics,
                    settings=settings.push,
                    persister=settings.persister,
                )
            )
            if settings.push.webhook_url:
                from chatcluster.app.webhook import open_webhook

                webhook = await stack.enter_async_context(
                    open_webhook(
                        url=settings.push.webhook_url,
                        secret_file=Path(settings.push.secret_file),
                        timeout=settings.push.webhook_timeout,
                        clock=clock,
                    )
                )
                pushing.append(
                    WebhookService(
                        notifications=log.consumer("webhook", NOTIFICATIONS),
                        webhook=webhook,
                        clock=clock,
                        metrics=metrics,
                        settings=settings.push,
                        persister=settings.persister,
                    )
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
        running = [tasks.create_task(role.run()) for role in (presence, persister, *pushing, router, sessions, server)]
        try:
            yield Platform(server, router, store, buses, metrics, log)
        finally:
            # The gateway first, so that nobody is accepted whom nobody serves; the persister last.
            for task in reversed(running):
                task.cancel()
