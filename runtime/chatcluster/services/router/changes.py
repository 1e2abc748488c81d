"""Changes of channels: created, renamed, members added and removed. Answered when durable *and* readable.

Every change is idempotent by itself: a group's id comes from (tenant, creator, client_id), a direct channel's
from its two users, and adding who is there or removing who is not changes nothing. So whoever got
``unknown_outcome`` just asks again.

Groups are private: ``channel.join`` answers a member (it is one already) and a system caller, which may put
itself anywhere; to everybody else there is no such channel. System callers are above membership and roles, but
not above the nature of a direct channel, whose two members are for ever.
"""

from __future__ import annotations

import asyncio
from base64 import b32encode
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import blake2b
from weakref import WeakValueDictionary

from chatcluster.core.codes import Refused
from chatcluster.core.frames import (
    ChannelAdd,
    ChannelCreate,
    ChannelJoin,
    ChannelLeave,
    ChannelRemove,
    ChannelUpdate,
    Reply,
)
from chatcluster.core.ids import id_time
from chatcluster.core.permissions import may_add, may_leave, may_remove, may_rename
from chatcluster.core.records import (
    MAX_AGE,
    MESSAGES,
    PLAIN,
    Change,
    ChannelRecord,
    MemberRecord,
    Role,
    RouteRecord,
    channel_key,
    digest,
    encode,
)
from chatcluster.core.rows import StoredChannel
from chatcluster.core.session import valid_user
from chatcluster.ports import Caller, Claim, Clock, Dedupe, Failure, Full, Log, Receipt, StoreReader, Unavailable
from chatcluster.services.router.channels import ChannelCache, ChannelState
from chatcluster.services.router.drafts import check_client_id
from chatcluster.services.router.refusals import id_conflict, no_such_channel, overloaded, unknown_outcome
from chatcluster.services.router.settings import RouterSettings
from chatcluster.services.router.worker import Worker


def channel_id(prefix: str, *parts: str) -> str:
    """A channel's id from what makes it the same channel: 26 characters of base32 after the prefix."""
    raw = "".join(f"{len(part)}:{part}" for part in parts).encode()
    return prefix + b32encode(blake2b(raw, digest_size=16).digest()).decode().rstrip("=").lower()


def direct_id(tenant: str, one: str, other: str) -> str:
    """The direct channel of two users, in whichever order."""
    return channel_id("d", tenant, *sorted((one, other)))


def group_id(tenant: str, creator: str, client_id: str) -> str:
    """The group that this creator's ``client_id`` makes."""
    return channel_id("g", tenant, creator, client_id)


def check_users(users: Sequence[str], field: str) -> list[str]:
    """Each once, in order. Raises ``Refused(bad_request)``."""
    for user in users:
        if not valid_user(user):
            raise Refused("bad_request", f"{field} has a user without a name that can be", field=field)
    return list(dict.fromkeys(users))


class _Coming:
    """Members on their way into one channel. Both only grow, so that whoever reads the store knows what it may lack."""

    __slots__ = ("__weakref__", "begun", "ended")

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0


