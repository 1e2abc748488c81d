"""From references to inbox timelines: the second stage of the persister (delivery.md section 4). Pure.

A user's inbox is the user's references by their offset in ``inbox``. The state of one partition is the
newest offset per timeline and the references of the last ``window`` offsets.
"""

from __future__ import annotations

from collections import deque

from chatcluster.core.records import Reference, inbox_timeline
from chatcluster.core.rows import TimelineRow


class Inboxes:
    """One partition of ``inbox``. ``users``: bound of the timelines remembered, the least lately used go."""

    __slots__ = ("_order", "_recent", "newest", "users", "window")

    def __init__(self, *, users: int, window: int) -> None:
        self.newest: dict[str, int] = {}
        self.users = users
        self.window = window
        self._recent: dict[tuple[str, int, int], int] = {}
        self._order: deque[tuple[int, tuple[str, int, int]]] = deque()

    def start(self, timeline: str, offset: int) -> None:
        """``offset``: this timeline's newest entry below the next reference, START for none."""
        self.newest[timeline] = offset

    def note(self, offset: int, reference: Reference) -> bool:
        """Remember a reference. Whether the same one stands within ``window`` offsets before it.

        Stage 1 appends again what it could not commit. Only exactly the same reference is a repeat: its
        event may have been appended after a later one when the first try failed. A pure function of the
        log, so every owner leaves out the same.
        """
        order, recent = self._order, self._recent
        below = offset - self.window
        while order and order[0][0] < below:
            old, gone = order.popleft()
            if recent[gone] == old:
                del recent[gone]
        key = (inbox_timeline(reference.tenant, reference.user), reference.source, reference.record.id)
        repeated = key in recent
        recent[key] = offset
        order.append((offset, key))
        return repeated

    def apply(self, offset: int, time: int, reference: Reference) -> TimelineRow | None:
        """The timeline row of a reference; None for a repeat. Its timeline must be known."""
        if self.note(offset, reference):
            return None
        timeline = inbox_timeline(reference.tenant, reference.user)
        newest = self.newest
        prev = newest.pop(timeline)  # and in again at the end: the least lately used stands first
        newest[timeline] = offset
        return TimelineRow(reference.tenant, timeline, offset, prev, reference.source, reference.record, time)

    def trim(self) -> None:
        """Keep to the bound. Between runs only: within one every known timeline is needed."""
        over = len(self.newest) - self.users
        if over > 0:
            for timeline in list(self.newest)[:over]:
                del self.newest[timeline]
