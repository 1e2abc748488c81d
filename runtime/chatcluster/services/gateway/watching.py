"""Presence at a gateway: heartbeats in even batches, who watches whom. Nothing here delays a message (law 9)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chatcluster.core.codes import Refused
from chatcluster.core.envelope import Presence, PresenceChange, Status
from chatcluster.core.frames import PresenceFrame, PresenceInfo, Reply, Watch, refusal
from chatcluster.core.metrics import Metrics
from chatcluster.core.wire import rfc3339
from chatcluster.ports import Beat, PortError, PresenceService
from chatcluster.services.gateway.hub import SLOTS, Hub
from chatcluster.services.gateway.session import Session
from chatcluster.services.gateway.session_settings import SessionSettings


class Watching:
    """The visible sets of a gateway's sessions, and their signs of life."""

    def __init__(
        self, *, hub: Hub, presence: PresenceService, metrics: Metrics, settings: SessionSettings, name: str
    ) -> None:
        self._hub = hub
        self._presence = presence
        self._settings = settings
        self._name = name
        self._watchers: dict[tuple[str, str], dict[Session, None]] = {}
        self._beats: list[Beat] = []
        self._asked: dict[Session, list[Watch]] = {}
        self._work = asyncio.Event()
        self._failed = metrics.counter("watch_failures_total", "Watches that presence did not answer.")

    # -- signs of life -----------------------------------------------------------------------------------

    def arrived(self, session: Session) -> None:
        """The first heartbeat, with the next batch."""
        self._beat(session, "online")

    def status(self, session: Session, status: str) -> None:
        """``presence``. An invisible session sends no heartbeats: it shows as offline."""
        if status != session.status:
            was, session.status = session.status, status
            if status != "invisible":
                self._beat(session, "away" if status == "away" else "online")
            elif was != "invisible":
                self._beat(session, "offline")

    def left(self, session: Session) -> None:
        """The session is over."""
        if session.status != "invisible":
            self._beat(session, "offline")
        if session.watching or session in self._asked:
            self._unwatch(session)
            self._asked.pop(session, None)
            self._presence.forget(self._name, [session.id])

    def _beat(self, session: Session, status: Status) -> None:
        self._beats.append(Beat(session.tenant, session.user, session.id, status))

    def flush(self) -> None:
        """Send what has gathered."""
        if self._beats:
            beats, self._beats = self._beats, []
            self._presence.beat(self._name, beats)

    async def run(self) -> None:
        """Until cancelled: one slot of the wheel at a time, so that every session beats once per interval."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watches())
            slot = 0
            while True:
                await asyncio.sleep(self._settings.presence_interval / SLOTS)
                slot = (slot + 1) % SLOTS
                for topic in self._hub.inboxes(slot):
                    for session in topic.sessions:
                        if session.status != "invisible":
                            self._beat(session, "away" if session.status == "away" else "online")
                self.flush()

    # -- watching ------------------------------------------------------------------------------------------

    def watch(self, session: Session, frame: Watch) -> None:
        """``watch``. Raises ``Refused``."""
        if len(frame.users) > self._settings.limits.watch_users:
            raise Refused("too_many", f"at most {self._settings.limits.watch_users} users", field="users")
        session.enter()
        self._asked.setdefault(session, []).append(frame)
        self._work.set()

    async def _watches(self) -> None:
        """One session after the other, in the order of its frames: the last set stands."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._asked:
                session = next(iter(self._asked))
                frames = self._asked.pop(session)
                for frame in frames:
                    await self._watch(session, frame)

    async def _watch(self, session: Session, frame: Watch) -> None:
        if session.closed():
            return
        self._unwatch(session)
        session.watching = tuple(dict.fromkeys(frame.users))
        for user in session.watching:
            self._watchers.setdefault((session.tenant, user), {})[session] = None
        try:
            changes = await self._presence.watch(self._name, session.id, session.tenant, session.watching)
        except PortError:
            self._failed.add()
            session.finish(refusal(Refused("unavailable", "presence does not answer"), frame.rid))
            return
        session.finish(Reply(frame.rid, presence=_infos(changes)))
        if session.closed():
            self._presence.forget(self._name, [session.id])

    def _unwatch(self, session: Session) -> None:
        for user in session.watching:
            watchers = self._watchers.get((session.tenant, user))
            if watchers is not None:
                watchers.pop(session, None)
                if not watchers:
                    del self._watchers[(session.tenant, user)]
        session.watching = ()

    def changed(self, presence: Presence) -> None:
        """Changes for this gateway's watchers, one frame per session."""
        told: dict[Session, list[PresenceChange]] = {}
        for tenant, changes in presence.changes.items():
            for change in changes:
                for session in self._watchers.get((tenant, change.user), ()):
                    told.setdefault(session, []).append(change)
        for session, changes in told.items():
            session.link.send(PresenceFrame(_infos(changes)))


def _infos(changes: Sequence[PresenceChange]) -> list[PresenceInfo]:
    return [PresenceInfo(change.user, change.status, rfc3339(change.since)) for change in changes]
