"""Settings of a presence node."""

from __future__ import annotations

import msgspec


class PresenceSettings(msgspec.Struct, frozen=True):
    """Section ``presence``. Times in ms."""

    ttl_ms: int = 30_000
    """How long a session lives without a sign of life. Three heartbeats of 10 s: two may get lost."""
    tick_ms: int = 1_000
    """One envelope per gateway and tick. Seconds of staleness are fine, blocking chat is not."""
    grace_ms: int = 10_000
    """A user who comes back within it never showed as offline: a tunnel, a reload, a deployment's reconnects."""
    spacing_ms: int = 2_000
    """Least time between two changes told of one user: bounds what a flapping celebrity costs."""
    entries_per_second: int = 20_000
    """Fan-out budget: changes told to gateways in a second, over all gateways; the rest waits and coalesces."""
    envelope_entries: int = 5_000
    """Most changes in one envelope, so that a gateway handles it within a few ms."""
    beat_queue: int = 200_000
    """Beats waiting at most; over it the oldest are dropped: the newer ones of the same sessions follow."""
    slice: int = 128
    """Beats or users handled before the event loop is free again: well under 2 ms at 10 us each."""
    watch_users: int = 500
    """Users one session may watch (``limits.watch_users``); those beyond are not watched."""
    gateway_entries: int = 1_000_000
    """(session, user) pairs watched per gateway at most; those beyond are not watched."""
    gateways: int = 10_000
    """Gateways known at most; a newcomer beyond is not served until one is forgotten."""
    reads_per_tick: int = 4_000
    """Users read from the store in a tick; the rest waits for the next."""
    sweep_ms: int = 15_000
    """Every watched user is read again within this time, as far as ``reads_per_tick`` allows.

    Half a time to live: a lost notice (or one of two sessions that ran out) is found within one.
    """
