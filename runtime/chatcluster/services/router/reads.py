"""History and sync: what is stored, with cursors, and whether it is all there is.

Identical reads share one flight: after a broadcast thousands ask for the same page. ``complete: false`` with
``reason: lagging`` is advice (delivery.md section 6): the persister is behind; cursors are right without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import UNSET

from chatcluster.core.codes import Refused
from chatcluster.core.cursor import START, Cursor, decode_cursor, encode_cursor
from chatcluster.core.frames import Cursors, Event, History, Reply, Sync
from chatcluster.core.ids import parse_id
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import INBOX, MESSAGES, channel_key, channel_timeline, inbox_timeline, user_key
from chatcluster.core.rows import StoredMessage
from chatcluster.core.wire import INBOX_WIRE, channel_wire, wire_event, wire_message
from chatcluster.ports import Caller, Clock, Log, StoreReader, Tails, Unavailable
from chatcluster.services.reader import TimelineReader
from chatcluster.services.router.channels import ChannelCache
from chatcluster.services.router.refusals import no_such_channel
from chatcluster.services.router.settings import RouterSettings

_PageKey = tuple[str, str, int | None, int | None, int]


class Reads:
    """Each method answers one request type or raises ``Refused`` or ``Unavailable``."""

    def __init__(
        self,
        *,
        log: Log,
        store: StoreReader,
        tails: Tails,
        cache: ChannelCache,
        clock: Clock,
        metrics: Metrics,
        settings: RouterSettings,
    ) -> None:
        self._log = log
        self._store = store
        self._tails = tails
        self._cache = cache
        self._clock = clock
        self._settings = settings
        self._reader = TimelineReader(tails=tails, store=store, metrics=metrics)
        self._flights: dict[_PageKey, asyncio.Future[Sequence[StoredMessage]]] = {}
        self._coalesced = metrics.counter("router_history_coalesced_total", "History reads that shared a flight")

    # -- history --------------------------------------------------------------------------------------

    async def history(self, caller: Caller, request: History) -> Reply:
        """Ascending by id: the newest page below ``before`` (or of all), or the first above ``after``."""
        limit = self._limit(request.limit)
        before = None if request.before is None else parse_id(request.before, "before")
        after = None if request.after is None else parse_id(request.after, "after")
        if before is not None and after is not None:
            raise Refused("bad_request", "history goes before or after an id, not both", field="after")
        state, role = await self._cache.seen(caller.tenant, request.channel, caller.user)
        if state is None or (role is None and not caller.system):
            raise no_such_channel()
        # Asked first: a message stored after this does not make the answer claim more than it has.
        lagging = await self._lagging([(MESSAGES, state.key)])
        # One more than asked tells whether there are more.
        found = await self._page((caller.tenant, state.channel, before, after, limit + 1))
        more = len(found) > limit
        if more:
            found = found[:limit] if after is not None else found[-limit:]
        messages = [wire_message(message) for message in found]
        reason = "lagging" if lagging else UNSET
        return Reply(request.rid, messages=messages, more=more, complete=not lagging, reason=reason)

    async def _page(self, key: _PageKey) -> Sequence[StoredMessage]:
        flight = self._flights.get(key)
        if flight is not None:
            self._coalesced.add()
            return await asyncio.shield(flight)
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        tenant, channel, before, after, limit = key
        try:
            found = await self._store.history(tenant, channel, before=before, after=after, limit=limit)
        except BaseException as error:
            flight.set_exception(error if isinstance(error, Unavailable) else Unavailable("the read was given up"))
            flight.exception()  # looked at: nobody may be waiting
            raise
        else:
            flight.set_result(found)
            return found
        finally:
            del self._flights[key]

    # -- sync -----------------------------------------------------------------------------------------

    async def sync(self, caller: Caller, request: Sync) -> Reply:
        """Events after the cursors, in their durable form: the inbox's first, then channel by channel.

        At most ``limit`` events in all; ``more``: ask again with the new cursors. A user who was removed gets
        a channel's events up to his removal; who never was a member gets ``no_such_channel``.
        """
        limit = self._limit(request.limit)
        tenant, user = caller.tenant, caller.user
        inbox: tuple[str, Cursor] | None = None
        keys: list[tuple[str, str]] = []
        if request.inbox is not None:
            timeline = inbox_timeline(tenant, user)
            inbox = (timeline, self._decode(request.inbox, timeline, "inbox"))
            keys.append((INBOX, user_key(tenant, user)))
        asked: list[tuple[str, str, Cursor, int | None]] = []
        for channel, text in request.channels.items():
            last = await self._readable(caller, channel)
            timeline = channel_timeline(tenant, channel)
            asked.append((channel, timeline, self._decode(text, timeline, f"channels.{channel}"), last))
            keys.append((MESSAGES, channel_key(tenant, channel)))
        lagging = await self._lagging(keys)
        events: list[Event] = []
        more = False
        inbox_cursor: str | None = None
        channel_cursors: dict[str, str] = {}
        if inbox is not None:
            timeline, cursor = inbox
            end, full = await self._read(events, timeline, INBOX_WIRE, cursor, None, limit, "inbox")
            inbox_cursor = encode_cursor(end, timeline)
            more = more or full
        for channel, timeline, cursor, last in asked:
            field = f"channels.{channel}"
            end, full = await self._read(events, timeline, channel_wire(channel), cursor, last, limit, field)
            channel_cursors[channel] = encode_cursor(end, timeline)
            more = more or full
        cursors = Cursors(
            inbox=UNSET if inbox_cursor is None else inbox_cursor, channels=channel_cursors if asked else UNSET
        )
        reason = "lagging" if lagging else UNSET
        return Reply(request.rid, events=events, cursors=cursors, more=more, complete=not lagging, reason=reason)

    async def _readable(self, caller: Caller, channel: str) -> int | None:
        """The offset up to which the caller may read the channel's timeline; None: all of it."""
        state, role = await self._cache.seen(caller.tenant, channel, caller.user)
        if state is None:
            raise no_such_channel()
        if role is not None or caller.system:
            return None
        row = (await self._store.memberships(caller.tenant, channel, [caller.user])).get(caller.user)
        if row is None:
            raise no_such_channel()
        return None if row.role is not None else row.offset

    def _decode(self, text: str, timeline: str, field: str) -> Cursor:
        cursor = decode_cursor(text, timeline, field)
        if cursor.epoch != self._log.epoch:
            # "A cursor of another epoch is never honoured as if complete": there is no resync frame in a
            # reply, so the refusal says it.
            raise Refused("bad_cursor", f"resync: {field} is of another epoch, read history anew", field=field)
        return cursor

    async def _read(
        self, events: list[Event], timeline: str, wire: str, cursor: Cursor, last: int | None, limit: int, field: str
    ) -> tuple[Cursor, bool]:
        """Add what is after ``cursor``; where it ends, and whether there is more."""
        room = limit - len(events)
        if last is not None and cursor.offset >= last:
            return cursor, False
        if room <= 0:
            return cursor, True  # not looked at: there may be more
        page = await self._reader.read(timeline, cursor.offset, room)
        if not page.entries:
            if page.stored and cursor.offset > START:
                newest = (await self._store.newest([timeline])).get(timeline)
                if newest is None or cursor.offset > newest.offset:
                    raise Refused("bad_cursor", f"{field} is beyond the newest event", field=field)
            return cursor, False
        epoch = self._log.epoch
        end = cursor
        for entry in page.entries[:room]:
            if last is not None and entry.offset > last:
                return end, False  # "own remove: nothing of the channel after it" (section 4)
            events.append(wire_event(entry.record, wire, live=False, source=entry.source, epoch=epoch))
            end = Cursor(epoch, entry.offset, entry.record.id)
        return end, page.more or len(page.entries) > room

    # -- both -----------------------------------------------------------------------------------------

    def _limit(self, limit: int | None) -> int:
        page = self._settings.page
        if limit is None:
            return page
        if not 1 <= limit <= page:
            raise Refused("bad_limit", f"limit is 1 to {page}", field="limit")
        return limit

    async def _lagging(self, keys: Sequence[tuple[str, str]]) -> bool:
        """Is the persister behind, or its position unknown, for any of these (topic, key)?"""
        oldest = self._clock.now() - int(self._settings.lag * 1_000)
        try:
            for topic, stage in ((MESSAGES, "messages"), (INBOX, "inbox")):
                mine = [key for where, key in keys if where == topic]
                if not mine:
                    continue
                positions = await self._tails.committed(stage)  # type: ignore[arg-type]
                for key in mine:
                    committed = positions.get(self._log.partition_of(topic, key))
                    if committed is None or committed.log_time < oldest:
                        return True
        except Unavailable:
            return True
        return False
