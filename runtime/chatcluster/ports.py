"""Every seam of the platform as a Protocol. The docstring is the contract; each has a suite in tests/contract.

Laws that all keep: nothing here has ``open`` or ``close`` (the composition root owns lifetimes); a
method that cannot block is a plain ``def``; ports raise only the errors below; times are milliseconds
since 1970 unless said; tenants are inside the keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from chatcluster.core.envelope import Envelope, PresenceChange, Status
from chatcluster.core.frames import Answer, Request
from chatcluster.core.records import EventRecord
from chatcluster.core.rows import (
    AnyRow,
    MemberRow,
    Membership,
    ReadCursorRow,
    RevocationRow,
    RouteRow,
    StoredChannel,
    StoredMessage,
    TimelineRow,
    UserChannelRow,
    VerdictRow,
)


class PortError(Exception):
    """Base of what ports raise."""


class Unavailable(PortError):
    """The backend did not answer in time or refused: nothing is known about the effect."""


class Full(PortError):
    """A bounded buffer is full: the newcomer is refused before it had any effect."""


class Fenced(PortError):
    """A lease was lost: whoever holds it must stop acting."""


class Misconfigured(PortError):
    """A server answers and is not what the settings say: the role refuses to start.

    The text names what is wrong, its value, what is allowed and the fix.
    """


# -- time -----------------------------------------------------------------------------------------


class Clock(Protocol):
    """Time, as an argument for ``core``."""

    def now(self) -> int:
        """Wall clock, ms since 1970; may jump either way."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go forward and count a machine's sleep."""
        ...


# -- the log (cold, durable: the truth) -------------------------------------------------------------


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """An append that is durable. ``time``: the log's append time, ms since 1970."""

    partition: int
    offset: int
    time: int


class Failure(msgspec.Struct, frozen=True, gc=False):
    """An append of unknown outcome: it may stand in the log or not."""

    reason: str


Report = Callable[[Receipt | Failure], None]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A record as a reader of the log gets it."""

    offset: int
    time: int
    key: str
    value: bytes


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Entries of one partition, ascending by offset, without holes that matter."""

    topic: str
    partition: int
    entries: Sequence[Entry]


class Log(Protocol):
    """Appends. Ordered per key; durable once reported; append times per partition never decrease by much.

    Partition counts are fixed for an ``epoch``.
    """

    @property
    def epoch(self) -> str:
        """Incarnation of the topics: cursors of another epoch are void."""
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""
        ...

    def partition_of(self, topic: str, key: str) -> int:
        """The partition of a key: the same for ever."""
        ...

    def append(self, topic: str, key: str, value: bytes, report: Report) -> None:
        """Queue a record. Cannot block; raises ``Full`` (nothing queued) over the bound in flight.

        Records of one key are stored in the order of the calls. ``report`` is called exactly once, on
        the event loop, never from inside this call.
        """
        ...

    def append_to(self, topic: str, partition: int, value: bytes, report: Report) -> None:
        """The same, for a record without a key into a named partition (ticks)."""
        ...

    def stalled(self) -> float:
        """Seconds since the oldest append not yet reported was queued; 0.0 when none waits."""
        ...


class Consumer(Protocol):
    """One member of a consumer group over one topic. At least once; ascending per partition."""

    async def fetch(self) -> Sequence[Batch]:
        """The next records of the partitions owned now, each read once per ownership.

        Waits until there is one. Batches are bounded in records and bytes.
        """
        ...

    def owned(self) -> Mapping[int, int]:
        """Partitions owned now, each with the generation of its ownership (another number: it was lost between)."""
        ...

    async def commit(self, positions: Mapping[int, int]) -> None:
        """Store, per partition, the first offset not yet done. Raises ``Fenced`` for a partition not owned."""
        ...


