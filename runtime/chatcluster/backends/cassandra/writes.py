"""Writes: rows become cells, cells become batches.

A row's bucket is registered in the index before the row is written, so whoever sees a row finds its bucket.
A channel's version is written after what it stands for: whoever sees that a channel is at an offset finds all
members as of it. A router keeps what it read until the version changes, so a torn read would last.
A timeline's rows become visible in their order: whoever sees a position finds all before it. A gateway moves a user's
cursor over what it reads, so what comes into a hole behind it would never be told.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from chatcluster.backends.cassandra import rows as cells
from chatcluster.backends.cassandra.buckets import SLACK, bucket_at, start
from chatcluster.backends.cassandra.cluster import CassandraLink, Write
from chatcluster.backends.cassandra.settings import CassandraSettings
from chatcluster.backends.cassandra.widths import Widths
from chatcluster.core.ids import id_time
from chatcluster.core.rows import (
    AnyRow,
    ChannelRow,
    DeleteRow,
    EditRow,
    EventRow,
    MemberRow,
    MessageRow,
    ReactionRow,
    ReadCursorRow,
    RevocationRow,
    RouteRow,
    TimelineRow,
    UserChannelRow,
    VerdictRow,
)

REGISTERED = 200_000
"""Buckets remembered as registered."""
ROW = 40
"""Bytes that a row has beside its cell, about."""
TURN = 500
"""Rows after which others on the loop get their turn."""

long = cells.long
Partition = tuple[bytes, ...]
Parts = dict[Partition, list[Write]]


class Round:
    """The rows of one call, as cells by partition."""

    __slots__ = ("changes", "channels", "index", "parts", "routes", "sliced", "timelines")

    def __init__(self) -> None:
        self.parts: Parts = {}
        self.routes: Parts = {}  # after the parts: a switch is a version of its channel too
        self.changes: Parts = {}  # after the routes: they say as of which offset the members are
        self.channels: Parts = {}  # after the changes: that a channel exists says that the rest of it is there
        self.timelines: dict[bytes, list[Write]] = {}  # by name, each in its order
        self.sliced: dict[tuple[bytes, bytes], None] = {}  # channels with members beyond the first slice
        self.index: dict[tuple[str, int], int] = {}  # (series, bucket): its lowest offset here


class CassandraWrites:
    """Port ``StoreWriter`` on a link."""

    def __init__(self, link: CassandraLink, settings: CassandraSettings, widths: Widths) -> None:
        self._link = link
        self._widths = widths
        self._rows = settings.batch_rows
        self._bytes = settings.batch_bytes
        self._ttl = cells.int4((settings.log_retention_hours + 24) * 3600)
        self._registered: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._sliced: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()

    async def write(self, rows: Sequence[AnyRow]) -> None:
        """See the port."""
        await self._widths.refresh()
        work = Round()
        for at, row in enumerate(rows):
            _ENCODERS[type(row)](self, row, work)
            if at % TURN == TURN - 1:
                await asyncio.sleep(0)
        await self._register(work)
        for parts in (work.parts, work.routes, work.changes, work.channels, *self._pieces(work.timelines)):
            if parts:
                await self._send(parts)
        await self._widths.narrow()

    # -- what readers must find before the rows -------------------------------------------------------------

    def _bucket(self, work: Round, series: str, time: int, offset: int) -> int:
        bucket = bucket_at(time, self._widths.level(series, time))
        self._note(work, series, bucket, offset)
        begin = start(bucket)
        if time - begin < SLACK and begin:
            # A later row may have an earlier time: readers must know both once they know this one.
            before = begin - 1
            self._note(work, series, bucket_at(before, self._widths.level(series, before)), offset)
        return bucket

    def _note(self, work: Round, series: str, bucket: int, offset: int) -> None:
        key = (series, bucket)
        known = self._registered.get(key)
        if known is None or offset < known:
            noted = work.index.get(key)
            work.index[key] = offset if noted is None else min(noted, offset)

    async def _register(self, work: Round) -> None:
        if not work.index and not work.sliced:
            return
        parts: Parts = {}
        for (series, bucket), offset in work.index.items():
            name = series.encode()
            write = (long(bucket), long(cells.MAX - offset), cells.by_time(start(bucket)))
            parts.setdefault((name,), []).append(("bucket", (name, *write)))
        for key in work.sliced:
            parts[*key, b"sliced"] = [("sliced", (*key, cells.int4(0), cells.by_offset(0)))]
        await self._send(parts)
        for bucket_key, offset in work.index.items():
            self._registered[bucket_key] = min(offset, self._registered.pop(bucket_key, offset))
        self._sliced.update(work.sliced)
        _bound(self._registered)
        _bound(self._sliced)

    # -- rows ------------------------------------------------------------------------------------------------

    def _message(self, row: MessageRow, work: Round) -> None:
        series = f"m:{row.tenant}/{row.channel}"
        bucket = self._bucket(work, series, id_time(row.id), 0)
        values = cells.message(row, long(bucket))
        self._widths.count(series, bucket, id_time(row.id), len(values[4]) + ROW)
        _add(work.parts, values[:3], "message", values)

    def _edit(self, row: EditRow, work: Round) -> None:
        series = f"m:{row.tenant}/{row.channel}"
        bucket = self._bucket(work, series, id_time(row.message_id), 0)
        values = cells.edit(row, long(bucket))
        _add(work.parts, values[:3], "edit", values)

    def _delete(self, row: DeleteRow, work: Round) -> None:
        series = f"m:{row.tenant}/{row.channel}"
        bucket = self._bucket(work, series, id_time(row.message_id), 0)
        values = cells.delete(row, long(bucket))
        _add(work.parts, values[:3], "delete", values)

    def _reaction(self, row: ReactionRow, work: Round) -> None:
        series = f"m:{row.tenant}/{row.channel}"
        bucket = self._bucket(work, series, id_time(row.message_id), 0)
        values = cells.reaction(row, long(bucket))
        self._widths.count(series, bucket, id_time(row.message_id), len(values[1]) + ROW)
        _add(work.parts, values[3:6], "reaction", values)

    def _event(self, row: EventRow, work: Round) -> None:
        series = f"m:{row.tenant}/{row.channel}"
        bucket = self._bucket(work, series, id_time(row.id), 0)
        values = cells.event(row, long(bucket))
        self._widths.count(series, bucket, id_time(row.id), len(values[4]) + ROW)
        _add(work.parts, (*values[:3], b"event"), "event", values)

    def _timeline(self, row: TimelineRow, work: Round) -> None:
        bucket = self._bucket(work, row.timeline, row.time, row.offset)
        values = cells.timeline(row, long(bucket))
        self._widths.count(row.timeline, bucket, row.time, len(values[3]) + ROW)
        work.timelines.setdefault(values[0], []).append(("timeline", values))

    def _member(self, row: MemberRow, work: Round) -> None:
        slice_ = cells.member_slice(row)
        values = cells.member(row, slice_)
        if slice_ and (values[0], values[1]) not in self._sliced:
            work.sliced[values[0], values[1]] = None
        _add(work.parts, values[:3], "member", values)
        values = cells.change(row)
        _add(work.changes, values[:2], "change", values)

    def _channel(self, row: ChannelRow, work: Round) -> None:
        values = cells.channel(row)
        _add(work.channels, values[:2], "channel", values)

    def _route(self, row: RouteRow, work: Round) -> None:
        values = cells.route(row)
        _add(work.routes, values[:2], "route", values)

    def _user_channel(self, row: UserChannelRow, work: Round) -> None:
        values = cells.user_channel(row)
        _add(work.parts, (*values[:2], b"user"), "user_channel", values)

    def _verdict(self, row: VerdictRow, work: Round) -> None:
        values = cells.verdict(row, self._ttl)
        _add(work.parts, values[:4], "verdict", values)

    def _read_cursor(self, row: ReadCursorRow, work: Round) -> None:
        values = cells.read_cursor(row)
        _add(work.parts, (*values[:2], b"read"), "read", values)

    def _revocation(self, row: RevocationRow, work: Round) -> None:
        values = cells.revocation(row)
        _add(work.parts, values[:1], "revocation", values)

    # -- batches -----------------------------------------------------------------------------------------------

    def _pieces(self, timelines: dict[bytes, list[Write]]) -> list[Parts]:
        """Parts to be sent one after the other: of each timeline what fits into a batch and is of one partition,

        which a reader sees whole or not at all.
        """
        found: list[Parts] = []
        for writes in timelines.values():
            at, bucket, size, piece = -1, b"", 0, list[Write]()
            for write in writes:
                add = _size(write)
                if not piece or write[1][1] != bucket or size + add > self._bytes:
                    at, bucket, size, piece = at + 1, write[1][1], 0, []
                    if at == len(found):
                        found.append({})
                    found[at][write[1][:2]] = piece
                piece.append(write)
                size += add
        return found

    async def _send(self, parts: Parts) -> None:
        """Everything, acknowledged; raises what the first failure raised, after all have ended."""
        if self._link.spread():
            # A batch of partitions with the same copies goes to a node that holds them all.
            sets: dict[frozenset[Any], list[list[Write]]] = {}
            for writes in parts.values():
                sets.setdefault(self._link.replicas(_key(writes[0])), []).append(writes)
            batches = [batch for some in sets.values() for batch in self._cut(some)]
        else:
            batches = self._cut(parts.values())
        if len(batches) == 1:
            await self._link.send(*batches[0])
            return
        ended = await asyncio.gather(*(self._link.send(writes, key) for writes, key in batches), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    def _cut(self, parts: Iterable[list[Write]]) -> list[tuple[list[Write], bytes]]:
        """Batches of bounded size, each with the key of a partition in it. What fits into one is not torn.

        Rows of a single partition are one mutation for the server, so only their bytes count.
        """
        batches: list[tuple[list[Write], bytes]] = []
        batch: list[Write] = []
        size = 0
        most, room = self._rows, self._bytes
        for writes in parts:
            sizes = [_size(write) for write in writes]
            if batch and (len(batch) + len(writes) > most or size + sum(sizes) > room):
                batches.append((batch, _key(batch[0])))
                batch, size = [], 0
            for write, add in zip(writes, sizes, strict=True):
                if batch and size + add > room:
                    batches.append((batch, _key(batch[0])))
                    batch, size = [], 0
                batch.append(write)
                size += add
        if batch:
            batches.append((batch, _key(batch[0])))
        return batches


def _size(write: Write) -> int:
    """Bytes that it takes in a batch, about."""
    return sum(map(len, write[1])) + 4 * len(write[1]) + 20


def _bound(known: OrderedDict[Any, Any]) -> None:
    while len(known) > REGISTERED:
        known.popitem(last=False)


def _add(parts: Parts, partition: Partition, name: str, values: tuple[bytes, ...]) -> None:
    found = parts.get(partition)
    if found is None:
        parts[partition] = [(name, values)]
    else:
        found.append((name, values))


_KEYS: dict[str, tuple[int, int]] = {
    "bucket": (0, 1), "sliced": (0, 3), "message": (0, 3), "edit": (0, 3), "delete": (0, 3), "reaction": (3, 6),
    "event": (0, 3), "member": (0, 3), "change": (0, 2), "channel": (0, 2), "route": (0, 2), "user_channel": (0, 2),
    "verdict": (0, 4), "timeline": (0, 2), "read": (0, 2), "revocation": (0, 1),
}  # fmt: skip
"""Which of a write's values are the partition's key."""


def _key(write: Write) -> bytes:
    name, values = write
    first, last = _KEYS[name]
    return cells.routing_key(*values[first:last])


_ENCODERS: dict[type[Any], Callable[[CassandraWrites, Any, Round], None]] = {
    MessageRow: CassandraWrites._message,
    EditRow: CassandraWrites._edit,
    DeleteRow: CassandraWrites._delete,
    ReactionRow: CassandraWrites._reaction,
    EventRow: CassandraWrites._event,
    MemberRow: CassandraWrites._member,
    ChannelRow: CassandraWrites._channel,
    RouteRow: CassandraWrites._route,
    UserChannelRow: CassandraWrites._user_channel,
    VerdictRow: CassandraWrites._verdict,
    TimelineRow: CassandraWrites._timeline,
    ReadCursorRow: CassandraWrites._read_cursor,
    RevocationRow: CassandraWrites._revocation,
}
