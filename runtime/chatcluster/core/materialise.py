"""From the log to rows: what one record of ``messages`` changes (delivery.md section 4). Pure.

Everything here is a function of the log below the record, so a replay, a zombie and a new owner all
write the same. Knows no store, no clock, no topic's partitions: the persister brings the state as of the
record (``ChannelState``), the verdicts of its key, and writes what ``Output`` collects in three steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from chatcluster.core.cursor import START
from chatcluster.core.ids import id_time
from chatcluster.core.records import (
    MAX_AGE,
    AliasRecord,
    ChannelRecord,
    DeleteRecord,
    EditRecord,
    EventRecord,
    Kind,
    MemberRecord,
    MessageRecord,
    ReactionRecord,
    Role,
    Route,
    RouteRecord,
    SendRecord,
    channel_key,
    channel_timeline,
    encode,
)
from chatcluster.core.routing import proposal, wanted_route
from chatcluster.core.rows import (
    AnyRow,
    ChannelRow,
    DeleteRow,
    EditRow,
    EventRow,
    MemberRow,
    MessageRow,
    ReactionRow,
    RouteRow,
    TimelineRow,
    UserChannelRow,
    VerdictRow,
)
from chatcluster.core.verdicts import judge

SENDS = (MessageRecord, EditRecord, DeleteRecord, ReactionRecord)
"""``SendRecord`` for ``isinstance``."""
DURABLE_ONLY = (MemberRecord, ChannelRecord, RouteRecord, AliasRecord)
"""Kinds that clients get only in their durable form: after their tail entry the timeline is nudged."""


class _RawReference(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``Reference`` with its record as bytes: encoded once, whatever the number of members."""

    tenant: str
    user: str
    source: int
    record: msgspec.Raw


class ChannelState:
    """A channel as of a position: the fold of everything of it below the next record.

    ``members``: complete, or None where only ``count`` and the users in ``known`` are (large channels).
    ``switched``: offset of the newest route switch, START before the first. ``prev``: offset of the newest
    entry of the channel's own timeline.
    """

    __slots__ = (
        "channel",
        "count",
        "created",
        "creator",
        "exists",
        "key",
        "kind",
        "known",
        "members",
        "prev",
        "route",
        "switched",
        "tenant",
        "timeline",
    )

    def __init__(self, tenant: str, channel: str) -> None:
        self.tenant = tenant
        self.channel = channel
        self.key = channel_key(tenant, channel)
        self.timeline = channel_timeline(tenant, channel)
        self.exists = False
        self.kind: Kind = "group"
        self.creator = ""
        self.created = 0
        self.members: dict[str, Role] | None = {}
        self.known: dict[str, Role | None] = {}
        self.count = 0
        self.route: Route = "inbox"
        self.switched = START
        self.prev = START

    def role(self, user: str) -> Role | None:
        """The user's role as of now, None for no member. Large channels: of users in ``known`` only."""
        if self.members is not None:
            return self.members.get(user)
        return self.known[user]

    def change(self, user: str, role: Role | None) -> None:
        """Add (role), change or remove (None) one member."""
        before = self.role(user)
        if self.members is None:
            self.known[user] = role
        elif role is None:
            self.members.pop(user, None)
        else:
            self.members[user] = role
        self.count += (role is not None) - (before is not None)

    @property
    def held(self) -> int:
        """Members held in memory."""
        return 0 if self.members is None else len(self.members)

    def shrink(self) -> None:
        """Forget what a large channel's next records do not need."""
        if self.route == "channel":
            self.members = None
            self.known = {}


class Output:
    """What a run of records changes, in the order in which it has to be written.

    Step 1: ``rows``. Step 2: ``timeline`` rows of large channels, and ``references``: (key, value) to
    append to ``inbox``. Step 3: tail entries, one per timeline row. Then the hints: ``changed``, the
    newest version per (tenant, channel) for routers' caches; ``proposals`` by channel key, for the log.
    """

    __slots__ = ("aliases", "changed", "proposals", "references", "repeats", "rows", "timeline", "unchanged", "void")

    def __init__(self) -> None:
        self.rows: list[AnyRow] = []
        self.timeline: list[TimelineRow] = []
        self.references: list[tuple[str, bytes]] = []
        self.changed: dict[tuple[str, str], int] = {}
        self.proposals: dict[str, RouteRecord] = {}
        self.void = 0  # by age
        self.unchanged = 0  # events that change nothing
        self.aliases = 0
        self.repeats = 0


class Thresholds(msgspec.Struct, frozen=True, gc=False):
    """Member counts at which the route is proposed to change."""

    up: int
    down: int


