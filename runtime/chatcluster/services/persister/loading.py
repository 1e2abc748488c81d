"""Reading states as of a position: the fold of the rows below it, whatever rows stand beyond (delivery.md section 4).

After a restart the store may hold rows of records that come again. Every read here is bounded by the
offset of the record it is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice

from chatcluster.core.cursor import START
from chatcluster.core.materialise import ChannelState, fold
from chatcluster.ports import StoreReader
from chatcluster.services.persister.writing import Patience

_SPAN = 1_024
_PAGE = 512


class Need:
    """What a run of records needs of one channel, as of ``below``: the offset of the first of them.

    ``subjects``: users whose membership changes. ``complete``: all members, also of a large channel (its
    route changes). ``identity``: kind and creator (it is renamed).
    """

    __slots__ = ("below", "complete", "fresh", "held", "identity", "state", "subjects")

    def __init__(self, state: ChannelState, below: int, fresh: bool) -> None:
        self.state = state
        self.below = below
        self.fresh = fresh
        self.held = 0 if fresh else state.held  # before the run
        self.subjects: set[str] = set()
        self.complete = False
        self.identity = False

    @property
    def met(self) -> bool:
        """Whether the state in memory is enough."""
        if self.fresh:
            return False
        if self.identity and self.state.exists and not self.state.created:
            return False
        return self.state.members is not None or not (self.subjects or self.complete)


class Loader:
    """Brings channel states to the position of a run."""

    def __init__(self, *, store: StoreReader, patience: Patience, loads: int) -> None:
        self._store = store
        self._patience = patience
        self._loads = loads

    async def load(self, needs: Sequence[Need]) -> None:
        """Meet all needs, several channels at the same time. Tries for ever."""
        unmet = iter([need for need in needs if not need.met])
        while batch := list(islice(unmet, self._loads)):
            if len(batch) == 1:
                await self._insist(batch[0])
            else:
                async with asyncio.TaskGroup() as group:
                    for need in batch:
                        group.create_task(self._insist(need))

    async def _insist(self, need: Need) -> None:
        await self._patience.insist(lambda: self._load(need))

    async def _load(self, need: Need) -> None:
        store, state, below = self._store, need.state, need.below
        tenant, channel = state.tenant, state.channel
        if need.fresh:
            route = await store.route(tenant, channel, below=below)
            if route is None or route.route == "inbox":
                fold(state, await store.member_rows(tenant, channel, below=below))
            else:
                row = await store.newest_member_row(tenant, channel, below=below)
                state.exists = row is not None
                state.count = 0 if row is None else row.count
                state.members = None
            if route is not None:
                state.prev = await previous(store, state.timeline, below)
                state.route = route.route
                state.switched = route.offset
        if state.members is None:
            if need.complete:
                fold(state, await store.member_rows(tenant, channel, below=below))
            elif need.subjects:
                users = sorted(need.subjects)
                found = await store.memberships(tenant, channel, users, at=below - 1)
                state.known = {user: found[user].role if user in found else None for user in users}
        if need.identity and state.exists and not state.created:
            stored = await store.channel(tenant, channel)
            if stored is not None:  # these never change, so it does not matter how new the row is
                state.kind = stored.kind
                state.creator = stored.creator
                state.created = stored.created


async def previous(store: StoreReader, timeline: str, below: int) -> int:
    """Offset of the timeline's newest row below ``below``; START for none."""
    row = (await store.newest([timeline])).get(timeline)
    if row is None:
        return START
    if row.offset < below:
        return row.offset
    # Rows of a run before this one stand beyond. The first of them names the row before it, unless a crash
    # left out some between; then we look backwards in growing steps.
    (first, *_) = await store.timeline(timeline, after=below - 1, limit=1)
    if first.prev < below:
        return first.prev
    span = _SPAN
    while True:
        start = max(START, below - 1 - span)
        newest = START
        after = start
        while True:
            rows = await store.timeline(timeline, after=after, limit=_PAGE)
            for entry in rows:
                if entry.offset >= below:
                    break
                newest = after = entry.offset
            if len(rows) < _PAGE or rows[-1].offset >= below:
                break
        if newest != START or start == START:
            return newest
        span *= 8
