"""Hello: who it is, what its cursor still means, welcome, and on from there (delivery.md section 6).

Hellos are taken in batches: one subscription and one read of the tails for all; a resume whose tail
covers it costs no read of the store and no task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from chatcluster.core.codes import Close, Refused
from chatcluster.core.cursor import START, Cursor, decode_cursor
from chatcluster.core.frames import Answer, Hello, ListChannels, RenewToken, Reply, Resync, Welcome, refusal
from chatcluster.core.ids import parse_id
from chatcluster.core.records import MemberRecord, RouteRecord, channel_timeline, inbox_timeline
from chatcluster.core.session import Phase, check_channel, check_identity
from chatcluster.core.wire import INBOX_WIRE, rfc3339
from chatcluster.ports import Caller, Clock, Router, TailEntry, Unavailable
from chatcluster.services.gateway.auth import Authenticator, Identity
from chatcluster.services.gateway.catchup import CatchUp, Reach
from chatcluster.services.gateway.follows import Follows, Job
from chatcluster.services.gateway.hub import Hub, Topic
from chatcluster.services.gateway.prover import Places
from chatcluster.services.gateway.revocations import Revocations
from chatcluster.services.gateway.session import Session
from chatcluster.services.gateway.session_settings import SessionSettings
from chatcluster.services.reader import TimelineReader

CHANNEL_PAGES = 3
"""Pages of the conversation list that are looked through for a new device's large channels."""


class Arrival:
    """One hello on its way to its welcome."""

    __slots__ = ("after", "hello", "reach", "session", "topic")

    def __init__(self, session: Session, topic: Topic, hello: Hello) -> None:
        self.session = session
        self.topic = topic
        self.hello = hello
        self.after: Cursor | None = None
        self.reach = Reach.OK

    @property
    def gone(self) -> bool:
        return self.session.phase is Phase.CLOSED


