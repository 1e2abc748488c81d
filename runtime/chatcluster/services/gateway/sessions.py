"""Everything behind a connection: sessions, their topics, and the loops that serve them.

Puts the parts together and takes what the bus brings. Knows no socket.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from chatcluster.core.codes import Close
from chatcluster.core.envelope import Disconnect, Live, Nudge, Presence, Read, Revoke, Typing, gateway_topic
from chatcluster.core.frames import Event, TypingFrame
from chatcluster.core.ids import id_time
from chatcluster.core.metrics import Metrics
from chatcluster.core.outbound import frame_bytes
from chatcluster.core.proof import TOLD_LIVE
from chatcluster.core.records import inbox_timeline
from chatcluster.core.wire import wire_event
from chatcluster.ports import Bus, Clock, Delivery, Lost, PresenceService, Router, StoreReader, Tails
from chatcluster.services.gateway.auth import Authenticator
from chatcluster.services.gateway.catchup import CatchUp
from chatcluster.services.gateway.follows import Follows
from chatcluster.services.gateway.hub import FrameBytes, Hub, Topic, Wire
from chatcluster.services.gateway.link import Handler, Link
from chatcluster.services.gateway.marks import Marks
from chatcluster.services.gateway.prover import Places, Prover
from chatcluster.services.gateway.resume import Resumer
from chatcluster.services.gateway.revocations import Revocations
from chatcluster.services.gateway.session import Session
from chatcluster.services.gateway.session_settings import SessionSettings
from chatcluster.services.gateway.watching import Watching
from chatcluster.services.listening import subscribed
from chatcluster.services.reader import TimelineReader


class Sessions:
    """All sessions of one gateway. ``name``: the gateway's, unique among those that run."""

    def __init__(
        self,
        *,
        router: Router,
        bus: Bus,
        tails: Tails,
        store: StoreReader,
        presence: PresenceService,
        log: Places,
        authenticator: Authenticator,
        clock: Clock,
        metrics: Metrics,
        settings: SessionSettings,
        name: str,
        frame_bytes: FrameBytes = frame_bytes,
    ) -> None:
        self.router = router
        self.settings = settings
        self._bus = bus
        self._log = log
        self._clock = clock
        self._own = gateway_topic(name)
        self._prefix = f"{name}-{secrets.token_hex(4)}"  # a restarted gateway is another one
        self._count = 0
        reader = TimelineReader(tails=tails, store=store, metrics=metrics)
        self.hub = Hub(bus=bus, frame_bytes=frame_bytes, linger=settings.linger)
        self.marks = Marks(hub=self.hub, epoch=log.epoch, clock=clock, metrics=metrics, settings=settings)
        self.prover = Prover(
            hub=self.hub,
            reader=reader,
            tails=tails,
            store=store,
            log=log,
            clock=clock,
            metrics=metrics,
            settings=settings,
        )
        catchup = CatchUp(
            hub=self.hub,
            prover=self.prover,
            marks=self.marks,
            reader=reader,
            store=store,
            log=log,
            clock=clock,
            metrics=metrics,
            settings=settings,
        )
        self.follows = Follows(hub=self.hub, catchup=catchup, store=store, log=log, clock=clock, settings=settings)
        self.prover.before_turn = self.follows.before_turn
        self.prover.after_turn = self.follows.after_turn
        self.watching = Watching(hub=self.hub, presence=presence, metrics=metrics, settings=settings, name=name)
        self.revocations = Revocations(
            store=store, metrics=metrics, interval=settings.revocation_interval, ended=self._revoked
        )
        self.resumer = Resumer(
            hub=self.hub,
            catchup=catchup,
            follows=self.follows,
            reader=reader,
            router=router,
            authenticator=authenticator,
            revocations=self.revocations,
            log=log,
            clock=clock,
            settings=settings,
            named=self._named,
            arrived=self.watching.arrived,
        )
        self._delivered = metrics.counter("live_deliveries_total", "Live events handed to topics with sessions.")
        self._delay = metrics.histogram("live_delivery_seconds", "From an event's id to its hand-over to sessions.")
        self._refused = metrics.counter("live_refused_total", "Live events not told early: too many wait for proof.")
        self._lost = metrics.counter("bus_lost_total", "Times the bus said that it lost something.")
        metrics.gauge("topics", "Topics that this gateway serves.", lambda: len(self.hub.topics))
        metrics.gauge("sessions", "Sessions that said hello.", self.hub.session_count)

    # -- connections ---------------------------------------------------------------------------------

    def accept(self, link: Link, bearer: str | None) -> Handler:
        """The session of a new connection; ``bearer`` is the token of its handshake, if any."""
        return Session(link, self, bearer)

    def _named(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    def leave(self, session: Session) -> None:
        """The session is over: nothing may hold it any more. Idempotent."""
        inbox = session.inbox
        if inbox is None:
            return
        session.inbox = None
        if session.claims is not None:
            session.claims = None
            self.hub.claimants.pop(session, None)
        for channel in list(session.follows or ()):
            self.follows.drop(session, channel)
        inbox.waiting = tuple(other for other in inbox.waiting if other is not session)
        inbox.detach(session)
        self.hub.left(inbox, self._clock.monotonic())
        if session.joined:
            self.watching.left(session)

    def _revoked(self, tenant: str, user: str, before: int) -> None:
        inbox = self.hub.topics.get(inbox_timeline(tenant, user))
        for session in () if inbox is None else inbox.registered():
            if session.issued_at < before:
                session.close(Close.UNAUTHORIZED, "the token was revoked")

    # -- loops -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(subscribed(self._bus, [self._own]))
            tasks.create_task(self._listen())
            tasks.create_task(self.resumer.run())
            tasks.create_task(self.follows.run())
            tasks.create_task(self.prover.run())
            tasks.create_task(self.marks.run())
            tasks.create_task(self.watching.run())
            tasks.create_task(self.revocations.run())
            tasks.create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.settings.linger / 4)
            await self.hub.sweep(self._clock.monotonic())
            self.prover.suspect(await self.hub.resubscribe())

    async def _listen(self) -> None:
        async for batch in self._bus.listen():
            self.take(batch)

    # -- what the bus brings ------------------------------------------------------------------------------

    def take(self, batch: Sequence[Delivery | Lost]) -> None:
        """One batch of the bus: what belongs to one topic goes out in one write per session."""
        hub = self.hub
        topics = hub.topics
        settings = self.settings
        encoded: dict[int, Wire] = {}  # an envelope comes on many inboxes and looks the same on all
        out: dict[Topic, list[Wire]] = {}
        now = self._clock.now()
        for item in batch:
            if isinstance(item, Lost):
                self._suspect(item)
                continue
            envelope = item.envelope
            topic = topics.get(item.topic)
            if topic is None:
                if isinstance(envelope, Presence) and item.topic == self._own:
                    self.watching.changed(envelope)
                continue
            if isinstance(envelope, Live):
                record = envelope.record
                if type(record) not in TOLD_LIVE or self.prover.stale(record.id):
                    continue
                bound = settings.pending_per_topic if hub.pending < settings.pending_total else 0
                heard = topic.hear(record, bound)
                if not heard:
                    if heard is None:
                        self._refused.add()
                    continue
                hub.pending += 1
                self.prover.heard(topic)
                if not topic.sessions:
                    continue
                wire = encoded.get(id(envelope)) if topic.is_inbox else None
                if wire is None:
                    self._delay.observe(max(0, now - id_time(record.id)) / 1000)  # once, however many inboxes it is on
                    epoch = self._log.epoch
                    wire = hub.wire(wire_event(record, topic.wire_timeline, live=True, source=0, epoch=epoch))
                    if topic.is_inbox:
                        encoded[id(envelope)] = wire
                self._delivered.add()
            elif isinstance(envelope, Nudge):
                self.prover.nudge(topic, envelope.offset)
                continue
            elif isinstance(envelope, Typing):
                hub.emit(topic, [hub.wire(TypingFrame(envelope.channel, envelope.user))], but=envelope.user)
                continue
            elif isinstance(envelope, Read):
                wire = hub.wire(
                    Event(
                        topic.wire_timeline,
                        str(envelope.id),
                        envelope.channel,
                        "read",
                        True,
                        user=envelope.user,
                        message_id=str(envelope.message_id),
                    )
                )
            else:
                self._control(topic, envelope)
                continue
            wires = out.get(topic)
            if wires is None:
                out[topic] = [wire]
            else:
                wires.append(wire)
        for topic, wires in out.items():
            hub.emit(topic, wires)

    def _control(self, topic: Topic, envelope: object) -> None:
        if not topic.is_inbox:
            return
        if isinstance(envelope, Revoke):
            self.revocations.note(topic.tenant, topic.name, envelope.before)
        elif isinstance(envelope, Disconnect):
            for session in topic.registered():
                session.close(Close.RESTART, envelope.reason)

    def _suspect(self, lost: Lost) -> None:
        self._lost.add()
        topics = self.hub.topics
        if lost.topics is None:
            self.prover.suspect(topics.values())
        else:
            self.prover.suspect([topics[key] for key in lost.topics if key in topics])
