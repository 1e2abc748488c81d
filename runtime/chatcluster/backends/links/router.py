"""Port ``Router`` over connections: every request answered exactly once, none sent twice that may have arrived.

Sends of one session to one channel go in order to one router ("lane"): while some of them are unanswered, the others
follow to the same one, whoever comes or goes meanwhile (delivery.md section 1).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from chatcluster.backends.links.dialing import Dialer, Peer
from chatcluster.backends.links.settings import LinkSettings
from chatcluster.backends.links.wire import Answers, Calls, Facts, encode
from chatcluster.core.codes import Refused
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
from chatcluster.core.placement import partition_of, ranked
from chatcluster.ports import Caller, Clock

log = logging.getLogger("chatcluster.links")

Done = Callable[[Answer], None]
LaneKey = tuple[str, str]

_ORDERED = frozenset({Send, Edit, Delete, React})
_REPEATABLE = frozenset({History, Sync, ListChannels, ChannelMembers, ReadUpTo})
_PLACES = 50_000
"""Keys whose rank is remembered: ranking costs a hash per router."""
_BATCH = 512
"""Calls in one frame: bounds its size and how long the other end is held."""
_SWEEP = 0.25
_RETRY_MS = 1_000


class LinkPlaces(msgspec.Struct, frozen=True):
    """What a gateway knows of the log: from a router, so that it needs no connection to the brokers."""

    facts: Facts

    @property
    def epoch(self) -> str:
        return self.facts.epoch

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""
        return self.facts.partitions[topic]

    def partition_of(self, topic: str, key: str) -> int:
        """The partition of a key: the same for ever."""
        return partition_of(key, self.facts.partitions[topic])


class Call:
    """A request on its way. ``written``: it may have arrived. ``lane``: where its order is kept, or None."""

    __slots__ = ("at", "caller", "done", "lane", "peer", "request", "retried", "written")

    def __init__(self, caller: Caller, request: Request, done: Done, at: float) -> None:
        self.caller = caller
        self.request = request
        self.done = done
        self.at = at
        self.lane: Lane | None = None
        self.peer: RouterPeer | None = None
        self.written = False
        self.retried = False


class Lane:
    """Sends of one session to one channel. ``peer``: where its unanswered ones went; ``held`` wait for those."""

    __slots__ = ("held", "key", "open", "peer")

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.peer: RouterPeer | None = None
        self.open = 0
        self.held: deque[Call] | None = None


class RouterPeer(Peer):
    """One router: calls out, answers in."""

    def __init__(self, link: RouterLink, secret: bytes) -> None:
        super().__init__(link, secret)
        self._link = link
        self._out: list[Call] = []
        self._scheduled = False
        self.calls: dict[int, Call] = {}  # without an answer, oldest first
        self._number = 0

    @property
    def load(self) -> int:
        """Calls that it has not answered."""
        return len(self.calls) + len(self._out)

    def put(self, call: Call) -> None:
        """Send it with everything else of this loop turn."""
        call.peer = self
        self._out.append(call)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self.gone or not self._out:
            return
        out, self._out = self._out, []
        for start in range(0, len(out), _BATCH):
            batch = []
            for call in out[start : start + _BATCH]:
                number = self._number = self._number + 1
                call.written = True
                self.calls[number] = call
                batch.append((number, call.caller, call.request))
            self.say(encode(Calls(batch)))
        self._link.batched(len(out))

    def told(self, message: Any) -> None:
        if type(message) is not Answers:
            return
        take, answered = self.calls.pop, self._link.answered
        for number, answer in message.answers:
            call = take(number, None)
            if call is not None:
                answered(call, answer)
        if self.leaving and not self.load:
            self.end("it said goodbye")

    def abandon(self) -> tuple[list[Call], list[Call]]:
        """(calls that may have arrived, calls that were never written), when the connection is over."""
        calls, self.calls = list(self.calls.values()), {}
        out, self._out = self._out, []
        return calls, out


class RouterLink(Dialer):
    """Port ``Router``. Made by ``open``."""

    def __init__(self, settings: LinkSettings, *, name: str, clock: Clock, metrics: Metrics) -> None:
        super().__init__(
            settings,
            kind="router",
            section="routers",
            name=name,
            metrics=metrics,
            make=lambda secret: RouterPeer(self, secret),
        )
        self._now = clock.monotonic
        self._open = 0  # calls submitted and not answered
        self._waiting: deque[Call] = deque()  # for a router to be there
        self._lanes: dict[LaneKey, Lane] = {}
        self._ranks: dict[str, RouterPeer] = {}
        self._known: Facts | None = None
        self._facts: asyncio.Future[LinkPlaces] = asyncio.get_running_loop().create_future()
        self._requests = metrics.counter("link_requests_total", "Requests handed to routers.")
        self._batches = metrics.counter("link_batches_total", "Writes of requests to routers.")
        self._retries = metrics.counter("link_retries_total", "Reads asked again of another router.")
        self._unknown = metrics.counter("link_unknown_total", "Requests whose router was lost before it answered.")
        self._odd = metrics.counter("link_odd_routers_total", "Routers refused: they speak of another log.")
        self._seconds = metrics.histogram("link_seconds", "From submitted to answered.")
        metrics.gauge("link_in_flight", "Requests without an answer.", lambda: float(self._open))

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: LinkSettings, *, name: str, clock: Clock, metrics: Metrics
    ) -> AsyncIterator[RouterLink]:
        """The link for the time of the block; it connects by itself. ``name``: this gateway's."""
        link = cls(settings, name=name, clock=clock, metrics=metrics)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(link.run()), group.create_task(link._sweep())]
            try:
                yield link
            finally:
                for task in tasks:
                    task.cancel()
                link.close()
                link._give_up(0.0)
                if not link._facts.done():
                    link._facts.cancel()

    async def facts(self) -> LinkPlaces:
        """What the first router tells of the log, however long it takes to find one."""
        return await asyncio.shield(self._facts)

    # -- the port ---------------------------------------------------------------------------------------

    def submit(self, caller: Caller, request: Request, done: Done) -> None:
        """See ``ports.Router``."""
        if self._open >= self.settings.max_in_flight:
            done(refusal(Refused("overloaded", "too much is waiting", retry_after_ms=_RETRY_MS), _rid(request)))
            return
        self._open += 1
        self._requests.add()
        call = Call(caller, request, done, self._now())
        if self._waiting:  # in order behind those who wait for a router
            self._wait(call)
        else:
            self._route(call)

    def _route(self, call: Call) -> None:
        caller, request = call.caller, call.request
        channel = getattr(request, "channel", None)
        key = f"{caller.tenant}/{channel}" if channel is not None else f"{caller.tenant}//{caller.user}"
        kind = type(request)
        if kind in _ORDERED:
            lane = call.lane or self._lanes.get((caller.session, key))
            if lane is None:
                lane = self._lanes[caller.session, key] = Lane((caller.session, key))
            call.lane = lane
            peer = lane.peer
            if lane.open and peer is not None:
                if lane.held is not None or peer.leaving or peer.gone:
                    # It takes nothing new, and nobody may overtake what it has: wait for its answers.
                    if lane.held is None:
                        lane.held = deque()
                    lane.held.append(call)
                    return
            else:
                peer = self._place(key)
            if peer is None:
                self._drop_lane(lane)
                call.lane = None
                self._wait(call)
                return
            if peer.clogged:
                self._drop_lane(lane)
                self._finish(call, _refused(call, "overloaded", "the router does not keep up"))
                return
            lane.peer = peer
            lane.open += 1
            peer.put(call)
            return
        peer = self._place(key)
        if peer is None:
            self._wait(call)
            return
        if kind in _REPEATABLE:
            peer = self._lightest(key, peer)
        if peer.clogged:
            self._finish(call, _refused(call, "overloaded", "the router does not keep up"))
            return
        peer.put(call)

    def _place(self, key: str) -> RouterPeer | None:
        """The router of a key, by rendezvous over those that take something new."""
        peer = self._ranks.get(key)
        if peer is None:
            names = [name for name, one in self.peers.items() if not one.leaving]
            if not names:
                return None
            if len(self._ranks) >= _PLACES:
                self._ranks.clear()
            peer = self._ranks[key] = self._peer(ranked(key, names)[0])
        return peer

    def _lightest(self, key: str, first: RouterPeer) -> RouterPeer:
        """A read may go to the next in rank when its router has more than its share."""
        able = [name for name, one in self.peers.items() if not one.leaving]
        if len(able) < 2:
            return first
        share = 64 + 1.25 * sum(self._peer(name).load for name in able) / len(able)
        if first.load <= share:
            return first
        return next((peer for name in ranked(key, able) if (peer := self._peer(name)).load <= share), first)

    def _peer(self, name: str) -> RouterPeer:
        peer = self.peers[name]
        assert isinstance(peer, RouterPeer)
        return peer

    def _wait(self, call: Call) -> None:
        if len(self._waiting) >= self.settings.max_waiting:
            self._finish(call, _refused(call, "unavailable", "no router is there"))
        else:
            self._waiting.append(call)

    # -- answers ------------------------------------------------------------------------------------------

    def answered(self, call: Call, answer: Answer) -> None:
        """A router has answered."""
        self._seconds.observe(self._now() - call.at)
        self._finish(call, answer)

    def _finish(self, call: Call, answer: Answer) -> None:
        self._open -= 1
        lane = call.lane
        if lane is not None and call.peer is not None:
            lane.open -= 1
            if not lane.open:
                self._release(lane)
        call.lane = None
        call.done(answer)

    def _release(self, lane: Lane) -> None:
        held, lane.held, lane.peer = lane.held, None, None
        self._drop_lane(lane)
        if held:
            for call in held:
                call.lane = None
                self._route(call)

    def _drop_lane(self, lane: Lane) -> None:
        if not lane.open and not lane.held and self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]

    def batched(self, calls: int) -> None:
        """For the metrics: a peer has written some calls together."""
        self._batches.add()

    # -- who comes and goes ---------------------------------------------------------------------------------

    def accepts(self, peer: Peer) -> str | None:
        if self._known is not None and peer.facts != self._known:
            self._odd.add()
            return f"it speaks of another log (epoch {peer.facts.epoch}, not {self._known.epoch}): restart who is older"
        return None

    def arrived(self, peer: Peer) -> None:
        self._known = peer.facts
        super().arrived(peer)
        self._ranks.clear()
        if not self._facts.done():
            self._facts.set_result(LinkPlaces(peer.facts))
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            self._route(call)

    def left(self, peer: Peer) -> None:
        self._ranks.clear()
        assert isinstance(peer, RouterPeer)
        if not peer.load:
            peer.end("it said goodbye")

    def lost(self, peer: Peer) -> None:
        super().lost(peer)
        self._ranks.clear()
        assert isinstance(peer, RouterPeer)
        sent, unsent = peer.abandon()
        again: list[Call] = []
        for call in sent:
            if type(call.request) in _REPEATABLE and not call.retried:
                call.retried = True
                call.written = False
                self._retries.add()
                again.append(call)
            else:
                self._unknown.add()
                self._finish(call, _lost(call))
        for call in unsent:
            lane = call.lane
            if lane is not None:
                lane.open -= 1
                call.lane = None
                if not lane.open:
                    # Those held behind it stay behind it: it goes first.
                    held, lane.held, lane.peer = lane.held, None, None
                    self._drop_lane(lane)
                    again += [call, *(held or ())]
                    for one in held or ():
                        one.lane = None
                    continue
            again.append(call)
        for call in again:
            call.peer = None
            self._route(call)

    async def _sweep(self) -> None:
        """Deadlines, and the fence: who slept acts on nothing that waited meanwhile."""
        pulse = self._now()
        while True:
            await asyncio.sleep(_SWEEP)
            now = self._now()
            if now - pulse > self.settings.asleep:
                log.error("this process slept over %.0f s: what waited is dropped", self.settings.asleep)
                self._give_up(0.0)
                for peer in list(self.peers.values()):
                    peer.end("this process slept")
            pulse = now
            self._give_up(self.settings.grace)
            late = now - self.settings.deadline
            for peer in list(self.peers.values()):
                assert isinstance(peer, RouterPeer)
                overdue = [number for number, call in _oldest(peer.calls, late)]
                for number in overdue:
                    self._unknown.add()
                    call = peer.calls.pop(number)
                    self._finish(call, _lost(call))

    def _give_up(self, patience: float) -> None:
        """Answer who has waited for a router for longer than ``patience`` seconds."""
        until = self._now() - patience
        while self._waiting and self._waiting[0].at <= until:
            call = self._waiting.popleft()
            self._finish(call, _refused(call, "unavailable", "no router is there"))


def _oldest(calls: Mapping[int, Call], late: float) -> list[tuple[int, Call]]:
    found = []
    for number, call in calls.items():
        if call.at > late:
            break
        found.append((number, call))
    return found


def _rid(request: Request) -> str | None:
    return getattr(request, "rid", None)


def _refused(call: Call, code: Any, text: str) -> Answer:
    """Nothing has happened."""
    return refusal(Refused(code, text, retry_after_ms=_RETRY_MS), _rid(call.request))


def _lost(call: Call) -> Answer:
    """It may have happened."""
    kind = type(call.request)
    if kind is Type:
        return Reply("")
    if kind in _REPEATABLE:
        return _refused(call, "unavailable", "its router is gone")
    text = "it may have been stored or not: repeat it with retry"
    return refusal(Refused("unknown_outcome", text), _rid(call.request))
