"""Bringing one session to where its topic stands: (its cursor, C], what is pending, mark C.

The part of delivery.md section 6 that inboxes and channels have in common. Knows topics and reads;
nothing of hello, membership or frames' order.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from chatcluster.core.cursor import START, Cursor
from chatcluster.core.metrics import Metrics
from chatcluster.core.wire import wire_event
from chatcluster.ports import Clock, StoreReader, TailEntry
from chatcluster.services.gateway.hub import Hub, Topic
from chatcluster.services.gateway.marks import Marks
from chatcluster.services.gateway.prover import Places, Prover
from chatcluster.services.gateway.session import Session
from chatcluster.services.gateway.session_settings import SessionSettings
from chatcluster.services.reader import Page, TimelineReader


class Reach(Enum):
    """Whether a cursor could be continued. The value is the reason in ``resync``."""

    OK = ""
    EPOCH = "epoch"
    BAD = "bad_cursor"
    AHEAD = "ahead"
    BEHIND = "too_far_behind"


class CatchUp:
    """Reads what a session misses, and attaches it."""

    def __init__(
        self,
        *,
        hub: Hub,
        prover: Prover,
        marks: Marks,
        reader: TimelineReader,
        store: StoreReader,
        log: Places,
        clock: Clock,
        metrics: Metrics,
        settings: SessionSettings,
    ) -> None:
        self._hub = hub
        self._prover = prover
        self._marks = marks
        self._reader = reader
        self._store = store
        self._log = log
        self._clock = clock
        self._settings = settings
        self._store_reads = metrics.counter("resume_store_reads_total", "Reads of the store for resumes and follows.")

    async def open(self, topics: Sequence[Topic]) -> None:
        """Find the durable cursor of topics that are new here: their newest rows. Raises ``Unavailable``.

        A tail that is further on is read by the proof: C may be behind, never ahead.
        """
        new = [topic for topic in topics if not topic.known]
        if not new:
            return
        self._store_reads.add()
        rows = await self._store.newest([topic.key for topic in new])
        for topic in new:
            if not topic.known:
                row = rows.get(topic.key)
                self._prover.looked(topic, self._clock.monotonic())
                if topic.pending is not None:
                    # Heard since the subscription, told to nobody yet: the row may be behind C already, where no
                    # entry would prove it. What is not brings the timeline.
                    self._hub.pending -= len(topic.pending)
                    topic.pending = None
                if row is None:
                    topic.start(START, 0)
                else:
                    topic.start(row.offset, row.record.id)

    def absorb(self, topic: Topic, cursor: Cursor, page: Page) -> bool:
        """Whether a tail's page leads from ``cursor`` to the topic's cursor, right after it was read.

        It is the cursor of a topic that is new here, and moves one that is behind it.
        """
        if page.more:
            return False
        entries = page.entries
        after = cursor.offset
        end = entries[-1].offset if entries else after
        if not topic.known:
            for entry in entries:  # heard since the subscription, and durable already
                self._hub.pending -= topic.forget(entry.record.id)
            topic.start(end, entries[-1].record.id if entries else cursor.last_id)
            self._prover.looked(topic, self._clock.monotonic())
            return True
        if after > topic.cursor or end < topic.cursor:
            return False
        if end > topic.cursor:
            self._prover.apply(topic, entries)
        return True

    async def collect(self, topic: Topic, after: int) -> tuple[Reach, list[TailEntry]]:
        """The entries in (after, C], C as it is when this returns. Raises ``Unavailable``."""
        found: list[TailEntry] = []
        if after > topic.cursor:
            await self._prover.prove_stored([topic])  # another gateway may be ahead of this one
            if after > topic.cursor:
                return Reach.AHEAD, found
        at = after
        while at < topic.cursor:
            (tail,) = await self._reader.covered([(topic.key, at)], self._settings.page)
            if tail is None or (not tail.more and (not tail.entries or tail.entries[-1].offset < topic.cursor)):
                self._store_reads.add()
                page = await self._reader.stored(topic.key, at, self._settings.page)
            else:
                page = tail
            if not page.entries:
                break  # nothing stands between a cursor that names no entry and C
            cursor = topic.cursor
            found.extend(entry for entry in page.entries if entry.offset <= cursor)
            if len(found) > self._settings.resume_events:
                return Reach.BEHIND, []
            at = page.entries[-1].offset
        return Reach.OK, found

    def deliver(self, session: Session, topic: Topic, entries: Sequence[TailEntry]) -> None:
        """Send durable events to one session, in one write."""
        if not entries:
            return
        epoch = self._log.epoch
        timeline = topic.wire_timeline
        codec = session.link.codec
        frame_bytes = self._hub.frame_bytes
        wires = []
        for entry in entries:
            session.disclaim(entry.record.id)
            event = wire_event(entry.record, timeline, live=False, source=entry.source, epoch=epoch)
            wires.append(frame_bytes(codec.encode(event), codec.text))
        session.link.write(b"".join(wires))

    def attach(self, session: Session, topic: Topic) -> None:
        """Send what is pending; from here on the session gets what the topic gets."""
        topic.attach(session)
        if topic.pending is None:
            return
        epoch = self._log.epoch
        timeline = topic.wire_timeline
        for record in topic.pending.values():
            # What the client holds from its last connection is not told twice; the topic decides it now.
            if not session.disclaim(record.id):
                session.link.send(wire_event(record, timeline, live=True, source=0, epoch=epoch))

    def mark(self, session: Session, topics: Sequence[Topic]) -> None:
        """Mark C at once: what it proves is sent."""
        self._marks.send(session, topics)