class LogReader(Protocol):
    """Reading outside a group: rebuilding the memory of verdicts after a start."""

    async def read(self, topic: str, partition: int, start: int, limit: int) -> Sequence[Entry]:
        """At most ``limit`` entries from ``start`` on; empty at the end."""
        ...

    async def offset_at(self, topic: str, partition: int, time: int) -> int:
        """The first offset whose append time is at or after ``time``; the end if none is."""
        ...

    async def end(self, topic: str, partition: int) -> int:
        """The offset that the next record gets."""
        ...


# -- the bus (hot, at most once: a rumour) ----------------------------------------------------------


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One envelope on one topic. The same envelope object may come on many topics."""

    topic: str
    envelope: Envelope


class Lost(msgspec.Struct, frozen=True, gc=False):
    """Something may have been missed on these topics (None: on all): check them against the tails."""

    topics: frozenset[str] | None = None


class Bus(Protocol):
    """Publish and subscribe, at most once; in order per publisher and topic while nothing is lost.

    A bus that may lose must say so: ``Lost`` comes for every gap that it can notice.
    """

    def publish(self, topics: Sequence[str], envelope: Envelope) -> None:
        """Tell the subscribers of each topic. Cannot block and never raises: over its bound it drops and counts."""
        ...

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Returns when every later publish reaches this subscriber (unless lost). Idempotent."""
        ...

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Stop; deliveries already on their way may still come."""
        ...

    def listen(self) -> AsyncIterator[Sequence[Delivery | Lost]]:
        """Everything for this subscriber, in batches, for one listener. Its buffer is bounded: over it, ``Lost``."""
        ...


class Buses(Protocol):
    """Makes subscribers: each gateway and router has its own ``Bus``."""

    def subscriber(self, name: str) -> Bus: ...


# -- tails (a cache of each timeline's newest durable entries) -----------------------------------------


class TailEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A durable entry of a timeline. ``prev``: this timeline's offset before it. ``source``: offset in ``messages``."""

    offset: int
    prev: int
    source: int
    record: EventRecord


class Committed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How far a stage has come in one partition: next offset to do, and the highest append time below it."""

    offset: int
    log_time: int


class Tails(Protocol):
    """A cache: any entry or whole tail may vanish at any time, and an old owner may write late.

    An offset at or below the newest one of its tail is refused silently (zombies are harmless).
    """

    async def append(self, entries: Sequence[tuple[str, TailEntry]]) -> None:
        """Add (timeline, entry) in the order given. Never raises but ``Unavailable``."""
        ...

    async def read(self, positions: Sequence[tuple[str, int]]) -> Sequence[Sequence[TailEntry] | None]:
        """For each (timeline, after): the entries with a greater offset, ascending, as far as they are kept;

        None when the tail is not there or its last entry is before ``after``: ask the store. An empty
        sequence means that the tail ends exactly at ``after``. The reader checks ``prev`` (core.proof).
        """
        ...

    async def commit(self, stage: Literal["messages", "inbox"], positions: Mapping[int, Committed]) -> None:
        """Publish how far a stage has come. Cached positions never go backward."""
        ...

    async def committed(self, stage: Literal["messages", "inbox"]) -> Mapping[int, Committed]:
        """The newest published positions; partitions without one are missing."""
        ...


# -- dedupe (a cache of recent client_ids) --------------------------------------------------------------


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A send that asks for its client_id. ``key`` holds tenant, channel, sender and client_id."""

    key: str
    id: int
    digest: int


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """The entry that stood there before. ``durable``: its ack may be repeated."""

    id: int
    digest: int
    durable: bool


class Dedupe(Protocol):
    """A cache keyed by client_id, kept DEDUPE_WINDOW ms; any entry may vanish."""

    async def claim(self, claims: Sequence[Claim]) -> Sequence[Claimed | None]:
        """For each, in order: None (fresh: the claim now stands, pending) or what stood there.

        Two claims of one key in one call: the second sees the first. Raises ``Unavailable``.
        """
        ...

    async def replace(self, claim: Claim) -> None:
        """Put a pending claim over whatever stands there."""
        ...

    def settle(self, settled: Sequence[Claim]) -> None:
        """Mark entries durable where they still hold that id. Cannot block; best effort."""
        ...


