"""The proof (delivery.md section 5): durable entries against live events, repairs, retractions.

Drives ``core.proof`` for all topics of the hub in batches: active ones every second, quiet ones every
five, at once after ``Nudge`` and ``Lost``, from the tails if they cover and else from the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from chatcluster.core.ids import CLOCK_BOUND, first_id, id_time
from chatcluster.core.metrics import Metrics
from chatcluster.core.proof import settled
from chatcluster.core.records import MAX_AGE, MemberRecord, RouteRecord, channel_key
from chatcluster.core.wire import INBOX_WIRE, retracted, wire_event
from chatcluster.ports import Clock, Committed, StoreReader, TailEntry, Tails, Unavailable
from chatcluster.services.gateway.hub import SLOTS, Hub, Topic, Wire
from chatcluster.services.gateway.session import Session
from chatcluster.services.gateway.session_settings import SessionSettings
from chatcluster.services.reader import TimelineReader

OnTurn = Callable[[Topic, TailEntry], None]
"""Called for a durable member or route entry of a topic."""

TURNS = frozenset({MemberRecord, RouteRecord})
"""Kinds that may change who a topic's sessions are, or what they follow."""

MANY = 64
"""Unproven events of a topic at which it does not wait for its turn: a third of a tail."""

CLAIMS = 50
"""Claimed ids of one session that are decided in one round: each may cost a look into all of the user's channels."""


class Places(Protocol):
    """What of the log a gateway must know."""

    @property
    def epoch(self) -> str: ...
    def partitions(self, topic: str) -> int: ...
    def partition_of(self, topic: str, key: str) -> int: ...


