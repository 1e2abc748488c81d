"""What the router knows of channels: a bounded cache that follows the channels' events.

Three clocks bound how wrong it may be. ``Changed`` on the bus ends an entry at once. An entry older than
``fresh`` is used and read again in the background; one older than ``stale`` is read again before it is used,
so a removal takes effect within ``stale`` even when the bus lost the news. A direct channel never changes
and is never read twice. With the store down, what is cached goes on being used (law 1).

A negative answer is believed only right after a read: who was just added must not be refused.
Knows nothing of sends: whoever misses hands in a callback.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

from chatcluster.core.envelope import ROUTERS_TOPIC, Changed
from chatcluster.core.faults import told
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import Kind, Role, Route, channel_key, channel_timeline, inbox_timeline
from chatcluster.core.rows import StoredChannel
from chatcluster.ports import Bus, Clock, Delivery, Lost, StoreReader, Unavailable
from chatcluster.services.listening import subscribed
from chatcluster.services.router.settings import RouterSettings

log = logging.getLogger(__name__)

NEVER = float("-inf")
_PAGE = 1_000
_MAX_ABSENT = 10_000
_wellformed = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}").fullmatch


class ChannelState:
    """One channel. ``members``: complete for inbox-routed channels, None for large ones. ``topics``: where live
    events go. ``checked``: monotonic seconds of the last read that confirmed it. ``head``: newest id seen durable.
    """

    __slots__ = (
        "channel",
        "checked",
        "count",
        "created",
        "expired",
        "head",
        "key",
        "kind",
        "members",
        "name",
        "route",
        "tenant",
        "topics",
        "version",
    )

    def __init__(self, tenant: str, stored: StoredChannel, members: dict[str, Role] | None, checked: float) -> None:
        self.tenant = tenant
        self.channel = stored.channel
        self.key = channel_key(tenant, stored.channel)
        self.kind: Kind = stored.kind
        self.name = stored.name
        self.route: Route = stored.route
        self.version = stored.version
        self.created = stored.created  # ms since 1970
        self.count = stored.members if members is None else len(members)
        self.members = members
        self.topics: tuple[str, ...] = (
            (channel_timeline(tenant, stored.channel),)
            if members is None
            else tuple(inbox_timeline(tenant, user) for user in members)
        )
        self.checked = checked
        self.expired = NEVER  # roles read before this are not believed
        self.head = 0


Seen = tuple[ChannelState | None, Role | None]
"""The channel (None: there is none) and the role asked for (None: not a member)."""
Then = Callable[[bool], None]
"""Called once when a load ended; False: the store did not answer."""

NOTHING: Seen = (None, None)


class _Load:
    __slots__ = ("channel", "dirty", "key", "tenant", "waiters")

    def __init__(self, key: str, tenant: str, channel: str) -> None:
        self.key = key
        self.tenant = tenant
        self.channel = channel
        self.dirty = False  # news came while the store was being read: its rows may be older than the news
        self.waiters: list[tuple[str, Then | None]] = []


class ChannelCache:
    """The cache. ``look`` is plain and never waits; ``load`` fills, one flight per channel."""

    def __init__(
        self, *, store: StoreReader, bus: Bus, clock: Clock, metrics: Metrics, settings: RouterSettings
    ) -> None:
        self._store = store
        self._bus = bus
        self._now = clock.monotonic
        self._settings = settings
        self._states: OrderedDict[str, ChannelState] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()  # no such channel, and when the store said so
        # Large channels, per user: role and when it was read.
        self._roles: OrderedDict[tuple[str, str], tuple[Role | None, float]] = OrderedDict()
        self._loads: dict[str, _Load] = {}
        self._turns = asyncio.Semaphore(settings.loads)
        self._group: asyncio.TaskGroup | None = None
        self._read_total = metrics.counter("router_channel_reads_total", "Channels read from the store")
        self._failed = metrics.counter("router_channel_read_failures_total", "Channel reads without an answer")
        metrics.gauge("router_channels_cached", "Channels in the cache", lambda: float(len(self._states)))

    def start(self, group: asyncio.TaskGroup) -> None:
        """Loads run as tasks of ``group`` from now on."""
        self._group = group

    # -- looking ------------------------------------------------------------------------------------

    def look(self, tenant: str, channel: str, user: str, *, final: bool = False) -> Seen | None:
        """What is known; None: it must be loaded first. ``final``: take what is there, however old."""
        key = f"{tenant}/{channel}"
        state = self._states.get(key)
        if state is None:
            return self._look_absent(key, channel, final=final)
        now = self._now()
        self._states.move_to_end(key)
        members = state.members
        if state.kind == "direct" and members is not None:
            return state, members.get(user)  # its two members are for ever
        settings = self._settings
        age = now - state.checked
        if age > settings.fresh and not final:
            if age > settings.stale:
                return None
            self.load(tenant, channel, user, None)
        if members is not None:
            role = members.get(user)
            if role is None and age > settings.negative and not final:
                return None
            return state, role
        return self._look_large(state, user, now, final=final)

    def _look_large(self, state: ChannelState, user: str, now: float, *, final: bool) -> Seen | None:
        pair = (state.key, user)
        known = self._roles.get(pair)
        if known is None:
            return (state, None) if final else None
        self._roles.move_to_end(pair)
        role, read = known
        age = now - read
        if not final:
            if read < state.expired or age > (self._settings.stale if role is not None else self._settings.negative):
                return None
            if age > self._settings.fresh:
                self.load(state.tenant, state.channel, user, None)
        return state, role

    def _look_absent(self, key: str, channel: str, *, final: bool) -> Seen | None:
        at = self._absent.get(key)
        if at is not None and (final or self._now() - at <= self._settings.negative):
            return NOTHING
        # A name that no channel can have costs no read; the answer is the same.
        return NOTHING if final or not _wellformed(channel) else None

    async def seen(self, tenant: str, channel: str, user: str) -> Seen:
        """The same for those who can wait. Raises ``Unavailable`` when nothing is known and the store is silent."""
        for _ in range(3):
            known = self.look(tenant, channel, user)
            if known is not None:
                return known
            answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

            def then(ok: bool, answered: asyncio.Future[bool] = answered) -> None:
                if not answered.done():
                    answered.set_result(ok)

            if not self.load(tenant, channel, user, then):
                raise Unavailable("too many channels are being loaded")
            if not await answered:
                break
        else:
            return self.look(tenant, channel, user, final=True) or NOTHING
        known = self.look(tenant, channel, user, final=True)
        if known is None or None in known:  # a silent store says no to nobody
            raise Unavailable("the store does not answer")
        return known

    # -- following ------------------------------------------------------------------------------------

    def expire(self, tenant: str, channel: str, version: int | None = None) -> None:
        """The next use reads again. ``version``: only what is older than that."""
        key = f"{tenant}/{channel}"
        self._absent.pop(key, None)
        state = self._states.get(key)
        if state is not None and version is not None and state.version >= version:
            return
        if (load := self._loads.get(key)) is not None:
            load.dirty = True
        if state is not None:
            state.checked = NEVER
            state.expired = self._now()

    def drop(self) -> None:
        """Read everything again before it is used (``Lost``)."""
        for load in self._loads.values():
            load.dirty = True
        for state in self._states.values():
            state.checked = NEVER
        self._absent.clear()
        self._roles.clear()

    async def run(self) -> None:
        """Follow ``Changed`` until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._subscribe())
            async for batch in self._bus.listen():
                self.follow(batch)

    async def _subscribe(self) -> None:
        await subscribed(self._bus, [ROUTERS_TOPIC])
        self.drop()  # what was loaded before the subscription stood may have missed its news

    def follow(self, batch: Sequence[Delivery | Lost]) -> None:
        """Take what the bus told."""
        for item in batch:
            if isinstance(item, Lost):
                self.drop()
            elif isinstance(item.envelope, Changed):
                changed = item.envelope
                self.expire(changed.tenant, changed.channel, changed.version)

    # -- loading --------------------------------------------------------------------------------------

    def load(self, tenant: str, channel: str, user: str, then: Then | None) -> bool:
        """Read the channel and the user's membership; ``then`` is called when that is done.

        One flight per channel: who comes during it waits for the next one, as its rows may be older than
        the question. False: too many are being loaded, or the service is not running.
        """
        key = f"{tenant}/{channel}"
        load = self._loads.get(key)
        if load is None:
            if self._group is None or len(self._loads) >= self._settings.max_loads:
                return False
            load = self._loads[key] = _Load(key, tenant, channel)
            load.waiters.append((user, then))
            self._group.create_task(self._run_load(load), name=f"load {key}")
        elif then is not None:
            if len(load.waiters) >= self._settings.max_waiting:
                return False
            load.waiters.append((user, then))
        return True

    async def _run_load(self, load: _Load) -> None:
        waiters: list[tuple[str, Then | None]] = []
        try:
            while load.waiters:
                waiters, load.waiters = load.waiters, []
                ok = True
                try:
                    async with self._turns:
                        await self._read(load, {user for user, _ in waiters})
                except Unavailable:
                    self._failed.add()
                    ok = False
                    self._degrade(load.key)
                except Exception as error:
                    log.error("loading a channel failed: %s", told(error))
                    self._failed.add()
                    ok = False
                done, waiters = waiters, []
                if not load.waiters:
                    self._loads.pop(load.key, None)  # a waiter that misses again starts a new flight
                for _, then in done:
                    if then is not None:
                        then(ok)
        finally:
            if self._loads.get(load.key) is load:
                del self._loads[load.key]
            for _, then in waiters + load.waiters:  # only when cancelled
                if then is not None:
                    then(False)

    def _degrade(self, key: str) -> None:
        """The store is down: go on with what is cached, and ask again in a second."""
        state = self._states.get(key)
        if state is not None:
            state.checked = max(state.checked, self._now() - self._settings.fresh + 1.0)

    async def _read(self, load: _Load, users: set[str]) -> None:
        self._read_total.add()
        load.dirty = False
        tenant, channel, key = load.tenant, load.channel, load.key
        at = self._now()  # the rows are at least as new as the question
        stored = await self._store.channel(tenant, channel)
        if stored is None:
            self._states.pop(key, None)
            self._absent[key] = NEVER if load.dirty else at
            if len(self._absent) > _MAX_ABSENT:
                self._absent.popitem(last=False)
            return
        state = self._states.get(key)
        if state is None or state.version != stored.version:
            members: dict[str, Role] | None = None
            if stored.route == "inbox":
                members = await self._all_members(tenant, channel)
            before, state = state, ChannelState(tenant, stored, members, at)
            if before is not None:
                state.head, state.expired = before.head, before.expired
            self._states[key] = state
            self._absent.pop(key, None)
            if len(self._states) > self._settings.max_channels:
                self._states.popitem(last=False)
        if state.members is None:
            await self._read_roles(state, users)
        state.checked = NEVER if load.dirty else at

    async def _all_members(self, tenant: str, channel: str) -> dict[str, Role]:
        members: dict[str, Role] = {}
        after = ""
        while True:
            page = await self._store.members(tenant, channel, after=after, limit=_PAGE)
            for member in page:
                if member.role is not None:
                    members[member.user] = member.role
            if len(page) < _PAGE:
                return members
            after = page[-1].user

    async def _read_roles(self, state: ChannelState, users: set[str]) -> None:
        at = self._now()
        found = await self._store.memberships(state.tenant, state.channel, sorted(users))
        for user in users:
            membership = found.get(user)
            self._roles[(state.key, user)] = (membership.role if membership is not None else None, at)
            self._roles.move_to_end((state.key, user))
        while len(self._roles) > self._settings.max_memberships:
            self._roles.popitem(last=False)