class Item(msgspec.Struct, gc=False):
    """One record to apply, with what has to be known about it.

    ``time``: append time, ms since 1970. ``raw``: the record as it stands in the log. ``earlier``: the
    verdict rows of its key, where there may be any; its own is added to them. ``repeated``: an event of
    this id stands at a smaller offset (asked for records that have no client_id to be judged by).
    """

    offset: int
    time: int
    raw: bytes
    record: EventRecord
    earlier: list[VerdictRow] | None = None
    repeated: bool = False


def apply(state: ChannelState, item: Item, thresholds: Thresholds, out: Output) -> bool:
    """Apply one record to the state of its channel and collect what it writes. Whether it counts.

    Raises ``ValueError`` for a record that never stands in the log.
    """
    record = item.record
    # Section 1, age: a record counts only if its append time is at most A after the time in its id.
    if item.time > id_time(record.id) + MAX_AGE:
        out.void += 1
        if isinstance(record, SENDS) and record.client_id:
            out.rows.append(_verdict(item, None))
        return False
    counts: bool
    if isinstance(record, SENDS):
        counts = _send(state, item, record, out)
    elif item.repeated:
        out.repeats += 1
        return False
    elif isinstance(record, MemberRecord):
        counts = _member(state, item, record, out)
    elif isinstance(record, ChannelRecord):
        counts = _channel(state, item, record, out)
    elif isinstance(record, RouteRecord):
        counts = _route(state, item, record, out)
    else:
        raise ValueError(f"{type(record).__name__} does not stand in the log")
    # ADR 0005: proposed again by every event while count and route disagree; one per run is enough. Back to the
    # inboxes only when somebody leaves: a router switches a channel before it adds many, and is not to be undone.
    if state.exists:
        wanted = wanted_route(state.route, state.count, up=thresholds.up, down=thresholds.down)
        leaving = isinstance(record, MemberRecord) and record.change == "remove"
        if wanted != state.route and (wanted == "channel" or leaving):
            out.proposals[state.key] = proposal(state.tenant, state.channel, wanted, record.id)
        elif out.proposals:
            out.proposals.pop(state.key, None)
    return counts


def _verdict(item: Item, winner: int | None) -> VerdictRow:
    record = item.record
    return VerdictRow(
        record.tenant,
        record.channel,
        record.actor,
        record.client_id,
        item.offset,
        record.id,
        winner,
        item.time,
        record.digest,
    )


def _send(state: ChannelState, item: Item, record: SendRecord, out: Output) -> bool:
    offset, repeated = item.offset, item.repeated
    if record.client_id:
        winner = record.id
        if item.earlier is not None:
            winner, repeated = judge(record, offset, item.time, item.earlier)
        verdict = _verdict(item, winner)
        out.rows.append(verdict)
        if item.earlier is not None:
            item.earlier.append(verdict)
        if not repeated and winner != record.id:
            # An alias changes nothing; the timeline tells that this copy is withdrawn in favour of the first.
            out.aliases += 1
            alias = AliasRecord(
                record.tenant,
                record.channel,
                record.id,
                record.actor,
                record.client_id,
                record.digest,
                record.flag,
                winner,
            )
            _tell(state, item, alias, encode(alias), out)
            return False
    if repeated:  # the same id again: verdict row only
        out.repeats += 1
        return False
    if isinstance(record, MessageRecord):
        out.rows.append(
            MessageRow(
                record.tenant,
                record.channel,
                record.id,
                offset,
                record.actor,
                record.client_id,
                record.body,
                record.data,
                record.reply_to,
            )
        )
    else:
        out.rows.append(EventRow(record.tenant, record.channel, record.id, offset, record))
        tenant, channel, message = record.tenant, record.channel, record.message_id
        # Versions: ordered by event id, so that live and durable agree; a delete is a flag that stays.
        if isinstance(record, EditRecord):
            out.rows.append(EditRow(tenant, channel, message, record.id, record.body, record.data))
        elif isinstance(record, DeleteRecord):
            out.rows.append(DeleteRow(tenant, channel, message, record.id))
        else:
            out.rows.append(
                ReactionRow(tenant, channel, message, record.actor, record.emoji, record.id, record.removed)
            )
    _tell(state, item, record, item.raw, out)
    return True


def _tell(state: ChannelState, item: Item, record: EventRecord, raw: bytes, out: Output) -> None:
    """Step 2 for an event that takes the channel's route: exactly the members of its position get it."""
    if state.route == "channel":
        _post(state, item, record, out)
    elif state.members is not None:
        _refer(state, state.members, item.offset, raw, out)
    else:
        raise ValueError(f"members of {state.key} are needed at offset {item.offset} and not loaded")


