"""Settings of the session side of a gateway."""

from __future__ import annotations

import msgspec

from chatcluster.core.frames import Limits


class SessionSettings(msgspec.Struct, frozen=True):
    """What a session may do, and how often the proof runs. Seconds unless said."""

    limits: Limits = Limits()
    """Told in ``welcome``. ``follow`` and ``watch_users`` are enforced here, the rest by connection and router."""

    heartbeat_ms: int = 30_000
    """Told in ``welcome``: a client that is silent for longer pings. Half of what load balancers cut at."""

    sessions_per_user: int = 20
    """Sessions of one user on this gateway; the next is closed with 4429."""

    in_flight: int = 64
    """Requests of one session that wait for an answer; then its socket is not read until half are answered."""

    bad_frames: int = 50
    """Messages that are no frame before the connection is closed with 1008: a broken client, not a typing error."""

    mark_interval: float = 2.5
    """Between two marks of a timeline: a mark costs as much as a message, a lost one only a few events again."""

    mark_first: float = 0.25
    """From the first movement after a quiet time to its mark, so that one message is one mark."""

    active_interval: float = 1.0
    """Between two looks at the tail of a topic with unproven events."""

    quiet_interval: float = 5.0
    """The same for all others: what the bus lost without saying so arrives within it (promise 9)."""

    newest_interval: float = 60.0
    """From a topic's last entry, or look at its newest row in the store, to the next look: a fail-over may have eaten
    the tail's last entry. Of a topic that moves, the next entry tells."""

    active_time: float = 10.0
    """A topic counts as active this long after its last entry."""

    nudge_delay: float = 0.01
    """Nudges are collected this long before one read for all of them."""

    settle_interval: float = 2.0
    """Between two looks at the committed positions for live events that never became true."""

    pending_per_topic: int = 1_000
    """Live events of one topic not yet proven. Over it events are told when they are durable. As many as a
    client may name in ``resume.pending``."""

    pending_total: int = 200_000
    """The same for all topics: about 100 MB of records."""

    linger: float = 15.0
    """A topic without sessions is kept, subscribed and proven, this long: a reconnect finds it."""

    batch: int = 500
    """Topics in one read of the tails or of newest rows."""

    page: int = 500
    """Entries in one read of a timeline."""

    resume_events: int = 2_000
    """A timeline that is further behind is answered with ``resync``: reading history is cheaper for both."""

    resume_batches: int = 16
    """Batches of resumes that wait for tails or store at the same time."""

    store_reads: int = 32
    """Timelines read from the store at the same time, by resumes and by the proof each."""

    store_patience: float = 10.0
    """How long a resume tries a store that does not answer before the session is closed with 1013."""

    revocation_interval: float = 2.0
    """Between two reads of the revocations: one that the bus lost ends sessions within 5 s (promise 25)."""

    presence_interval: float = 10.0
    """Between two heartbeats of a session to presence: a third of its time to live."""
