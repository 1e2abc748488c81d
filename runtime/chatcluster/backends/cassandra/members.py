"""Reads of channels, members, users, verdicts and cursors: small partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chatcluster.backends.cassandra import rows as cells
from chatcluster.backends.cassandra.cluster import CassandraLink
from chatcluster.backends.cassandra.reads import chunks, in_texts, together
from chatcluster.backends.cassandra.rows import MAX, REVOCATION_SLICES, int4, long, routing_key
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
_SLICE = int4(0)


class ChannelReads:
    """The part of ``StoreReader`` that is about channels, members and users."""

    def __init__(self, link: CassandraLink) -> None:
        self._link = link

    # -- channels -------------------------------------------------------------------------------------------

    async def channel(self, tenant: str, channel: str) -> StoredChannel | None:
        """See the port."""
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
        partition = tenant.encode(), channel.encode(), _SLICE
        key = routing_key(*partition)
        until = long(MAX if at is None else at)
        pages = await together(
            self._link.ask("member", (*partition, user.encode(), until), key) for user in dict.fromkeys(users)
        )
        return {
            user: Membership(user, cells.member_of(state)[0], offset) for page in pages for user, offset, state in page
        }

    async def members(self, tenant: str, channel: str, *, after: str, limit: int) -> Sequence[Membership]:
        """See the port."""
        partition = tenant.encode(), channel.encode(), _SLICE
        key = routing_key(*partition)
        found: list[Membership] = []
        while True:
            page = await self._link.ask("members_after", (*partition, after.encode(), int4(2 * limit + 16)), key)
            for user, offset, state in page:
                if user == after:
                    continue  # an older row of the same user
                after = user
                role = cells.member_of(state)[0]
                if role is not None:
                    found.append(Membership(user, role, offset))
                    if len(found) >= limit:
                        return found
            if len(page) < 2 * limit + 16:
                return found

    async def member_rows(self, tenant: str, channel: str, *, below: int) -> Sequence[MemberRow]:
        """See the port."""
        partition = tenant.encode(), channel.encode(), _SLICE
        found: list[MemberRow] = []
        last: str | None = None
        for user, offset, state in await self._link.ask("members_all", partition, routing_key(*partition)):
            if user != last and offset < below:
                last = user
                role, count = cells.member_of(state)
                found.append(MemberRow(tenant, channel, user, offset, role, count))
        return found

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
