"""Deadlines of many things with one timer: a wheel of buckets instead of a timer or task per connection.

Pure data: knows only who is due when. A deadline is met at most one slot late.
"""

from __future__ import annotations

from typing import Protocol


class Watched(Protocol):
    """Something with deadlines. ``slot``: the wheel's own note of where it waits; -1: nowhere."""

    slot: int

    def check(self, now: float) -> float | None:
        """Act on what is due; the next time to look (monotonic seconds), None for never."""
        ...


class Wheel:
    """Who is to be looked at when. Each thing waits in at most one slot; moving it costs two set operations."""

    def __init__(self, width: float, now: float) -> None:
        self._width = width
        self._slots: dict[int, set[Watched]] = {}
        self._done = int(now / width)

    def watch(self, thing: Watched, at: float) -> None:
        """Look at ``thing`` no later than one slot after ``at``; an earlier appointment stays."""
        slot = max(int(at / self._width) + 1, self._done + 1)
        if 0 <= thing.slot <= slot:
            return
        self.forget(thing)
        thing.slot = slot
        waiting = self._slots.get(slot)
        if waiting is None:
            self._slots[slot] = {thing}
        else:
            waiting.add(thing)

    def forget(self, thing: Watched) -> None:
        """Never look at ``thing`` again, unless it is watched anew."""
        if thing.slot >= 0:
            waiting = self._slots.get(thing.slot)
            if waiting is not None:
                waiting.discard(thing)
                if not waiting:
                    del self._slots[thing.slot]
            thing.slot = -1

    def turn(self, now: float) -> None:
        """Look at everything due by ``now``."""
        current = int(now / self._width)
        due = (
            range(self._done + 1, current + 1)
            if current - self._done <= len(self._slots)
            else sorted(slot for slot in self._slots if slot <= current)
        )
        self._done = max(self._done, current)
        for slot in due:
            waiting = self._slots.get(slot)
            while waiting:
                # One at a time: a check may close others, which ``forget`` takes out of this very set.
                thing = waiting.pop()
                thing.slot = -1
                again = thing.check(now)
                if again is not None:
                    self.watch(thing, again)
            self._slots.pop(slot, None)
