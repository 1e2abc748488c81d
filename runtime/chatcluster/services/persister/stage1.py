"""Stage 1: from `messages` to rows, references and channel timelines (delivery.md section 4).

The rules are in ``core.materialise``; here is what they need (states, verdicts) and the order of writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice

import msgspec

from chatcluster.core.envelope import ROUTERS_TOPIC, Changed, Nudge
from chatcluster.core.ids import CLOCK_BOUND, MAX_ID, id_time
from chatcluster.core.materialise import DURABLE_ONLY, SENDS, ChannelState, Item, Output, Thresholds, apply
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import (
    DEAD_LETTERS,
    INBOX,
    MAX_AGE,
    MESSAGES,
    PLAIN,
    AliasRecord,
    ChannelRecord,
    DeadLetter,
    EventRecord,
    MemberRecord,
    RouteRecord,
    TickRecord,
    channel_key,
    decode_log,
    encode,
)
from chatcluster.core.rows import VerdictRow
from chatcluster.core.verdicts import MEMORY, Key, Seen
from chatcluster.ports import Batch, Bus, Entry, Failure, Full, Log, LogReader, Receipt, Store, TailEntry
from chatcluster.services.persister.loading import Loader, Need
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.persister.writing import Appender, Patience, TailWriter


def readable(value: bytes, key: str) -> EventRecord | TickRecord:
    """A record of `messages`. Raises ``ValueError`` or ``msgspec.DecodeError`` for what must not stand there."""
    record = decode_log(value)
    if isinstance(record, TickRecord):
        return record
    if isinstance(record, AliasRecord):
        raise ValueError("an alias never stands in the log")
    # A number that no store's column holds would make every write of its batch fail, for ever.
    numbers = (record.id, record.digest, getattr(record, "message_id", 0), getattr(record, "reply_to", None) or 0)
    if min(numbers) < 0 or max(numbers) > MAX_ID:
        raise ValueError("a number has more than 63 bits")
    if key != channel_key(record.tenant, record.channel):
        raise ValueError("its key is another channel's")
    return record


class _Partition:
    """Memory of one partition, as of its next record."""

    __slots__ = ("members", "seen", "states")

    def __init__(self) -> None:
        self.seen = Seen()
        self.states: dict[str, ChannelState] = {}  # least lately used first
        self.members = 0  # held by all of them


class _Round:
    """What one round collects before it writes."""

    __slots__ = ("earlier", "events", "items", "letters", "needs")

    def __init__(self) -> None:
        self.items: list[tuple[ChannelState, Item, Key | None]] = []
        self.needs: dict[str, Need] = {}
        self.earlier: dict[Key, list[VerdictRow]] = {}  # keys of which there may be an earlier record
        self.events: dict[str, list[tuple[str, int]]] = {}  # by tenant: events to be asked for as repeats
        self.letters: list[tuple[str, bytes]] = []


class Stage1:
    """The ``Work`` over `messages`."""

    def __init__(
        self,
        *,
        log: Log,
        reader: LogReader,
        store: Store,
        tails: TailWriter,
        bus: Bus,
        metrics: Metrics,
        settings: PersisterSettings,
        patience: Patience,
        appender: Appender,
    ) -> None:
        self._log = log
        self._reader = reader
        self._store = store
        self._tails = tails
        self._bus = bus
        self._settings = settings
        self._patience = patience
        self._appender = appender
        self._loader = Loader(store=store, patience=patience, loads=settings.loads)
        self._thresholds = Thresholds(settings.inbox_fanout_limit, settings.inbox_fanout_floor)
        self._partitions: dict[int, _Partition] = {}
        self._rows = metrics.counter("persister_rows_total", "Rows written.", stage=MESSAGES)
        self._references = metrics.counter("persister_references_total", "References appended to inboxes.")
        self._void = metrics.counter("persister_void_total", "Records that do not count.", reason="age")
        self._unchanged = metrics.counter("persister_void_total", "Records that do not count.", reason="unchanged")
        self._aliases = metrics.counter("persister_aliases_total", "Second records of one client_id.")
        self._repeats = metrics.counter(
            "persister_repeats_total", "Records whose id stood there before.", stage=MESSAGES
        )
        self._letters = metrics.counter(
            "persister_dead_letters_total", "Records that could not be read.", topic=MESSAGES
        )
        self._proposals = metrics.counter("persister_route_proposals_total", "Route switches proposed.")

    # -- memory ---------------------------------------------------------------------------------------

    async def begin(self, partition: int, offset: int, time: int) -> None:
        """Read back 10 min + A: the keys of what was sent. Their verdicts are taken from the rows when asked for."""
        memory = self._partitions[partition] = _Partition()
        reader, page = self._reader, self._settings.read_back_page
        since = time - MEMORY - CLOCK_BOUND
        at = await self._patience.insist(lambda: reader.offset_at(MESSAGES, partition, since))
        while at < offset:
            start, limit = at, min(page, offset - at)
            entries = await self._patience.insist(lambda: reader.read(MESSAGES, partition, start, limit))  # noqa: B023
            for entry in entries:
                if entry.offset >= offset:
                    return
                at = entry.offset + 1
                try:
                    record = readable(entry.value, entry.key)
                except (msgspec.DecodeError, ValueError, RecursionError):
                    continue
                if not isinstance(record, SENDS):
                    continue
                if record.client_id and entry.time <= id_time(record.id) + MAX_AGE:
                    memory.seen.add((entry.key, record.actor, record.client_id), entry.time)
            if not entries:
                return

    def forget(self, partition: int) -> None:
        """Drop all memory of it."""
        self._partitions.pop(partition, None)

    # -- a round ----------------------------------------------------------------------------------------

    async def process(self, batches: Sequence[Batch]) -> None:
        """All steps of all records of the batches, each acknowledged before the next."""
        work = _Round()
        for batch in batches:
            memory = self._partitions[batch.partition]
            for entry in batch.entries:
                self._scan(batch.partition, memory, entry, work)
        first = await self._load(work)
        out = Output()
        thresholds, earlier = self._thresholds, work.earlier
        for state, item, key in work.items:
            if key is not None:
                item.earlier = earlier.get(key)
                apply(state, item, thresholds, out)
                continue
            # Only one that counted leaves a row, so it alone makes a repeat: else the cut of the rounds would decide.
            record = item.record
            place = (record.tenant, record.channel, record.id)
            item.repeated = first.get(place, item.offset) < item.offset
            if apply(state, item, thresholds, out):
                first[place] = item.offset
        await self._write(out, work.letters)
        for batch in batches:
            self._trim(self._partitions[batch.partition], work)

    def _scan(self, partition: int, memory: _Partition, entry: Entry, work: _Round) -> None:
        try:
            record = readable(entry.value, entry.key)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            letter = DeadLetter(MESSAGES, partition, entry.offset, entry.key, entry.value, str(error))
            work.letters.append((entry.key, encode(letter)))
            return
        if isinstance(record, TickRecord):
            return
        need = work.needs.get(entry.key)
        if need is None:
            state = memory.states.pop(entry.key, None)  # and in again at the end: lately used
            fresh = state is None
            if state is None:
                state = ChannelState(record.tenant, record.channel)
            memory.states[entry.key] = state
            need = work.needs[entry.key] = Need(state, entry.offset, fresh)
        key: Key | None = None
        if isinstance(record, SENDS) and record.client_id:
            key = (entry.key, record.actor, record.client_id)
            if entry.time <= id_time(record.id) + MAX_AGE and (
                memory.seen.add(key, entry.time) or record.flag != PLAIN
            ):
                work.earlier.setdefault(key, [])
        else:
            work.events.setdefault(record.tenant, []).append((record.channel, record.id))
            if isinstance(record, MemberRecord):
                need.subjects.add(record.user)
            elif isinstance(record, RouteRecord):
                need.complete = True
            elif isinstance(record, ChannelRecord):
                need.identity = True
        work.items.append((need.state, Item(entry.offset, entry.time, entry.value, record), key))

    async def _load(self, work: _Round) -> dict[tuple[str, str, int], int]:
        """States and verdicts; and where the events that are asked for stand already: offset by tenant, channel, id."""
        await self._loader.load(list(work.needs.values()))
        store, insist = self._store, self._patience.insist
        # When dedupe is silent every send is flagged: their rows are asked for together, not one after another.
        suspects = iter(work.earlier)
        while some := list(islice(suspects, self._settings.loads)):
            async with asyncio.TaskGroup() as group:
                for suspect in some:
                    state = work.needs[suspect[0]].state
                    group.create_task(self._verdicts(state, suspect, work.earlier[suspect]))
        # The same id again is a repeat. What has no client_id is told by the row that the first one left.
        first: dict[tuple[str, str, int], int] = {}
        for tenant, keys in work.events.items():
            found = await insist(lambda: store.has_events(tenant, keys))  # noqa: B023
            for (channel, event_id), offset in found.items():
                first[tenant, channel, event_id] = offset
        return first

    async def _verdicts(self, state: ChannelState, key: Key, rows: list[VerdictRow]) -> None:
        _, sender, client_id = key
        store = self._store
        rows += await self._patience.insist(lambda: store.verdicts(state.tenant, state.channel, sender, client_id))

    async def _write(self, out: Output, letters: Sequence[tuple[str, bytes]]) -> None:
        store, insist = self._store, self._patience.insist
        if out.rows:  # step 1
            await insist(lambda: store.write(out.rows))
        if out.timeline:  # step 2
            await insist(lambda: store.write(out.timeline))
        await self._appender.append(INBOX, out.references)
        await self._appender.append(DEAD_LETTERS, letters)
        for (tenant, channel), version in out.changed.items():
            self._bus.publish([ROUTERS_TOPIC], Changed(tenant, channel, version))
        # step 3
        await self._tails.append(
            [(row.timeline, TailEntry(row.offset, row.prev, row.source, row.record)) for row in out.timeline]
        )
        # The newest of each: a thousand members of an import are one rumour to their channel's followers.
        nudges = {row.timeline: row.offset for row in out.timeline if isinstance(row.record, DURABLE_ONLY)}
        for timeline, offset in nudges.items():
            self._bus.publish([timeline], Nudge(offset))
        for key, record in out.proposals.items():
            self._propose(key, record)
        self._rows.add(len(out.rows) + len(out.timeline))
        self._references.add(len(out.references))
        self._void.add(out.void)
        self._unchanged.add(out.unchanged)
        self._aliases.add(out.aliases)
        self._repeats.add(out.repeats)
        self._letters.add(len(letters))

    def _propose(self, key: str, record: RouteRecord) -> None:
        """A hint to ourselves: what gets lost is proposed again by the channel's next event."""
        try:
            self._log.append(MESSAGES, key, encode(record), _unheard)
        except Full:
            return
        self._proposals.add()

    def _trim(self, memory: _Partition, work: _Round) -> None:
        states, settings = memory.states, self._settings
        for key, need in work.needs.items():
            if (state := states.get(key)) is not None:
                state.shrink()
                memory.members += state.held - need.held
        # The least lately used stand first. What is dropped is read again as of its next record.
        while len(states) > settings.channels or (memory.members > settings.members and states):
            memory.members -= states.pop(next(iter(states))).held


def _unheard(outcome: Receipt | Failure) -> None:
    """A proposal's report: nobody waits for it."""
