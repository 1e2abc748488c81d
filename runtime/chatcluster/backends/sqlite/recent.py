"""The newest committed entries of one partition, in memory, so that who reads along does not read the file."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from chatcluster.ports import Entry


class Recent:
    """Commits of one partition, ascending and without a hole. ``size``: bound in bytes of values."""

    __slots__ = ("_bound", "_commits", "_size", "end", "first")

    def __init__(self, end: int, size: int) -> None:
        self.first = end
        """The first offset kept; ``end`` when nothing is."""
        self.end = end
        self._bound = size
        self._size = 0
        self._commits: deque[tuple[list[Entry], int]] = deque()

    def add(self, entries: list[Entry], size: int) -> None:
        """A commit's entries, from ``end`` on."""
        self._commits.append((entries, size))
        self._size += size
        self.end = entries[-1].offset + 1
        while self._size > self._bound:
            dropped, weight = self._commits.popleft()
            self._size -= weight
            self.first = dropped[-1].offset + 1

    def read(self, start: int, limit: int) -> Sequence[Entry]:
        """Entries from ``start`` (at least ``first``) on. One whole commit is handed out without a copy."""
        commits = self._commits
        # Readers are near the end: look from there.
        at = len(commits)
        while at > 0 and commits[at - 1][0][-1].offset >= start:
            at -= 1
        if at == len(commits):
            return ()
        entries = commits[at][0]
        skip = start - entries[0].offset
        if not skip and len(entries) <= limit and (at + 1 == len(commits) or len(entries) * 2 > limit):
            return entries
        found = entries[skip : skip + limit]
        for following in range(at + 1, len(commits)):
            room = limit - len(found)
            if room <= 0:
                break
            found += commits[following][0][:room]
        return found

    def offset_at(self, time: int) -> int | None:
        """The first offset kept with an append time at or after ``time``; None when an earlier one may be too."""
        if self.first == self.end:
            return None
        if self._commits[0][0][0].time >= time:
            return None
        times = [entries[0].time for entries, _ in self._commits]
        at = bisect_right(times, time - 1)
        return self.end if at == len(times) else self._commits[at][0][0].offset
