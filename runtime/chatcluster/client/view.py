"""What one channel shows: messages in id order with edits, deletes and reactions applied. Pure.

Everything is an upsert, so events and history may be applied in any order, twice, or half:
the same set of them shows the same messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec import UNSET

from chatcluster.client.events import Message, message_from
from chatcluster.core.frames import Event, WireMessage
from chatcluster.core.ids import id_time

Mark = Literal["sending", "live", "durable", "failed", "withdrawn"]


class Shown(msgspec.Struct, frozen=True, gc=False):
    """A message as shown. ``mark``: how far it is; ``withdrawn`` ones were shown and never became true."""

    message: Message
    mark: Mark


class _Change(msgspec.Struct, gc=False):
    """An edit, delete or reaction by its event id. ``removed`` and ``user``/``emoji``: reactions."""

    kind: Literal["edited", "deleted", "reaction"]
    live: bool
    message: Message | None = None
    user: str = ""
    emoji: str = ""
    removed: bool = False


class _Entry:
    __slots__ = ("base", "changes", "live", "withdrawn")

    def __init__(self) -> None:
        self.base: Message | None = None  # None: changes of a message not loaded
        self.live = False
        self.withdrawn = False
        self.changes: dict[int, _Change] = {}


class ChannelView:
    """One channel's messages, the newest ``limit`` at most, and the drafts on their way."""

    def __init__(self, channel: str, *, limit: int = 5000) -> None:
        self.channel = channel
        self.complete = False
        """No older history exists than what is here."""
        self.reads: dict[str, str] = {}
        """Who has read up to which message, as far as it was told."""
        self._limit = limit
        self._entries: dict[int, _Entry] = {}
        self._aliases: dict[int, None] = {}
        self._drafts: dict[tuple[str, str], tuple[Message, Mark]] = {}

    # -- what comes ------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """An event of this channel; others are ignored. A retraction may name no channel: ids are unique."""
        if event.channel != self.channel and (event.channel or event.kind != "retracted"):
            return
        if event.kind == "message" and event.message is not UNSET:
            self._upsert(event.message, event.live)
        elif event.kind == "retracted":
            self._retract(event)
        elif event.kind == "read" and event.user is not UNSET and event.message_id is not UNSET:
            known = self.reads.get(event.user)
            if known is None or int(event.message_id) > int(known):
                self.reads[event.user] = event.message_id
        elif event.kind in ("edited", "deleted", "reaction"):
            self._change(event)
        self._trim()

    def history(self, messages: Iterable[WireMessage], *, oldest: bool = False) -> None:
        """Messages of a history reply. ``oldest``: there are none before them."""
        for wire in messages:
            self._upsert(wire, live=False)
        self.complete = self.complete or oldest
        self._trim()

    def proven(self, pending: Iterable[str]) -> None:
        """A mark came: what was live and is not in ``pending`` is durable."""
        still = {int(event_id) for event_id in pending}
        for message_id, entry in self._entries.items():
            if entry.live and not entry.withdrawn and message_id not in still:
                entry.live = False
            for event_id, change in entry.changes.items():
                if change.live and event_id not in still:
                    change.live = False

    def _upsert(self, wire: WireMessage, live: bool) -> None:
        message_id = int(wire.id)
        entry = self._entries.setdefault(message_id, _Entry())
        message = message_from(wire)
        if entry.base is None:
            entry.base, entry.live = message, live
        elif not live:
            entry.live = entry.withdrawn = False  # the durable copy ends pending
            # A replayed first body must not undo what history has shown of edits.
            if message.edited is not None or message.deleted or message.reactions or entry.base.edited is None:
                entry.base = message if not entry.base.deleted else entry.base
        self._drafts.pop((wire.sender, wire.client_id), None)

    def _change(self, event: Event) -> None:
        if event.kind == "edited":
            if event.message is UNSET:
                return
            target, change = event.message.id, _Change("edited", event.live, message_from(event.message))
        elif event.message_id is UNSET:
            return
        elif event.kind == "deleted":
            target, change = event.message_id, _Change("deleted", event.live)
        else:
            if event.user is UNSET or event.emoji is UNSET:
                return
            target = event.message_id
            change = _Change("reaction", event.live, None, event.user, event.emoji, event.removed is True)
        entry = self._entries.setdefault(int(target), _Entry())
        known = entry.changes.get(int(event.id))
        if known is None:
            entry.changes[int(event.id)] = change
            self._fold(entry)
        elif not event.live:
            known.live = False

    def _fold(self, entry: _Entry) -> None:
        """Keeps of proven changes only the one in force for each thing: a message edited for ever stays small."""
        if len(entry.changes) < 32:
            return
        newest: dict[tuple[str, str, str], int] = {}
        for event_id, change in entry.changes.items():
            if not change.live:
                key = (change.kind, change.user, change.emoji)
                newest[key] = max(newest.get(key, 0), event_id)
        keep = set(newest.values())
        entry.changes = {i: c for i, c in entry.changes.items() if c.live or i in keep}

    def _retract(self, event: Event) -> None:
        if event.message_id is UNSET:
            return
        gone = int(event.message_id)
        entry = self._entries.get(gone)
        if event.of is not UNSET:
            self._aliases[gone] = None  # an alias stays withdrawn, whatever comes later
            if len(self._aliases) > self._limit:
                del self._aliases[next(iter(self._aliases))]
        elif entry is not None and entry.base is not None:
            if entry.live:
                entry.withdrawn = True
        else:
            for other in self._entries.values():
                change = other.changes.get(gone)
                if change is not None and change.live:
                    del other.changes[gone]
                    return

    def _trim(self) -> None:
        over = len(self._entries) - self._limit
        if over > 0:
            for message_id in sorted(self._entries)[:over]:
                del self._entries[message_id]
            self.complete = False

    # -- drafts ----------------------------------------------------------------------------------------

    def draft(self, message: Message) -> None:
        """An own message on its way, shown last until it has an id. Its ``id`` is empty."""
        self._drafts[message.sender, message.client_id] = (message, "sending")
        if len(self._drafts) > self._limit:
            del self._drafts[next(iter(self._drafts))]

    def acked(self, sender: str, client_id: str, message_id: str, time: datetime) -> None:
        """The draft is durable."""
        draft = self._drafts.pop((sender, client_id), None)
        entry = self._entries.get(int(message_id))
        if entry is not None and entry.base is not None:
            entry.live = entry.withdrawn = False
        elif draft is not None:
            entry = self._entries.setdefault(int(message_id), _Entry())
            entry.base = msgspec.structs.replace(draft[0], id=message_id, time=time)

    def failed(self, sender: str, client_id: str) -> None:
        """The draft was refused or given up."""
        draft = self._drafts.get((sender, client_id))
        if draft is not None:
            self._drafts[sender, client_id] = (draft[0], "failed")

    # -- what is shown ---------------------------------------------------------------------------------

    @property
    def oldest(self) -> str | None:
        """The id before which older history would be read."""
        ids = [message_id for message_id, entry in self._entries.items() if entry.base is not None]
        return str(min(ids)) if ids else None

    def messages(self) -> list[Shown]:
        """Messages in id order, then drafts. Of several with one (sender, client_id) only one is shown."""
        shown: list[Shown] = []
        taken: dict[tuple[str, str], int] = {}
        for message_id in sorted(self._entries):
            entry = self._entries[message_id]
            if entry.base is None or message_id in self._aliases:
                continue
            mark: Mark = "withdrawn" if entry.withdrawn else "live" if entry.live else "durable"
            row = Shown(self._current(entry), mark)
            key = (entry.base.sender, entry.base.client_id)
            at = taken.get(key)
            if at is None:
                taken[key] = len(shown)
                shown.append(row)
            elif _rank(row.mark) > _rank(shown[at].mark):
                # Hide the second; but one that is durable is the message, and the other its copy.
                shown[at] = row
        shown.sort(key=lambda row: int(row.message.id))
        shown.extend(
            Shown(message, mark)
            for (sender, client_id), (message, mark) in self._drafts.items()
            if (sender, client_id) not in taken
        )
        return shown

    def get(self, message_id: str) -> Shown | None:
        """One message as shown."""
        entry = self._entries.get(int(message_id))
        if entry is None or entry.base is None or int(message_id) in self._aliases:
            return None
        return Shown(self._current(entry), "withdrawn" if entry.withdrawn else "live" if entry.live else "durable")

    def _current(self, entry: _Entry) -> Message:
        """The base with its changes: the highest version of each thing wins, a delete is sticky."""
        message = entry.base
        assert message is not None
        if not entry.changes:
            return message
        if message.deleted or any(change.kind == "deleted" for change in entry.changes.values()):
            return msgspec.structs.replace(message, body="", data=None, deleted=True, reactions={})
        edits = [event_id for event_id, change in entry.changes.items() if change.kind == "edited"]
        if edits:
            newest = max(edits)
            edited = entry.changes[newest].message
            assert edited is not None
            at = datetime.fromtimestamp(id_time(newest) / 1000, UTC)
            if message.edited is None or at > message.edited:
                message = msgspec.structs.replace(message, body=edited.body, data=edited.data, edited=at)
        reactions = {emoji: list(users) for emoji, users in message.reactions.items()}
        for event_id in sorted(entry.changes):
            change = entry.changes[event_id]
            if change.kind == "reaction":
                users = reactions.setdefault(change.emoji, [])
                if change.removed and change.user in users:
                    users.remove(change.user)
                elif not change.removed and change.user not in users:
                    users.append(change.user)
        return msgspec.structs.replace(message, reactions={emoji: users for emoji, users in reactions.items() if users})


def _rank(mark: Mark) -> int:
    return {"withdrawn": 0, "failed": 0, "sending": 1, "live": 1, "durable": 2}[mark]
