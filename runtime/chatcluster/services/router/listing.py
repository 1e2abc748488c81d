"""Lists: the caller's conversations, and a channel's members."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode

from msgspec import UNSET, UnsetType

from chatcluster.core.codes import Refused
from chatcluster.core.frames import ChannelMembers, ChannelSummary, ListChannels, MemberInfo, Reply
from chatcluster.core.ids import id_time
from chatcluster.core.rows import UserChannelRow
from chatcluster.core.wire import parse_rfc3339
from chatcluster.ports import Caller, ReadCursors, StoreReader, Unavailable
from chatcluster.services.router.channels import ChannelCache, ChannelState
from chatcluster.services.router.refusals import no_such_channel
from chatcluster.services.router.settings import RouterSettings

_AT_ONCE = 16


def page_token(last: str) -> str:
    """Opaque to clients: the last item of the page before."""
    return urlsafe_b64encode(last.encode()).rstrip(b"=").decode()


def page_start(token: str | None) -> str:
    """Raises ``Refused(bad_request)``."""
    if token is None:
        return ""
    try:
        return urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4)).decode()
    except ValueError as error:
        raise Refused("bad_request", "page is not one of this server's", field="page") from error


class Listing:
    """``channels`` and ``channel.members``."""

    def __init__(
        self, *, store: StoreReader, cursors: ReadCursors, cache: ChannelCache, settings: RouterSettings
    ) -> None:
        self._store = store
        self._cursors = cursors
        self._cache = cache
        self._settings = settings

    async def members(self, caller: Caller, request: ChannelMembers) -> Reply:
        """Ascending by user; ``page`` where there may be more."""
        after = page_start(request.page)
        state, role = await self._cache.seen(caller.tenant, request.channel, caller.user)
        if state is None or (role is None and not caller.system):
            raise no_such_channel()
        limit = self._settings.page
        found = await self._store.members(caller.tenant, request.channel, after=after, limit=limit)
        members = [MemberInfo(member.user, member.role) for member in found if member.role is not None]
        page = page_token(found[-1].user) if len(found) >= limit else UNSET
        return Reply(request.rid, members=members, page=page)

    async def channels(self, caller: Caller, request: ListChannels) -> Reply:
        """Ascending by channel id. ``unread`` counts the messages above the read cursor, the caller's own too
        (leaving them out would read every row), up to ``max_unread``.

        ``changed_since`` keeps channels with a message since, or made since. (The store knows no time of a
        rename or a member's change: clients get those as events.)
        """
        after = page_start(request.page)
        since = None if request.changed_since is None else parse_rfc3339(request.changed_since, "changed_since")
        tenant, user, limit = caller.tenant, caller.user, self._settings.page
        rows = await self._store.channels_of(tenant, user, after=after, limit=limit)
        ids = [row.channel for row in rows]
        heads = await self._store.heads(tenant, ids) if ids else {}
        read = await self._read(tenant, user, ids)
        summaries: list[ChannelSummary] = []
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            found = await asyncio.gather(
                *(self._summary(caller, row, heads.get(row.channel), read.get(row.channel), since) for row in part),
                return_exceptions=True,  # all end before an error goes on: no task is left behind
            )
            for summary in found:
                if isinstance(summary, BaseException):
                    raise summary
                if summary is not None:
                    summaries.append(summary)
        page = page_token(ids[-1]) if len(rows) >= limit else UNSET
        return Reply(request.rid, channels=summaries, page=page)

    async def _read(self, tenant: str, user: str, channels: list[str]) -> dict[str, int]:
        """Read cursors: the cache's where it has one, else the flushed ones; the higher where both are."""
        if not channels:
            return {}
        try:
            known = dict(await self._cursors.get(tenant, user, channels))
        except Unavailable:
            known = {}  # an older value from the store is better than no list
        missing = [channel for channel in channels if channel not in known]
        if missing:
            known.update(await self._store.read_cursors(tenant, user, missing))
        return known

    async def _summary(
        self, caller: Caller, row: UserChannelRow, head: int | None, read: int | None, since: int | None
    ) -> ChannelSummary | None:
        tenant = caller.tenant
        state, role = await self._cache.seen(tenant, row.channel, caller.user)
        role = role or row.role
        if state is None or role is None:
            return None
        if since is not None and (head is None or id_time(head) < since) and state.created < since:
            return None
        unread = 0
        if head is not None and head > (read or 0):
            unread = await self._store.count_after(tenant, row.channel, read or 0, limit=self._settings.max_unread)
        return ChannelSummary(
            id=row.channel,
            kind=state.kind,
            name=state.name,
            head=None if head is None else str(head),
            read=None if read is None else str(read),
            unread=unread,
            route=state.route,
            role=role,
            members=state.count,
            peer=_peer(state, caller.user),
        )


def _peer(state: ChannelState, user: str) -> str | UnsetType:
    if state.kind != "direct" or state.members is None:
        return UNSET
    return next((other for other in state.members if other != user), UNSET)
