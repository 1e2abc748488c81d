"""The proof of one topic: what was told live against what became durable (delivery.md section 5). Pure.

A topic's durable ``cursor`` moves over its timeline's entries; live events wait in ``pending`` until an
entry, or the settled log of their channel, decides them. Every session attached to a topic has got
exactly the same of it (who joins is sent what is pending), so nothing is kept per session and event.

Knows no session, no socket, no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from chatcluster.core.cursor import START
from chatcluster.core.ids import CLOCK_BOUND, first_id, id_time
from chatcluster.core.records import (
    MAX_AGE,
    DeleteRecord,
    EditRecord,
    EventRecord,
    MessageRecord,
    ReactionRecord,
)

UNKNOWN = START - 1
"""``Proof.cursor`` before the first look at the timeline."""

RECENT = 128
"""Proven ids that a topic remembers, so that a late or doubled rumour of them is not told again."""

TOLD_LIVE = frozenset({MessageRecord, EditRecord, DeleteRecord, ReactionRecord})
"""Kinds that clients may get before they are durable; all others only in their durable form (section 4)."""


class Linked(Protocol):
    """A place in a timeline that knows the one before it."""

    @property
    def offset(self) -> int: ...
    @property
    def prev(self) -> int: ...


class Placed(Linked, Protocol):
    """An entry of a timeline: a tail's or a store's row."""

    @property
    def source(self) -> int: ...
    @property
    def record(self) -> EventRecord: ...


def covers(cursor: int, entries: Sequence[Linked]) -> bool:
    """Whether a tail's ``entries`` after ``cursor`` are all there are up to the last of them.

    Section 5: every entry has ``prev`` at or before the entry before it (the cursor for the first). A
    tail that was cut, wiped or written by a zombie breaks the chain.
    """
    at = cursor
    for entry in entries:
        if entry.prev > at or entry.offset <= at:
            return False
        at = entry.offset
    return True


def settled(event_id: int, log_time: int) -> bool:
    """Whether a log time of the event's own partition decides it: nothing with this id can still count.

    Section 5: past ``id time + A + clock bound``. A later record of this id would be void by age.
    """
    return log_time > id_time(event_id) + MAX_AGE + CLOCK_BOUND


class Proof:
    """The state per topic."""

    __slots__ = ("cursor", "last_id", "pending", "recent")

    def __init__(self) -> None:
        self.cursor = UNKNOWN
        self.last_id = 0
        self.pending: dict[int, EventRecord] | None = None  # in the order of arrival; None: nothing
        self.recent: dict[int, None] | None = None

    def start(self, offset: int, last_id: int) -> None:
        """The first durable cursor of this topic here."""
        self.cursor = offset
        self.last_id = last_id

    def hear(self, record: EventRecord, bound: int) -> bool | None:
        """A live event. True: tell it, it is pending now. False: told already. None: over ``bound``.

        Over the bound the newcomer is not told live (law 7): its durable entry brings it.
        """
        event_id = record.id
        pending = self.pending
        if pending is None:
            if self.recent is not None and event_id in self.recent:
                return False
            if bound <= 0:
                return None
            self.pending = {event_id: record}
            return True
        if event_id in pending or (self.recent is not None and event_id in self.recent):
            return False
        if len(pending) >= bound:
            return None
        pending[event_id] = record
        return True

    def advance(self, entry: Placed) -> bool:
        """Move the cursor over the next entry. True: tell it to the attached sessions; False: they have it live."""
        record = entry.record
        event_id = record.id
        self.cursor = entry.offset
        self.last_id = event_id
        live = self.forget(event_id)
        return not (live and type(record) in TOLD_LIVE)

    def forget(self, event_id: int) -> bool:
        """The event is decided. Whether it was pending."""
        recent = self.recent
        if recent is None:
            recent = self.recent = {}
        elif len(recent) >= RECENT:
            del recent[next(iter(recent))]
        recent[event_id] = None
        pending = self.pending
        if pending is None or pending.pop(event_id, None) is None:
            return False
        if not pending:
            self.pending = None  # an idle topic holds no empty dict
        return True

    def rest(self) -> None:
        """Nothing happened here for a while: late rumours are not expected, give their memory back."""
        self.recent = None

    def doubtful(self, newest_log_time: int) -> Iterator[EventRecord]:
        """Pending events that may be settled when some partition's log time is ``newest_log_time``."""
        if self.pending is not None:
            # ``settled`` for all of them: one comparison each
            limit = first_id(newest_log_time - MAX_AGE - CLOCK_BOUND)
            for event_id, record in self.pending.items():
                if event_id < limit:
                    yield record
