"""Stage 2: from references in `inbox` to the rows and tails of users' inboxes (delivery.md section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from chatcluster.core.cursor import START
from chatcluster.core.envelope import Nudge
from chatcluster.core.ids import MAX_ID
from chatcluster.core.inboxes import Inboxes
from chatcluster.core.materialise import DURABLE_ONLY
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import (
    DEAD_LETTERS,
    INBOX,
    DeadLetter,
    Reference,
    decode_reference,
    encode,
    inbox_timeline,
    user_key,
)
from chatcluster.core.rows import TimelineRow
from chatcluster.ports import Batch, Bus, LogReader, Store, TailEntry
from chatcluster.services.persister.loading import previous
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.persister.writing import Appender, Patience, TailWriter

_NEWEST = 500


def readable(value: bytes, key: str) -> Reference:
    """A record of `inbox`. Raises ``ValueError`` or ``msgspec.DecodeError`` for what must not stand there."""
    reference = decode_reference(value)
    if key != user_key(reference.tenant, reference.user):
        raise ValueError("its key is another user's")
    if not 0 <= reference.record.id <= MAX_ID:
        raise ValueError("its id has more than 63 bits")
    return reference


class Stage2:
    """The ``Work`` over `inbox`."""

    def __init__(
        self,
        *,
        reader: LogReader,
        store: Store,
        tails: TailWriter,
        bus: Bus,
        metrics: Metrics,
        settings: PersisterSettings,
        patience: Patience,
        appender: Appender,
    ) -> None:
        self._reader = reader
        self._store = store
        self._tails = tails
        self._bus = bus
        self._settings = settings
        self._patience = patience
        self._appender = appender
        self._partitions: dict[int, Inboxes] = {}
        self._rows = metrics.counter("persister_rows_total", "Rows written.", stage=INBOX)
        self._repeats = metrics.counter("persister_repeats_total", "Records whose id stood there before.", stage=INBOX)
        self._letters = metrics.counter("persister_dead_letters_total", "Records that could not be read.", topic=INBOX)

    async def begin(self, partition: int, offset: int, time: int) -> None:
        """Read back the window within which a reference is told once."""
        settings, reader = self._settings, self._reader
        memory = self._partitions[partition] = Inboxes(users=settings.users, window=settings.repeat_window)
        at = max(0, offset - settings.repeat_window)
        while at < offset:
            start, limit = at, min(settings.read_back_page, offset - at)
            entries = await self._patience.insist(lambda: reader.read(INBOX, partition, start, limit))  # noqa: B023
            for entry in entries:
                if entry.offset >= offset:
                    return
                at = entry.offset + 1
                try:
                    memory.note(entry.offset, readable(entry.value, entry.key))
                except (msgspec.DecodeError, ValueError, RecursionError):
                    continue
            if not entries:
                return

    def forget(self, partition: int) -> None:
        """Drop all memory of it."""
        self._partitions.pop(partition, None)

    async def process(self, batches: Sequence[Batch]) -> None:
        """Timeline rows, then tail entries, each acknowledged before the next."""
        rows: list[TimelineRow] = []
        letters: list[tuple[str, bytes]] = []
        for batch in batches:
            memory = self._partitions[batch.partition]
            read: list[tuple[int, int, Reference]] = []
            first: dict[str, int] = {}
            for entry in batch.entries:
                try:
                    reference = readable(entry.value, entry.key)
                except (msgspec.DecodeError, ValueError, RecursionError) as error:
                    letter = DeadLetter(INBOX, batch.partition, entry.offset, entry.key, entry.value, str(error))
                    letters.append((entry.key, encode(letter)))
                    continue
                read.append((entry.offset, entry.time, reference))
                timeline = inbox_timeline(reference.tenant, reference.user)
                if timeline not in memory.newest:
                    first.setdefault(timeline, entry.offset)
            await self._start(memory, first)
            for offset, time, reference in read:
                row = memory.apply(offset, time, reference)
                if row is None:
                    self._repeats.add()
                else:
                    rows.append(row)
        store = self._store
        if rows:
            await self._patience.insist(lambda: store.write(rows))
        await self._appender.append(DEAD_LETTERS, letters)
        await self._tails.append(
            [(row.timeline, TailEntry(row.offset, row.prev, row.source, row.record)) for row in rows]
        )
        nudges = {row.timeline: row.offset for row in rows if isinstance(row.record, DURABLE_ONLY)}
        for timeline, offset in nudges.items():
            self._bus.publish([timeline], Nudge(offset))
        for batch in batches:
            self._partitions[batch.partition].trim()
        self._rows.add(len(rows))
        self._letters.add(len(letters))

    async def _start(self, memory: Inboxes, first: dict[str, int]) -> None:
        """Bring the newest position below its first reference of each timeline not in memory."""
        store, insist = self._store, self._patience.insist
        timelines = list(first)
        for begin in range(0, len(timelines), _NEWEST):
            page = timelines[begin : begin + _NEWEST]
            newest = await insist(lambda: store.newest(page))  # noqa: B023
            for timeline in page:
                row = newest.get(timeline)
                offset = START if row is None else row.offset
                if offset >= first[timeline]:  # rows of a run before this one stand beyond
                    offset = await insist(lambda: previous(store, timeline, first[timeline]))  # noqa: B023
                memory.start(timeline, offset)
