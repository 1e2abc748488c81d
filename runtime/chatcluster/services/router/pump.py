"""The send path: arrivals in, one batch at a time through limits, ids, dedupe, log and bus (delivery.md section 3).

One long-lived task; no task, future or timer per message. Order: arrivals are taken in order, ids are minted
and records appended in that order. A send that must wait for a read (its channel, its target, its verdict
rows) holds its *lane*, session and channel: what comes after it there waits behind it, everyone else passes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from chatcluster.core.codes import RETRYABLE, Refused
from chatcluster.core.envelope import Live
from chatcluster.core.faults import told
from chatcluster.core.frames import Answer, Edit, Send
from chatcluster.core.ids import id_time, parse_id
from chatcluster.core.metrics import Counter, Metrics
from chatcluster.core.ratelimit import TokenBuckets
from chatcluster.core.records import CHECK, MAX_AGE, MESSAGES, RETRY, Role, encode
from chatcluster.ports import Bus, Caller, Claim, Claimed, Clock, Dedupe, Failure, Full, Log, Receipt, Unavailable
from chatcluster.services.router.channels import ChannelCache
from chatcluster.services.router.checks import Checks
from chatcluster.services.router.drafts import check_body, check_client_id, content_digest, draft
from chatcluster.services.router.refusals import (
    id_conflict,
    no_such_channel,
    overloaded,
    unavailable,
    unknown_outcome,
)
from chatcluster.services.router.sending import Lane, Sending, SendRequest
from chatcluster.services.router.settings import RouterSettings
from chatcluster.services.router.verdicts import Verdicts
from chatcluster.services.router.worker import Worker

log = logging.getLogger(__name__)
_SWEEP = 0.5
_MAX_LOOKUPS = 3


class Pump:
    """``submit`` from the event loop; ``start`` and ``run`` by the owner; ``close`` answers what is left."""

    def __init__(
        self,
        *,
        log: Log,
        bus: Bus,
        dedupe: Dedupe,
        cache: ChannelCache,
        worker: Worker,
        checks: Checks,
        verdicts: Callable[[Callable[[Sending, int], None], Callable[[Sending, Refused], None]], Verdicts],
        clock: Clock,
        metrics: Metrics,
        settings: RouterSettings,
    ) -> None:
        self._log = log
        self._bus = bus
        self._dedupe = dedupe
        self._cache = cache
        self._worker = worker
        self._checks = checks
        self._clock = clock
        self._now = clock.monotonic
        self._settings = settings
        self._verdicts = verdicts(self._won, self._refuse)
        self._rates = TokenBuckets(
            rate=settings.sends_per_second, burst=settings.send_burst, capacity=settings.max_users
        )
        self._arrivals: list[Sending] = []
        self._wake = asyncio.Event()
        self._lanes: dict[Lane, deque[Sending]] = {}
        self._parked = 0  # sends in lanes, those that hold one included
        self._checking = 0
        self._in_flight = 0  # appends without a report
        self._unreported: dict[Sending, None] = {}  # those still to be answered, oldest first
        self._settled: list[Claim] = []
        self._no_dedupe_until = 0.0
        self._pulse = 0.0  # when this process was last seen awake
        self._group: asyncio.TaskGroup | None = None
        self._metrics = metrics
        self._outcomes: dict[str, Counter] = {}
        self._acked = self._outcome("acked")
        self._duplicates = self._outcome("duplicate")
        for code in sorted(RETRYABLE):
            self._outcome(code)  # a rate of what was not there before it happened misses the first of them
        self._batch = metrics.histogram(
            "router_batch_sends", "Sends taken together", bounds=(1, 2, 5, 10, 20, 50, 100, 200, 500)
        )
        self._claim_seconds = metrics.histogram("router_claim_seconds", "Batch: arrival in the pump to claimed")
        self._publish_seconds = metrics.histogram("router_publish_seconds", "Batch: claimed to all published")
        self._report_seconds = metrics.histogram("router_report_seconds", "Produced to reported")
        self._send_seconds = metrics.histogram("router_send_seconds", "Submitted to acked")
        metrics.gauge("router_arrivals", "Sends that wait for the pump", lambda: float(len(self._arrivals)))
        metrics.gauge("router_parked", "Sends that wait for a read", lambda: float(self._parked))
        metrics.gauge("router_in_flight", "Produces without a report", lambda: float(self._in_flight))

    # -- arrivals -------------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Sends that wait."""
        return len(self._arrivals)

    def submit(self, caller: Caller, request: SendRequest, done: Callable[[Answer], None]) -> None:
        """Take a send in the order of the calls. Cannot block."""
        sending = Sending(caller, request, done, self._now())
        arrivals = self._arrivals
        if len(arrivals) >= self._settings.max_arrivals:
            self._refuse(sending, overloaded(self._settings.retry_after_ms))
            return
        arrivals.append(sending)
        self._wake.set()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Checks run as tasks of ``group`` from now on."""
        self._group = group
        self._pulse = self._now()
        group.create_task(self._sweep(), name="router sweep")
        group.create_task(self._verdicts.run(), name="router verdicts")
        group.create_task(self._run(), name="router pump")

    async def _run(self) -> None:
        while True:
            if not self._arrivals:
                self._wake.clear()
                await self._wake.wait()
            arrivals = self._arrivals
            size = self._settings.max_batch
            if len(arrivals) <= size:
                batch, self._arrivals = arrivals, []
            else:
                batch, self._arrivals = arrivals[:size], arrivals[size:]
            try:
                await self._take(batch)
            except asyncio.CancelledError:
                self._end(batch)
                raise
            except Exception as error:
                log.error("a batch of sends failed: %s", told(error))
                self._end(batch)

    # -- the steps ------------------------------------------------------------------------------------

    async def _take(self, batch: list[Sending]) -> None:
        began = self._now()
        if self._overslept(began):
            self._end(batch)
            return
        if self._stalled(batch):
            return
        self._batch.observe(len(batch))
        ready: list[Sending] = []
        for sending in batch:
            if sending.done is None:
                continue  # answered while it waited
            try:
                if self._prepare(sending, began, len(ready)):
                    ready.append(sending)
            except Refused as refused:
                self._refuse(sending, refused)
            except Exception as error:
                log.error("a send failed: %s", told(error))
                self._refuse(sending, unavailable("this send failed here"))
        if not ready:
            return
        found = await self._claim(ready)
        claimed = self._now()
        self._claim_seconds.observe(claimed - began)
        if claimed - began > self._settings.asleep or self._overslept(claimed):
            self._end(ready)
            return
        if self._stalled(ready):
            return
        for sending, was in zip(ready, found, strict=True):
            try:
                if was is not None and await self._claimed(sending, was):
                    continue
                self._produce(sending, claimed)
            except Refused as refused:
                self._refuse(sending, refused)
            except Exception as error:
                log.error("a send failed: %s", told(error))
                self._end([sending])
        self._publish_seconds.observe(self._now() - claimed)

    def _stalled(self, batch: list[Sending]) -> bool:
        """ "When the oldest unreported produce is older than 1 s, new sends are refused before anything is
        published" (section 3)."""
        if self._log.stalled() <= self._settings.stalled:
            return False
        refused = overloaded(self._settings.retry_after_ms, "the log does not keep up")
        for sending in batch:
            self._refuse(sending, refused)
        return True

    def _prepare(self, sending: Sending, now: float, ahead: int) -> bool:
        """Limits, channel, id. True: it goes on with this batch; False: it waits or is answered."""
        caller, request = sending.caller, sending.request
        kind = type(request)
        tenant, user, channel = caller.tenant, caller.user, request.channel
        settings = self._settings
        if self._lanes:
            lane = (caller.session, f"{tenant}/{channel}")
            behind = self._lanes.get(lane)
            if behind is not None:
                if len(behind) >= settings.max_waiting or self._parked >= settings.max_arrivals:
                    raise overloaded(settings.retry_after_ms)
                behind.append(sending)
                self._parked += 1
                return False
        if not sending.limited:
            check_client_id(request.client_id)
            if kind is Send or kind is Edit:
                check_body(request.body, settings.max_body_bytes)  # type: ignore[union-attr]
            if not caller.system:
                late = self._rates.take(f"{tenant}/{user}", now)
                if late > 0.0:
                    wait = int(late * 1_000) + 1
                    raise Refused("rate_limited", "too many sends", retry_after_ms=wait)
            sending.limited = True
        # Somebody changes the channel all the time: after some reads take the newest.
        final = sending.final or sending.lookups >= _MAX_LOOKUPS
        seen = self._cache.look(tenant, channel, user, final=final)
        if seen is None:
            self._park(sending)
            return False
        state, role = seen
        if state is None or (role is None and not caller.system):
            raise no_such_channel()
        sending.state = state
        if kind is Send:
            if request.after is not None:  # type: ignore[union-attr]
                sending.after = parse_id(request.after, "after")  # type: ignore[union-attr]
            if request.reply_to is not None:  # type: ignore[union-attr]
                parse_id(request.reply_to, "reply_to")  # type: ignore[union-attr]
        if not sending.ready and (kind is not Send or request.retry):
            self._begin_check(sending, role)
            return False
        if self._in_flight + ahead >= settings.max_in_flight:
            raise overloaded(settings.retry_after_ms)
        sending.id = minted = self._worker.mint(sending.after)
        # Channel ids hold no "/" and the length tells user and client_id apart: no two keys run together.
        key = f"{state.key}/{len(user)}:{user}{request.client_id}"
        sending.claim = Claim(key, minted, content_digest(request))
        if request.retry:
            sending.flag = RETRY
        return True

    async def _claim(self, ready: list[Sending]) -> list[Claimed | None]:
        """What stood there before, for each. "Redis silent: go on, flagged check" (section 3 step 2)."""
        found: list[Claimed | None] = [None] * len(ready)
        asked = [index for index, sending in enumerate(ready) if not sending.flag]
        if not asked:
            return found
        if self._now() >= self._no_dedupe_until:
            try:
                answers = await self._dedupe.claim([ready[index].claim for index in asked])  # type: ignore[misc]
            except Unavailable:
                self._no_dedupe_until = self._now() + self._settings.dedupe_pause
            else:
                if len(asked) == len(ready):
                    return list(answers)
                for index, answer in zip(asked, answers, strict=True):
                    found[index] = answer
                return found
        for index in asked:
            ready[index].flag = CHECK
        return found

    async def _claimed(self, sending: Sending, was: Claimed) -> bool:
        """Somebody came before with this client_id. True: answered."""
        claim = sending.claim
        assert claim is not None
        self._worker.observe(was.id)
        if was.digest != claim.digest:
            raise id_conflict()
        if was.durable:
            self._duplicates.add()
            sending.ack(was.id, duplicate=True)
            return True
        # Pending: flagged even where the old id goes on. The attempt that stands there may itself be flagged
        # and lose, and an unflagged report would then be acked with the id of an alias.
        sending.flag = CHECK
        if self._clock.now() - id_time(was.id) < MAX_AGE // 2:
            sending.id = was.id
            sending.duplicate = True
            sending.claim = Claim(claim.key, was.id, claim.digest)
        else:
            # A record of the old id could be void by age: a new id, which takes the place of the old.
            try:
                await self._dedupe.replace(claim)
            except Unavailable:
                self._no_dedupe_until = self._now() + self._settings.dedupe_pause
        return False

    def _produce(self, sending: Sending, now: float) -> None:
        """Cold and hot at the same time; refused by the log means never published."""
        if sending.flag and self._verdicts.full:
            raise overloaded(self._settings.retry_after_ms)
        state, claim = sending.state, sending.claim
        assert state is not None
        assert claim is not None
        record = draft(sending, state.tenant, claim.digest)
        try:
            self._log.append(MESSAGES, state.key, encode(record), partial(self._report, sending))
        except Full:
            raise overloaded(self._settings.retry_after_ms, "the log does not keep up") from None
        sending.produced = now
        self._in_flight += 1
        self._unreported[sending] = None
        self._bus.publish(state.topics, Live(record))

    def _report(self, sending: Sending, result: Receipt | Failure) -> None:
        """Section 3 step 5. "No ack before durable" (law 2), and none for a record that is void by age."""
        self._in_flight -= 1
        self._unreported.pop(sending, None)
        now = self._now()
        self._report_seconds.observe(now - sending.produced)
        event_id = sending.id
        if type(result) is not Receipt:
            self._refuse(sending, unknown_outcome())
        elif result.time - id_time(event_id) > MAX_AGE:
            self._refuse(sending, unknown_outcome("it was void by age: repeat it with retry"))
        elif sending.flag:
            sending.offset = result.offset
            if not sending.answered:
                self._verdicts.wait(sending)
        else:
            state = sending.state
            if state is not None and event_id > state.head and type(sending.request) is Send:
                state.head = event_id
            self._settle(sending.claim)
            if sending.done is not None:
                self._acked.add()
                self._send_seconds.observe(now - sending.at)
                sending.ack(event_id, duplicate=False)

    def _settle(self, claim: Claim | None) -> None:
        assert claim is not None
        self._settled.append(claim)
        if len(self._settled) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        settled, self._settled = self._settled, []
        self._dedupe.settle(settled)

    def _won(self, sending: Sending, winner: int) -> None:
        """The verdict of a flagged send."""
        duplicate = sending.duplicate or winner != sending.id
        self._worker.observe(winner)
        if winner == sending.id:
            self._settle(sending.claim)
        (self._duplicates if duplicate else self._acked).add()
        self._send_seconds.observe(self._now() - sending.at)
        sending.ack(winner, duplicate=duplicate)

    # -- waiting --------------------------------------------------------------------------------------

    def _open_lane(self, sending: Sending) -> Lane:
        caller = sending.caller
        lane = sending.lane = (caller.session, f"{caller.tenant}/{sending.request.channel}")
        self._lanes[lane] = deque([sending])
        self._parked += 1
        return lane

    def _close_lane(self, lane: Lane) -> None:
        """Back to the front, with all that waited behind it, in order."""
        waiting = self._lanes.pop(lane, None)
        if waiting is None:
            return
        self._parked -= len(waiting)
        waiting[0].lane = None
        self._arrivals[:0] = waiting
        self._wake.set()

    def _park(self, sending: Sending) -> None:
        """Wait for the channel to be loaded."""
        sending.lookups += 1
        caller, request = sending.caller, sending.request
        lane = self._open_lane(sending)
        if self._parked > self._settings.max_arrivals or not self._cache.load(
            caller.tenant, request.channel, caller.user, partial(self._loaded, sending)
        ):
            self._close_lane(lane)
            raise overloaded(self._settings.retry_after_ms)

    def _loaded(self, sending: Sending, ok: bool) -> None:
        if not ok:
            caller = sending.caller
            seen = self._cache.look(caller.tenant, sending.request.channel, caller.user, final=True)
            if seen is None or seen[0] is None or (seen[1] is None and not caller.system):
                # A silent store says no to nobody: he may have been added since it was asked last.
                self._refuse(sending, unavailable("the store does not answer", self._settings.retry_after_ms))
            sending.final = True
        if sending.lane is not None:
            self._close_lane(sending.lane)

    def _begin_check(self, sending: Sending, role: Role | None) -> None:
        if self._group is None or self._checking >= self._settings.max_checks:
            raise overloaded(self._settings.retry_after_ms)
        self._checking += 1
        lane = self._open_lane(sending)
        self._group.create_task(self._check(sending, role, lane), name="router check")

    async def _check(self, sending: Sending, role: Role | None, lane: Lane) -> None:
        try:
            await self._checks.check(sending, role)
        except Refused as refused:
            self._refuse(sending, refused)
        except Exception as error:
            log.error("a check failed: %s", told(error))
            self._refuse(sending, unavailable("this send failed here"))
        finally:
            self._checking -= 1
            self._close_lane(lane)

    # -- ends -----------------------------------------------------------------------------------------

    def _outcome(self, outcome: str) -> Counter:
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._metrics.counter("router_sends_total", "Sends by outcome", outcome=outcome)
            self._outcomes[outcome] = counter
        return counter

    def _refuse(self, sending: Sending, refused: Refused) -> None:
        if sending.done is not None:
            self._outcome(refused.code).add()
            sending.refuse(refused)

    def _end(self, batch: list[Sending]) -> None:
        """Nobody will look at these again."""
        for sending in batch:
            if sending.lane is None or sending.lane not in self._lanes:
                self._drop(sending)

    def _drop(self, sending: Sending) -> None:
        if sending.produced:
            return  # its report or the sweep answers
        self._refuse(sending, unavailable("this router was interrupted", self._settings.retry_after_ms))

    def _overslept(self, now: float) -> bool:
        """Self-fencing: "drops its queues before it acts on anything that waited in them" (section 1)."""
        slept = now - self._pulse > self._settings.asleep
        self._pulse = now
        if slept:
            log.error("this process slept over %.0f s: what waited is dropped", self._settings.asleep)
            arrivals, self._arrivals = self._arrivals, []
            for lane in self._lanes.values():
                arrivals.extend(lane)
            for sending in arrivals:
                self._drop(sending)
        return slept

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            now = self._now()
            self._overslept(now)
            while self._unreported:
                oldest = next(iter(self._unreported))
                if now - oldest.produced < self._settings.report_deadline:
                    break
                del self._unreported[oldest]
                self._refuse(oldest, unknown_outcome())

    def close(self) -> None:
        """Answer everything that is left: what was produced may stand, what was not does not."""
        self._group = None
        waiting = self._arrivals
        self._arrivals = []
        for lane in self._lanes.values():
            waiting.extend(lane)
        self._lanes.clear()
        for sending in waiting:
            self._drop(sending)
        for sending in self._unreported:
            self._refuse(sending, unknown_outcome())
        self._unreported.clear()
        self._verdicts.close()
