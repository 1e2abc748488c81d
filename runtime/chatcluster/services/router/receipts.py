"""Read cursors and typing: what is said about messages without being one."""

from __future__ import annotations

from collections import OrderedDict

from chatcluster.core.codes import Refused
from chatcluster.core.envelope import Read, Typing
from chatcluster.core.frames import ReadUpTo, Reply, Type
from chatcluster.core.ids import parse_id
from chatcluster.core.ratelimit import TokenBuckets
from chatcluster.core.records import inbox_timeline
from chatcluster.core.rows import ReadCursorRow
from chatcluster.ports import Bus, Caller, Clock, ReadCursors, StoreReader
from chatcluster.services.router.channels import ChannelCache
from chatcluster.services.router.refusals import no_such_channel
from chatcluster.services.router.settings import RouterSettings
from chatcluster.services.router.worker import Worker

_MAX_TOLD = 50_000


class Receipts:
    """``read`` and ``typing``."""

    def __init__(
        self,
        *,
        bus: Bus,
        store: StoreReader,
        cursors: ReadCursors,
        cache: ChannelCache,
        worker: Worker,
        clock: Clock,
        settings: RouterSettings,
    ) -> None:
        self._bus = bus
        self._store = store
        self._cursors = cursors
        self._cache = cache
        self._worker = worker
        self._now = clock.monotonic
        self._settings = settings
        self._typing = TokenBuckets(rate=1 / settings.typing_interval, burst=1, capacity=settings.max_users)
        self._told: OrderedDict[str, int] = OrderedDict()  # what was published last, per user and channel

    def typing(self, caller: Caller, request: Type) -> bool:
        """Tell the channel that somebody types; False: shed. From the cache alone: never worth a read."""
        seen = self._cache.look(caller.tenant, request.channel, caller.user)
        if seen is None or seen[0] is None or seen[1] is None:
            return False
        state = seen[0]
        if self._typing.take(f"{state.key}/{caller.user}", self._now()) > 0.0:
            return False
        mine = inbox_timeline(caller.tenant, caller.user)
        topics = [topic for topic in state.topics if topic != mine]
        self._bus.publish(topics, Typing(state.channel, caller.user))
        return True

    async def read(self, caller: Caller, request: ReadUpTo) -> Reply:
        """Advance the caller's read cursor; the reply has the value in force.

        "Read cursors only move forward, never beyond the head": above it ``cursor_ahead``, back is ignored.
        """
        message_id = parse_id(request.id, "id")
        state, role = await self._cache.seen(caller.tenant, request.channel, caller.user)
        if state is None or role is None:
            raise no_such_channel()
        tenant, user, channel = caller.tenant, caller.user, state.channel
        if message_id > state.head:
            state.head = max(state.head, (await self._store.heads(tenant, [channel])).get(channel, 0))
            if message_id > state.head:
                raise Refused("cursor_ahead", "this is beyond the newest message", field="id")
        if not await self._cursors.get(tenant, user, [channel]):
            # The cache may have forgotten what the store knows: back stays back.
            stored = (await self._store.read_cursors(tenant, user, [channel])).get(channel, 0)
            if stored >= message_id:
                return Reply(request.rid or "", read=str(stored))
        force = await self._cursors.advance(ReadCursorRow(tenant, user, channel, message_id))
        key = f"{state.key}/{user}"
        if force == message_id and self._told.get(key) != force:
            try:
                event_id = self._worker.mint()
            except Refused:
                return Reply(request.rid or "", read=str(force))  # it stands; nobody is told live
            self._told[key] = force
            self._told.move_to_end(key)
            if len(self._told) > _MAX_TOLD:
                self._told.popitem(last=False)
            mine = inbox_timeline(tenant, user)
            small = state.members is not None and state.count <= self._settings.receipt_members
            topics = state.topics if small else (mine,)
            self._bus.publish(topics, Read(channel, user, force, event_id))
        return Reply(request.rid or "", read=str(force))
