"""What all connections of one gateway share: the write batch, the deadlines, the reading brakes, the fence.

Knows no HTTP, no sessions and no frames: ``connection`` acts, this decides when.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

from chatcluster.core.codes import Close
from chatcluster.core.faults import told
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock
from chatcluster.services.gateway.admission import Admission, Bucket
from chatcluster.services.gateway.settings import GatewaySettings
from chatcluster.services.gateway.sweep import Wheel

log = logging.getLogger("chatcluster.gateway")

THROTTLE_TICK = 0.05
"""Seconds between looks at the connections that read too fast: one timer for all, only while there are any."""


class Batched(Protocol):
    """A connection as the batch sees it."""

    def flush(self) -> int:
        """Write what is queued, with one write; how many bytes."""
        ...

    def relax(self, now: float) -> bool:
        """Read on if the brake may be loosened; whether it was."""
        ...

    def fence(self) -> None:
        """Close at once; act on nothing that waits."""
        ...

    def abort(self) -> None:
        """Drop the socket without a word."""
        ...


class Closable(Batched, Protocol):
    """An open connection as drain sees it."""

    def hint(self, after_ms: int, spread_ms: int, reason: str) -> None:
        """Have the session tell its reconnect window."""
        ...

    def close(self, code: Close, reason: str) -> None:
        """End it with a close frame."""
        ...


class SocketMetrics:
    """Counters of the socket side."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.frames = metrics.counter("gateway_frames_in_total", "Messages from clients")
        self.bad_frames = metrics.counter("gateway_bad_frames_total", "Messages from clients that are no frames")
        self.bytes_out = metrics.counter("gateway_out_bytes_total", "Bytes written to clients")
        self.throttled = metrics.counter("gateway_throttled_total", "Times a client was read more slowly")
        self.open_timeouts = metrics.counter("gateway_open_timeouts_total", "Handshakes that never finished")
        self.failures = metrics.counter("gateway_session_errors_total", "Sessions ended by a fault of ours")
        self.fenced = metrics.counter("gateway_fenced_total", "Times the process woke from a long sleep")

    def closed(self, code: int) -> None:
        """Count a close of ours by its code."""
        self._metrics.counter("gateway_closes_total", "Connections that we closed", code=str(int(code))).add()


class Sockets:
    """The shared state of one gateway's connections; one event loop."""

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: Metrics,
        settings: GatewaySettings,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self.monotonic = clock.monotonic
        self.settings = settings
        self.chance = chance
        self.metrics = SocketMetrics(metrics)
        now = clock.monotonic()
        self.wheel = Wheel(settings.sweep, now)
        self.admission = Admission(settings, metrics, now, chance)
        self.connections: set[Closable] = set()
        self.openings: set[Batched] = set()
        self.refused: set[Batched] = set()
        self.fence_at = now + settings.freeze_limit
        self._dirty: list[Batched] = []
        self._throttled: set[Batched] = set()
        self._braking: asyncio.TimerHandle | None = None
        self._complaints = Bucket(0.2, 5.0, now)
        self._empty: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that everything here runs on."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def dirty(self, connection: Batched) -> None:
        """``connection`` has something to write: it is flushed at the end of this tick, once."""
        dirty = self._dirty
        if not dirty:
            self.loop.call_soon(self._flush)
        dirty.append(connection)

    def _flush(self) -> None:
        batch, self._dirty = self._dirty, []
        if self.monotonic() > self.fence_at:
            self.fence()
            return
        written = 0
        for connection in batch:
            try:
                written += connection.flush()
            except Exception as error:  # a broadcast waits for nobody, and fails for nobody (law 8)
                self.complain(error)
                connection.abort()
        self.metrics.bytes_out.value += written

    def throttle(self, connection: Batched) -> None:
        """``connection`` reads too fast: ask it again in a moment."""
        self.metrics.throttled.add()
        self._throttled.add(connection)
        if self._braking is None:
            self._braking = self.loop.call_later(THROTTLE_TICK, self._relax)

    def _relax(self) -> None:
        self._braking = None
        now = self.monotonic()
        waiting, self._throttled = self._throttled, set()
        for connection in waiting:
            if not connection.relax(now):
                self._throttled.add(connection)
        if self._throttled and self._braking is None:
            self._braking = self.loop.call_later(THROTTLE_TICK, self._relax)

    def gone(self, connection: Closable) -> None:
        """A connection is lost."""
        self.connections.discard(connection)
        self._throttled.discard(connection)
        self.left()

    def left(self) -> None:
        """A socket is gone, open or opening."""
        if self._empty is not None and not self.connections and not self.openings:
            self._empty.set()

    async def until_empty(self) -> None:
        """Waits until no socket is left."""
        self._empty = asyncio.Event()
        self.left()
        await self._empty.wait()

    async def run(self) -> None:
        """Look at deadlines until cancelled."""
        sweep = self.settings.sweep
        self.fence_at = self.monotonic() + self.settings.freeze_limit + sweep
        while True:
            await asyncio.sleep(sweep)
            now = self.monotonic()
            if now > self.fence_at:
                self.fence()
            self.fence_at = now + self.settings.freeze_limit + sweep
            self.wheel.turn(now)

    def fence(self) -> None:
        """We slept: others think us dead. Close everything before acting on what waited (self-fencing)."""
        self.fence_at = self.monotonic() + self.settings.freeze_limit + self.settings.sweep
        self.metrics.fenced.add()
        log.warning("slept longer than %s s: closing %s connections", self.settings.freeze_limit, len(self.connections))
        for connection in [*self.connections, *self.openings]:
            connection.fence()

    def stop(self) -> None:
        """Abort everything and stop the timers."""
        for connection in [*self.connections, *self.openings]:
            connection.abort()
        if self._braking is not None:
            self._braking.cancel()
            self._braking = None

    def complain(self, error: BaseException) -> None:
        """Log a fault of ours: where and what kind, never its text (it may hold a client's data); a few a minute."""
        self.metrics.failures.add()
        if not self._complaints.take(self.monotonic()):
            return
        log.error("session failed: %s", told(error))
