"""Settings of the router role."""

from __future__ import annotations

import msgspec


class RouterSettings(msgspec.Struct, frozen=True):
    """Every bound and every wait of a router. Seconds unless the name says otherwise."""

    name: str = "router"
    """Holder of the worker number's lease and name on the bus; unique per process."""
    max_body_bytes: int = 16_384
    """UTF-8 bytes of a body (``welcome.limits.max_body_bytes``)."""
    sends_per_second: float = 20.0
    """Rate per user of sends, edits, deletes and reactions (``welcome.limits.sends_per_second``)."""
    send_burst: int = 40
    """Sends a user may make at once: two seconds' worth, so that a reconnecting client can empty its outbox."""
    max_users: int = 200_000
    """Users whose rate is remembered; the least recently used are forgotten (about 150 bytes each)."""
    page: int = 100
    """Most items of a reply (``welcome.limits.page``)."""
    max_arrivals: int = 10_000
    """Requests that wait for the pump; over it: ``overloaded``."""
    max_batch: int = 512
    """Sends taken through the steps together: bounds how long the loop is held."""
    max_in_flight: int = 20_000
    """Produces without a report; over it: ``overloaded``."""
    max_waiting: int = 1_000
    """Sends per channel that wait while it is being loaded; over it: ``overloaded``."""
    max_checks: int = 512
    """Sends at once that need a read of the store first (edits, retries)."""
    max_verdicts: int = 2_000
    """Flagged sends that wait for the persister's verdict; over it: ``overloaded``."""
    max_reads: int = 512
    """Other requests at once (history, sync, membership); over it: ``overloaded``."""
    stalled: float = 1.0
    """Age of the oldest unreported produce from which sends are refused (delivery.md section 3)."""
    retry_after_ms: int = 1_000
    """Advice of ``overloaded``."""
    report_deadline: float = 10.0
    """How long a produce may go without a report before the answer is ``unknown_outcome``."""
    verdict_deadline: float = 10.0
    """How long a flagged send waits for its verdict before the answer is ``unknown_outcome``."""
    stored_deadline: float = 10.0
    """How long a change of a channel waits to be readable before the answer is ``unknown_outcome``."""
    poll: float = 0.01
    """First pause between looks at the store for a verdict or a change; doubles up to ``poll_max``."""
    poll_max: float = 0.25
    """Longest pause between looks."""
    young: float = 10.0
    """Age of a message's id up to which a missing target of an edit may still be on its way to the store."""
    max_channels: int = 50_000
    """Channels in the cache (2 members: about 1 KiB each)."""
    max_memberships: int = 200_000
    """Memberships of large channels in the cache (about 300 bytes each)."""
    max_loads: int = 10_000
    """Channels that are being loaded or wait for it (a start finds them all cold); over it: ``overloaded``."""
    loads: int = 64
    """Channels read from the store at the same time."""
    fresh: float = 3.0
    """Age from which a cached channel is read again in the background."""
    stale: float = 5.0
    """Age from which a cached channel is read again before it is used: a removal takes effect within this."""
    negative: float = 0.5
    """Age up to which "not a member" and "no such channel" are believed without reading the store again."""
    dedupe_pause: float = 1.0
    """How long dedupe is not asked after it failed: sends go on flagged ``check``."""
    lease_margin: float = 2.0
    """Minting stops this long before the lease of the worker number ends (monotonic clock)."""
    asleep: float = 10.0
    """A gap in the loop's time from which everything that waits is dropped (self-fencing)."""
    lag: float = 7.0
    """Age of the persister's log time from which reads say ``lagging``: one tick (5 s) and 2 s."""
    typing_interval: float = 3.0
    """At most one ``typing`` per user and channel in this time."""
    typing_backlog: int = 64
    """Waiting requests from which ``typing`` is shed (law 9: before a message is delayed)."""
    receipt_members: int = 64
    """Largest channel whose other members are told live what somebody has read: receipts grow with the square."""
    max_unread: int = 1_000
    """Unread messages are counted up to this."""
    max_members: int = 200_000
    """Members a channel may have."""
    inbox_fanout_limit: int = 500
    """Members from which a channel has its own timeline; the persister's number. Larger additions switch first."""
    bulk: int = 100
    """Members added or removed together: a chunk is stored before the next is appended."""
    bulk_large: int = 1_000
    """The same in a large channel, where an addition is told to the timeline and one inbox, not to all."""
