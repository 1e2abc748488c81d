"""Marks: proven cursors told to clients (delivery.md section 5).

At most every few seconds per timeline and only when something moved. ``pending`` lists every live id
that was sent on the connection and is not yet proven: events that are not listed are durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import UNSET

from chatcluster.core.frames import JSON, Mark
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock
from chatcluster.services.gateway.hub import Hub, Topic, Wire
from chatcluster.services.gateway.session import Session
from chatcluster.services.gateway.session_settings import SessionSettings

Key = tuple[tuple[str, ...], tuple[int, ...]]


class Marks:
    """The loop that tells marks, and their bytes shared among sessions of the same content."""

    def __init__(self, *, hub: Hub, epoch: str, clock: Clock, metrics: Metrics, settings: SessionSettings) -> None:
        self._hub = hub
        self._epoch = epoch
        self._clock = clock
        self._settings = settings
        self._sent = metrics.counter("marks_total", "Marks sent to sessions.")

    async def run(self) -> None:
        """Until cancelled."""
        pause = min(self._settings.mark_first, self._settings.mark_interval)
        while True:
            await asyncio.sleep(pause)
            self.tell()

    def tell(self) -> None:
        """Send what is due."""
        now = self._clock.monotonic()
        hub = self._hub
        due = [topic for topic in hub.moved if topic.next_mark <= now]
        if not due:
            return
        again = now + self._settings.mark_interval
        moved: dict[Session, list[Topic]] = {}
        for topic in due:
            del hub.moved[topic]
            topic.moved = False
            topic.next_mark = again
            for session in topic.sessions:
                moved.setdefault(session, []).append(topic)
        cache: dict[Key, Wire] = {}
        for session, topics in moved.items():
            self._send(session, topics, cache)

    def send(self, session: Session, topics: Sequence[Topic]) -> None:
        """One session's mark, now."""
        self._send(session, topics, {})

    def _send(self, session: Session, topics: Sequence[Topic], cache: dict[Key, Wire]) -> None:
        pending = tuple(self.pending(session))
        key = (tuple([topic.key for topic in topics]), pending)
        wire = cache.get(key)
        if wire is None:
            wire = cache[key] = self._hub.wire(self._mark(topics, pending))
        link = session.link
        link.write(wire.text() if link.codec is JSON else wire.packed())
        self._sent.add()

    def _mark(self, topics: Sequence[Topic], pending: tuple[int, ...]) -> Mark:
        inbox = [topic.cursor_text(self._epoch) for topic in topics if topic.is_inbox]
        channels = {topic.name: topic.cursor_text(self._epoch) for topic in topics if not topic.is_inbox}
        return Mark(
            [str(event_id) for event_id in pending],
            inbox=inbox[0] if inbox else UNSET,
            channels=channels or UNSET,
        )

    def pending(self, session: Session) -> list[int]:
        """All live ids sent on this connection and not yet decided."""
        ids: list[int] = []
        inbox = session.inbox
        if inbox is not None and session.joined and inbox.pending is not None:
            ids.extend(inbox.pending)
        if session.follows is not None:
            for following in session.follows.values():
                if following.topic is not None and following.topic.pending is not None:
                    ids.extend(following.topic.pending)
        if session.claims is not None:
            ids.extend(session.claims)
        return ids
