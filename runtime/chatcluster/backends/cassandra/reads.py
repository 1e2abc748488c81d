"""Reads of messages, events and timelines: always of one partition each, bucket by bucket.

Buckets of one series may overlap (their width changed); rows of overlapping buckets are merged by the same rule
by which the cluster merges cells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import TypeVar

from chatcluster.backends.cassandra import rows as cells
from chatcluster.backends.cassandra.buckets import SLACK, bucket_at, covers, end, start
from chatcluster.backends.cassandra.cluster import CassandraLink, Rows
from chatcluster.backends.cassandra.index import Flights, Index
from chatcluster.backends.cassandra.rows import Entry, Found, int4, long, routing_key
from chatcluster.backends.cassandra.widths import Widths
from chatcluster.core.ids import id_time
from chatcluster.core.proof import covers as whole
from chatcluster.core.records import EventRecord
from chatcluster.core.rows import StoredMessage, TimelineRow
from chatcluster.ports import Clock, Unavailable

IN = 100
"""Keys of one read of a partition."""
_MAX = cells.MAX
T = TypeVar("T")


async def together(reads: Iterable[Awaitable[T]]) -> list[T]:
    """All answers; raises what one raised, after all have ended: no read is left behind."""
    ended = await asyncio.gather(*reads, return_exceptions=True)
    found: list[T] = []
    for one in ended:
        if isinstance(one, BaseException):
            raise one
        found.append(one)
    return found


def in_list(numbers: Sequence[int]) -> bytes:
    """A list of bigints as one value."""
    return int4(len(numbers)) + b"".join([b"\0\0\0\x08" + long(number) for number in numbers])


def in_texts(texts: Sequence[bytes]) -> bytes:
    """A list of texts as one value."""
    return int4(len(texts)) + b"".join([int4(len(text)) + text for text in texts])


def chunks(items: Sequence[T]) -> list[Sequence[T]]:
    """In parts of ``IN``."""
    return [items[at : at + IN] for at in range(0, len(items), IN)]


class EventReads:
    """The part of ``StoreReader`` that is about messages, events and timelines."""

    def __init__(self, link: CassandraLink, clock: Clock, widths: Widths, level: int) -> None:
        self._link = link
        self._level = level
        self._index = Index(link, clock, widths)
        self._flights = Flights()

    async def _buckets(self, tenant: str, channel: str) -> list[int]:
        return [bucket for bucket, _ in await self._index.buckets(f"m:{tenant}/{channel}")]

    # -- messages -----------------------------------------------------------------------------------------

    async def history(
        self, tenant: str, channel: str, *, before: int | None, after: int | None, limit: int
    ) -> Sequence[StoredMessage]:
        """See the port."""
        key = ("history", tenant, channel, before, after, limit)
        return await self._flights.share(key, lambda: self._history(tenant, channel, before, after, limit))

    async def _history(
        self, tenant: str, channel: str, before: int | None, after: int | None, limit: int
    ) -> Sequence[StoredMessage]:
        """Bucket by bucket from one end, merged by id, until the page is full and no unread bucket can add to it."""
        partition = tenant.encode(), channel.encode()
        up = after is not None
        low = -1 if after is None else after
        high = _MAX if before is None else before
        mine = [
            bucket
            for bucket in await self._buckets(tenant, channel)
            if end(bucket) > id_time(max(0, low)) and start(bucket) <= id_time(max(0, high))
        ]
        mine.sort(key=start if up else end, reverse=up)  # the next one to read is the last
        name = "history_up" if up else "history_down"
        found: dict[int, Found] = {}
        edges: dict[int, int] = {}  # bucket: last id of its full page; beyond it there may be more

        def sure(number: int) -> bool:
            """Whether all that is said of this id is read."""
            for edge in edges.values():
                if number > edge if up else number < edge:
                    return False
            return not mine or (id_time(number) < start(mine[-1]) if up else id_time(number) >= end(mine[-1]))

        while True:
            page: list[StoredMessage] = []
            for number in sorted(found, reverse=not up):
                if len(page) == limit or not sure(number):
                    break
                message = cells.stored_message(channel, number, found[number])
                if message is not None:
                    page.append(message)
            if len(page) == limit or not (mine or edges):
                return page if up else page[::-1]
            # Whatever holds the page up: the full page that ends first, or the next bucket.
            bucket = (min if up else max)(edges, key=lambda one: edges[one]) if edges else mine.pop()
            if edges and mine and not _beyond(edges[bucket], mine[-1], up=up):
                bucket = mine.pop()
            edge = edges.pop(bucket, low if up else high)
            bounds = (long(edge), long(high)) if up else (long(edge), long(low))
            values = (*partition, long(bucket), *bounds, int4(limit))
            rows = await self._link.ask(name, values, routing_key(*partition, long(bucket)))
            for number, *parts in rows:
                one = Found(*parts)
                if number in found:
                    found[number].merge(one)
                else:
                    found[number] = one
            if len(rows) >= limit:
                edges[bucket] = rows[-1][0]

    async def messages(self, tenant: str, channel: str, ids: Sequence[int]) -> Mapping[int, StoredMessage]:
        """See the port."""
        partition = tenant.encode(), channel.encode()
        wanted: dict[int, list[int]] = {}
        for bucket in await self._buckets(tenant, channel):
            if mine := [
                number for number in dict.fromkeys(ids) if 0 <= number < _MAX and covers(bucket, id_time(number))
            ]:
                wanted[bucket] = mine
        pages = await together(
            self._link.ask(
                "messages",
                (*partition, long(bucket), in_list(part)),
                routing_key(*partition, long(bucket)),
            )
            for bucket, mine in wanted.items()
            for part in chunks(mine)
        )
        merged: dict[int, Found] = {}
        for page in pages:
            for number, *parts in page:
                if number in merged:
                    merged[number].merge(Found(*parts))
                else:
                    merged[number] = Found(*parts)
        found = ((number, cells.stored_message(channel, number, one)) for number, one in merged.items())
        return {number: message for number, message in found if message is not None}

    async def heads(self, tenant: str, channels: Sequence[str]) -> Mapping[str, int]:
        """See the port."""
        found = await together(self._head(tenant, channel) for channel in dict.fromkeys(channels))
        return {channel: number for channel, number in zip(dict.fromkeys(channels), found, strict=True) if number >= 0}

    async def _head(self, tenant: str, channel: str) -> int:
        partition = tenant.encode(), channel.encode()
        newest = -1
        for bucket in sorted(await self._buckets(tenant, channel), key=end, reverse=True):
            if newest >= 0 and id_time(newest) >= end(bucket):
                break
            newest = max(newest, await self._newest_id(partition, bucket))
        return newest

    async def _newest_id(self, partition: tuple[bytes, bytes], bucket: int) -> int:
        key = routing_key(*partition, long(bucket))
        high, limit = _MAX, 2
        while True:
            page = await self._link.ask("head", (*partition, long(bucket), long(high), int4(limit)), key)
            for number, written in page:
                if written is not None:
                    return int(number)
            if len(page) < limit:
                return -1
            high, limit = page[-1][0], 100

    async def count_after(self, tenant: str, channel: str, after: int, *, limit: int) -> int:
        """See the port."""
        partition = tenant.encode(), channel.encode()
        ids: set[int] = set()
        for bucket in sorted(await self._buckets(tenant, channel), key=end, reverse=True):
            if end(bucket) <= id_time(max(0, after)) or len(ids) >= limit:
                break
            ids |= await self._ids_after(partition, bucket, after, limit)
        return min(limit, len(ids))

    async def _ids_after(self, partition: tuple[bytes, bytes], bucket: int, after: int, limit: int) -> set[int]:
        key = routing_key(*partition, long(bucket))
        found: set[int] = set()
        while len(found) < limit:
            page = await self._link.ask("ids_up", (*partition, long(bucket), long(after), int4(limit)), key)
            found.update(number for number, written in page if written is not None)
            if len(page) < limit:
                break
            after = page[-1][0]
        return found

    # -- points -------------------------------------------------------------------------------------------

    async def _points(self, table: str, tenant: str, channel: str, ids: Iterable[int]) -> dict[int, bytes]:
        """First bodies, or records of events. Where they mostly stand is asked first, without the index."""
        left = {number for number in ids if 0 <= number <= _MAX}
        found: dict[int, bytes] = {}
        tried: set[int] = set()
        wanted: dict[int, list[int]] = {}
        for number in left:
            wanted.setdefault(bucket_at(id_time(number), self._level), []).append(number)
        await self._point_reads(table, tenant, channel, wanted, found)
        tried.update(wanted)
        left -= found.keys()
        if left:
            wanted = {}
            for bucket in await self._buckets(tenant, channel):
                if bucket not in tried and (mine := [number for number in left if covers(bucket, id_time(number))]):
                    wanted[bucket] = mine
            await self._point_reads(table, tenant, channel, wanted, found)
        return found

    async def _point_reads(
        self, table: str, tenant: str, channel: str, wanted: dict[int, list[int]], found: dict[int, bytes]
    ) -> None:
        partition = tenant.encode(), channel.encode()
        pages = await together(
            self._link.ask(table, (*partition, long(bucket), in_list(part)), routing_key(*partition, long(bucket)))
            for bucket, mine in wanted.items()
            for part in chunks(mine)
        )
        for page in pages:
            for number, cell in page:
                if cell is not None:
                    found[number] = max(cell, found.get(number, b""))

    async def has_events(self, tenant: str, keys: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """See the port."""
        by_channel: dict[str, list[int]] = {}
        for channel, number in dict.fromkeys(keys):
            by_channel.setdefault(channel, []).append(number)
        order = list(by_channel)
        both = await together(
            self._points(table, tenant, channel, by_channel[channel])
            for channel in order
            for table in ("events", "firsts")
        )
        found: dict[tuple[str, int], int] = {}
        for at, channel in enumerate(order):
            for points in both[2 * at : 2 * at + 2]:  # a message's row goes before an event's
                for number, cell in points.items():
                    found[channel, number] = cells.offset_of(cell)
        return found

    # -- timelines ------------------------------------------------------------------------------------------

    async def timeline(self, timeline: str, *, after: int, limit: int) -> Sequence[TimelineRow]:
        """See the port."""
        found = await self._entries(timeline, after, limit)
        if found and not whole(after, found):
            # A timeline's rows become visible in their order, but its buckets are read one after another: while a
            # round is written, a later one shows what was not yet there when an earlier one was read. It is now.
            last = found[-1].offset
            found = [entry for entry in await self._entries(timeline, after, limit) if entry.offset <= last]
        records = await self._records(found)
        return [_row(timeline, entry, records) for entry in found]

    async def newest(self, timelines: Sequence[str]) -> Mapping[str, TimelineRow]:
        """See the port."""
        names = list(dict.fromkeys(timelines))
        entries = await together(self._last(name) for name in names)
        records = await self._records([entry for entry in entries if entry is not None])
        return {
            name: _row(name, entry, records) for name, entry in zip(names, entries, strict=True) if entry is not None
        }

    async def _entries(self, timeline: str, after: int, limit: int) -> list[Entry]:
        """The first entries beyond ``after``, over as many buckets as it takes.

        A bucket's ``first`` is never above an offset in it. So buckets come in by ``first``, and one that is not
        yet read cannot have anything below it. Which of those with ``first <= after`` still have something beyond:
        none that ended ``SLACK`` before a row at or below ``after``, because times hardly go back.
        """
        index = await self._index.buckets(timeline)
        behind = [bucket for bucket, first in index if first <= after]
        ahead = sorted((first, bucket) for bucket, first in index if first > after)
        found: dict[int, bytes] = {}
        edges: list[int] = []  # last offset of a full page: beyond it its bucket may have more

        async def read(bucket: int, low: int) -> Rows:
            rows = await self._page_of(timeline, bucket, low, limit + 1)
            if len(rows) > limit:
                edges.append(rows[-1][0])
            found.update((offset, cell) for offset, cell, _ in rows if offset > after)
            return rows

        if behind:
            latest = max(behind)
            rows = await read(latest, after)
            since = rows[0][2] // 1000 if rows and rows[0][0] == after else start(latest)
            await together(read(bucket, after) for bucket in behind if bucket != latest and end(bucket) + SLACK > since)
        while ahead:
            sure = ahead[0][0] if not edges else min(ahead[0][0], min(edges) + 1)
            if sum(offset < sure for offset in found) >= limit or (edges and min(edges) < ahead[0][0]):
                break
            await read(ahead.pop(0)[1], after)
        last = min(edges, default=_MAX)
        return [Entry(offset, found[offset]) for offset in sorted(found)[:limit] if offset <= last]

    async def _page_of(self, timeline: str, bucket: int, low: int, limit: int) -> Rows:
        name = timeline.encode()
        values = (name, long(bucket), long(low), int4(limit))
        return await self._link.ask("timeline", values, routing_key(name, long(bucket)))

    async def _last(self, timeline: str) -> Entry | None:
        best: tuple[int, bytes, int] | None = None
        name = timeline.encode()
        for bucket, _ in await self._index.buckets(timeline):
            if best is not None and best[2] // 1000 >= end(bucket) + SLACK:
                continue
            for row in await self._link.ask("newest", (name, long(bucket)), routing_key(name, long(bucket))):
                if best is None or row[0] > best[0]:
                    best = row
        return None if best is None else Entry(best[0], best[1])

    async def _records(self, entries: Sequence[Entry]) -> dict[tuple[int, str, str, int], EventRecord]:
        """The records that entries refer to; those missing are missing."""
        wanted: dict[tuple[int, str, str], list[int]] = {}
        for entry in entries:
            if entry.record is None:
                tenant, channel, number = entry.where
                wanted.setdefault((entry.kind, tenant, channel), []).append(number)
        answers = await together(
            self._points("firsts" if kind == cells.MESSAGE else "events", tenant, channel, ids)
            for (kind, tenant, channel), ids in wanted.items()
        )
        records: dict[tuple[int, str, str, int], EventRecord] = {}
        for (kind, tenant, channel), points in zip(wanted, answers, strict=True):
            for number, cell in points.items():
                records[kind, tenant, channel, number] = (
                    cells.first_record(tenant, channel, number, cell)
                    if kind == cells.MESSAGE
                    else cells.event_record(cell)
                )
        return records


def _beyond(edge: int, bucket: int, *, up: bool) -> bool:
    """Whether a full page ends before the next bucket can begin."""
    return id_time(edge) < start(bucket) if up else id_time(edge) >= end(bucket)


def _row(timeline: str, entry: Entry, records: Mapping[tuple[int, str, str, int], EventRecord]) -> TimelineRow:
    record = entry.record or records.get((entry.kind, *entry.where))
    if record is None:
        raise Unavailable(f"{timeline}@{entry.offset} stands before its event {entry.where[2]}")
    return TimelineRow(record.tenant, timeline, entry.offset, entry.prev, entry.source, record)
