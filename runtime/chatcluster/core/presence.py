"""Presence arithmetic: from sessions to the status that is shown, and when a change of it may be told.

Knows no store, no gateway and no clock: sessions come as data. ``now`` is an argument: ms on a clock that only
goes forward, so that a step of the wall clock silences nobody; ``since`` is wall time, ms since 1970.
Presence sheds first (law 9): everything here is bounded per user, so that whoever flaps costs the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from chatcluster.core.envelope import PresenceChange, Status

Key = tuple[str, str]
SENTINEL: Key = ("", "presence")
"""Holds a session of each presence node. When ours is gone, so is everything else: the store was lost."""
"""(tenant, user)."""

_RANK: dict[Status, int] = {"offline": 0, "away": 1, "online": 2}


class Rules(msgspec.Struct, frozen=True):
    """How calm presence is, all in ms.

    ``grace``: how long a user who left politely still shows as before; a reconnect inside shows nothing.
    ``spacing``: the least time between two changes told of one user; what happens between is coalesced.
    """

    grace: int
    spacing: int


def shown_status(sessions: Mapping[str, tuple[Status, int]]) -> tuple[Status, int]:
    """What a user with these live sessions shows as, and since when (ms).

    The most present session wins; among equals the one that began first. Without sessions: offline, since 0
    (unknown: the store forgets who left).
    """
    best: Status = "offline"
    since = 0
    for status, began in sessions.values():
        if _RANK[status] > _RANK[best]:
            best, since = status, began
        elif status == best and best != "offline" and began < since:
            since = began
    return best, since


def live_sessions(sessions: Mapping[str, tuple[Status, int, int]], now: int) -> dict[str, tuple[Status, int]]:
    """Of sessions (status, began, expires) those that still count at ``now``, without their expiry."""
    return {
        session: (status, began)
        for session, (status, began, expires) in sessions.items()
        if expires > now and status != "offline"
    }


class Shown:
    """What watchers of one user have been told, and what they will be told at ``due`` unless it passes.

    ``status`` None: nothing is known yet, so that the first observation is told at once.
    """

    __slots__ = ("_next", "_next_since", "due", "since", "status", "told_at")

    def __init__(self) -> None:
        self.status: Status | None = None
        self.since = 0
        self.told_at: int | None = None
        self.due: int | None = None
        self._next: Status = "offline"
        self._next_since = 0

    def start(self, status: Status, since: int) -> None:
        """The first state, answered directly to who asked: nothing has to be told."""
        self.status, self.since, self.due = status, since, None

    def observe(self, status: Status, since: int, now: int, rules: Rules, *, expired: bool = False) -> bool:
        """Take note of the truth at ``now``. True when a change is on its way: look again at ``due``.

        ``expired``: the last session ran out of its time to live, which is grace enough.
        """
        if status == self.status:
            self.due = None  # back to what is shown: a reconnect inside the grace is no news
            return False
        wait = rules.grace if status == "offline" and not expired and self.status is not None else 0
        due = now + wait
        if self.told_at is not None:
            due = max(due, self.told_at + rules.spacing)
        if self.due is None or self._next != status:
            self._next, self._next_since, self.due = status, since, due
        else:
            self.due = min(self.due, due)  # on its way already: an observation repeated must not put it off
        return True

    def tell(self, user: str, now: int) -> PresenceChange | None:
        """The change to announce when it is due, else None."""
        if self.due is None or self.due > now:
            return None
        self.status, self.since = self._next, self._next_since
        self.told_at = now
        self.due = None
        return PresenceChange(user, self.status, self.since)


class Budget:
    """Entries that may be sent per second, with at most one second saved up."""

    __slots__ = ("_left", "_rate", "_then")

    def __init__(self, rate: int, now: int) -> None:
        self._rate = rate
        self._left = float(rate)
        self._then = now

    def available(self, now: int) -> int:
        """How many may go now. A clock that steps back gives nothing and takes nothing."""
        self._left = min(self._rate, self._left + max(0, now - self._then) * self._rate / 1000)
        self._then = now
        return int(self._left)

    def spend(self, amount: int) -> None:
        self._left -= amount


def shares(demands: Sequence[int], available: int) -> list[int]:
    """Divide ``available`` among demands: nobody gets more than asked, nobody less than another who wants as much.

    What does not divide evenly goes to the first ones: the caller rotates them.
    """
    grants = [0] * len(demands)
    left = available
    open_ones = [index for index, demand in enumerate(demands) if demand > 0]
    while open_ones and left > 0:
        share = max(1, left // len(open_ones))
        for index in open_ones:
            give = min(share, demands[index] - grants[index], left)
            grants[index] += give
            left -= give
        open_ones = [index for index in open_ones if grants[index] < demands[index]]
    return grants


class Outbox:
    """Changes waiting for one gateway. The newest state of a user wins and keeps the place of the first."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Key, PresenceChange] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, key: Key, change: PresenceChange) -> None:
        self._waiting[key] = change

    def drop(self, keys: Iterable[Key]) -> None:
        """Nobody there watches these any more."""
        for key in keys:
            self._waiting.pop(key, None)

    def take(self, limit: int) -> dict[str, list[PresenceChange]]:
        """The oldest ``limit`` changes, by tenant, as an envelope carries them."""
        taken: dict[str, list[PresenceChange]] = {}
        waiting = self._waiting
        for key in [key for key, _ in zip(waiting, range(limit), strict=False)]:
            taken.setdefault(key[0], []).append(waiting.pop(key))
        return taken
