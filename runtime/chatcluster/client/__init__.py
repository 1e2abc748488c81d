"""The Python SDK; needs nothing of the server.

>>> async with Client("ws://127.0.0.1:8080", token=token) as chat:
...     async for message in chat.messages():
...         print(message.sender, message.body)
"""

from chatcluster.client.client import Client
from chatcluster.client.cursors import CursorStore, FileCursors, MemoryCursors, Saved
from chatcluster.client.engine import Status
from chatcluster.client.errors import (
    ChatError,
    ConnectionRefused,
    Forbidden,
    IdConflict,
    NoSuchChannel,
    NotAMember,
    Replaced,
    RequestRefused,
    Stopped,
    TimedOut,
    Unauthorized,
)
from chatcluster.client.events import (
    ChannelChanged,
    ChatEvent,
    Connected,
    Disconnected,
    MemberChanged,
    Message,
    MessageDeleted,
    MessageEdited,
    MessageReceived,
    PresenceChanged,
    ReactionChanged,
    ReadMoved,
    Resynced,
    Retracted,
    RouteChanged,
    Sent,
    Typing,
)
from chatcluster.client.view import ChannelView, Shown

__all__ = [
    "ChannelChanged",
    "ChannelView",
    "ChatError",
    "ChatEvent",
    "Client",
    "Connected",
    "ConnectionRefused",
    "CursorStore",
    "Disconnected",
    "FileCursors",
    "Forbidden",
    "IdConflict",
    "MemberChanged",
    "MemoryCursors",
    "Message",
    "MessageDeleted",
    "MessageEdited",
    "MessageReceived",
    "NoSuchChannel",
    "NotAMember",
    "PresenceChanged",
    "ReactionChanged",
    "ReadMoved",
    "Replaced",
    "RequestRefused",
    "Resynced",
    "Retracted",
    "RouteChanged",
    "Saved",
    "Sent",
    "Shown",
    "Status",
    "Stopped",
    "TimedOut",
    "Typing",
    "Unauthorized",
]
