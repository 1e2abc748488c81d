"""Who watches whom: visible sets per gateway and session, bounded. Knows no store and no bus."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from chatcluster.core.presence import Key, Outbox, Shown


class Watched:
    """A user somebody watches. ``gateways``: how many sessions there watch this user."""

    __slots__ = ("gateways", "shown")

    def __init__(self) -> None:
        self.shown = Shown()
        self.gateways: dict[str, int] = {}


class Gateway:
    """One gateway's sessions with their visible sets, and what waits for it."""

    __slots__ = ("entries", "heard", "leaving", "outbox", "sessions")

    def __init__(self, now: int) -> None:
        self.sessions: dict[str, tuple[Key, ...]] = {}
        self.entries = 0
        self.heard = now
        self.leaving: dict[str, None] = {}
        self.outbox = Outbox()


class Watchers:
    """All visible sets of a presence node."""

    def __init__(self, *, per_session: int, per_gateway: int, gateways: int) -> None:
        self.users: OrderedDict[Key, Watched] = OrderedDict()  # the longest not swept first
        self.gateways: dict[str, Gateway] = {}
        self._per_session = per_session
        self._per_gateway = per_gateway
        self._gateways = gateways

    def gateway(self, name: str, now: int) -> Gateway | None:
        """The gateway, noted as heard at ``now``; None when there are too many."""
        found = self.gateways.get(name)
        if found is None:
            if len(self.gateways) >= self._gateways:
                return None
            found = self.gateways[name] = Gateway(now)
        found.heard = now
        return found

    def replace(self, name: str, session: str, keys: Sequence[Key], now: int) -> tuple[Key, ...]:
        """Set what a session watches; returns what of it fits the bounds (law 7: the newcomer is refused)."""
        gateway = self.gateway(name, now)
        if gateway is None:
            return ()
        gateway.leaving.pop(session, None)
        before = gateway.sessions.pop(session, ())
        gateway.entries -= len(before)
        room = min(self._per_session, self._per_gateway - gateway.entries)
        kept = tuple(dict.fromkeys(keys))[: max(0, room)]
        # The new set is counted before the old one is let go: a user in both keeps what was told of them.
        for key in kept:
            watched = self.users.get(key)
            if watched is None:
                watched = self.users[key] = Watched()
            watched.gateways[name] = watched.gateways.get(name, 0) + 1
        if kept:
            gateway.sessions[session] = kept
            gateway.entries += len(kept)
        self._release(name, gateway, before)
        return kept

    def leave(self, name: str, sessions: Iterable[str]) -> None:
        """These sessions are gone. Only noted: ``sweep_leaving`` does the work in slices."""
        gateway = self.gateways.get(name)
        if gateway is not None:
            gateway.leaving.update((session, None) for session in sessions if session in gateway.sessions)

    def leaving(self) -> Iterator[tuple[str, str]]:
        """(gateway, session) of those that left; the caller lets each go by ``let_go``."""
        for name in list(self.gateways):
            gateway = self.gateways.get(name)
            for session in list(gateway.leaving) if gateway else ():
                yield name, session

    def let_go(self, name: str, session: str) -> int:
        """Drop a session that left, unless it watches again since; returns how many users it watched."""
        gateway = self.gateways.get(name)
        if gateway is None or session not in gateway.leaving:
            return 0
        del gateway.leaving[session]
        keys = gateway.sessions.pop(session, ())
        gateway.entries -= len(keys)
        self._release(name, gateway, keys)
        return len(keys)

    def longest_unread(self, limit: int) -> list[Key]:
        """The next users of the sweep; they go to its end."""
        keys = list(islice(self.users, limit))
        for key in keys:
            self.users.move_to_end(key)
        return keys

    def silent(self, before: int) -> list[str]:
        """Gateways not heard since ``before``: killed ones never say goodbye."""
        return [name for name, gateway in self.gateways.items() if gateway.heard < before]

    def forget_gateway(self, name: str) -> None:
        """Drop a gateway that has no sessions left."""
        gateway = self.gateways.get(name)
        if gateway is not None and not gateway.sessions:
            del self.gateways[name]

    def _release(self, name: str, gateway: Gateway, keys: Iterable[Key]) -> None:
        for key in keys:
            watched = self.users[key]
            left = watched.gateways[name] - 1
            if left:
                watched.gateways[name] = left
                continue
            del watched.gateways[name]
            gateway.outbox.drop((key,))
            if not watched.gateways:
                del self.users[key]
