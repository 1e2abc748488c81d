"""Tails in memory: the newest durable entries of each timeline. A cache: short, stale or gone at any time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Literal

from chatcluster.core.records import EditRecord, EventRecord, MessageRecord
from chatcluster.ports import Clock, Committed, TailEntry

ENTRIES = 200
"""Entries kept per timeline: a reader that was away longer reads the store."""
BYTES = 64 * 1024 * 1024
"""Roughly the memory of all tails; the timelines not written to for longest go first."""
TTL = 3_600_000
"""ms that a tail stays after its last entry."""

Stage = Literal["messages", "inbox"]
_NOTHING: tuple[TailEntry, ...] = ()
_OVERHEAD = 300  # bytes of an entry and its record without the body


class _Tail:
    __slots__ = ("entries", "expires", "newest", "weight")

    def __init__(self) -> None:
        self.entries: deque[TailEntry] = deque()
        self.newest = -1
        self.expires = 0
        self.weight = 0


def _weight(record: EventRecord) -> int:
    if isinstance(record, MessageRecord | EditRecord):
        return _OVERHEAD + len(record.body) + (512 if record.data else 0)
    return _OVERHEAD


class MemoryTails:
    """Port ``Tails``. ``entries``: per timeline; ``size``: bytes of all, estimated; ``ttl``: ms."""

    def __init__(self, *, clock: Clock, entries: int = ENTRIES, size: int = BYTES, ttl: int = TTL) -> None:
        self._clock = clock
        self._entries = entries
        self._bound = size
        self._ttl = ttl
        self._size = 0
        # In the order of the last append, so the oldest and the expired stand in front.
        self._tails: dict[str, _Tail] = {}
        self._committed: dict[Stage, dict[int, Committed]] = {"messages": {}, "inbox": {}}

    async def append(self, entries: Sequence[tuple[str, TailEntry]]) -> None:
        now = self._now()
        tails = self._tails
        for timeline, entry in entries:
            tail = tails.pop(timeline, None)
            if tail is not None and tail.expires <= now:
                self._size -= tail.weight
                tail = None
            if tail is None:
                tail = _Tail()
            tails[timeline] = tail
            # An offset at or below the newest is refused silently: an old owner writes late (zombies are harmless).
            if entry.offset <= tail.newest:
                continue
            tail.expires = now + self._ttl
            tail.entries.append(entry)
            tail.newest = entry.offset
            weight = _weight(entry.record)
            if len(tail.entries) > self._entries:
                weight -= _weight(tail.entries.popleft().record)
            tail.weight += weight
            self._size += weight
        while tails and (self._size > self._bound or next(iter(tails.values())).expires <= now):
            self._size -= tails.pop(next(iter(tails))).weight

    async def read(self, positions: Sequence[tuple[str, int]]) -> Sequence[Sequence[TailEntry] | None]:
        now = self._now()
        find = self._tails.get
        answers: list[Sequence[TailEntry] | None] = []
        for timeline, after in positions:
            tail = find(timeline)
            if tail is None or tail.newest < after or tail.expires <= now:
                answers.append(None)
            elif tail.newest == after:
                answers.append(_NOTHING)
            else:
                entries = tail.entries
                if entries[0].offset > after:
                    answers.append(tuple(entries))
                else:
                    count = 0
                    for entry in reversed(entries):
                        if entry.offset <= after:
                            break
                        count += 1
                    answers.append(tuple(islice(entries, len(entries) - count, None)))
        return answers

    async def commit(self, stage: Stage, positions: Mapping[int, Committed]) -> None:
        known = self._committed[stage]
        for partition, position in positions.items():
            old = known.get(partition)
            if old is None:
                known[partition] = position
            else:
                known[partition] = Committed(max(old.offset, position.offset), max(old.log_time, position.log_time))

    async def committed(self, stage: Stage) -> Mapping[int, Committed]:
        return dict(self._committed[stage])

    def wipe(self) -> None:
        """Forget everything, as a cache that restarts empty."""
        self._tails.clear()
        self._size = 0
        for known in self._committed.values():
            known.clear()

    def _now(self) -> int:
        # Lifetimes are counted on the clock that no one can step.
        return int(self._clock.monotonic() * 1000)
