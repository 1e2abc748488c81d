"""What a terminal shows and can do, without a terminal: conversations, unread, typing, presence, actions.

Driven by the SDK's events; a screen or plain lines show it and are told of changes by ``changed``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from chatcluster.client import (
    ChannelChanged,
    ChannelView,
    ChatError,
    ChatEvent,
    Client,
    Connected,
    Disconnected,
    MemberChanged,
    Message,
    MessageReceived,
    PresenceChanged,
    ReadMoved,
    RequestRefused,
    Resynced,
    Shown,
    Typing,
)
from chatcluster.core.frames import ChannelSummary

TYPING_SHOWN = 5.0
"""Seconds that "is typing" stays after its last sign."""
TYPING_EVERY = 3.0
"""Seconds between two signs of our own typing."""
IN_FLIGHT = 64
"""Own actions under way at once."""
OPEN_VIEWS = 20
"""Conversations whose messages are kept."""


class Conversation:
    """One row of the list."""

    __slots__ = ("head", "id", "kind", "large", "members", "name", "numbers", "peer", "typing", "unread")

    def __init__(self, summary: ChannelSummary) -> None:
        self.id = summary.id
        self.numbers: dict[str, int] = {}  # message id -> the short number it is called by
        self.typing: dict[str, float] = {}  # user -> loop time when it is over
        self.update(summary)

    def update(self, summary: ChannelSummary) -> None:
        self.kind = summary.kind
        self.name = summary.name
        self.peer = summary.peer if isinstance(summary.peer, str) else None
        self.head = summary.head
        self.unread = summary.unread
        self.members = summary.members
        self.large = summary.route == "channel"

    @property
    def title(self) -> str:
        return self.name or self.peer or self.id


class Talk:
    """The model. ``changed`` is called after anything moved; ``told`` with lines worth telling in words."""

    def __init__(self, chat: Client) -> None:
        self.chat = chat
        self.conversations: dict[str, Conversation] = {}
        self.current: Conversation | None = None
        self.presence: dict[str, str] = {}
        self.changed: Callable[[], None] = lambda: None
        self.told: Callable[[str], None] = lambda _: None
        self.received: Callable[[Conversation, Message], None] = lambda _c, _m: None
        self._opened: list[str] = []
        self._typed = float("-inf")
        self._to_read: dict[str, str] = {}
        self._reads = asyncio.Event()
        self._stale = asyncio.Event()
        self._listed = asyncio.Event()
        self._actions: set[asyncio.Task[None]] = set()

    # -- running -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled, or until the client has ended for good (then its error is raised)."""
        beside = [asyncio.create_task(self._keep_list()), asyncio.create_task(self._keep_read())]
        try:
            async for event in self.chat.events():
                try:
                    await self._take(event)
                except RequestRefused as refused:
                    self.told(str(refused))
                self.changed()
        finally:
            beside.extend(self._actions)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def ready(self) -> None:
        """Wait until the list of conversations was read once."""
        await self._listed.wait()

    async def settled(self) -> None:
        """Wait for the actions under way."""
        while self._actions:
            await asyncio.gather(*self._actions, return_exceptions=True)

    def start(self, action: Coroutine[Any, Any, object]) -> None:
        """Do something of our own beside everything else; what goes wrong is told."""
        if len(self._actions) >= IN_FLIGHT:
            action.close()
            self.told("too much under way: wait a moment")
            return

        async def guarded() -> None:
            try:
                await action
            except ChatError as error:
                self.told(str(error))
            except LookupError as error:
                self.told(str(error.args[0]) if error.args else "not found")
            self.changed()

        task = asyncio.create_task(guarded())
        self._actions.add(task)
        task.add_done_callback(self._actions.discard)

    async def _take(self, event: ChatEvent) -> None:
        match event:
            case MessageReceived(message=message):
                await self._message(message)
            case Connected() | Resynced() | ChannelChanged():
                self._stale.set()
            case MemberChanged() if event.user == self.chat.user or event.channel not in self.conversations:
                self._stale.set()
            case Typing(channel=channel, user=user) if channel in self.conversations and user != self.chat.user:
                self.conversations[channel].typing[user] = asyncio.get_running_loop().time() + TYPING_SHOWN
            case PresenceChanged(user=user, status=status):
                self.presence[user] = status
            case ReadMoved(channel=channel, user=user) if user == self.chat.user and channel in self.conversations:
                conversation = self.conversations[channel]
                if conversation.head is None or int(event.message_id) >= int(conversation.head):
                    conversation.unread = 0
            case Disconnected():
                pass  # the status line says it
            case _:
                pass  # edits, deletes, reactions, withdrawals: the view has them

    async def _message(self, message: Message) -> None:
        conversation = self.conversations.get(message.channel)
        if conversation is None:
            await self._list()
            conversation = self.conversations.get(message.channel)
            if conversation is None:
                return
        elif message.sender != self.chat.user and conversation is not self.current:
            conversation.unread += 1
        conversation.typing.pop(message.sender, None)
        if conversation.head is None or int(message.id) > int(conversation.head):
            conversation.head = message.id
        if conversation is self.current:
            self._read(conversation)
        self.received(conversation, message)

    # -- the list ------------------------------------------------------------------------------------

    async def _keep_list(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                await self._list()
                peers = [c.peer for c in self.sorted() if c.peer is not None][: self.chat.limits.watch_users]
                for info in await self.chat.watch(peers):
                    self.presence[info.user] = info.status
            except ChatError as error:
                self.told(str(error))
            self.changed()
            await asyncio.sleep(0.5)  # many changes are one look

    async def _list(self) -> None:
        found = set()
        async for summary in self.chat.channels():
            found.add(summary.id)
            known = self.conversations.get(summary.id)
            if known is None:
                self.conversations[summary.id] = Conversation(summary)
            else:
                known.update(summary)
        for gone in self.conversations.keys() - found:
            del self.conversations[gone]
        if self.current is not None:
            if self.current.id not in found:
                self.current = None
            else:
                self._read(self.current)
        self._listed.set()

    def sorted(self) -> list[Conversation]:
        """The list as shown: the newest first."""
        return sorted(self.conversations.values(), key=lambda c: (-int(c.head or 0), c.title))

    def find(self, wanted: str) -> Conversation:
        """By place in the list, id, name or peer. Raises ``LookupError``."""
        rows = self.sorted()
        if wanted.isdecimal() and 1 <= int(wanted) <= len(rows):
            return rows[int(wanted) - 1]
        name = wanted.removeprefix("@").removeprefix("#").casefold()
        for row in rows:
            if row.id == wanted or row.title.casefold() == name:
                return row
        for row in rows:
            if row.title.casefold().startswith(name):
                return row
        raise LookupError(f"no conversation {wanted!r}: /direct USER or /group NAME USER... makes one")

    # -- actions -------------------------------------------------------------------------------------

    async def open(self, conversation: Conversation) -> None:
        """Show a conversation; reads its newest page the first time."""
        self.current = conversation
        fresh = conversation.id not in self._opened
        if not fresh:
            self._opened.remove(conversation.id)
        self._opened.append(conversation.id)
        if len(self._opened) > OPEN_VIEWS:
            self.chat.close_view(self._opened.pop(0))
        self.view(conversation)
        self.changed()
        if conversation.large:
            await self.chat.follow(conversation.id)  # a session follows some large channels by itself, not all
        if fresh:
            await self.chat.older(conversation.id)
        self._read(conversation)

    def step(self, by: int) -> Conversation | None:
        """The conversation ``by`` places down the list."""
        rows = self.sorted()
        if not rows:
            return None
        at = rows.index(self.current) if self.current in rows else (-1 if by > 0 else 0)
        return rows[(at + by) % len(rows)]

    def view(self, conversation: Conversation) -> ChannelView:
        return self.chat.view(conversation.id, limit=2000)

    def number(self, conversation: Conversation, message_id: str) -> int:
        """The short number of a message: it stays while the conversation is open."""
        numbers = conversation.numbers
        if message_id not in numbers:
            numbers[message_id] = len(numbers) + 1
        return numbers[message_id]

    def message(self, number: str) -> Shown:
        """A message of the current conversation by its short number. Raises ``LookupError``."""
        conversation = self.here()
        wanted = number.removeprefix("#")
        for message_id, known in conversation.numbers.items():
            if str(known) == wanted and (shown := self.view(conversation).get(message_id)) is not None:
                return shown
        raise LookupError(f"no message {number!r} here")

    def last_own(self) -> Shown:
        """Our newest message here. Raises ``LookupError``."""
        for shown in reversed(self.view(self.here()).messages()):
            if shown.message.sender == self.chat.user and shown.message.id and not shown.message.deleted:
                return shown
        raise LookupError("nothing of yours here")

    def here(self) -> Conversation:
        if self.current is None:
            raise LookupError("open a conversation first: /open NAME")
        return self.current

    async def send(self, body: str, reply_to: str | None = None) -> None:
        """Into the current conversation."""
        await self.chat.send(self.here().id, body, reply_to=reply_to)

    async def direct(self, user: str) -> None:
        await self._open_id(await self.chat.create_direct(user))

    async def group(self, name: str, members: list[str]) -> None:
        await self._open_id(await self.chat.create_group(members, name=name))

    async def _open_id(self, channel: str) -> None:
        if channel not in self.conversations:
            await self._list()
        if channel in self.conversations:
            await self.open(self.conversations[channel])

    async def leave(self) -> None:
        await self.chat.leave(self.here().id)
        self.current = None
        self._stale.set()

    def typing(self) -> None:
        """We type: told at most every few seconds."""
        now = asyncio.get_running_loop().time()
        if self.current is not None and now - self._typed >= TYPING_EVERY:
            self._typed = now
            self.start(self.chat.typing(self.current.id))

    def typists(self) -> list[str]:
        """Who types here."""
        if self.current is None:
            return []
        now = asyncio.get_running_loop().time()
        self.current.typing = {user: until for user, until in self.current.typing.items() if until > now}
        return list(self.current.typing)

    # -- read marks ------------------------------------------------------------------------------------

    def _read(self, conversation: Conversation) -> None:
        conversation.unread = 0
        if conversation.head is not None:
            self._to_read[conversation.id] = conversation.head
            self._reads.set()

    async def _keep_read(self) -> None:
        """Tells what was read, gathered: a burst of messages is one read mark."""
        while True:
            await self._reads.wait()
            await asyncio.sleep(0.3)
            self._reads.clear()
            waiting, self._to_read = self._to_read, {}
            for channel, message_id in waiting.items():
                try:
                    await self.chat.read(channel, message_id)
                except ChatError:
                    continue  # the next message repeats it
