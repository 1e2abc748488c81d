"""Large channels that sessions have open: who may, catching up, and how membership and route turns end it.

A channel topic's durable event goes only to sessions whose user is a member at its offset or now
(delivery.md section 5): membership is read when a session follows, and from then on the timeline's own
member events keep it. Knows nothing of hello.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chatcluster.core.codes import Close, ErrorCode, Refused
from chatcluster.core.cursor import Cursor, decode_cursor, encode_cursor
from chatcluster.core.frames import Follow, Reply, Resync, Unfollow, refusal
from chatcluster.core.records import MemberRecord, Route, RouteRecord, channel_timeline, inbox_timeline
from chatcluster.core.session import Phase, check_channel
from chatcluster.core.wire import channel_wire
from chatcluster.ports import Clock, StoreReader, TailEntry, Unavailable
from chatcluster.services.gateway.catchup import CatchUp, Reach
from chatcluster.services.gateway.hub import Hub, Topic
from chatcluster.services.gateway.prover import Places
from chatcluster.services.gateway.session import Following, Session
from chatcluster.services.gateway.session_settings import SessionSettings


class Job:
    """A session on its way to a channel."""

    __slots__ = (
        "after",
        "channel",
        "checked",
        "done",
        "following",
        "reach",
        "rid",
        "route",
        "session",
        "topic",
        "turns",
    )

    def __init__(self, session: Session, channel: str, following: Following, rid: str | None) -> None:
        self.session = session
        self.channel = channel
        self.following = following
        self.rid = rid
        self.after: Cursor | None = None
        self.reach = Reach.OK  # of the cursor that the client gave
        self.route: Route = "channel"
        self.checked = False
        self.done = False  # answered: once, whatever happens later
        self.topic: Topic | None = None
        self.turns: list[TailEntry] = []  # member and route entries that the topic passed meanwhile

    @property
    def wanted(self) -> bool:
        """Whether the session still wants this: it may have left or unfollowed."""
        follows = self.session.follows
        return (
            self.session.phase is not Phase.CLOSED
            and follows is not None
            and follows.get(self.channel) is self.following
        )


class Follows:
    """All follows of a gateway."""

    def __init__(
        self,
        *,
        hub: Hub,
        catchup: CatchUp,
        store: StoreReader,
        log: Places,
        clock: Clock,
        settings: SessionSettings,
    ) -> None:
        self._hub = hub
        self._catchup = catchup
        self._store = store
        self._log = log
        self._clock = clock
        self._settings = settings
        self._jobs: list[Job] = []
        self._work = asyncio.Event()
        self._joining: dict[Topic, dict[Job, None]] = {}
        self._batches = asyncio.Semaphore(settings.resume_batches)
        self._reads = asyncio.Semaphore(settings.store_reads)

    # -- frames ----------------------------------------------------------------------------------------

    def asked(self, session: Session, frame: Follow) -> None:
        """``follow``. Raises ``Refused``."""
        channel = frame.channel
        check_channel(channel)
        follows = session.follows
        current = None if follows is None else follows.get(channel)
        if current is not None and current.topic is not None and frame.cursor is None:
            text = current.topic.cursor_text(self._log.epoch)
            session.link.send(Reply(frame.rid, channel=channel, cursor=text, route="channel"))
            return
        if current is None and follows is not None and len(follows) >= self._settings.limits.follow:
            raise Refused("too_many", f"a session follows at most {self._settings.limits.follow} channels")
        after = None
        if frame.cursor is not None:
            after = decode_cursor(frame.cursor, channel_timeline(session.tenant, channel))
        job = self.job(session, channel, frame.rid)
        job.after = after
        session.enter()
        self.start([job])

    def unfollow(self, session: Session, frame: Unfollow) -> None:
        """``unfollow``: idempotent. Raises ``Refused``."""
        check_channel(frame.channel)
        following = (session.follows or {}).get(frame.channel)
        if following is None:
            session.link.send(Reply(frame.rid, channel=frame.channel))
            return
        topic = following.topic
        text = None if topic is None else topic.cursor_text(self._log.epoch)
        self.drop(session, frame.channel)
        reply = Reply(frame.rid, channel=frame.channel, route="channel")
        session.link.send(
            reply if text is None else Reply(frame.rid, channel=frame.channel, cursor=text, route="channel")
        )

    # -- for hello ---------------------------------------------------------------------------------------

    def job(self, session: Session, channel: str, rid: str | None) -> Job:
        """A place in the session's follows, on the way to be filled."""
        if session.follows is None:
            session.follows = {}
        following = session.follows.get(channel)
        if following is None:
            following = session.follows[channel] = Following()
        return Job(session, channel, following, rid)

    def start(self, jobs: Sequence[Job]) -> None:
        """Attach them soon."""
        self._jobs.extend(jobs)
        self._work.set()

    async def check(self, jobs: Sequence[Job]) -> None:
        """Subscribe, and see who may: sets ``checked``, ``topic``, ``route``. Raises ``Unavailable``.

        One read of memberships per channel for all who ask at once, none where a member is known already.
        """
        topics: dict[Topic, list[Job]] = {}
        for job in jobs:
            if job.topic is None:
                session = job.session
                key = channel_timeline(session.tenant, job.channel)
                job.topic = self._hub.topic(key, session.tenant, job.channel)
                self._joining.setdefault(job.topic, {})[job] = None
                job.topic.holds += 1
            topics.setdefault(job.topic, []).append(job)
        await self._hub.subscribe(topics)
        await self._catchup.open(list(topics))
        for topic, asking in topics.items():
            known = topic.members or {}
            users = list({job.session.user for job in asking if job.session.user not in known})
            if users:
                rows = await self._store.memberships(topic.tenant, topic.name, users)
                stored = await self._store.channel(topic.tenant, topic.name)
                if stored is not None and any(row.role is not None for row in rows.values()):
                    if topic.members is None or len(topic.members) > 2 * len(topic.sessions) + 1000:
                        topic.members = {}
                    for user, row in rows.items():
                        if row.role is not None and stored.route == "channel":
                            topic.members[user] = max(row.offset, stored.route_offset)
                for job in asking:
                    user = job.session.user
                    if user in rows and rows[user].role is not None and stored is not None:
                        job.checked = True
                        job.route = stored.route
                        job.following.version = max(job.following.version, rows[user].offset, stored.route_offset)
            for job in asking:
                version = known.get(job.session.user)
                if version is not None:
                    job.checked = True
                    job.following.version = max(job.following.version, version)

    # -- the loop ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._work.wait()
                await self._batches.acquire()
                size = self._settings.batch
                jobs, self._jobs = self._jobs[:size], self._jobs[size:]
                if not self._jobs:
                    self._work.clear()
                tasks.create_task(self._batch(jobs)).add_done_callback(lambda _: self._batches.release())

    async def _batch(self, jobs: list[Job]) -> None:
        try:
            unchecked = [job for job in jobs if not job.checked]
            if unchecked:
                await self._patiently(unchecked)
            behind: list[Job] = []
            for job in jobs:
                if job.after is None or (job.topic is not None and job.after.offset == job.topic.cursor):
                    self._finish(job, Reach.OK, ())
                else:
                    behind.append(job)
            if behind:
                await asyncio.gather(*(self._bring(job) for job in behind))
        finally:
            for job in jobs:
                self._release(job)

    async def _patiently(self, jobs: list[Job]) -> None:
        """Requests are told that the store does not answer; what the server started itself is tried again."""
        until = self._clock.monotonic() + self._settings.store_patience
        while True:
            try:
                await self.check(jobs)
                return
            except Unavailable:
                for job in jobs:
                    if job.rid is not None and job.wanted:
                        self._refuse(job, "unavailable")
                jobs = [job for job in jobs if job.rid is None and job.wanted]
                if not jobs:
                    return
                if self._clock.monotonic() >= until:
                    for job in jobs:
                        job.session.close(Close.TRY_LATER, "the store does not answer")
                    return
            await asyncio.sleep(1.0)

    async def _bring(self, job: Job) -> None:
        if not job.checked or job.after is None or job.topic is None:
            self._finish(job, Reach.OK, ())
            return
        if job.after.epoch != self._log.epoch:
            self._finish(job, Reach.EPOCH, ())
            return
        until = self._clock.monotonic() + self._settings.store_patience
        while job.wanted:
            try:
                async with self._reads:
                    reach, entries = await self._catchup.collect(job.topic, job.after.offset)
                    self._finish(job, reach, entries)
                return
            except Unavailable:
                if job.rid is not None:
                    self._refuse(job, "unavailable")
                    return
                if self._clock.monotonic() >= until:
                    job.session.close(Close.TRY_LATER, "the store does not answer")
                    return
            await asyncio.sleep(1.0)

    def _refuse(self, job: Job, code: ErrorCode) -> None:
        """No. Nothing of the channel is told apart from what an unknown channel would tell."""
        job.done = True
        self.drop(job.session, job.channel)
        if job.rid is not None:
            text = "no such channel" if code == "no_such_channel" else "the store does not answer, try again"
            job.session.finish(refusal(Refused(code, text), job.rid))

    def _finish(self, job: Job, reach: Reach, entries: Sequence[TailEntry]) -> None:
        """Answer, send, attach, mark: without a pause, so nothing falls between."""
        if job.done:
            return
        job.done = True
        session = job.session
        topic = job.topic
        if not job.wanted:
            if job.rid is not None:
                session.finish(Reply(job.rid, channel=job.channel))
            return
        if not job.checked or topic is None:
            if job.rid is not None:
                self._refuse(job, "no_such_channel")
            else:
                self.drop(session, job.channel)
            return
        if reach is Reach.OK:
            reach = job.reach
        following = job.following
        if job.rid is not None:
            start = job.after if job.after is not None and reach is Reach.OK else None
            text = topic.cursor_text(self._log.epoch) if start is None else encode_cursor(start, topic.key)
            session.finish(Reply(job.rid, channel=job.channel, cursor=text, route=job.route))
        if reach is not Reach.OK:
            session.link.send(Resync(channel_wire(job.channel), reach.value))
        upto = len(entries)
        ended = job.route == "inbox"
        for index, entry in enumerate(entries):
            if self._ends(following, session, entry):
                # His own remove: nothing from here on. The route's turn belongs to the timeline still.
                upto = index + isinstance(entry.record, RouteRecord)
                ended = True
                break
        ended = ended or any(self._ends(following, session, entry) for entry in job.turns)
        self._catchup.deliver(session, topic, entries[:upto])
        if ended:
            if upto == len(entries):
                self._catchup.mark(session, [topic])
            self.drop(session, job.channel)
            return
        if following.topic is None:
            following.topic = topic
            self._catchup.attach(session, topic)
        self._catchup.mark(session, [topic])

    def abandon(self, job: Job) -> None:
        """A job that will not be started."""
        self.drop(job.session, job.channel)
        self._release(job)

    def _release(self, job: Job) -> None:
        topic = job.topic
        if topic is None:
            return
        joining = self._joining.get(topic)
        if joining is not None:
            if job in joining:
                del joining[job]
                topic.holds -= 1
            if not joining:
                del self._joining[topic]
                self._hub.left(topic, self._clock.monotonic())

    # -- turns ---------------------------------------------------------------------------------------------

    @staticmethod
    def _ends(following: Following, session: Session, entry: TailEntry) -> bool:
        """Whether an entry of a channel's timeline ends a follow that rests on an older membership or switch."""
        record = entry.record
        if entry.source <= following.version:
            return False
        if isinstance(record, MemberRecord):
            return record.change == "remove" and record.user == session.user
        return isinstance(record, RouteRecord) and record.to == "inbox"

    def before_turn(self, topic: Topic, entry: TailEntry) -> None:
        """A removed user's sessions leave the channel's topic before anything behind the removal is sent."""
        if topic.is_inbox:
            return
        for job in self._joining.get(topic, ()):
            job.turns.append(entry)
        record = entry.record
        if isinstance(record, MemberRecord) and record.change == "remove":
            if topic.members is not None and topic.members.get(record.user, entry.source) < entry.source:
                del topic.members[record.user]
            inbox = self._hub.topics.get(inbox_timeline(topic.tenant, record.user))
            for session in () if inbox is None else inbox.registered():
                self._end(session, topic.name, entry)

    def after_turn(self, topic: Topic, entry: TailEntry) -> None:
        """The route's turn ends a channel's topic; an inbox's turns begin and end follows."""
        if topic.is_inbox:
            for session in tuple(topic.sessions):
                self.turn(session, entry)
            return
        record = entry.record
        if isinstance(record, RouteRecord) and record.to == "inbox":
            topic.members = None
            for session in tuple(topic.sessions):
                self._end(session, topic.name, entry)

    def turn(self, session: Session, entry: TailEntry) -> None:
        """An entry of the session's inbox was sent to it: follow where it leads (section 4, Route)."""
        record = entry.record
        channel = record.channel
        if isinstance(record, RouteRecord):
            if record.to == "channel":
                self._begin(session, channel, entry)
        elif isinstance(record, MemberRecord) and record.user == session.user:
            if record.change == "add" and record.route == "channel":
                self._begin(session, channel, entry)
            elif record.change == "remove":
                self._forget_member(session, channel, entry)
                self._end(session, channel, entry)

    def _forget_member(self, session: Session, channel: str, entry: TailEntry) -> None:
        topic = self._hub.topics.get(channel_timeline(session.tenant, channel))
        if topic is not None and topic.members is not None:
            version = topic.members.get(session.user)
            if version is not None and version < entry.source:
                del topic.members[session.user]

    def _begin(self, session: Session, channel: str, entry: TailEntry) -> None:
        """The channel goes on in its own timeline from this position: the session follows by itself.

        Not beyond ``limits.follow``: the client, who gets the event too, chooses then.
        """
        following = (session.follows or {}).get(channel)
        if following is not None:
            following.version = max(following.version, entry.source)
            return
        if session.follows is not None and len(session.follows) >= self._settings.limits.follow:
            return
        job = self.job(session, channel, None)
        job.following.version = entry.source
        job.after = Cursor(self._log.epoch, entry.source, entry.record.id)
        self.start([job])

    def _end(self, session: Session, channel: str, entry: TailEntry) -> None:
        following = (session.follows or {}).get(channel)
        if following is not None and following.version < entry.source and following.topic is not None:
            self.drop(session, channel)

    def drop(self, session: Session, channel: str) -> None:
        """Detach a session from a channel. What it got live stays its own to have decided (``claim``)."""
        if session.follows is None:
            return
        following = session.follows.pop(channel, None)
        if not session.follows:
            session.follows = None
        if following is None or following.topic is None:
            return
        topic = following.topic
        topic.detach(session)
        self._hub.left(topic, self._clock.monotonic())
        if session.phase is not Phase.CLOSED:
            for event_id in topic.pending or ():
                session.claim(event_id, channel)