# -- the store (queryable picture of the log) -------------------------------------------------------------


class StoreWriter(Protocol):
    """Writes of the persister."""

    async def write(self, rows: Sequence[AnyRow]) -> None:
        """Upsert rows by the rules in ``core.rows``; returns when they are readable and survive a crash.

        Rows of one call may be applied in any order and partly if it raises. Raises ``Unavailable``:
        the caller writes the same rows again.
        """
        ...


class StoreReader(Protocol):
    """Reads. Each returns what the rows said at some moment during the call; raises ``Unavailable``."""

    async def history(
        self, tenant: str, channel: str, *, before: int | None, after: int | None, limit: int
    ) -> Sequence[StoredMessage]:
        """Messages in ascending id order: the last ``limit`` below ``before`` (None: of all), or with
        ``after`` the first ``limit`` above it. Exclusive bounds. Deleted ones are included as such.
        """
        ...

    async def messages(self, tenant: str, channel: str, ids: Sequence[int]) -> Mapping[int, StoredMessage]:
        """Those of the messages that exist."""
        ...

    async def has_events(self, tenant: str, keys: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """For those (channel, event id) that have a message or event row: its offset in ``messages``."""
        ...

    async def timeline(self, timeline: str, *, after: int, limit: int) -> Sequence[TimelineRow]:
        """Ascending by offset, exclusive of ``after``. A message's record shows its first body."""
        ...

    async def newest(self, timelines: Sequence[str]) -> Mapping[str, TimelineRow]:
        """The last row of each timeline that has one."""
        ...

    async def channel(self, tenant: str, channel: str) -> StoredChannel | None: ...

    async def memberships(
        self, tenant: str, channel: str, users: Sequence[str], *, at: int | None = None
    ) -> Mapping[str, Membership]:
        """The newest member row of each user, or the newest with offset <= ``at``. Users without a row are missing."""
        ...

    async def members(self, tenant: str, channel: str, *, after: str, limit: int) -> Sequence[Membership]:
        """Members now, ascending by user, exclusive of ``after`` ("" from the start)."""
        ...

    async def member_rows(self, tenant: str, channel: str, *, below: int) -> Sequence[MemberRow]:
        """For each user the newest member row with offset < ``below``: the fold that a persister starts from."""
        ...

    async def newest_member_row(self, tenant: str, channel: str, *, below: int) -> MemberRow | None:
        """The channel's newest member row with offset < ``below`` (any user): it knows the count."""
        ...

    async def route(self, tenant: str, channel: str, *, below: int) -> RouteRow | None:
        """The newest route row with offset < ``below``."""
        ...

    async def channels_of(self, tenant: str, user: str, *, after: str, limit: int) -> Sequence[UserChannelRow]:
        """The user's channels (role not None), ascending by channel, exclusive of ``after``."""
        ...

    async def heads(self, tenant: str, channels: Sequence[str]) -> Mapping[str, int]:
        """The newest message id of each channel that has a message."""
        ...

    async def count_after(self, tenant: str, channel: str, after: int, *, limit: int) -> int:
        """How many messages have a greater id, counted up to ``limit``."""
        ...

    async def verdicts(self, tenant: str, channel: str, sender: str, client_id: str) -> Sequence[VerdictRow]:
        """All verdict rows of a key, ascending by offset."""
        ...

    async def read_cursors(self, tenant: str, user: str, channels: Sequence[str]) -> Mapping[str, int]:
        """Flushed read cursors."""
        ...

    async def revocations(self) -> Sequence[RevocationRow]:
        """All revocations still of use (bounded: older than the longest token life they may go)."""
        ...


class Store(StoreWriter, StoreReader, Protocol):
    """Both halves."""


# -- read cursors (write-back) ------------------------------------------------------------------------------


class ReadCursors(Protocol):
    """``last_read_message_id`` per user and channel: merged by max, flushed later by the persister."""

    async def advance(self, row: ReadCursorRow) -> int:
        """Merge by max; returns the value in force."""
        ...

    async def get(self, tenant: str, user: str, channels: Sequence[str]) -> Mapping[str, int]:
        """What is known here; what is missing may stand in the store."""
        ...

    async def dirty(self, limit: int) -> Sequence[ReadCursorRow]:
        """Changes not yet flushed, oldest first; they stay dirty until ``flushed``."""
        ...

    async def flushed(self, rows: Sequence[ReadCursorRow]) -> None:
        """Forget these as dirty, unless they moved on since."""
        ...


# -- presence --------------------------------------------------------------------------------------------------


class Beat(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A session's sign of life. ``status`` offline: it left politely. ``invisible`` sessions show as offline."""

    tenant: str
    user: str
    session: str
    status: Status


class PresenceStore(Protocol):
    """Sessions with a time to live. Everything may vanish: it is rebuilt by the next heartbeats."""

    async def touch(self, beats: Sequence[Beat], *, ttl: int) -> Sequence[bool]:
        """Renew (or, with status offline, drop) sessions for ``ttl`` ms.

        True where the user's shown status may have changed.
        """
        ...

    async def sessions(self, users: Sequence[tuple[str, str]]) -> Sequence[Mapping[str, tuple[Status, int]]]:
        """For each (tenant, user): live sessions with their status and the time it began."""
        ...

    async def expired(self, limit: int) -> Sequence[tuple[str, str]]:
        """Users whose last session ran out of time since the last call."""
        ...


class PresenceService(Protocol):
    """What a gateway asks of presence. Sheds first: every call may do less, none delays a message."""

    def beat(self, gateway: str, beats: Sequence[Beat]) -> None:
        """A gateway's heartbeats in one batch. Cannot block; over its bound the oldest are dropped."""
        ...

    async def watch(self, gateway: str, session: str, tenant: str, users: Sequence[str]) -> Sequence[PresenceChange]:
        """Replace the session's visible set; the answer is the state now. Changes come on the gateway's topic."""
        ...

    def forget(self, gateway: str, sessions: Sequence[str]) -> None:
        """These sessions are gone: drop what they watched."""
        ...


# -- webhook -----------------------------------------------------------------------------------------------------


class Posted(msgspec.Struct, frozen=True, gc=False):
    """What became of a post. ``later``: again, not before ``after`` seconds. ``gone``: the receiver wants no more."""

    outcome: Literal["taken", "refused", "gone", "later"]
    after: float = 0.0


class Webhook(Protocol):
    """A receiver outside. At least once: ``id`` is the same for each try of one body."""

    async def post(self, id: str, body: bytes) -> Posted:  # noqa: A002
        """Sign and send once, within a bounded time. Never raises for what the receiver or the network does."""
        ...


# -- routers --------------------------------------------------------------------------------------------------


class Caller(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """On whose behalf a request comes. ``system``: from the server API, above membership and roles."""

    tenant: str
    user: str
    session: str
    system: bool = False


class Router(Protocol):
    """The gateway's way to a router: an object here, a connection in a cluster."""

    def submit(self, caller: Caller, request: Request, done: Callable[[Answer], None]) -> None:
        """Take a request. Cannot block. ``done`` is called exactly once, on the event loop, with an ``Ack``,
        ``Reply`` or ``ErrorFrame`` that carries the request's rid; it may be called inside this call.

        Sends of one session to one channel are taken in the order of the calls. Bounded in flight: over
        it the answer is ``overloaded``.
        """
        ...


# -- worker numbers ----------------------------------------------------------------------------------------------


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A worker number until ``expires`` (monotonic seconds). ``floor``: mint only ids above this one.

    ``skew``: ms by which the asker's wall clock was ahead of the others' (their middle); None: nobody to compare with.
    """

    worker: int
    floor: int
    expires: float
    skew: int | None = None


class Workers(Protocol):
    """Leases worker numbers; a number has one holder at a time."""

    async def lease(self, holder: str) -> Lease:
        """Take or renew. Raises ``Unavailable`` (keep the lease you have until it expires) or ``Fenced``."""
        ...