class Changes:
    """Each method answers one request type or raises ``Refused`` or ``Unavailable``."""

    def __init__(
        self,
        *,
        log: Log,
        store: StoreReader,
        dedupe: Dedupe,
        cache: ChannelCache,
        worker: Worker,
        clock: Clock,
        settings: RouterSettings,
    ) -> None:
        self._log = log
        self._store = store
        self._dedupe = dedupe
        self._cache = cache
        self._worker = worker
        self._clock = clock
        self._settings = settings
        self._coming: WeakValueDictionary[str, _Coming] = WeakValueDictionary()  # by channel, while one is changed

    # -- creating -------------------------------------------------------------------------------------

    async def create(self, caller: Caller, request: ChannelCreate) -> Reply:
        check_client_id(request.client_id)
        members = check_users(request.members, "members")
        if request.kind == "direct":
            return await self._create_direct(caller, request, members)
        tenant = caller.tenant
        channel = group_id(tenant, caller.user, request.client_id)
        roles: list[tuple[str, Role]]
        if caller.system and caller.user not in members:
            # The server API makes a channel for others: the first of them owns it.
            roles = [(user, "owner" if user == members[0] else "member") for user in members]
        else:
            others = [user for user in members if user != caller.user]
            roles = [(caller.user, "owner"), *((user, "member") for user in others)]
        if not roles:
            raise Refused("bad_request", "a group has members", field="members")
        content = digest("create", request.name, [user for user, _ in roles])
        claim = Claim(f"{tenant}//create/{len(caller.user)}:{caller.user}{request.client_id}", self._mint(), content)
        try:
            (was,) = await self._dedupe.claim([claim])
        except Unavailable:
            was = None  # the id alone makes a repeat the same channel
        if was is not None and was.digest != content:
            raise id_conflict()
        record = ChannelRecord(
            tenant, channel, claim.id, caller.user, request.client_id, content, PLAIN,
            "created", "group", request.name, roles,
        )  # fmt: skip
        return await self._created(request.rid, record)

    async def _create_direct(self, caller: Caller, request: ChannelCreate, members: list[str]) -> Reply:
        pair = members if caller.system and caller.user not in members else list(dict.fromkeys([caller.user, *members]))
        if len(pair) != 2:
            raise Refused("bad_request", "a direct channel has exactly one other user", field="members")
        channel = direct_id(caller.tenant, *pair)
        record = ChannelRecord(
            caller.tenant, channel, self._mint(), caller.user, "", 0, PLAIN,
            "created", "direct", None, [(user, "member") for user in sorted(pair)],
        )  # fmt: skip
        return await self._created(request.rid, record)

    async def _created(self, rid: str, record: ChannelRecord) -> Reply:
        tenant, channel = record.tenant, record.channel
        if await self._store.channel(tenant, channel) is None:

            async def there() -> bool:
                return await self._store.channel(tenant, channel) is not None

            await self._append_and_see([record], lambda _: there())
        self._cache.expire(tenant, channel)
        return Reply(rid, channel=channel)

    # -- members and names --------------------------------------------------------------------------------

    async def update(self, caller: Caller, request: ChannelUpdate) -> Reply:
        state, role = await self._enter(caller, request.channel)
        if not may_rename(state.kind, role):
            raise Refused("forbidden", "only the owner and admins of a group rename it")
        if not request.name:
            raise Refused("bad_request", "a name is missing", field="name")
        tenant, channel, name = caller.tenant, request.channel, request.name
        stored = await self._store.channel(tenant, channel)
        if stored is None or stored.name != name:
            record = ChannelRecord(
                tenant, channel, self._mint(), caller.user, "", 0, PLAIN, "renamed", state.kind, name
            )

            async def there(offset: int) -> bool:
                now: StoredChannel | None = await self._store.channel(tenant, channel)
                return now is not None and (now.name == name or now.version >= offset)

            await self._append_and_see([record], there)
            self._cache.expire(tenant, channel)
        return Reply(request.rid)

    async def add(self, caller: Caller, request: ChannelAdd) -> Reply:
        state, role = await self._enter(caller, request.channel)
        if not may_add(state.kind, role):
            raise Refused("forbidden", "only the owner and admins of a group add to it")
        users = check_users(request.users, "users")
        await self._change(caller, request.channel, users, "add")
        return Reply(request.rid)

    async def remove(self, caller: Caller, request: ChannelRemove) -> Reply:
        state, role = await self._enter(caller, request.channel)
        users = check_users(request.users, "users")
        found = await self._store.memberships(caller.tenant, request.channel, users)
        for user in users:
            target = found[user].role if user in found else None
            own = user == caller.user and may_leave(state.kind)
            if not own and not may_remove(state.kind, role, target or "member"):
                raise Refused("forbidden", "the owner removes anybody, admins remove members")
        await self._change(caller, request.channel, users, "remove")
        return Reply(request.rid)

    async def join(self, caller: Caller, request: ChannelJoin) -> Reply:
        state, _ = await self._enter(caller, request.channel)
        if caller.system:
            if not may_add(state.kind, "owner"):
                raise Refused("forbidden", "nobody joins a direct channel")
            await self._change(caller, request.channel, [caller.user], "add")
        return Reply(request.rid)

    async def leave(self, caller: Caller, request: ChannelLeave) -> Reply:
        state, _ = await self._enter(caller, request.channel)
        if not may_leave(state.kind):
            raise Refused("forbidden", "nobody leaves a direct channel")
        await self._change(caller, request.channel, [caller.user], "remove")
        return Reply(request.rid)

    async def _enter(self, caller: Caller, channel: str) -> tuple[ChannelState, Role]:
        """The channel and the caller's role in it; system callers act as an owner."""
        state, role = await self._cache.seen(caller.tenant, channel, caller.user)
        if state is None or (role is None and not caller.system):
            raise no_such_channel()
        return state, "owner" if caller.system or role is None else role

    async def _change(self, caller: Caller, channel: str, users: list[str], change: Change) -> None:
        """One record per user that is not yet as wanted; back when the store shows all of them.

        In chunks, each stored before the next is appended. Additions that will take the channel over the route's
        threshold come behind the switch (ADR 0005): below it every member's inbox gets every addition, and a
        thousand newcomers would first be told to one another.
        """
        found = await self._store.memberships(caller.tenant, channel, users)
        wanted = change == "add"
        todo = [user for user in users if (user in found and found[user].role is not None) is not wanted]
        coming = self._coming.setdefault(channel_key(caller.tenant, channel), _Coming())
        more = len(todo) if wanted else 0
        stored = await self._enough_room(caller.tenant, channel, more, coming)
        try:
            size = self._settings.bulk
            if stored is not None and stored.route == "channel":
                size = self._settings.bulk_large
            elif stored is not None and wanted and stored.members + more >= self._settings.inbox_fanout_limit:
                record = RouteRecord(caller.tenant, channel, self._mint(), caller.user, "", 0, PLAIN, "channel")
                await self._append([record])
                size = self._settings.bulk_large
            for start in range(0, len(todo), size):
                await self._change_some(caller, channel, todo[start : start + size], change)
        finally:
            coming.ended += more
            if todo:
                self._cache.expire(caller.tenant, channel)

    async def _enough_room(self, tenant: str, channel: str, more: int, coming: _Coming) -> StoredChannel | None:
        """The channel as stored, when ``more`` members fit in beside those on their way; from now they are so too.

        Raises ``Refused(too_many)``.
        """
        most = self._settings.max_members
        while True:
            ended = coming.ended
            stored = await self._store.channel(tenant, channel)
            unsure = coming.begun - ended  # counted already, or not yet
            if stored is None or not more or stored.members + unsure + more <= most:
                coming.begun += more
                return stored
            if not unsure:
                raise Refused("too_many", f"a channel has at most {most} members", field="users")
            await asyncio.sleep(self._settings.poll_max)

    async def _change_some(self, caller: Caller, channel: str, users: list[str], change: Change) -> None:
        tenant = caller.tenant
        wanted = change == "add"
        records = [
            MemberRecord(tenant, channel, self._mint(), caller.user, "", 0, PLAIN, user, change) for user in users
        ]

        async def there(offset: int) -> bool:
            # A version is written after the rows that it stands for: one small read answers for all users, where a
            # look at each of a thousand, again and again, would cost the store more than storing them.
            stored = await self._store.channel(tenant, channel)
            if stored is None or stored.version >= offset:
                return stored is not None
            # A last record that changes nothing, because somebody else's came first, makes no version.
            return await seen(users[-1:], stored.version) and await seen(users, stored.version)

        async def seen(some: list[str], version: int) -> bool:
            now = await self._store.memberships(tenant, channel, some)
            return all(
                (now[user].role is not None) is wanted and now[user].offset <= version if user in now else not wanted
                for user in some
            )

        await self._append_and_see(records, there)

    # -- durable and readable -------------------------------------------------------------------------------

    def _mint(self) -> int:
        return self._worker.mint()

    async def _append_and_see(
        self, records: Sequence[ChannelRecord | MemberRecord], there: Callable[[int], Awaitable[bool]]
    ) -> None:
        """Append in order, wait for all reports, then until ``there(last offset)`` says so.

        Raises ``overloaded`` when nothing was appended, else ``unknown_outcome``.
        """
        settings = self._settings
        if self._log.stalled() > settings.stalled:
            raise overloaded(settings.retry_after_ms, "the log does not keep up")
        deadline = asyncio.get_running_loop().time() + settings.report_deadline + settings.stored_deadline
        try:
            async with asyncio.timeout_at(deadline):
                last = await self._append(records)
                pause = settings.poll
                while True:
                    try:
                        if await there(last):
                            return
                    except Unavailable:
                        pass  # the store may come back before the deadline
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, settings.poll_max)
        except TimeoutError:
            raise unknown_outcome() from None

    async def _append(self, records: Sequence[ChannelRecord | MemberRecord | RouteRecord]) -> int:
        """The highest offset of the records."""
        reported: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        left = len(records)
        highest = -1
        failed = False

        def report(event_id: int, result: Receipt | Failure) -> None:
            nonlocal left, highest, failed
            left -= 1
            # The rule of age holds for every record (section 1): a late one is void, for everybody.
            if isinstance(result, Failure) or result.time - id_time(event_id) > MAX_AGE:
                failed = True
            else:
                highest = max(highest, result.offset)
            if left == 0 and not reported.done():
                reported.set_result(highest)

        for index, record in enumerate(records):
            key = channel_key(record.tenant, record.channel)
            value = encode(record)
            while True:
                try:
                    self._log.append(MESSAGES, key, value, partial(report, record.id))
                    break
                except Full:
                    if index == 0:
                        raise overloaded(self._settings.retry_after_ms, "the log does not keep up") from None
                    await asyncio.sleep(self._settings.poll)
        offset = await reported
        if failed:
            raise unknown_outcome()
        return offset
