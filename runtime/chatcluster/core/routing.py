"""Hybrid routing: which route a channel should have, and the record that proposes it (ADR 0005). Pure."""

from __future__ import annotations

from chatcluster.core.ids import MAX_WORKER, SEQUENCE_BITS
from chatcluster.core.records import PLAIN, Route, RouteRecord


def wanted_route(route: Route, members: int, *, up: int, down: int) -> Route:
    """The route for this many members, with hysteresis: to ``channel`` at ``up``, back below ``down``."""
    if route == "inbox":
        return "channel" if members >= up else "inbox"
    return "inbox" if members < down else "channel"


def proposal(tenant: str, channel: str, to: Route, trigger: int) -> RouteRecord:
    """The route record that an event of the channel gives rise to.

    Its id is a function of ``trigger``, that event's id: a replay proposes the same id again, which is a
    repeat, and when the replay is old, void by age. A stale count switches nothing. The worker number is
    the trigger's complement: worker numbers are leased from below, so nobody mints the same id.
    """
    return RouteRecord(tenant, channel, trigger ^ MAX_WORKER << SEQUENCE_BITS, "", "", 0, PLAIN, to)
