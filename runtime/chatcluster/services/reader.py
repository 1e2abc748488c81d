"""Reading timelines: from the tail if it covers, else from the store; identical reads share one flight.

Used by gateways (resume, proof) and routers (sync); independent of every role.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from chatcluster.core.metrics import Metrics
from chatcluster.core.proof import covers
from chatcluster.ports import StoreReader, TailEntry, Tails, Unavailable


class Page(msgspec.Struct, frozen=True, gc=False):
    """Entries of a timeline after a position, ascending. ``more``: the page was full, there may be others.

    ``stored``: it came from the store.
    """

    entries: Sequence[TailEntry]
    more: bool
    stored: bool


class TimelineReader:
    """Timeline entries by position (delivery.md sections 5 and 6)."""

    def __init__(self, *, tails: Tails, store: StoreReader, metrics: Metrics) -> None:
        self._tails = tails
        self._store = store
        self._flights: dict[tuple[str, int, int], asyncio.Task[Page]] = {}
        self._from_tail = metrics.counter("timeline_reads_total", "Reads of a timeline.", source="tail")
        self._from_store = metrics.counter("timeline_reads_total", "Reads of a timeline.", source="store")

    async def read(self, timeline: str, after: int, limit: int) -> Page:
        """At most ``limit`` entries after ``after``. Raises ``Unavailable`` when the tail does not cover
        and the store does not answer.
        """
        (page,) = await self.covered([(timeline, after)], limit)
        return page if page is not None else await self.stored(timeline, after, limit)

    async def covered(self, positions: Sequence[tuple[str, int]], limit: int) -> Sequence[Page | None]:
        """For each (timeline, after): the entries when the tail covers them, else None: ask the store.

        One read of the tails for all. A cache that does not answer covers nothing.
        """
        if not positions:
            return ()
        try:
            tails = await self._tails.read(positions)
        except Unavailable:
            return [None] * len(positions)
        pages: list[Page | None] = []
        for (_, after), entries in zip(positions, tails, strict=True):
            if entries is None or not covers(after, entries):
                pages.append(None)
            else:
                pages.append(Page(entries[:limit], len(entries) > limit, False))
        self._from_tail.add(sum(page is not None for page in pages))
        return pages

    async def stored(self, timeline: str, after: int, limit: int) -> Page:
        """The same from the store. Identical reads at the same time are one. Raises ``Unavailable``."""
        key = (timeline, after, limit)
        flight = self._flights.get(key)
        if flight is None:
            # The flight belongs to all who wait: it ends with the last of them (see below).
            flight = self._flights[key] = asyncio.ensure_future(self._fly(timeline, after, limit))
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
            try:
                return await flight
            except asyncio.CancelledError:
                flight.cancel()
                raise
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if flight.cancelled() and (current is None or not current.cancelling()):
                return await self.stored(timeline, after, limit)  # its leader left, we did not
            raise

    async def _fly(self, timeline: str, after: int, limit: int) -> Page:
        self._from_store.add()
        rows = await self._store.timeline(timeline, after=after, limit=limit)
        entries = [TailEntry(row.offset, row.prev, row.source, row.record) for row in rows]
        return Page(entries, len(entries) >= limit, True)
