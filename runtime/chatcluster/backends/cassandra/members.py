"""Reads of channels, members, users, verdicts and cursors: small partitions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from chatcluster.backends.cassandra import rows as cells
from chatcluster.backends.cassandra.cluster import CassandraLink, Rows
from chatcluster.backends.cassandra.index import Flights
from chatcluster.backends.cassandra.reads import chunks, in_texts, together
from chatcluster.backends.cassandra.rows import MAX, REVOCATION_SLICES, SLICES, int4, long, routing_key
from chatcluster.core.cursor import START
from chatcluster.core.rows import (
    MemberRow,
    Membership,
    RevocationRow,
    RouteRow,
    StoredChannel,
    UserChannelRow,
    VerdictRow,
)

MAX_REVOCATIONS = 100_000
LARGE = 10_000
"""Large channels remembered as such."""
ALL_SLICES = tuple(range(SLICES + 1))


class ChannelReads:
    """The part of ``StoreReader`` that is about channels, members and users."""

    _link: CassandraLink
    _flights: Flights

    def __init__(self) -> None:
        self._sliced: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()

    # -- channels -------------------------------------------------------------------------------------------

    async def channel(self, tenant: str, channel: str) -> StoredChannel | None:
        """See the port."""
        return await self._flights.share(("channel", tenant, channel), lambda: self._channel(tenant, channel))

    async def _channel(self, tenant: str, channel: str) -> StoredChannel | None:
        partition = tenant.encode(), channel.encode()
        key = routing_key(*partition)
        newest = (*partition, long(MAX))
        named, routes, changes = await together(
            [
                self._link.ask("channel", partition, key),
                self._link.ask("route", newest, key),
                self._link.ask("change", newest, key),
            ]
        )
        if not named or named[0][0] is None:
            return None
        if not changes:  # asked a moment before the channel was there: its first members come before it
            changes = await self._link.ask("change", newest, key)
        version, kind, name, creator, created = cells.channel_of(named[0][0])
        route, since, route_offset = "inbox", None, START
        if routes:
            route_offset = routes[0][0]
            route, since = cells.route_of(routes[0][1])
            version = max(version, route_offset)
        count = 0
        if changes:
            version = max(version, changes[0][0])
            count = changes[0][1]
        return StoredChannel(channel, kind, name, creator, created, count, route, route_offset, since, version)  # type: ignore[arg-type]

    async def route(self, tenant: str, channel: str, *, below: int) -> RouteRow | None:
        """See the port."""
        partition = tenant.encode(), channel.encode()
        for offset, state in await self._link.ask(
            "route", (*partition, long(min(below, MAX))), routing_key(*partition)
        ):
            route, since = cells.route_of(state)
            return RouteRow(tenant, channel, offset, route, since)  # type: ignore[arg-type]
        return None

    # -- members ----------------------------------------------------------------------------------------------

    async def memberships(
        self, tenant: str, channel: str, users: Sequence[str], *, at: int | None = None
    ) -> Mapping[str, Membership]:
        """See the port."""
        until = long(MAX if at is None else at)
        partition = tenant.encode(), channel.encode()
        slices: dict[int, list[bytes]] = {}
        for user in dict.fromkeys(users):
            for slice_ in (0, cells.user_slice(user)):
                slices.setdefault(slice_, []).append(user.encode())
        # Many users of an import cost a read for each slice and hundred, not two each.
        pages = await together(
            self._ask("member", partition, slice_, part[0], until)
            if len(part) == 1
            else self._ask("members_of", partition, slice_, in_texts(part), until)
            for slice_, names in slices.items()
            for part in chunks(names)
        )
        found: dict[str, Membership] = {}
        for page in pages:
            for user, offset, state in page:
                if user not in found or offset > found[user].offset:
                    found[user] = Membership(user, cells.member_of(state)[0], offset)
        return found

    async def members(self, tenant: str, channel: str, *, after: str, limit: int) -> Sequence[Membership]:
        """See the port."""
        partition = tenant.encode(), channel.encode()
        slices = await self._slices(partition)
        size = limit + 16 if len(slices) == 1 else limit // SLICES * 2 + 16
        found: list[Membership] = []
        while len(found) < limit:
            pages = await together(
                self._ask("members_after", partition, slice_, after.encode(), int4(size)) for slice_ in slices
            )
            newest: dict[str, tuple[int, bytes]] = {}
            for page in pages:
                for user, offset, state in page:
                    if user not in newest or offset > newest[user][0]:
                        newest[user] = offset, state
            # A full page may end before others: beyond its last user there may be more of its slice.
            last = min((page[-1][0].encode() for page in pages if len(page) >= size), default=None)
            for user in sorted(newest, key=str.encode):
                if last is not None and user.encode() > last:
                    break
                offset, state = newest[user]
                role = cells.member_of(state)[0]
                if role is not None:
                    found.append(Membership(user, role, offset))
            if last is None:
                break
            after = last.decode()
        return found[:limit]

    async def member_rows(self, tenant: str, channel: str, *, below: int) -> Sequence[MemberRow]:
        """See the port."""
        key = ("member_rows", tenant, channel, below)
        return await self._flights.share(key, lambda: self._member_rows(tenant, channel, below))

    async def _member_rows(self, tenant: str, channel: str, below: int) -> Sequence[MemberRow]:
        partition = tenant.encode(), channel.encode()
        found: dict[str, MemberRow] = {}
        for page in await together(
            self._ask("members_all", partition, slice_) for slice_ in await self._slices(partition)
        ):
            for user, offset, state in page:
                if offset is None:
                    continue  # nothing but the mark that there are slices
                if offset < below and (user not in found or offset > found[user].offset):
                    role, count = cells.member_of(state)
                    found[user] = MemberRow(tenant, channel, user, offset, role, count)
        return list(found.values())

    async def _slices(self, partition: tuple[bytes, bytes]) -> Sequence[int]:
        """Where member rows of the channel may stand. Once it was large it is so for ever."""
        if partition in self._sliced:
            return ALL_SLICES
        for (sliced,) in await self._ask("sliced", partition, 0):
            if sliced:
                self._sliced[partition] = None
                while len(self._sliced) > LARGE:
                    self._sliced.popitem(last=False)
                return ALL_SLICES
        return (0,)

    async def _ask(self, name: str, partition: tuple[bytes, bytes], slice_: int, *values: bytes) -> Rows:
        slot = int4(slice_)
        return await self._link.ask(name, (*partition, slot, *values), routing_key(*partition, slot))

    async def newest_member_row(self, tenant: str, channel: str, *, below: int) -> MemberRow | None:
        """See the port."""
        partition = tenant.encode(), channel.encode()
        rows = await self._link.ask("change", (*partition, long(min(below, MAX))), routing_key(*partition))
        for offset, count, user, state in rows:
            return MemberRow(tenant, channel, user, offset, cells.member_of(state)[0], count)
        return None

    # -- users --------------------------------------------------------------------------------------------------

    async def channels_of(self, tenant: str, user: str, *, after: str, limit: int) -> Sequence[UserChannelRow]:
        """See the port."""
        partition = tenant.encode(), user.encode()
        key = routing_key(*partition)
        found: list[UserChannelRow] = []
        while True:
            page = await self._link.ask("channels_of", (*partition, after.encode(), int4(limit + 16)), key)
            for channel, state in page:
                after = channel
                offset, role = cells.user_channel_of(state)
                if role is not None:
                    found.append(UserChannelRow(tenant, user, channel, offset, role))
                    if len(found) >= limit:
                        return found
            if len(page) < limit + 16:
                return found

    async def verdicts(self, tenant: str, channel: str, sender: str, client_id: str) -> Sequence[VerdictRow]:
        """See the port."""
        key = tenant, channel, sender, client_id
        values = [part.encode() for part in key]
        rows = await self._link.ask("verdicts", values, routing_key(*values))
        return [cells.verdict_of(key, offset, cell) for offset, cell in rows]

    async def read_cursors(self, tenant: str, user: str, channels: Sequence[str]) -> Mapping[str, int]:
        """See the port."""
        partition = tenant.encode(), user.encode()
        key = routing_key(*partition)
        names = [channel.encode() for channel in dict.fromkeys(channels)]
        pages = await together(self._link.ask("read", (*partition, in_texts(part)), key) for part in chunks(names))
        return {channel: number for page in pages for channel, number in page}

    async def revocations(self) -> Sequence[RevocationRow]:
        """See the port."""
        pages = await together(self._link.ask("revocations", (int4(at),), int4(at)) for at in range(REVOCATION_SLICES))
        found = [RevocationRow(*row) for page in pages for row in page]
        if len(found) > MAX_REVOCATIONS:
            found = sorted(found, key=lambda row: row.before)[-MAX_REVOCATIONS:]
        return found
