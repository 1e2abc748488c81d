"""The client's rules (protocol.md, delivery.md section 7) as plain functions of frames: no socket, no clock.

``State`` says what to tell the application, what to remember and what to ask next; ``engine`` does it.
It holds ids, not messages (``view`` holds those), each collection bounded by ``window``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

import msgspec
from msgspec import UNSET

from chatcluster.client.cursors import Saved
from chatcluster.client.events import (
    ChatEvent,
    MessageReceived,
    Resynced,
    Retracted,
    from_wire,
    message_from,
)
from chatcluster.core.frames import Event, Mark, Resume, Resync, Welcome, WireMessage
from chatcluster.core.ids import CLOCK_BOUND, first_id, id_time

MAX_PENDING = 1000
"""Ids that ``resume.pending`` may have."""

K = TypeVar("K")
V = TypeVar("V")

_PROVEN_LATER = frozenset({"message", "edited", "deleted", "reaction"})
"""Kinds that are told live before they are durable; ``read`` is told live only and never proven."""


class Tell(msgspec.Struct, frozen=True, gc=False):
    """Give ``event`` to the application."""

    event: ChatEvent


class FollowFrom(msgspec.Struct, frozen=True, gc=False):
    """Ask for the channel's timeline from ``cursor`` on."""

    channel: str
    cursor: str


class StopFollowing(msgspec.Struct, frozen=True, gc=False):
    """The channel's timeline ends here: what comes is in the inbox."""

    channel: str


class ReadChannel(msgspec.Struct, frozen=True, gc=False):
    """Read the channel's timeline by ``sync`` from ``cursor`` up to event ``until``, then stop following it."""

    channel: str
    cursor: str
    until: str


class ReadAnew(msgspec.Struct, frozen=True, gc=False):
    """Read history after message ``after``, of ``channel`` or (None) of every channel: the cursor is no good."""

    channel: str | None
    after: str


class AskAgain(msgspec.Struct, frozen=True, gc=False):
    """You were added to the channel: history denied before is asked again."""

    channel: str


class CatchUp(msgspec.Struct, frozen=True, gc=False):
    """Too far behind for this connection: read on by ``sync`` from the last mark, page by page, then reconnect."""


Effect = CatchUp | Tell | FollowFrom | StopFollowing | ReadChannel | ReadAnew | AskAgain


class Window(Generic[K, V]):
    """A dict that forgets its oldest entries beyond a bound."""

    __slots__ = ("_entries", "_size")

    def __init__(self, size: int) -> None:
        self._entries: dict[K, V] = {}
        self._size = size

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        """Set, as the newest."""
        self._entries.pop(key, None)
        self._entries[key] = value
        if len(self._entries) > self._size:
            del self._entries[next(iter(self._entries))]

    def pop(self, key: K) -> V | None:
        return self._entries.pop(key, None)

    def items(self) -> list[tuple[K, V]]:
        """A copy, oldest first."""
        return list(self._entries.items())

    def keys(self) -> list[K]:
        """A copy, oldest first."""
        return list(self._entries)


