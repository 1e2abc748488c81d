"""A presence node: heartbeats in, one coalesced envelope per gateway and tick out.

First to shed load (law 9): beats queue bounded with the oldest dropped, work goes in slices, changes wait
for the fan-out budget and coalesce meanwhile. Knows neither sockets nor channels.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from itertools import islice
from uuid import uuid4

from chatcluster.core.envelope import Presence, PresenceChange, gateway_topic
from chatcluster.core.metrics import Metrics
from chatcluster.core.presence import SENTINEL, Budget, Key, Rules, shares, shown_status
from chatcluster.ports import Beat, Bus, Clock, PresenceStore, Unavailable
from chatcluster.services.presence.settings import PresenceSettings
from chatcluster.services.presence.watchers import Watched, Watchers

_SENTINEL_LIFE = 20
"""Times to live that the sentinel outlives its last renewal."""
_RETRY_S = 0.5


class PresenceNode:
    """The port ``PresenceService`` over one store and one bus."""

    def __init__(
        self, *, store: PresenceStore, bus: Bus, clock: Clock, metrics: Metrics, settings: PresenceSettings
    ) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._rules = Rules(grace=settings.grace_ms, spacing=settings.spacing_ms)
        self._watchers = Watchers(
            per_session=settings.watch_users, per_gateway=settings.gateway_entries, gateways=settings.gateways
        )
        self._beats: deque[Beat] = deque(maxlen=settings.beat_queue)
        self._beats_waiting = asyncio.Event()
        self._unread: dict[Key, bool] = {}  # users to read, in order; True: their last session ran out
        self._due: list[tuple[int, Key]] = []  # heap; stale entries are skipped
        self._quiet_until = 0
        self._rebuild = 0  # users to be read at once: after a loss nothing known counts
        self._name = uuid4().hex
        self._sentinel_renewed: int | None = None
        self._turn = 0
        self._budget = Budget(settings.entries_per_second, self._now())
        self._beats_total = metrics.counter("presence_beats_total", "Heartbeats taken to the store.")
        self._dropped = metrics.counter("presence_beats_dropped_total", "Heartbeats dropped over the queue's bound.")
        self._changes = metrics.counter("presence_changes_total", "Changes of a user's shown status.")
        self._entries = metrics.counter("presence_entries_total", "Changes told, one per user and gateway.")
        self._envelopes = metrics.counter("presence_envelopes_total", "Envelopes published to gateways.")
        self._losses = metrics.counter("presence_store_losses_total", "Times the store failed or was found empty.")
        metrics.gauge("presence_watched_users", "Users that somebody watches.", lambda: len(self._watchers.users))
        metrics.gauge(
            "presence_waiting_entries",
            "Changes waiting for the fan-out budget.",
            lambda: sum(len(gateway.outbox) for gateway in self._watchers.gateways.values()),
        )
        metrics.gauge("presence_beats_queued", "Heartbeats waiting.", lambda: len(self._beats))

    # -- the port -------------------------------------------------------------------------------------

    def beat(self, gateway: str, beats: Sequence[Beat]) -> None:
        """Queue a gateway's heartbeats. Over the bound the oldest go: newer ones of theirs follow anyway."""
        self._watchers.gateway(gateway, self._now())
        over = len(self._beats) + len(beats) - self._settings.beat_queue
        if over > 0:
            self._dropped.add(over)
        self._beats.extend(beats)
        if beats:
            self._beats_waiting.set()

    async def watch(self, gateway: str, session: str, tenant: str, users: Sequence[str]) -> Sequence[PresenceChange]:
        """Replace the visible set. The answer has those whose state is known now; of the others (over a bound,
        or after a loss of the store) the state comes as a change when it is.
        """
        keys = self._watchers.replace(gateway, session, [(tenant, user) for user in users], self._now())
        unknown = [key for key in keys if self._watchers.users[key].shown.status is None]
        try:
            for start in range(0, len(unknown), self._settings.slice):
                part = unknown[start : start + self._settings.slice]
                sessions = await self._store.sessions(part)
                for key, live in zip(part, sessions, strict=True):
                    watched = self._watchers.users.get(key)
                    # Whoever read it meanwhile knows better.
                    if watched is not None and watched.shown.status is None and (live or not self._quiet()):
                        watched.shown.start(*shown_status(live))
                await asyncio.sleep(0)
        except Unavailable:
            self._lost()
        answer = []
        for key in keys:
            watched = self._watchers.users.get(key)
            if watched is None:
                continue
            shown = watched.shown
            if shown.status is None:
                if not self._quiet():
                    self._unread.setdefault(key, False)
            else:
                answer.append(PresenceChange(key[1], shown.status, shown.since))
        return answer

    def forget(self, gateway: str, sessions: Sequence[str]) -> None:
        """Let go of what these sessions watched, in slices, by the next tick."""
        self._watchers.leave(gateway, sessions)

    async def run(self) -> None:
        """Until cancelled: heartbeats to the store as they come, changes to the gateways once a tick."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_beats())
            group.create_task(self._tick_for_ever())

    # -- heartbeats -------------------------------------------------------------------------------------

    async def _take_beats(self) -> None:
        touch, users, unread, waiting = self._store.touch, self._watchers.users, self._unread, self._beats
        ttl, size = self._settings.ttl_ms, self._settings.slice
        while True:
            if not waiting:
                self._beats_waiting.clear()
                await self._beats_waiting.wait()
            beats = [waiting.popleft() for _ in range(min(size, len(waiting)))]
            try:
                changed = await touch(beats, ttl=ttl)
            except Unavailable:
                # Not queued again: their successors are on the way, and the queue must not grow (law 7).
                self._lost()
                await asyncio.sleep(_RETRY_S)
                continue
            self._beats_total.add(len(beats))
            if True in changed and not self._quiet():
                for beat, may_have in zip(beats, changed, strict=True):
                    if may_have and (key := (beat.tenant, beat.user)) in users:
                        unread.setdefault(key, False)
            await asyncio.sleep(0)  # the loop is free between slices, also over a store that never waits

    # -- changes ------------------------------------------------------------------------------------------

    async def _tick_for_ever(self) -> None:
        tick = self._settings.tick_ms / 1000
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                await self._check_store()
                await self._read_changes()
            except Unavailable:
                self._lost()
            await self._let_go()
            if not self._quiet():
                await self._announce()
            due = max(due + tick, loop.time())  # a late tick delays the next: no bursts to catch up
            await asyncio.sleep(due - loop.time())

    def _now(self) -> int:
        return int(self._clock.monotonic() * 1000)

    async def _check_store(self) -> None:
        """Renew the sentinel, and notice by its absence that the store was emptied."""
        now = self._now()
        renewed = self._sentinel_renewed
        if renewed is not None:
            (found,) = await self._store.sessions([SENTINEL])
            if self._name not in found:
                self._lost()
                renewed = None
        if renewed is None or now - renewed > self._settings.ttl_ms:
            self._sentinel_renewed = None
            beat = Beat(*SENTINEL, self._name, "online")
            await self._store.touch([beat], ttl=self._settings.ttl_ms * _SENTINEL_LIFE)
            self._sentinel_renewed = now

    def _lost(self) -> None:
        """Nothing is announced for one time to live: the heartbeats rebuild the store without a flap."""
        if not self._quiet():
            self._losses.add()
        self._quiet_until = self._now() + self._settings.ttl_ms
        self._rebuild = -1
        self._unread.clear()
        self._due.clear()

    def _quiet(self) -> bool:
        return self._now() < self._quiet_until

    async def _read_changes(self) -> None:
        """Read users whose status may have changed, and the next part of the sweep."""
        left = self._settings.reads_per_tick
        for key in await self._store.expired(left):
            if key in self._watchers.users:
                self._unread[key] = True
        if self._quiet():
            self._unread.clear()
            return  # what an emptied store says is not news
        while self._unread and left > 0:
            part = list(islice(self._unread, min(left, self._settings.slice)))
            await self._read([(key, self._unread.pop(key)) for key in part])
            left -= len(part)
        watched = len(self._watchers.users)
        if self._rebuild < 0:
            self._rebuild = watched
        rebuilding = self._rebuild > 0
        left = min(left, self._rebuild or -(-watched * self._settings.tick_ms // self._settings.sweep_ms))
        while left > 0:
            part = self._watchers.longest_unread(min(left, self._settings.slice))
            if not part:
                self._rebuild = 0
                break
            # A whole time to live has passed since a loss, which is grace enough.
            await self._read([(key, rebuilding) for key in part])
            left -= len(part)
            self._rebuild = max(0, self._rebuild - len(part))

    async def _read(self, keys: Sequence[tuple[Key, bool]]) -> None:
        """Observe users; each with whether the last session ran out of time."""
        found = await self._store.sessions([key for key, _ in keys])
        now = self._now()
        for (key, expired), live in zip(keys, found, strict=True):
            watched = self._watchers.users.get(key)
            if watched is not None:
                status, since = shown_status(live)
                shown = watched.shown
                if shown.observe(status, since or self._clock.now(), now, self._rules, expired=expired):
                    assert shown.due is not None
                    heappush(self._due, (shown.due, key))
        await asyncio.sleep(0)

    async def _let_go(self) -> None:
        silent = self._watchers.silent(self._now() - 2 * self._settings.ttl_ms)
        for name in silent:
            self._watchers.leave(name, self._watchers.gateways[name].sessions)
        done = 0
        for name, session in self._watchers.leaving():
            done += 1 + self._watchers.let_go(name, session)
            if done >= self._settings.slice * 4:
                done = 0
                await asyncio.sleep(0)
        for name in silent:
            self._watchers.forget_gateway(name)

    async def _announce(self) -> None:
        now = self._now()
        done = 0
        while self._due and self._due[0][0] <= now:
            _, key = heappop(self._due)
            watched = self._watchers.users.get(key)
            if watched is not None and (change := watched.shown.tell(key[1], now)) is not None:
                self._changes.add()
                done += self._put(key, watched, change)
            done += 1
            if done >= self._settings.slice * 4:
                done = 0
                await asyncio.sleep(0)
        await self._flush(now)

    def _put(self, key: Key, watched: Watched, change: PresenceChange) -> int:
        gateways = self._watchers.gateways
        for name in watched.gateways:
            gateways[name].outbox.put(key, change)
        return len(watched.gateways)

    async def _flush(self, now: int) -> None:
        """One envelope per gateway, as far as the budget goes; the rest waits where newer states replace it."""
        waiting = [name for name, gateway in self._watchers.gateways.items() if len(gateway.outbox)]
        if not waiting:
            return
        # Rotated, so that what does not divide evenly is not always the same gateways'.
        self._turn = (self._turn + 1) % len(waiting)
        waiting = waiting[self._turn :] + waiting[: self._turn]
        most = self._settings.envelope_entries
        demands = [min(most, len(self._watchers.gateways[name].outbox)) for name in waiting]
        grants = shares(demands, self._budget.available(now))
        self._budget.spend(sum(grants))
        for name, grant in zip(waiting, grants, strict=True):
            gateway = self._watchers.gateways.get(name)
            if grant and gateway is not None:
                changes = gateway.outbox.take(grant)
                self._bus.publish([gateway_topic(name)], Presence(changes))
                self._envelopes.add()
                self._entries.add(_count(changes.values()))
                await asyncio.sleep(0)


def _count(lists: Iterable[Sequence[PresenceChange]]) -> int:
    return sum(len(one) for one in lists)
