"""Sessions with a time to live, in memory. Everything here may vanish: the next heartbeats rebuild it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

from chatcluster.core.envelope import Status
from chatcluster.ports import Beat, Clock

SESSIONS = 1_000_000
"""Sessions kept at most; over it new ones are not taken (they show as offline)."""

User = tuple[str, str]


class _Session:
    __slots__ = ("expires", "since", "status")

    def __init__(self, status: Status, since: int, expires: int) -> None:
        self.status = status
        self.since = since
        self.expires = expires


class MemoryPresence:
    """Port ``PresenceStore``."""

    def __init__(self, *, clock: Clock, sessions: int = SESSIONS) -> None:
        self._clock = clock
        self._bound = sessions
        self._count = 0
        self._users: dict[User, dict[str, _Session]] = {}
        # When to look at a user again. An entry may be early (renewed since): it is then put back.
        self._looks: list[tuple[int, User]] = []

    async def touch(self, beats: Sequence[Beat], *, ttl: int) -> Sequence[bool]:
        now = self._now()
        wall = self._clock.now()
        answers: list[bool] = []
        for beat in beats:
            user = (beat.tenant, beat.user)
            sessions = self._users.get(user)
            old = None if sessions is None else sessions.get(beat.session)
            before = _shown(sessions, now)
            if beat.status == "offline":
                if sessions is not None and old is not None:
                    self._drop(user, sessions, beat.session)
            elif old is not None:
                if old.status != beat.status or old.expires <= now:
                    old.status = beat.status
                    old.since = wall
                old.expires = now + ttl
            elif self._count < self._bound:
                if sessions is None:
                    sessions = self._users[user] = {}
                    heappush(self._looks, (now + ttl, user))
                sessions[beat.session] = _Session(beat.status, wall, now + ttl)
                self._count += 1
            answers.append(_shown(sessions, now) != before)
        return answers

    async def sessions(self, users: Sequence[User]) -> Sequence[Mapping[str, tuple[Status, int]]]:
        now = self._now()
        return [
            {
                name: (session.status, session.since)
                for name, session in self._users.get(user, {}).items()
                if session.expires > now
            }
            for user in users
        ]

    async def expired(self, limit: int) -> Sequence[User]:
        now = self._now()
        looks = self._looks
        gone: list[User] = []
        while looks and looks[0][0] <= now and len(gone) < limit:
            user = heappop(looks)[1]
            sessions = self._users.get(user)
            if sessions is None:
                continue
            for name in [name for name, session in sessions.items() if session.expires <= now]:
                del sessions[name]
                self._count -= 1
            if sessions:
                heappush(looks, (max(session.expires for session in sessions.values()), user))
            else:
                del self._users[user]
                gone.append(user)
        return gone

    def wipe(self) -> None:
        """Forget everything, as a store that restarts empty."""
        self._users.clear()
        self._looks.clear()
        self._count = 0

    def _drop(self, user: User, sessions: dict[str, _Session], name: str) -> None:
        del sessions[name]
        self._count -= 1
        if not sessions:
            del self._users[user]
        else:
            # The one that left may have been the longest lived: look at the others when they end.
            heappush(self._looks, (max(session.expires for session in sessions.values()), user))

    def _now(self) -> int:
        return int(self._clock.monotonic() * 1000)


def _shown(sessions: dict[str, _Session] | None, now: int) -> Status:
    shown: Status = "offline"
    if sessions:
        for session in sessions.values():
            if session.expires > now:
                if session.status == "online":
                    return "online"
                shown = session.status
    return shown
