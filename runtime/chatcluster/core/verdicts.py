"""First wins: which record stands for a client_id (delivery.md section 4). Pure.

``judge`` decides from verdict rows of smaller offsets; ``Seen`` says cheaply for which records those rows
have to be looked at at all. Knows no store: the caller brings the rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from chatcluster.core.ids import CLOCK_BOUND
from chatcluster.core.records import DEDUPE_WINDOW, MAX_AGE, PLAIN, RETRY_HORIZON, SendRecord
from chatcluster.core.rows import VerdictRow

MEMORY = DEDUPE_WINDOW + MAX_AGE
"""ms of append time for which every record of a client_id is remembered: 10 min + A."""
HORIZON = RETRY_HORIZON + MAX_AGE
"""ms of append time over which a flagged record looks back: 24 h + A."""
SLICE = MAX_AGE
"""ms of append time per slice of ``Seen``."""

Key = tuple[str, str, str]
"""Channel's partition key, sender, client_id."""


def judge(record: SendRecord, offset: int, time: int, earlier: Iterable[VerdictRow]) -> tuple[int, bool]:
    """The id that stands for the record's client_id, and whether this very id was there before.

    ``earlier``: verdict rows of its key in any order; those at or above ``offset`` (from a run before this
    one) and void ones do not count. The lowest offset within the window decides, and append times decide
    what is within it, never the presence of a row.
    """
    window = MEMORY if record.flag == PLAIN else HORIZON
    lowest = offset
    winner = record.id
    repeated = False
    for row in earlier:
        if row.winner is None or row.offset >= offset:
            continue
        if row.id == record.id:
            repeated = True
        if time - row.time <= window and row.offset < lowest:
            lowest = row.offset
            winner = row.winner
    return winner, repeated


class Seen:
    """Hashes of the client_ids of the last ``MEMORY`` ms of one partition, by append time.

    A superset of what ``judge`` needs rows for: a key that is not here has no earlier record within the
    memory's window. Bounded by time: whole slices are forgotten. About 75 bytes per send.
    """

    __slots__ = ("_current", "_slices", "_start")

    def __init__(self) -> None:
        self._slices: deque[tuple[int, set[int]]] = deque()  # (start, hashes), oldest first
        self._current: set[int] = set()
        self._start = 0

    def add(self, key: Key, time: int) -> bool:
        """Remember a record of ``key`` appended at ``time``. Whether one may have been there before."""
        hashed = hash(key)
        if time >= self._start + SLICE:
            self._turn(time)
        current = self._current
        if hashed in current:
            return True
        current.add(hashed)
        return any(hashed in hashes for _, hashes in self._slices)

    def _turn(self, time: int) -> None:
        if self._current:
            self._slices.append((self._start, self._current))
            self._current = set()
        self._start = time
        # Append times may step back a little: the oldest slice goes only when even then nobody can need it.
        # The slices before it end where the next one starts.
        slices = self._slices
        while slices:
            end = slices[1][0] if len(slices) > 1 else self._start
            if end >= time - MEMORY - CLOCK_BOUND:
                break
            slices.popleft()

    def __len__(self) -> int:
        return len(self._current) + sum(len(hashes) for _, hashes in self._slices)
