"""The SDK's face: a chat bot in ten lines. What it promises is written at each method."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

from msgspec import UNSET

from chatcluster import __version__
from chatcluster.client.credentials import Token
from chatcluster.client.cursors import CursorStore, MemoryCursors
from chatcluster.client.engine import Engine, Status
from chatcluster.client.errors import ChatError, NoSuchChannel, NotAMember, RequestRefused, Stopped
from chatcluster.client.events import ChatEvent, Message, MessageReceived, Sent, message_from
from chatcluster.client.recorder import Observer
from chatcluster.client.view import ChannelView
from chatcluster.core.frames import (
    JSON_PROTOCOL,
    MSGPACK_PROTOCOL,
    Ack,
    ChannelAdd,
    ChannelCreate,
    ChannelJoin,
    ChannelLeave,
    ChannelMembers,
    ChannelRemove,
    ChannelSummary,
    ChannelUpdate,
    ClientInfo,
    Delete,
    Edit,
    Follow,
    History,
    Limits,
    ListChannels,
    MemberInfo,
    PresenceInfo,
    React,
    ReadUpTo,
    RenewToken,
    Reply,
    Send,
    SetPresence,
    Type,
    Unfollow,
    Watch,
)

RETRY_HORIZON = 86_400.0
"""Seconds for which the server recognises a repeated send: the longest that one is repeated."""
MAX_USERS = 1000
"""Users in one frame."""


class Client:
    """One device of one user. Use it as ``async with Client(...) as chat``; every task it has ends there.

    ``url``: such as ``ws://127.0.0.1:8080``; without a path, ``/v1/connect`` is added.
    ``token``: a token, or an async function that fetches a fresh one (at each connect and before it ends).
    ``device``: stable per device; a second connection of the same device replaces the first.
    ``cursors``: where to keep what a restart must not forget (default: memory).
    ``codec``: the subprotocol. ``queue``: events held while the application is busy; beyond it they wait at
    the server and come later, in order. ``connect_timeout``: seconds ``async with`` waits for the first
    connection (0: not at all). ``observer``: records every frame for ``chatcluster audit``.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token,
        device: str = "",
        cursors: CursorStore | None = None,
        codec: Literal["msgpack", "json"] = "msgpack",
        queue: int = 1000,
        connect_timeout: float = 30.0,
        name: str = "chatcluster-python",
        version: str = __version__,
        observer: Observer | None = None,
    ) -> None:
        if queue < 1:
            raise ValueError("queue must hold at least one event")
        self._connect_timeout = connect_timeout
        self._engine = Engine(
            endpoint(url),
            token=token,
            device=device or f"python-{secrets.token_hex(6)}",
            cursors=cursors or MemoryCursors(),
            codecs=[MSGPACK_PROTOCOL if codec == "msgpack" else JSON_PROTOCOL],
            info=ClientInfo(name, version),
            queue=queue,
            open_timeout=10.0,
            observer=observer,
        )
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a client is opened once")
        self._task = asyncio.create_task(self._engine.run(), name="chatcluster client")
        if self._connect_timeout:
            try:
                await self._engine.live(self._connect_timeout)
            except BaseException:
                await self.close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection and end the client's task. Marks not yet reached by ``events()`` are not saved."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- what is known -----------------------------------------------------------------------------------

    @property
    def user(self) -> str:
        """Who we are, as the token says; "" before the first connection."""
        return self._engine.state.user

    @property
    def status(self) -> Status:
        """Of the connection, now."""
        return self._engine.status

    @property
    def limits(self) -> Limits:
        """The server's limits, as of the last welcome."""
        welcome = self._engine.welcome
        return Limits() if welcome is None else welcome.limits

    # -- what comes --------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[ChatEvent]:
        """Everything that happens, each once, until the client is closed.

        At least once across restarts: the mark that covers an event is saved when the loop comes back for
        what follows it. Raises what ended the client (``Unauthorized``, ``Replaced``, ...).
        """
        while True:
            try:
                event = await self._engine.feed.next()
            except Stopped:
                return
            yield event

    async def messages(self) -> AsyncIterator[Message]:
        """New messages, each (sender, client_id) once, own ones too. As ``events()``, of which it is a part."""
        async for event in self.events():
            if isinstance(event, MessageReceived) and event.instead_of is None:
                yield event.message

    def view(self, channel: str, *, limit: int = 5000) -> ChannelView:
        """What the channel shows, kept up to date while the client is open. ``older`` fills it from history."""
        view = self._engine.views.get(channel)
        if view is None:
            view = self._engine.views[channel] = ChannelView(channel, limit=limit)
        return view

    def close_view(self, channel: str) -> None:
        """Keep this channel's view no more."""
        self._engine.views.pop(channel, None)

    async def older(self, channel: str, *, limit: int = 50, timeout: float = 30.0) -> bool:
        """Read one page of history into the channel's view; False when there was nothing older.

        Where history is denied because we are no member, it is asked again after the next own ``add``.
        """
        view = self.view(channel)
        if view.complete:
            return False
        before = view.oldest
        try:
            reply = await self._reply(
                lambda rid, _: History(rid, channel, before=before, limit=min(limit, self.limits.page)), timeout
            )
        except (NotAMember, NoSuchChannel):
            return False
        messages = [] if reply.messages is UNSET else reply.messages
        view.history(messages, oldest=reply.more is not True)
        return bool(messages)

    # -- messages ------------------------------------------------------------------------------------------

    async def send(
        self,
        channel: str,
        body: str,
        *,
        data: dict[str, Any] | None = None,
        reply_to: str | None = None,
        client_id: str | None = None,
        timeout: float = RETRY_HORIZON,
    ) -> Sent:
        """Send a message; returns when it is durable.

        Repeated with the same ``client_id`` over as many connections as it takes, so it becomes one message.
        ``client_id``: yours, to repeat a send of an earlier run; else a random one. Raises ``TimedOut``
        (outcome unknown) after ``timeout`` seconds, ``IdConflict``, ``RequestRefused``.
        """
        key = client_id or new_client_id()
        engine = self._engine
        # An answer sorts after its question: the server mints an id past the newest that we have seen.
        after = engine.state.heads.get(channel)
        view = engine.views.get(channel)
        if view is not None:
            view.draft(Message("", channel, self.user, key, datetime.now(UTC), body, data, reply_to))
        try:
            sent = await self._ack(
                lambda rid, again: Send(rid, channel, key, body, data, reply_to, after, again), key, timeout
            )
        except (ChatError, asyncio.CancelledError):
            if view is not None:
                view.failed(self.user, key)
            raise
        if view is not None:
            view.acked(self.user, key, sent.id, sent.time)
        return sent

    async def edit(
        self,
        channel: str,
        message_id: str,
        body: str,
        *,
        data: dict[str, Any] | None = None,
        client_id: str | None = None,
        timeout: float = RETRY_HORIZON,
    ) -> Sent:
        """Give an own message a new body. As ``send``."""
        key = client_id or new_client_id()
        return await self._ack(lambda rid, again: Edit(rid, channel, message_id, key, body, data, again), key, timeout)

    async def delete(
        self, channel: str, message_id: str, *, client_id: str | None = None, timeout: float = RETRY_HORIZON
    ) -> Sent:
        """Delete a message for everybody. As ``send``."""
        key = client_id or new_client_id()
        return await self._ack(lambda rid, again: Delete(rid, channel, message_id, key, again), key, timeout)

    async def react(
        self,
        channel: str,
        message_id: str,
        emoji: str,
        *,
        remove: bool = False,
        client_id: str | None = None,
        timeout: float = RETRY_HORIZON,
    ) -> Sent:
        """Give a reaction, or take it back. As ``send``."""
        key = client_id or new_client_id()
        return await self._ack(
            lambda rid, again: React(rid, channel, message_id, key, emoji, remove, again), key, timeout
        )

    async def read(self, channel: str, message_id: str, *, timeout: float = 30.0) -> str | None:
        """Move the read cursor; returns the one in force (it never goes back)."""
        reply = await self._reply(lambda rid, _: ReadUpTo(channel, message_id, rid), timeout)
        return None if reply.read is UNSET else reply.read

    async def typing(self, channel: str) -> None:
        """Tell that you type. Shed when there is no connection."""
        await self._engine.post(Type(channel))

    async def history(
        self,
        channel: str,
        *,
        before: str | None = None,
        after: str | None = None,
        page: int = 100,
        timeout: float = 30.0,
    ) -> AsyncIterator[Message]:
        """Messages page by page: newest first (from ``before`` back), or oldest first with ``after``.

        ``timeout``: seconds per page. Deleted messages come with ``deleted``.
        """
        if before is not None and after is not None:
            raise ValueError("history goes back from `before` or forward from `after`")
        forward = after is not None
        while True:
            size = min(page, self.limits.page)
            reply = await self._reply(
                lambda rid, _, b=before, a=after, n=size: History(rid, channel, b, a, n),
                timeout,
            )
            messages = [] if reply.messages is UNSET else reply.messages
            for wire in messages if forward else reversed(messages):
                yield message_from(wire)
            if reply.more is not True or not messages:
                return
            if forward:
                after = messages[-1].id
            else:
                before = messages[0].id

    # -- channels --------------------------------------------------------------------------------------------

    async def channels(
        self, *, changed_since: str | None = None, timeout: float = 30.0
    ) -> AsyncIterator[ChannelSummary]:
        """Your conversations, page by page."""
        page: str | None = None
        while True:
            reply = await self._reply(
                lambda rid, _, p=page: ListChannels(rid, p, changed_since),
                timeout,
            )
            for channel in [] if reply.channels is UNSET else reply.channels:
                yield channel
            if reply.page is UNSET:
                return
            page = reply.page

    async def create_direct(self, user: str, *, timeout: float = 30.0) -> str:
        """The direct channel with ``user``: the same one each time."""
        return await self._create("direct", [user], None, None, timeout)

    async def create_group(
        self, members: Sequence[str], *, name: str | None = None, client_id: str | None = None, timeout: float = 30.0
    ) -> str:
        """A new group with you as owner; with the ``client_id`` of an earlier call, the group of that call."""
        first, rest = list(members[:MAX_USERS]), members[MAX_USERS:]
        channel = await self._create("group", first, name, client_id, timeout)
        if rest:
            await self.add(channel, rest, timeout=timeout)
        return channel

    async def _create(
        self, kind: Literal["direct", "group"], members: list[str], name: str | None, key: str | None, timeout: float
    ) -> str:
        key = key or new_client_id()
        reply = await self._reply(lambda rid, _: ChannelCreate(rid, key, kind, members, name), timeout)
        if reply.channel is UNSET:
            raise RequestRefused("unavailable", "the server named no channel", retryable=True)
        return reply.channel

    async def rename(self, channel: str, name: str, *, timeout: float = 30.0) -> None:
        await self._reply(lambda rid, _: ChannelUpdate(rid, channel, name), timeout)

    async def add(self, channel: str, users: Sequence[str], *, timeout: float = 30.0) -> None:
        """Add members; those who are members already stay so."""
        for start in range(0, len(users), MAX_USERS):
            some = list(users[start : start + MAX_USERS])
            await self._reply(lambda rid, _, some=some: ChannelAdd(rid, channel, some), timeout)

    async def remove(self, channel: str, users: Sequence[str], *, timeout: float = 30.0) -> None:
        for start in range(0, len(users), MAX_USERS):
            some = list(users[start : start + MAX_USERS])
            await self._reply(lambda rid, _, some=some: ChannelRemove(rid, channel, some), timeout)

    async def join(self, channel: str, *, timeout: float = 30.0) -> None:
        await self._reply(lambda rid, _: ChannelJoin(rid, channel), timeout)

    async def leave(self, channel: str, *, timeout: float = 30.0) -> None:
        await self._reply(lambda rid, _: ChannelLeave(rid, channel), timeout)

    async def members(self, channel: str, *, timeout: float = 30.0) -> AsyncIterator[MemberInfo]:
        """The channel's members, page by page."""
        page: str | None = None
        while True:
            reply = await self._reply(
                lambda rid, _, p=page: ChannelMembers(rid, channel, p),
                timeout,
            )
            for member in [] if reply.members is UNSET else reply.members:
                yield member
            if reply.page is UNSET:
                return
            page = reply.page

    async def follow(self, channel: str, *, cursor: str | None = None, timeout: float = 30.0) -> None:
        """Have a large channel's messages live. Small ones come anyway; the server says which is which."""
        reply = await self._reply(lambda rid, _: Follow(rid, channel, cursor), timeout)
        start = cursor if cursor is not None else (None if reply.cursor is UNSET else reply.cursor)
        if reply.route == "channel" and start is not None:
            self._engine.state.following(channel, start)
            self._engine.feed.mark(self._engine.state.saved())

    async def unfollow(self, channel: str, *, timeout: float = 30.0) -> None:
        """Have a large channel live no more; its history stays readable."""
        await self._reply(lambda rid, _: Unfollow(rid, channel), timeout)
        self._engine.state.unfollowed(channel, declined=True)
        self._engine.feed.mark(self._engine.state.saved())

    # -- people ------------------------------------------------------------------------------------------------

    async def watch(self, users: Sequence[str], *, timeout: float = 30.0) -> list[PresenceInfo]:
        """Whose presence to be told (replaces the set before); returns it as of now. Renewed at each reconnect."""
        self._engine.watched = list(users)
        reply = await self._reply(lambda rid, _: Watch(rid, list(users)), timeout)
        return [] if reply.presence is UNSET else reply.presence

    async def set_presence(self, status: Literal["online", "away", "invisible"]) -> None:
        """How you show. Renewed at each reconnect."""
        self._engine.presence = status
        await self._engine.post(SetPresence(status))

    async def renew_token(self, token: str, *, timeout: float = 30.0) -> str:
        """Lengthen this session with a newer token of the same user; returns the time it ends now."""
        reply = await self._reply(lambda rid, _: RenewToken(rid, token), timeout)
        self._engine.renewed(token)
        return "" if reply.expires is UNSET else reply.expires

    # -- inside ------------------------------------------------------------------------------------------------

    async def _reply(self, make: Any, timeout: float) -> Reply:
        self._check()
        answer = await self._engine.ask(make, timeout=timeout)
        if not isinstance(answer, Reply):
            raise RequestRefused("bad_request", "the server answered with an ack where a reply belongs")
        return answer

    async def _ack(self, make: Any, client_id: str, timeout: float) -> Sent:
        self._check()
        answer = await self._engine.ask(make, timeout=min(timeout, RETRY_HORIZON))
        if not isinstance(answer, Ack):
            raise RequestRefused("bad_request", "the server answered with a reply where an ack belongs")
        return Sent(answer.id, answer.channel, datetime.fromisoformat(answer.time), answer.duplicate, client_id)

    def _check(self) -> None:
        if self._task is None:
            raise Stopped("open the client first: `async with Client(...) as chat`")


def endpoint(url: str) -> str:
    """The address to connect to: ``/v1/connect`` where the url names no path."""
    scheme, separator, rest = url.partition("://")
    if scheme not in ("ws", "wss") or not separator:
        raise ValueError(f"{url!r} is not a WebSocket address: ws://host:port or wss://host")
    return url if rest.partition("/")[2] else f"{scheme}://{rest.rstrip('/')}/v1/connect"


def new_client_id() -> str:
    """An idempotency key that nobody used before."""
    return secrets.token_urlsafe(15)
