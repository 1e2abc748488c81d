"""What ``Client.events()`` yields: one frozen type per kind of event, with None where the wire has nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from chatcluster.core.frames import ChannelSummary, Event, MemberInfo, PresenceInfo, WireMessage

Role = Literal["owner", "admin", "member"]


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message. ``time``: when it was taken (UTC). ``edited``: time of the edit in force.

    ``reactions``: emoji to the users who gave it. A deleted message has an empty body.
    """

    id: str
    channel: str
    sender: str
    client_id: str
    time: datetime
    body: str
    data: dict[str, Any] | None = None
    reply_to: str | None = None
    edited: datetime | None = None
    deleted: bool = False
    reactions: dict[str, list[str]] = {}


class ChatEvent(msgspec.Struct, frozen=True, gc=False):
    """Base of what ``events()`` yields."""


class MessageReceived(ChatEvent, frozen=True, gc=False):
    """A message, your own from other devices and this one included.

    ``live``: told early; in rare cases ``Retracted`` follows within about a minute. ``instead_of``: the copy
    of the same message that was told before and is withdrawn now: same sender, same client_id.
    """

    message: Message
    live: bool
    instead_of: str | None = None


class MessageEdited(ChatEvent, frozen=True, gc=False):
    """``message`` with its new body. ``id``: of the edit itself."""

    id: str
    message: Message
    live: bool


class MessageDeleted(ChatEvent, frozen=True, gc=False):
    id: str
    channel: str
    message_id: str
    live: bool


class ReactionChanged(ChatEvent, frozen=True, gc=False):
    id: str
    channel: str
    message_id: str
    user: str
    emoji: str
    removed: bool
    live: bool


class MemberChanged(ChatEvent, frozen=True, gc=False):
    channel: str
    user: str
    change: str
    role: Role | None


class ChannelChanged(ChatEvent, frozen=True, gc=False):
    """Created (with its first members) or renamed, by ``user``."""

    channel: str
    change: str
    name: str | None
    kind: Literal["direct", "group"] | None
    members: list[MemberInfo]
    user: str | None


class ReadMoved(ChatEvent, frozen=True, gc=False):
    """``user`` has read up to ``message_id``; your own other devices included."""

    channel: str
    user: str
    message_id: str


class RouteChanged(ChatEvent, frozen=True, gc=False):
    """The channel grew large (``channel``) or small (``inbox``); the SDK goes on there by itself."""

    channel: str
    to: str


class Retracted(ChatEvent, frozen=True, gc=False):
    """The event ``id`` told before (a message, edit, delete or reaction) is withdrawn.

    It never became durable, or was a second copy of message ``of``.
    """

    channel: str
    id: str
    of: str | None


class Resynced(ChatEvent, frozen=True, gc=False):
    """The server could not continue ``timeline`` (``inbox`` or ``channel:<id>``): read history anew.

    The SDK has read on in the channels it knows; what you keep yourself you must compare.
    """

    timeline: str
    reason: str


class PresenceChanged(ChatEvent, frozen=True, gc=False):
    user: str
    status: Literal["online", "away", "offline"]
    since: str


class Typing(ChatEvent, frozen=True, gc=False):
    channel: str
    user: str


class Connected(ChatEvent, frozen=True, gc=False):
    """``resumed``: the server goes on where this device stopped."""

    session: str
    resumed: bool


class Disconnected(ChatEvent, frozen=True, gc=False):
    """``code``: of the close, None without one. The next attempt comes in ``retry_in`` seconds."""

    code: int | None
    reason: str
    retry_in: float


class Sent(msgspec.Struct, frozen=True, gc=False):
    """A durable acknowledgement. ``duplicate``: an earlier attempt had made it."""

    id: str
    channel: str
    time: datetime
    duplicate: bool
    client_id: str


class ChannelPage(msgspec.Struct, frozen=True, gc=False):
    """One page of the conversation list; ``next``: token of the page after it."""

    channels: list[ChannelSummary]
    next: str | None


__all__ = [
    "ChannelChanged",
    "ChannelPage",
    "ChannelSummary",
    "ChatEvent",
    "Connected",
    "Disconnected",
    "MemberChanged",
    "MemberInfo",
    "Message",
    "MessageDeleted",
    "MessageEdited",
    "MessageReceived",
    "PresenceChanged",
    "PresenceInfo",
    "ReactionChanged",
    "ReadMoved",
    "Resynced",
    "Retracted",
    "RouteChanged",
    "Sent",
    "Typing",
    "from_wire",
    "message_from",
]


def message_from(wire: WireMessage) -> Message:
    """A message of the wire, with None for what is not there."""
    return Message(
        wire.id,
        wire.channel,
        wire.sender,
        wire.client_id,
        datetime.fromisoformat(wire.time),
        wire.body,
        None if wire.data is UNSET else wire.data,
        None if wire.reply_to is UNSET else wire.reply_to,
        None if wire.edited is UNSET else datetime.fromisoformat(wire.edited),
        wire.deleted is True,
        {} if wire.reactions is UNSET else wire.reactions,
    )


def from_wire(event: Event) -> ChatEvent | None:
    """The typed event; None where the frame lacks what its kind needs (a newer or broken server).

    ``retracted`` has no translation here: what it means depends on what was told (``state``).
    """
    channel = event.channel
    match event.kind:
        case "message" if event.message is not UNSET:
            return MessageReceived(message_from(event.message), event.live)
        case "edited" if event.message is not UNSET:
            return MessageEdited(event.id, message_from(event.message), event.live)
        case "deleted" if event.message_id is not UNSET:
            return MessageDeleted(event.id, channel, event.message_id, event.live)
        case "reaction" if event.message_id is not UNSET and event.user is not UNSET and event.emoji is not UNSET:
            removed = event.removed is True
            return ReactionChanged(event.id, channel, event.message_id, event.user, event.emoji, removed, event.live)
        case "member" if event.user is not UNSET and event.change is not UNSET:
            return MemberChanged(channel, event.user, event.change, None if event.role is UNSET else event.role)
        case "channel":
            return ChannelChanged(
                channel,
                "renamed" if event.change is UNSET else event.change,
                None if event.name is UNSET else event.name,
                None if event.channel_kind is UNSET else event.channel_kind,
                [] if event.members is UNSET else event.members,
                None if event.user is UNSET else event.user,
            )
        case "read" if event.message_id is not UNSET and event.user is not UNSET:
            return ReadMoved(channel, event.user, event.message_id)
        case "route" if event.to is not UNSET:
            return RouteChanged(channel, event.to)
    return None