def _post(state: ChannelState, item: Item, record: EventRecord, out: Output) -> None:
    """An entry of the channel's own timeline."""
    offset = item.offset
    out.timeline.append(TimelineRow(state.tenant, state.timeline, offset, state.prev, offset, record, item.time))
    state.prev = offset


def _refer(state: ChannelState, users: Iterable[str], offset: int, raw: bytes, out: Output) -> None:
    """References to users' inboxes, each of which carries the event."""
    tenant = state.tenant
    body = msgspec.Raw(raw)
    out.references.extend([(f"{tenant}/{user}", encode(_RawReference(tenant, user, offset, body))) for user in users])


def _member(state: ChannelState, item: Item, record: MemberRecord, out: Output) -> bool:
    offset = item.offset
    tenant, channel, user = record.tenant, record.channel, record.user
    before = state.role(user) if state.exists else None
    after = None if record.change == "remove" else record.role
    # An event that changes nothing is void: add of a member, remove or role of somebody who is none.
    if not state.exists or (before is not None if record.change == "add" else before is None) or before == after:
        out.unchanged += 1
        return False
    state.change(user, after)
    durable = msgspec.structs.replace(
        record, route=state.route, since=state.switched if state.route == "channel" else None
    )
    out.rows.append(EventRow(tenant, channel, record.id, offset, durable))
    out.rows.append(MemberRow(tenant, channel, user, offset, after, state.count))
    out.rows.append(UserChannelRow(tenant, user, channel, offset, after))
    out.changed[tenant, channel] = offset
    raw = encode(durable)
    _tell(state, item, durable, raw, out)
    # To the subject's inbox too: also in large channels, and also when it is a member no more.
    if state.route == "channel" or after is None:
        _refer(state, (user,), offset, raw, out)
    return True


def _channel(state: ChannelState, item: Item, record: ChannelRecord, out: Output) -> bool:
    tenant, channel, offset = record.tenant, record.channel, item.offset
    if record.change == "renamed":
        if not state.exists:
            out.unchanged += 1
            return False
        # Always an event: the name as of a position is not kept, so "the same name" could not be told alike.
        row = ChannelRow(tenant, channel, offset, state.kind, record.name, state.creator, state.created)
        out.rows.append(row)
    else:
        # ADR 0004: the first members are part of creation; a second one of the same channel is void by position.
        # That a channel exists is seen by its member rows, so one without members never does.
        if state.exists or not record.members:
            out.unchanged += 1
            return False
        members: dict[str, Role] = {}
        for user, role in record.members:
            members.setdefault(user, role)
        state.exists = True
        state.kind = record.kind
        state.creator = record.actor
        state.created = id_time(record.id)
        state.members = members
        state.count = len(members)
        out.rows.append(ChannelRow(tenant, channel, offset, record.kind, record.name, state.creator, state.created))
        for user, role in members.items():
            out.rows.append(MemberRow(tenant, channel, user, offset, role, state.count))
            out.rows.append(UserChannelRow(tenant, user, channel, offset, role))
    out.rows.append(EventRow(tenant, channel, record.id, offset, record))
    out.changed[tenant, channel] = offset
    _tell(state, item, record, item.raw, out)
    return True


def _route(state: ChannelState, item: Item, record: RouteRecord, out: Output) -> bool:
    offset = item.offset
    if not state.exists or record.to == state.route:
        out.unchanged += 1
        return False
    if state.members is None:
        raise ValueError(f"members of {state.key} are needed at offset {offset} and not loaded")
    since = None if state.switched == START else state.switched
    # Before this offset inboxes, from it the channel's timeline, or the other way round. `route inbox` tells
    # where the channel's timeline began, so that a reader finishes it from (own cursor or `since`) to here.
    durable = msgspec.structs.replace(record, since=since if record.to == "inbox" else None)
    out.rows.append(RouteRow(state.tenant, state.channel, offset, record.to, since))
    out.rows.append(EventRow(state.tenant, state.channel, record.id, offset, durable))
    out.changed[state.tenant, state.channel] = offset
    state.route = record.to
    state.switched = offset
    _post(state, item, durable, out)  # it goes to both sides
    _refer(state, state.members, offset, encode(durable), out)
    return True


def fold(state: ChannelState, rows: Sequence[MemberRow]) -> None:
    """Complete members from the newest row of each user below a position."""
    state.members = {row.user: row.role for row in rows if row.role is not None}
    state.count = len(state.members)
    state.exists = bool(rows)