class Resumer:
    """Answers hellos and token renewals."""

    def __init__(
        self,
        *,
        hub: Hub,
        catchup: CatchUp,
        follows: Follows,
        reader: TimelineReader,
        router: Router,
        authenticator: Authenticator,
        revocations: Revocations,
        log: Places,
        clock: Clock,
        settings: SessionSettings,
        named: Callable[[], str],
        arrived: Callable[[Session], None],
    ) -> None:
        self._hub = hub
        self._catchup = catchup
        self._follows = follows
        self._reader = reader
        self._router = router
        self._authenticator = authenticator
        self._revocations = revocations
        self._log = log
        self._clock = clock
        self._settings = settings
        self._named = named
        self._arrived = arrived
        self._hellos: list[tuple[Session, Hello]] = []
        self._renewals: list[tuple[Session, RenewToken]] = []
        self._work = asyncio.Event()
        self._batches = asyncio.Semaphore(settings.resume_batches)
        self._singles = asyncio.Semaphore(settings.store_reads)

    def hello(self, session: Session, frame: Hello) -> None:
        """Take a hello. Raises ``Refused`` for what can be seen at once."""
        for text in frame.resume.pending if frame.resume is not None else ():
            parse_id(text, "resume.pending")
        self._hellos.append((session, frame))
        self._work.set()

    def renew(self, session: Session, frame: RenewToken) -> None:
        """Take a renewal of the token."""
        session.enter()
        self._renewals.append((session, frame))
        self._work.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._work.wait()
                await self._batches.acquire()
                size = self._settings.batch
                hellos, self._hellos = self._hellos[:size], self._hellos[size:]
                renewals, self._renewals = self._renewals[:size], self._renewals[size:]
                if not self._hellos and not self._renewals:
                    self._work.clear()
                batch = tasks.create_task(self._batch(hellos, renewals))
                batch.add_done_callback(lambda _: self._batches.release())

    async def _batch(
        self, hellos: Sequence[tuple[Session, Hello]], renewals: Sequence[tuple[Session, RenewToken]]
    ) -> None:
        for session, renewal in renewals:
            await self._renew(session, renewal)
        arrivals = []
        for session, hello in hellos:
            arrival = await self._admit(session, hello)
            if arrival is not None:
                arrivals.append(arrival)
        if not arrivals:
            return
        await self._hub.subscribe([arrival.topic for arrival in arrivals])
        rest = await self._quick(arrivals)
        if rest:
            await asyncio.gather(*(self._slow(arrival) for arrival in rest))

    # -- who it is -----------------------------------------------------------------------------------------

    async def _identify(self, token: str | None) -> Identity:
        await self._revocations.loaded.wait()
        if token is None:
            raise Refused("unauthorized", "the token is not valid")
        identity = await self._authenticator.verify(token)
        check_identity(identity.tenant, identity.user)
        if self._revocations.revoked(identity.tenant, identity.user, int(identity.issued_at * 1000)):
            raise Refused("unauthorized", "the token is not valid")
        return identity

    async def _admit(self, session: Session, hello: Hello) -> Arrival | None:
        try:
            identity = await self._identify(hello.token or session.bearer)
        except Refused as refused:
            if session.phase is not Phase.CLOSED:
                session.refuse(refused, hello.rid)
                # 4401 ends a client for good: only for a token that is known to be bad.
                code = Close.UNAUTHORIZED if refused.code == "unauthorized" else Close.TRY_LATER
                session.close(code, refused.code)
            return None
        if session.phase is Phase.CLOSED:
            return None
        topic = self._hub.topic(inbox_timeline(identity.tenant, identity.user), identity.tenant, identity.user)
        if hello.device:
            for other in topic.registered():
                if other.device == hello.device:
                    other.close(Close.REPLACED, "replaced by the same device")
        if len(topic.registered()) >= self._settings.sessions_per_user:
            self._hub.left(topic, self._clock.monotonic())
            session.refuse(Refused("too_many", "too many sessions of this user"), hello.rid)
            session.close(Close.TOO_MANY, "too many sessions of this user")
            return None
        session.id = self._named()
        session.tenant = topic.tenant
        session.user = topic.name
        session.device = hello.device
        session.issued_at = int(identity.issued_at * 1000)
        session.inbox = topic
        topic.waiting = (*topic.waiting, session)
        session.link.authenticated(f"{identity.tenant}/{identity.user}", identity.expires)
        arrival = Arrival(session, topic, hello)
        if hello.resume is not None and hello.resume.inbox is not None:
            arrival.after, arrival.reach = self._cursor(hello.resume.inbox, topic.key)
        return arrival

    def _cursor(self, text: str, timeline: str) -> tuple[Cursor | None, Reach]:
        """A cursor that can be continued, or why not."""
        try:
            cursor = decode_cursor(text, timeline)
        except Refused:
            return None, Reach.BAD
        if cursor.epoch != self._log.epoch:
            return None, Reach.EPOCH
        return cursor, Reach.OK

    async def _renew(self, session: Session, frame: RenewToken) -> None:
        try:
            identity = await self._identify(frame.token)
            if (identity.tenant, identity.user) != (session.tenant, session.user):
                raise Refused("unauthorized", "the token is not valid")
        except Refused as refused:
            session.finish(refusal(refused, frame.rid))
            return
        session.issued_at = int(identity.issued_at * 1000)
        if session.phase is not Phase.CLOSED:
            session.link.authenticated(f"{identity.tenant}/{identity.user}", identity.expires)
        session.finish(Reply(frame.rid, expires=rfc3339(int(identity.expires * 1000))))

    # -- the quick way ---------------------------------------------------------------------------------------

    async def _quick(self, arrivals: list[Arrival]) -> list[Arrival]:
        """Welcome whoever needs no more than one read of the tails and one of newest rows; returns the others."""
        rest: list[Arrival] = []
        reads: list[tuple[Arrival, Cursor]] = []
        fresh: list[Arrival] = []
        for arrival in arrivals:
            resume = arrival.hello.resume
            after = arrival.after
            if resume is not None and resume.channels:
                rest.append(arrival)
            elif after is not None:
                if arrival.topic.known and after.offset == arrival.topic.cursor:
                    self._welcome(arrival, (), [])
                else:
                    reads.append((arrival, after))
            else:
                fresh.append(arrival)
        if reads:
            pages = await self._reader.covered(
                [(arrival.topic.key, cursor.offset) for arrival, cursor in reads], self._settings.resume_events
            )
            for (arrival, cursor), page in zip(reads, pages, strict=True):
                if page is not None and self._catchup.absorb(arrival.topic, cursor, page):
                    self._welcome(arrival, page.entries, [])
                else:
                    rest.append(arrival)
        if fresh:
            try:
                await self._catchup.open([arrival.topic for arrival in fresh])
            except Unavailable:
                return rest + fresh
            for arrival in fresh:
                # Nothing in the inbox: never a member of anything, so no large channel either.
                if arrival.topic.cursor == START or arrival.hello.resume is not None:
                    self._welcome(arrival, (), [])
                else:
                    rest.append(arrival)
        return rest

    # -- the long way ----------------------------------------------------------------------------------------

    async def _slow(self, arrival: Arrival) -> None:
        until = self._clock.monotonic() + self._settings.store_patience
        async with self._singles:
            while not arrival.gone:
                try:
                    await self._bring(arrival)
                    return
                except Unavailable:
                    if self._clock.monotonic() >= until:
                        arrival.session.refuse(
                            Refused("unavailable", "the store does not answer", retry_after_ms=5000), arrival.hello.rid
                        )
                        arrival.session.close(Close.TRY_LATER, "the store does not answer")
                        return
                await asyncio.sleep(1.0)

    async def _bring(self, arrival: Arrival) -> None:
        topic = arrival.topic
        after = arrival.after
        try:
            await self._catchup.open([topic])
        except Unavailable:
            if after is None:
                raise
            # The client's own cursor is as good a beginning: the proof brings what follows once the store
            # answers, and what is told live is told now.
            if not topic.known:
                topic.start(after.offset, after.last_id)
        jobs = await self._channels(arrival)
        try:
            await self._follows.check(jobs)
            entries: Sequence[TailEntry] = ()
            if after is not None:
                reach, entries = await self._catchup.collect(topic, after.offset)
                if reach is not Reach.OK:
                    arrival.after, arrival.reach = None, reach
        except Unavailable:
            for job in jobs:
                self._follows.abandon(job)
            raise
        if arrival.gone:
            for job in jobs:
                self._follows.abandon(job)
            return
        for job in jobs:
            if not job.checked:
                self._follows.abandon(job)  # no member, or no such channel: ``welcome.follow`` does not name it
        self._welcome(arrival, entries, jobs)
        self._follows.start([job for job in jobs if job.checked])

    async def _channels(self, arrival: Arrival) -> list[Job]:
        """The large channels to follow: those named, else the most recent ones."""
        session = arrival.session
        resume = arrival.hello.resume
        limit = self._settings.limits.follow
        jobs: list[Job] = []
        if resume is not None:
            for channel, text in list(resume.channels.items())[:limit]:
                try:
                    check_channel(channel)
                except Refused:
                    continue
                job = self._follows.job(session, channel, None)
                job.after, job.reach = self._cursor(text, channel_timeline(session.tenant, channel))
                jobs.append(job)
        elif arrival.topic.cursor != START:
            recent = await self._recent(session)
            jobs = [self._follows.job(session, channel, None) for channel in recent[:limit]]
        return jobs

    async def _recent(self, session: Session) -> list[str]:
        """The user's large channels, newest head first. A router that refuses costs the default, not the hello."""
        found: list[tuple[int, str]] = []
        page: str | None = None
        for _ in range(CHANNEL_PAGES):
            answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._router.submit(
                Caller(session.tenant, session.user, session.id),
                ListChannels("follow", page=page),
                partial(_settle, answered),
            )
            answer = await answered
            if not isinstance(answer, Reply) or not isinstance(answer.channels, list):
                break
            found.extend((int(row.head or 0), row.id) for row in answer.channels if row.route == "channel")
            page = answer.page if isinstance(answer.page, str) else None
            if page is None:
                break
        return [channel for _, channel in sorted(found, reverse=True)]

    # -- welcome -----------------------------------------------------------------------------------------------

    def _welcome(self, arrival: Arrival, entries: Sequence[TailEntry], jobs: list[Job]) -> None:
        """Welcome, what was missed, what is pending, mark: without a pause, so nothing falls between."""
        session = arrival.session
        topic = arrival.topic
        if arrival.gone:
            return
        hello = arrival.hello
        epoch = self._log.epoch
        resume = hello.resume
        resumed = arrival.after is not None and resume is not None and resume.inbox is not None
        inbox = (
            resume.inbox if resumed and resume is not None and resume.inbox is not None else topic.cursor_text(epoch)
        )
        follow: dict[str, str] = {}
        for job in jobs:
            if job.checked and job.topic is not None:
                named = resume.channels.get(job.channel) if resume is not None and job.after is not None else None
                follow[job.channel] = named if named is not None else job.topic.cursor_text(epoch)
        session.link.send(
            Welcome(
                hello.rid,
                session.id,
                session.user,
                session.tenant,
                rfc3339(self._clock.now()),
                self._settings.heartbeat_ms,
                resumed,
                inbox,
                follow,
                self._settings.limits,
            )
        )
        if arrival.reach is not Reach.OK:
            session.link.send(Resync(INBOX_WIRE, arrival.reach.value))
        if resume is not None:
            # They count as delivered live by this gateway (section 6), so it withdraws what never became true.
            for text in resume.pending:
                session.claim(int(text), None)
        self._catchup.deliver(session, topic, entries)
        topic.waiting = tuple(other for other in topic.waiting if other is not session)
        session.joined = True
        self._catchup.attach(session, topic)
        for entry in entries:
            if isinstance(entry.record, MemberRecord | RouteRecord):
                self._follows.turn(session, entry)
        self._catchup.mark(session, [topic])
        self._arrived(session)
        session.opened()


def _settle(answered: asyncio.Future[Answer], answer: Answer) -> None:
    if not answered.done():  # the hello may have been given up
        answered.set_result(answer)
