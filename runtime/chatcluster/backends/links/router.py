"""Port ``Router`` over connections: every request answered exactly once, none sent twice that may have arrived.

Sends of one session to one channel go in order to one router (a lane): while some of them are unanswered the others
follow to the same one or wait, whoever comes or goes meanwhile (delivery.md section 1).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chatcluster.backends.links.calling import Call, Done, Lane, RouterPeer
from chatcluster.backends.links.dialing import Dialer, Peer
from chatcluster.backends.links.places import LinkPlaces, difference
from chatcluster.backends.links.settings import LinkSettings
from chatcluster.backends.links.wire import Facts
from chatcluster.core.codes import ErrorCode, Refused
from chatcluster.core.frames import (
    Answer,
    ChannelMembers,
    Delete,
    Edit,
    History,
    ListChannels,
    React,
    ReadUpTo,
    Reply,
    Request,
    Send,
    Sync,
    Type,
    refusal,
)
from chatcluster.core.metrics import Metrics
from chatcluster.core.placement import ranked
from chatcluster.ports import Caller, Clock

_ORDERED = frozenset({Send, Edit, Delete, React})
_REPEATABLE = frozenset({History, Sync, ListChannels, ChannelMembers, ReadUpTo})
_PLACES = 50_000
"""Keys whose router is remembered: finding it costs a hash per router."""
_SWEEP = 0.25
_RETRY_MS = 1_000
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SPARE = 64
"""Calls by which a router may always be over its share: few calls say nothing about load."""
_SHARE = 1.25
"""Times the average from which reads go to the next router (consistent hashing with bounded loads, 2016)."""


class RouterLink(Dialer):
    """Port ``Router``. Made by ``open``."""

    def __init__(self, settings: LinkSettings, *, name: str, clock: Clock, metrics: Metrics) -> None:
        super().__init__(
            settings,
            kind="router",
            section="routers",
            name=name,
            clock=clock,
            metrics=metrics,
            make=lambda secret: RouterPeer(self, self, secret),
        )
        self._now = clock.monotonic
        self._open = 0  # calls submitted and not answered
        self._waiting: deque[Call] = deque()  # for a router to be there
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._able: list[str] = []  # routers that take something new
        self._places: dict[str, RouterPeer] = {}
        self._alone = self._now()  # since when there is none
        self._known: Facts | None = None
        self._facts: asyncio.Future[LinkPlaces] = asyncio.get_running_loop().create_future()
        self._requests = metrics.counter("link_requests_total", "Requests taken for routers.")
        self._batches = metrics.histogram("link_batch_requests", "Requests in one write to a router.", _SIZES)
        self._retries = metrics.counter("link_retries_total", "Reads asked again of another router.")
        self._unknown = metrics.counter("link_unknown_total", "Requests that may have arrived and were not answered.")
        self._odd = metrics.counter("link_odd_routers_total", "Routers refused: they speak of another log.")
        self._seconds = metrics.histogram("link_seconds", "From submitted to answered by a router.")
        metrics.gauge("link_in_flight", "Requests without an answer.", lambda: float(self._open))

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: LinkSettings, *, name: str, clock: Clock, metrics: Metrics
    ) -> AsyncIterator[RouterLink]:
        """The link for the time of the block; it connects by itself. ``name``: this gateway's.

        Raises ``Misconfigured``.
        """
        link = cls(settings, name=name, clock=clock, metrics=metrics)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(link.run()), group.create_task(link._sweep())]
            try:
                yield link
            finally:
                for task in tasks:
                    task.cancel()
                link.close()
                link._facts.cancel()

    async def facts(self) -> LinkPlaces:
        """What the first router tells of the log, however long it takes to find one."""
        return await asyncio.shield(self._facts)

    # -- the port ---------------------------------------------------------------------------------------

    def submit(self, caller: Caller, request: Request, done: Done) -> None:
        """See ``ports.Router``."""
        if self._open >= self.settings.max_in_flight:
            done(_refused(request, "overloaded", "too much is waiting"))
            return
        self._open += 1
        self._requests.add()
        channel = getattr(request, "channel", None)
        key = f"{caller.tenant}//{caller.user}" if channel is None else f"{caller.tenant}/{channel}"
        call = Call(caller, request, done, key, self._now())
        if self._waiting and (caller.session, key) not in self._lanes:
            self._wait(call)  # in order, behind those that wait for a router
        else:
            self._route(call)

    def _route(self, call: Call) -> None:
        kind = type(call.request)
        lane = self._lanes.get((call.caller.session, call.key)) if kind in _ORDERED else None
        if lane is None:
            peer = self._place(call.key)
        elif lane.held is not None or lane.peer.leaving or lane.peer.gone:
            # Its router takes nothing new, and nobody may overtake what it has: wait for its answers.
            if lane.held is None:
                lane.held = deque()
            lane.held.append(call)
            return
        else:
            peer = lane.peer
        if peer is None:
            self._wait(call)
            return
        if kind in _REPEATABLE:
            peer = self._spread(call.key, peer)
        if peer.clogged or peer.load >= self.settings.max_per_router:
            self._finish(call, _refused(call.request, "overloaded", "the router does not keep up"))
            return
        if kind in _ORDERED:
            if lane is None:
                key = (call.caller.session, call.key)
                lane = self._lanes[key] = Lane(key, peer)
            lane.open += 1
            call.lane = lane
        peer.put(call)

    def _place(self, key: str) -> RouterPeer | None:
        """The router of a key, by rendezvous over those that take something new."""
        peer = self._places.get(key)
        if peer is None and self._able and not self.fenced:
            if len(self._places) >= _PLACES:
                self._places.clear()
            peer = self._places[key] = self._peer(ranked(key, self._able)[0])
        return peer

    def _spread(self, key: str, first: RouterPeer) -> RouterPeer:
        """A read may go to the next in rank when its router has more than its share."""
        share = _SPARE + _SHARE * self._open / (len(self._able) or 1)
        if first.load <= share:
            return first
        return next((peer for name in ranked(key, self._able) if (peer := self._peer(name)).load <= share), first)

    def _peer(self, name: str) -> RouterPeer:
        peer = self.peers[name]
        assert isinstance(peer, RouterPeer)
        return peer

    def _wait(self, call: Call) -> None:
        patient = self._now() - self._alone <= self.settings.grace and not self.fenced
        if patient and len(self._waiting) < self.settings.max_waiting:
            self._waiting.append(call)
        else:
            self._finish(call, _refused(call.request, "unavailable", "no router is there"))

    # -- answers: what a peer tells -------------------------------------------------------------------------

    def answered(self, call: Call, answer: Answer) -> None:
        """A router has answered."""
        self._seconds.observe(self._now() - call.at)
        self._finish(call, answer)

    def puzzled(self, call: Call) -> None:
        """It has, in words of a later version."""
        self._finish(call, _lost(call.request))

    def unfit(self, call: Call) -> None:
        """The call fits no frame."""
        self._finish(call, refusal(Refused("bad_request", "the request is too large"), _rid(call.request)))

    def batched(self, calls: int) -> None:
        """For the metrics."""
        self._batches.observe(calls)

    def _finish(self, call: Call, answer: Answer) -> None:
        self._open -= 1
        lane = call.lane
        if lane is not None:
            call.lane = None
            lane.open -= 1
            if not lane.open:
                self._release(lane)
        call.done(answer)

    def _release(self, lane: Lane) -> None:
        """All its calls are answered: those held go where the channel belongs now."""
        del self._lanes[lane.key]
        for call in lane.held or ():
            self._route(call)

    # -- who comes and goes ---------------------------------------------------------------------------------

    def accepts(self, peer: Peer) -> str | None:
        reason = None if self._known is None else difference(self._known, peer.facts)
        if reason is None:
            return super().accepts(peer)
        self._odd.add()
        return reason

    def arrived(self, peer: Peer) -> None:
        if self._known is None:
            self._known = peer.facts
            self._facts.set_result(LinkPlaces(peer.facts))
        super().arrived(peer)
        self._changed()
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            self._route(call)

    def left(self, peer: Peer) -> None:
        self._changed()
        assert isinstance(peer, RouterPeer)
        if not peer.load:
            peer.end("it said goodbye")

    def lost(self, peer: Peer, why: str) -> None:
        super().lost(peer, why)
        self._changed()
        assert isinstance(peer, RouterPeer)
        sent, unsent = peer.abandon()
        again: list[Call] = []
        for call in sent:
            if type(call.request) in _REPEATABLE and not call.retried and not self.fenced:
                call.retried = True
                self._retries.add()
                again.append(call)
            else:
                self._unknown.add()
                self._finish(call, _lost(call.request))
        lanes: dict[Lane, None] = {}
        for call in reversed(unsent):
            lane = call.lane
            if lane is None:
                again.append(call)
                continue
            call.lane = None
            lane.open -= 1
            lanes[lane] = None
            if lane.held is None:
                lane.held = deque()
            lane.held.appendleft(call)  # before those that came after it
        for lane in lanes:
            self._release(lane)
        for call in again:
            self._route(call)

    def _changed(self) -> None:
        self._places.clear()
        self._able = [name for name, peer in self.peers.items() if not peer.leaving]
        if self._able:
            self._alone = float("inf")
        elif self._alone == float("inf"):
            self._alone = self._now()

    def drop(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            self._finish(call, _refused(call.request, "unavailable", "no router is there"))

    async def _sweep(self) -> None:
        """Deadlines, and the end of the grace of those that wait for a router."""
        while True:
            await asyncio.sleep(_SWEEP)
            now = self._now()
            if self._waiting and now - self._alone > self.settings.grace:
                self.drop()
            for peer in list(self.peers.values()):
                assert isinstance(peer, RouterPeer)
                for call in peer.overdue(now - self.settings.deadline):
                    self._unknown.add()
                    self._finish(call, _lost(call.request))
                if peer.leaving and not peer.load:
                    peer.end("it said goodbye")


def _rid(request: Request) -> str | None:
    return getattr(request, "rid", None)


def _refused(request: Request, code: ErrorCode, text: str) -> Answer:
    """Nothing has happened."""
    return refusal(Refused(code, text, retry_after_ms=_RETRY_MS), _rid(request))


def _lost(request: Request) -> Answer:
    """It may have happened."""
    if type(request) is Type:
        return Reply("")
    if type(request) in _REPEATABLE:
        return _refused(request, "unavailable", "its router does not answer")
    text = "it may have been stored or not: repeat it with retry"
    return refusal(Refused("unknown_outcome", text), _rid(request))