class State:
    """One device's state. ``window``: ids remembered of each sort; it must exceed what one resume repeats."""

    def __init__(self, saved: Saved | None = None, *, window: int = 8192) -> None:
        self.user = ""
        self.inbox: str | None = None
        self.newest: str | None = None  # the greatest message id told
        self._own_inbox: str | None = None  # the cursor that a server did not resume
        self.channels: dict[str, str] = {}
        self.heads: Window[str, str] = Window(window)  # channel -> newest message id told
        self.pending: Window[str, None] = Window(MAX_PENDING)
        self._told: Window[str, bool] = Window(window)  # event id -> durable
        self._aliases: Window[str, str] = Window(window)  # a copy's id -> the message it copies
        self._withdrawn: Window[str, None] = Window(window)
        self._by_key: Window[tuple[str, str, str], str] = Window(window)  # (channel, sender, client_id) -> shown id
        self._key_of: Window[str, tuple[str, str, str]] = Window(window)
        self._hidden: Window[tuple[str, str, str], dict[str, MessageReceived]] = Window(window)  # others of a key
        self._versions: Window[tuple[str, ...], int] = Window(window)
        self._declined: Window[str, None] = Window(window)
        if saved is not None:
            self.inbox = saved.inbox
            self.channels = dict(saved.channels)
            self.newest = saved.newest
            for event_id in saved.pending:
                self.pending.put(event_id, None)

    # -- connection ----------------------------------------------------------------------------------

    def resume(self) -> Resume | None:
        """What ``hello`` says; None on a new device.

        ``pending`` holds every id told live and not proven, those of the connection that just broke too:
        the next gateway then retracts what never becomes true.
        """
        if self.inbox is None:
            return None
        return Resume(inbox=self.inbox, channels=dict(self.channels), pending=self.pending.keys())

    def saved(self) -> Saved:
        """What to save for the next start, as of the last mark."""
        return Saved(self.inbox, dict(self.channels), self.pending.keys(), self.newest)

    def forget(self) -> list[Effect]:
        """The server refused the cursors (``bad_cursor``): go on as a new device, reading history anew."""
        self.inbox = None
        self.channels.clear()
        return [Tell(Resynced("inbox", "bad_cursor")), *self._read_anew(None, self.newest)]

    def welcome(self, frame: Welcome) -> list[Effect]:
        """The server's answer to ``hello``: where it starts, and which large channels it follows."""
        self.user = frame.user
        if not frame.resumed or self.inbox is None:
            # Not resumed: the server starts here, whatever we had. A `resync` follows and says why.
            self._own_inbox, self.inbox = self.inbox, frame.inbox
        for channel, cursor in frame.follow.items():
            self.channels.setdefault(channel, cursor)
        # Followed before and not by this session: ask for it, from where we are.
        return [FollowFrom(channel, cursor) for channel, cursor in self.channels.items() if channel not in frame.follow]

    def mark(self, frame: Mark) -> Saved:
        """Everything before it on this connection is proven, but for the ids in ``pending``."""
        if frame.inbox is not UNSET:
            self.inbox = frame.inbox
        if frame.channels is not UNSET:
            for channel, cursor in frame.channels.items():
                # A channel that we stopped following may still be on the way.
                if channel in self.channels:
                    self.channels[channel] = cursor
        still = set(frame.pending)
        for event_id in self.pending.keys():  # noqa: SIM118
            if event_id not in still:
                self.pending.pop(event_id)
                if event_id in self._told:
                    self._told.put(event_id, True)
        for event_id in frame.pending:
            # Ids we hold as durable already are settled for us.
            if not self._told.get(event_id) and event_id not in self._withdrawn and event_id not in self._aliases:
                self.pending.put(event_id, None)
        return self.saved()

    def synced(self, inbox: str | None, channels: dict[str, str]) -> Saved:
        """A page of ``sync`` was told up to these cursors."""
        if inbox is not None:
            self.inbox = inbox
        for channel, cursor in channels.items():
            if channel in self.channels:
                self.channels[channel] = cursor
        return self.saved()

    def resync(self, frame: Resync) -> list[Effect]:
        """The server cannot continue a timeline from our cursor.

        Only too far behind: the cursor is good, and pages of ``sync`` lead on from it. Else (another epoch)
        the next mark brings a fresh cursor, and history fills the hole.
        """
        prefix, _, channel = frame.timeline.partition(":")
        large = prefix == "channel"
        if frame.reason == "too_far_behind" and (large or self._own_inbox is not None):
            if not large:
                self.inbox = self._own_inbox
            return [CatchUp()]
        told: list[Effect] = [Tell(Resynced(frame.timeline, frame.reason))]
        if large:
            return [*told, *self._read_anew(channel, self.heads.get(channel) or self.newest)]
        return [*told, *self._read_anew(None, self.newest)]

    @staticmethod
    def _read_anew(channel: str | None, after: str | None) -> list[Effect]:
        if after is None:
            return []
        # Ids of different channels are ordered by clocks that may differ: begin that much earlier.
        return [ReadAnew(channel, str(first_id(id_time(int(after)) - CLOCK_BOUND)))]

    # -- following -----------------------------------------------------------------------------------

    def following(self, channel: str, cursor: str) -> None:
        """The server follows the channel for us from ``cursor``."""
        self._declined.pop(channel)
        self.channels[channel] = cursor

    def unfollowed(self, channel: str, *, declined: bool) -> None:
        """The channel is followed no more. ``declined``: by wish, so a switch does not read it either."""
        self.channels.pop(channel, None)
        if declined:
            self._declined.put(channel, None)

    # -- events --------------------------------------------------------------------------------------

    def event(self, event: Event) -> list[Effect]:
        """An event of a timeline: told once by id, in whatever order and however often it arrives."""
        if event.kind == "retracted":
            return self._retracted(event)
        effects: list[Effect] = []
        if event.kind == "route":
            effects = self._route(event)
        elif event.kind == "member" and event.user == self.user:
            effects = self._membership(event)
        if event.id in self._aliases:
            return effects  # an alias stays withdrawn
        if event.id in self._withdrawn:
            if event.live:
                return effects  # a late rumour of what never became true
            self._withdrawn.pop(event.id)
            self._told.pop(event.id)
        told = self._told.get(event.id)
        if told is not None:
            if not event.live and not told:
                # The durable copy ends pending.
                self._told.put(event.id, True)
                self.pending.pop(event.id)
            return effects
        self._told.put(event.id, not event.live)
        if event.live and event.kind in _PROVEN_LATER:
            self.pending.put(event.id, None)
        elif not event.live:
            self.pending.pop(event.id)
        if self._stale(event):
            return effects
        translated = from_wire(event)
        if isinstance(translated, MessageReceived) and not self._show(translated):
            return effects
        if translated is not None:
            effects.append(Tell(translated))
        return effects

    def history(self, messages: Iterable[WireMessage]) -> list[Effect]:
        """Messages of a history reply that stand for events missed: durable copies, told if they were not."""
        effects: list[Effect] = []
        for wire in messages:
            if wire.id in self._aliases:
                continue
            self.pending.pop(wire.id)
            known = self._told.get(wire.id) is not None and self._withdrawn.pop(wire.id) is None
            self._told.put(wire.id, True)
            received = MessageReceived(message_from(wire), live=False)
            if not known and wire.deleted is not True and self._show(received):
                effects.append(Tell(received))
        return effects

    def _stale(self, event: Event) -> bool:
        """Whether a higher version of the same thing was told (keeps the highest)."""
        key: tuple[str, ...]
        if event.kind == "read" and event.message_id is not UNSET:
            key, version = ("read", event.channel, str(event.user)), event.message_id
        elif event.version is UNSET:
            return False
        else:
            version = event.version
            if event.kind == "edited" and event.message is not UNSET:
                key = ("edited", event.channel, event.message.id)
            elif event.kind == "reaction":
                key = ("reaction", event.channel, str(event.message_id), str(event.user), str(event.emoji))
            elif event.kind == "member":
                key = ("member", event.channel, str(event.user))
            else:
                key = (event.kind, event.channel)
            if event.kind == "deleted":
                return False  # a sticky flag: deletes have no order among each other
        number = int(version) if version.isdecimal() else 0
        known = self._versions.get(key)
        if known is not None and number < known:
            return True
        self._versions.put(key, number)
        return False

    def _show(self, received: MessageReceived) -> bool:
        """Hides a second message with the same (sender, client_id); True when this one is the first."""
        message = received.message
        key = (message.channel, message.sender, message.client_id)
        shown = self._by_key.get(key)
        if shown is not None and shown != message.id:
            self._hidden.put(key, {**(self._hidden.get(key) or {}), message.id: received})
            self._key_of.put(message.id, key)
            return False
        self._by_key.put(key, message.id)
        self._key_of.put(message.id, key)
        head = self.heads.get(message.channel)
        if head is None or int(message.id) > int(head):
            self.heads.put(message.channel, message.id)
        if self.newest is None or int(message.id) > int(self.newest):
            self.newest = message.id
        return True

    def _retracted(self, event: Event) -> list[Effect]:
        """Applies to what is pending; a second copy (``of``) is withdrawn whatever it was, and for good."""
        if event.message_id is UNSET:
            return []
        gone = event.message_id
        of = None if event.of is UNSET else event.of
        if of is not None:
            known = gone in self._aliases
            self._aliases.put(gone, of)
            if known or (gone not in self.pending and gone not in self._told):
                return []
        elif gone in self.pending:
            self._withdrawn.put(gone, None)
        else:
            return []
        self.pending.pop(gone)
        key = self._key_of.get(gone)
        # A server that knows only the id we resumed with names no channel.
        return self._withdraw(event.channel or ("" if key is None else key[0]), gone, of)

    def _withdraw(self, channel: str, gone: str, of: str | None) -> list[Effect]:
        key = self._key_of.get(gone)
        if key is not None:
            hidden = self._hidden.get(key) or {}
            if self._by_key.get(key) != gone:
                hidden.pop(gone, None)  # it was a hidden one: nobody saw it
                return []
            self._by_key.pop(key)
            if hidden:
                other = hidden.pop(next(iter(hidden)))
                self._show(other)
                again = MessageReceived(other.message, other.live, instead_of=gone)
                return [Tell(Retracted(channel, gone, of)), Tell(again)]
        return [Tell(Retracted(channel, gone, of))]

    # -- routes --------------------------------------------------------------------------------------

    def _route(self, event: Event) -> list[Effect]:
        """The channel moved between inbox and channel timeline (delivery.md section 4, Route).

        The event comes on both sides. On the channel's own timeline everything before it has been told: stop
        there. In the inbox it may be ahead of the channel's timeline: read that up to it, then stop.
        """
        if event.to is UNSET or event.cursor is UNSET or event.version is UNSET:
            return []
        channel = event.channel
        version = int(event.version) if event.version.isdecimal() else 0
        key = ("switched", channel)
        done = self._versions.get(key)
        if done is not None and version <= done:
            return []
        self._versions.put(key, version)
        own = self.channels.get(channel)
        if event.to == "channel":
            if own is not None or channel in self._declined:
                return []  # followed already, from a cursor of our own that is at or after the switch
            self.channels[channel] = event.cursor
            return [FollowFrom(channel, event.cursor)]
        if event.timeline != "inbox":
            self.channels.pop(channel, None)
            return [StopFollowing(channel)]
        start = own if own is not None else (None if event.since is UNSET else event.since)
        if start is None or channel in self._declined:
            self._declined.pop(channel)
            return []
        return [ReadChannel(channel, start, event.id)]

    def _membership(self, event: Event) -> list[Effect]:
        """Own ``add``: follow from there and ask history again. Own ``remove``: nothing of the channel after it."""
        channel = event.channel
        if event.version is not UNSET:
            number = int(event.version) if event.version.isdecimal() else 0
            known = self._versions.get(("member", channel, self.user))
            if known is not None and number <= known:
                return []
        if event.change == "remove":
            dropped = self.channels.pop(channel, None)
            return [] if dropped is None else [StopFollowing(channel)]
        if event.change == "add":
            effects: list[Effect] = []
            if event.route == "channel" and event.cursor is not UNSET and channel not in self.channels:
                self._declined.pop(channel)
                self.channels[channel] = event.cursor
                effects.append(FollowFrom(channel, event.cursor))
            effects.append(AskAgain(channel))
            return effects
        return []
