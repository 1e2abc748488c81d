"""Read cursors in memory, written back later: merged by max, flushed by the persister."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from chatcluster.core.rows import ReadCursorRow
from chatcluster.ports import Unavailable

CURSORS = 500_000
"""Cursors kept at most; over it clean ones of users not heard of for longest go (the store has them)."""
DIRTY = 200_000
"""Changes not yet flushed at most; over it a new one is refused."""

Key = tuple[str, str, str]


class MemoryReadCursors:
    """Port ``ReadCursors``. ``advance`` raises ``Unavailable`` when too many changes wait for their flush."""

    def __init__(self, *, cursors: int = CURSORS, dirty: int = DIRTY) -> None:
        self._bound = cursors
        self._dirty_bound = dirty
        self._count = 0
        self._users: dict[tuple[str, str], dict[str, int]] = {}
        self._dirty: dict[Key, ReadCursorRow] = {}  # oldest change first

    async def advance(self, row: ReadCursorRow) -> int:
        key = (row.tenant, row.user, row.channel)
        owner = (row.tenant, row.user)
        cursors = self._users.get(owner, {})
        known = cursors.get(row.channel)
        if known is not None and known >= row.message_id:
            return known
        waiting = self._dirty.get(key)
        if waiting is None and len(self._dirty) >= self._dirty_bound:
            raise Unavailable("too many read cursors wait for their flush")
        # A cursor that moves again keeps its place in the line, or it would never be flushed.
        self._dirty[key] = row
        self._users.pop(owner, None)
        self._users[owner] = cursors
        self._count += known is None
        cursors[row.channel] = row.message_id
        self._evict()
        return row.message_id

    async def get(self, tenant: str, user: str, channels: Sequence[str]) -> Mapping[str, int]:
        cursors = self._users.get((tenant, user), {})
        return {channel: cursors[channel] for channel in channels if channel in cursors}

    async def dirty(self, limit: int) -> Sequence[ReadCursorRow]:
        return list(islice(self._dirty.values(), limit))

    async def flushed(self, rows: Sequence[ReadCursorRow]) -> None:
        for row in rows:
            key = (row.tenant, row.user, row.channel)
            waiting = self._dirty.get(key)
            if waiting is not None and waiting.message_id <= row.message_id:
                del self._dirty[key]
        self._evict()

    def wipe(self) -> None:
        """Forget everything, as a cache that restarts empty."""
        self._users.clear()
        self._dirty.clear()
        self._count = 0

    def _evict(self) -> None:
        if self._count <= self._bound:
            return
        for owner in list(islice(self._users, 64)):
            cursors = self._users[owner]
            for channel in list(cursors):
                if (*owner, channel) not in self._dirty:
                    del cursors[channel]
                    self._count -= 1
            del self._users[owner]
            if cursors:
                self._users[owner] = cursors  # still to be flushed: to the end of the line
            if self._count <= self._bound:
                return