class Prover:
    """All proofs of a gateway."""

    def __init__(
        self,
        *,
        hub: Hub,
        reader: TimelineReader,
        tails: Tails,
        store: StoreReader,
        log: Places,
        clock: Clock,
        metrics: Metrics,
        settings: SessionSettings,
    ) -> None:
        self._hub = hub
        self._reader = reader
        self._tails = tails
        self._store = store
        self._log = log
        self._clock = clock
        self._settings = settings
        self._active: dict[Topic, None] = {}
        self._nudged: dict[Topic, None] = {}
        self._nudge = asyncio.Event()
        self._suspect: dict[Topic, None] = {}  # to be checked from the store
        self._doubt = asyncio.Event()
        self._store_reads = asyncio.Semaphore(settings.store_reads)
        self._committed: Mapping[int, Committed] = {}
        self._floor = 0
        self._tick = 0
        self.before_turn: OnTurn = lambda topic, entry: None
        self.after_turn: OnTurn = lambda topic, entry: None
        self._delay = metrics.histogram("live_to_durable_seconds", "From an event's id to its proof.")
        self._repaired = metrics.counter("repaired_total", "Durable events that the bus had not brought, per topic.")
        self._retracted = metrics.counter("retracted_total", "Live events withdrawn, per topic.")
        self._failed = metrics.counter("proof_failures_total", "Reads for the proof that a backend did not answer.")
        metrics.gauge("pending_events", "Live events not yet proven.", lambda: hub.pending)

    # -- what moves a topic --------------------------------------------------------------------------

    def apply(self, topic: Topic, entries: Sequence[TailEntry]) -> None:
        """Move a topic over entries that continue it without a hole; tell the attached what they miss."""
        if not topic.known:
            return
        cursor = topic.cursor
        held = len(topic.pending or ())
        wires: list[Wire] = []
        now = self._clock.now()
        epoch = self._log.epoch
        claimants = self._hub.claimants
        observe = self._delay.observe
        for entry in entries:
            if entry.offset <= topic.cursor:
                continue
            record = entry.record
            turn = type(record) in TURNS
            if turn:
                self._flush(topic, wires)
                self.before_turn(topic, entry)
            if topic.advance(entry):
                if topic.sessions:
                    event = wire_event(record, topic.wire_timeline, live=False, source=entry.source, epoch=epoch)
                    wires.append(self._hub.wire(event))
                self._repaired.add()
            else:
                age = now - id_time(record.id)
                observe(age / 1000 if age > 0 else 0.0)
            if claimants:
                few = topic.sessions if len(topic.sessions) <= len(claimants) else tuple(claimants)
                for session in few:
                    if session.claims is not None and session in topic.sessions:
                        session.disclaim(record.id)
            if turn:
                self._flush(topic, wires)
                self.after_turn(topic, entry)
        self._flush(topic, wires)
        if topic.cursor != cursor:
            self._hub.pending -= held - len(topic.pending or ())
            self.touch(topic)
            # What a fail-over ate before this entry would have left a hole; what it eats after it is due a look.
            self.looked(topic, self._clock.monotonic())

    def _flush(self, topic: Topic, wires: list[Wire]) -> None:
        if wires:
            self._hub.emit(topic, wires)
            wires.clear()

    def touch(self, topic: Topic) -> None:
        """Something of the topic moved: it is active, and its sessions are due a mark."""
        now = self._clock.monotonic()
        topic.active_until = now + self._settings.active_time
        topic.store_after = 0.0
        self._active[topic] = None
        self._hub.touch(topic, now + self._settings.mark_first)

    def stale(self, event_id: int) -> bool:
        """Whether the whole log has left this id behind: a rumour of it is either proven or void by age."""
        return event_id < self._floor

    def heard(self, topic: Topic) -> None:
        """The topic has a live event to prove. One with many is looked at now: its tail does not keep them for long."""
        self._active[topic] = None
        if len(topic.pending or ()) % MANY == 0:
            self._nudged[topic] = None
            self._nudge.set()

    def nudge(self, topic: Topic, offset: int) -> None:
        """Something durable stands at ``offset``: read now, not at the next poll."""
        if topic.known and offset > topic.cursor:
            self._nudged[topic] = None
            self._nudge.set()

    def suspect(self, topics: Iterable[Topic]) -> None:
        """Check these from the store: what the tails say of them is not enough, or not to be trusted (``Lost``)."""
        self._suspect.update(dict.fromkeys(topics))
        if self._suspect:
            self._doubt.set()

    # -- reading ---------------------------------------------------------------------------------------

    async def prove(self, topics: Sequence[Topic]) -> None:
        """Read what the tails have after each topic's cursor and apply it; what they do not cover is left to

        the loop that asks the store, so that a slow store does not delay what the tails prove.
        """
        known = [topic for topic in topics if topic.known]
        if not known:
            return
        pages = await self._reader.covered([(topic.key, topic.cursor) for topic in known], self._settings.page)
        now = self._clock.monotonic()
        unsure: list[Topic] = []
        for topic, page in zip(known, pages, strict=True):
            if page is not None:
                self.apply(topic, page.entries)
                if page.more:
                    self._nudged[topic] = None
                    self._nudge.set()
                if now >= topic.newest_at:
                    unsure.append(topic)  # a fail-over may have eaten the tail's last entry silently
            elif topic.pending is not None or now >= topic.store_after or now >= topic.newest_at:
                unsure.append(topic)
        self.suspect(unsure)

    async def prove_stored(self, topics: Sequence[Topic]) -> None:
        """The same from the store, whatever the tails say."""
        known = [topic for topic in topics if topic.known]
        if known:
            await self._from_store(known, self._clock.monotonic())

    async def _from_store(self, topics: Sequence[Topic], now: float) -> None:
        """Newest rows first, for all at once: most topics have nothing new, and that costs one read for many."""
        try:
            newest = await self._store.newest([topic.key for topic in topics])
        except Unavailable:
            self._failed.add()
            return  # pending stays pending; the next round asks again
        behind: list[Topic] = []
        for topic in topics:
            self.looked(topic, now)
            row = newest.get(topic.key)
            if row is not None and row.offset > topic.cursor:
                behind.append(topic)
            else:
                self._trust(topic, now)
        if behind:
            await asyncio.gather(*(self._catch_up(topic) for topic in behind))

    def looked(self, topic: Topic, now: float) -> None:
        """Nothing that is stored was missing just now: its newest row was read, or an entry continued what is known.

        The next look at its newest row is spread over half of the interval.
        """
        topic.newest_at = now + self._settings.newest_interval * (0.5 + 0.5 * topic.slot / SLOTS)

    def _trust(self, topic: Topic, now: float) -> None:
        """The store has nothing new and there is no tail (an inbox that never got anything, or an expired tail).

        The first entry would make a tail, so asking again may wait: twice as long each time, up to the
        interval at which every newest row is looked at anyway.
        """
        settings = self._settings
        waited = max(settings.quiet_interval, topic.store_wait * 2) if topic.store_after else settings.quiet_interval
        topic.store_wait = min(waited, settings.newest_interval)
        topic.store_after = now + topic.store_wait

    async def _catch_up(self, topic: Topic) -> None:
        async with self._store_reads:
            more = True
            while more:
                try:
                    page = await self._reader.stored(topic.key, topic.cursor, self._settings.page)
                except Unavailable:
                    self._failed.add()
                    return
                self.apply(topic, page.entries)
                more = page.more and topic.known

    # -- loops -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._rounds())
            tasks.create_task(self._nudges())
            tasks.create_task(self._doubts())
            tasks.create_task(self._settling())

    async def _rounds(self) -> None:
        """One slot of the wheel per tick, so that the load is even; active topics come around more often."""
        settings = self._settings
        pause = settings.quiet_interval / SLOTS
        ring = max(1, round(settings.active_interval / pause))
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + pause, loop.time())
            await asyncio.sleep(due - loop.time())
            tick = self._tick = (self._tick + 1) % SLOTS
            topics = dict(self._hub.wheel[tick])
            now = self._clock.monotonic()
            for topic in list(self._active):
                if topic.pending is None and topic.active_until < now:
                    del self._active[topic]
                    topic.rest()
                elif topic.slot % ring == tick % ring:
                    topics[topic] = None
            await self._batches(list(topics))

    async def _batches(self, topics: list[Topic]) -> None:
        size = self._settings.batch
        for start in range(0, len(topics), size):
            await self.prove(topics[start : start + size])

    async def _nudges(self) -> None:
        while True:
            await self._nudge.wait()
            await asyncio.sleep(self._settings.nudge_delay)
            self._nudge.clear()
            nudged, self._nudged = self._nudged, {}
            await self._batches(list(nudged))

    async def _doubts(self) -> None:
        """Paced: a lost connection concerns every topic at once."""
        while True:
            await self._doubt.wait()
            size = self._settings.batch
            batch = list(self._suspect)[:size]
            for topic in batch:
                del self._suspect[topic]
            if not self._suspect:
                self._doubt.clear()
            await self.prove_stored(batch)
            await asyncio.sleep(self._settings.nudge_delay)

    async def _settling(self) -> None:
        while True:
            await asyncio.sleep(self._settings.settle_interval)
            await self.settle()

    # -- retracting --------------------------------------------------------------------------------------

    def log_time(self, tenant: str, channel: str) -> int | None:
        """How far stage 1 has come in the channel's own partition; None while it is not known."""
        at = self._committed.get(self._log.partition_of("messages", channel_key(tenant, channel)))
        return None if at is None else at.log_time

    async def settle(self) -> None:
        """Decide live events that the log has left behind. Never by a clock, never by the inbox's position."""
        try:
            self._committed = await self._tails.committed("messages")
        except Unavailable:
            self._failed.add()
            return
        if not self._committed:
            return
        times = [at.log_time for at in self._committed.values()]
        newest = max(times)
        # While some partition is not known, an id without its channel cannot be settled.
        everywhere = min(times) if len(times) >= self._log.partitions("messages") else None
        if everywhere is not None:
            self._floor = max(self._floor, first_id(everywhere - MAX_AGE - CLOCK_BOUND))
        for topic in [topic for topic in self._active if topic.pending is not None]:
            doubtful = [
                (record.channel, record.id)
                for record in topic.doubtful(newest)
                if (log_time := self.log_time(topic.tenant, record.channel)) is not None
                and settled(record.id, log_time)
            ]
            if doubtful:
                try:
                    await self._decide(topic, doubtful)
                except Unavailable:
                    self._failed.add()  # pending stays pending: asked again
        await self._settle_claims(everywhere)

    async def _decide(self, topic: Topic, doubtful: list[tuple[str, int]]) -> None:
        present = await self._store.has_events(topic.tenant, doubtful)
        for channel, event_id in doubtful:
            offset = present.get((channel, event_id))
            strangers: set[str] = set()
            if offset is not None:
                users = [topic.name] if topic.is_inbox else list({session.user for session in topic.sessions})
                strangers = await self._strangers(topic.tenant, channel, users, offset)
            if topic.pending is None or event_id not in topic.pending:
                continue  # its entry came meanwhile
            topic.forget(event_id)
            self._hub.pending -= 1
            self.touch(topic)
            if offset is None or strangers:
                # Who is attached now: whoever joined during the reads was sent what was pending.
                told = [one for one in topic.sessions if offset is None or one.user in strangers]
                self._hub.emit(topic, [self._hub.wire(retracted(channel, event_id, topic.wire_timeline))], only=told)
                self._retracted.add()

    async def _strangers(self, tenant: str, channel: str, users: list[str], offset: int) -> set[str]:
        """Those who are members neither at the event's position nor now: it was not for them."""
        if not users:
            return set()
        now = await self._store.memberships(tenant, channel, users)
        out = [user for user in users if user not in now or now[user].role is None]
        if not out:
            return set()
        then = await self._store.memberships(tenant, channel, out, at=offset)
        return {user for user in out if user not in then or then[user].role is None}

    async def _settle_claims(self, everywhere: int | None) -> None:
        """Ids that clients hold as pending from elsewhere (``resume.pending``, a channel left)."""
        for session in list(self._hub.claimants):
            doubtful: list[tuple[int, str | None]] = []
            for event_id, channel in (session.claims or {}).items():
                log_time = everywhere if channel is None else self.log_time(session.tenant, channel)
                if log_time is not None and settled(event_id, log_time):
                    doubtful.append((event_id, channel))
            try:
                for event_id, channel in doubtful[:CLAIMS]:
                    untrue = await self._claim(session, event_id, channel)
                    if not session.disclaim(event_id):
                        continue  # its entry came meanwhile
                    if untrue is not None:
                        session.link.send(retracted(untrue, event_id, INBOX_WIRE))
                        self._retracted.add()
                    if session.inbox is not None:
                        self.touch(session.inbox)
            except Unavailable:
                self._failed.add()
                return  # they stay claimed: asked again

    async def _claim(self, session: Session, event_id: int, channel: str | None) -> str | None:
        """None when the claimed event is true for this user; else the channel to name in its retraction."""
        if channel is not None:
            present = await self._store.has_events(session.tenant, [(channel, event_id)])
            offset = present.get((channel, event_id))
            if offset is None:
                return channel
            return channel if await self._strangers(session.tenant, channel, [session.user], offset) else None
        # The client named only the id: look for it in all channels of the user.
        after = ""
        size = self._settings.batch
        while True:
            rows = await self._store.channels_of(session.tenant, session.user, after=after, limit=size)
            if await self._store.has_events(session.tenant, [(row.channel, event_id) for row in rows]):
                return None
            if len(rows) < size:
                return ""
            after = rows[-1].channel
