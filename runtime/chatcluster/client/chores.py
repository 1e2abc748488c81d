"""What the state wants asked of the server: following, reading what was missed. One at a time, in order.

Each is repeated until it is answered, as nobody else tells what it would have: one that a break cuts short is taken up
by the next connection.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import UNSET

from chatcluster.client.errors import RequestRefused
from chatcluster.client.state import (
    AskAgain,
    CatchUp,
    Effect,
    FollowFrom,
    ReadAnew,
    ReadChannel,
    StopFollowing,
)
from chatcluster.core.frames import Follow, History, ListChannels, Reply, Sync, Unfollow, Watch

if TYPE_CHECKING:
    from chatcluster.client.engine import Engine


class Chores:
    """Does effects for an engine. What the server refuses is dropped: there is nothing to repeat."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def do(self, effect: Effect) -> None:
        if isinstance(effect, FollowFrom):
            await self._follow(effect)
        elif isinstance(effect, StopFollowing):
            await self._unfollow(effect.channel)
        elif isinstance(effect, ReadChannel):
            await self._read_channel(effect)
        elif isinstance(effect, ReadAnew):
            await self._read_anew(effect)
        elif isinstance(effect, AskAgain):
            await self._ask_again(effect)
        elif isinstance(effect, CatchUp):
            await self._catch_up()

    async def watch(self, users: list[str]) -> None:
        """Renew the visible set on a new connection, and tell who shows how now."""
        try:
            reply = await self._engine.ask(lambda rid, _: Watch(rid, users), timeout=None)
        except RequestRefused:
            return
        if isinstance(reply, Reply) and reply.presence is not UNSET:
            self._engine.present(reply.presence)

    async def _follow(self, effect: FollowFrom) -> None:
        engine = self._engine
        if engine.state.channels.get(effect.channel) is None:
            return  # unfollowed meanwhile
        try:
            reply = await engine.ask(lambda rid, _: Follow(rid, effect.channel, effect.cursor), timeout=None)
        except RequestRefused:
            engine.state.unfollowed(effect.channel, declined=False)
            return
        if isinstance(reply, Reply) and reply.route == "inbox":
            # It is small (again): its events come through the inbox.
            engine.state.unfollowed(effect.channel, declined=False)

    async def _unfollow(self, channel: str) -> None:
        with suppress(RequestRefused):  # it was not followed
            await self._engine.ask(lambda rid, _: Unfollow(rid, channel), timeout=None)

    async def _read_channel(self, effect: ReadChannel) -> None:
        """The end of a channel timeline, up to the switch (delivery.md section 4, Route)."""
        engine = self._engine
        cursor: str | None = effect.cursor
        with suppress(RequestRefused):  # not a member any more
            while cursor is not None and not engine.lagging:
                reply = await self._page(channels={effect.channel: cursor})
                cursor = _channels(reply).get(effect.channel) if reply.more is True else None
                for event in [] if reply.events is UNSET else reply.events:
                    engine.take(event)
                    if event.id == effect.until:
                        cursor = None
                        break
        if engine.lagging:
            return  # read from its cursor with all the rest
        engine.state.unfollowed(effect.channel, declined=False)
        engine.feed.mark(engine.state.saved())
        await self._unfollow(effect.channel)

    async def _read_anew(self, effect: ReadAnew) -> None:
        """History after a message id, of one channel or of every channel that has something newer."""
        if effect.channel is not None:
            await self._read_history(effect.channel, effect.after)
            return
        page: str | None = None
        while True:
            try:
                reply = await self._engine.ask(
                    lambda rid, _, p=page: ListChannels(rid, p),  # type: ignore[misc]
                    timeout=None,
                )
            except RequestRefused:
                return
            assert isinstance(reply, Reply)
            for channel in [] if reply.channels is UNSET else reply.channels:
                if channel.head is not None and int(channel.head) > int(effect.after):
                    await self._read_history(channel.id, effect.after)
            if reply.page is UNSET:
                return
            page = reply.page

    async def _read_history(self, channel: str, after: str) -> None:
        engine = self._engine
        limit = self._limit()
        while True:
            await engine.feed.room(limit)
            page = after
            try:
                reply = await engine.ask(
                    lambda rid, _, page=page: History(rid, channel, after=page, limit=limit),  # type: ignore[misc]
                    timeout=None,
                )
            except RequestRefused:
                return  # not a member any more; after the next own `add` it is asked again
            assert isinstance(reply, Reply)
            messages = [] if reply.messages is UNSET else reply.messages
            view = engine.views.get(channel)
            if view is not None:
                view.history(messages)
            engine.do(engine.state.history(messages))
            if reply.more is not True or not messages:
                return
            after = messages[-1].id

    async def _ask_again(self, effect: AskAgain) -> None:
        view = self._engine.views.get(effect.channel)
        if view is None:
            return
        try:
            reply = await self._engine.ask(lambda rid, _: History(rid, effect.channel), timeout=None)
        except RequestRefused:
            return
        assert isinstance(reply, Reply)
        view.history([] if reply.messages is UNSET else reply.messages, oldest=reply.more is False)

    async def _catch_up(self) -> None:
        """Page by page from the last mark, as fast as the application reads; then a connection that resumes there.

        Events that this connection brought meanwhile were let go, so it cannot go on: the next one brings
        what is not yet proven.
        """
        engine = self._engine
        if not engine.lagging:
            return  # a reconnect came first, and resumed from there
        try:
            while True:
                reply = await self._page(inbox=engine.state.inbox, channels=dict(engine.state.channels))
                for event in [] if reply.events is UNSET else reply.events:
                    view = engine.views.get(event.channel)
                    if view is not None:
                        view.apply(event)
                    engine.do(engine.state.event(event))
                inbox = None
                if reply.cursors is not UNSET and reply.cursors.inbox is not UNSET:
                    inbox = reply.cursors.inbox
                engine.feed.mark(engine.state.synced(inbox, _channels(reply)))
                if reply.more is not True:
                    break
        except RequestRefused:
            pass  # hello says the same, and what to do about it
        # Nobody waits to read when the queue is empty: only now has the resumed connection room for its events.
        await engine.feed.room(engine.feed.size)
        engine.leave(0.0)

    async def _page(self, *, inbox: str | None = None, channels: dict[str, str]) -> Reply:
        limit = self._limit()
        await self._engine.feed.room(limit)
        reply = await self._engine.ask(lambda rid, _: Sync(rid, inbox, channels, limit), timeout=None)
        assert isinstance(reply, Reply)
        return reply

    def _limit(self) -> int:
        welcome = self._engine.welcome
        return min(self._engine.feed.size, 100 if welcome is None else welcome.limits.page)


def _channels(reply: Reply) -> dict[str, str]:
    if reply.cursors is UNSET or reply.cursors.channels is UNSET:
        return {}
    return reply.cursors.channels
