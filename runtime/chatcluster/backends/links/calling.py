"""Calls on one connection to a router: written together once per loop turn, answered by number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from chatcluster.backends.links.dialing import Dialer, Peer
from chatcluster.backends.links.wire import Answers, Calls, Strange, frames
from chatcluster.core.frames import Answer, Request
from chatcluster.ports import Caller

Done = Callable[[Answer], None]
LaneKey = tuple[str, str]
_BATCH = 512
"""Calls in one frame: bounds how long the other end is held."""


class Call:
    """A request on its way. ``lane``: where its order is kept while it is at a router, or None."""

    __slots__ = ("at", "caller", "done", "key", "lane", "request", "retried")

    def __init__(self, caller: Caller, request: Request, done: Done, key: str, at: float) -> None:
        self.caller = caller
        self.request = request
        self.done = done
        self.key = key
        self.at = at
        self.lane: Lane | None = None
        self.retried = False


class Lane:
    """Sends of one session to one channel, there while ``open`` of them are unanswered at ``peer``.

    ``held``: those that came after their router stopped taking new ones; they wait for the answers.
    """

    __slots__ = ("held", "key", "open", "peer")

    def __init__(self, key: LaneKey, peer: RouterPeer) -> None:
        self.key = key
        self.peer = peer
        self.open = 0
        self.held: deque[Call] | None = None


class Calling(Protocol):
    """What a peer tells its link."""

    def answered(self, call: Call, answer: Answer) -> None:
        """The router's answer."""
        ...

    def puzzled(self, call: Call) -> None:
        """The router's answer is of a version that knows more."""
        ...

    def unfit(self, call: Call) -> None:
        """No frame can carry the call."""
        ...

    def batched(self, calls: int) -> None:
        """Some calls were written together."""
        ...


class RouterPeer(Peer):
    """One router."""

    def __init__(self, dialer: Dialer, link: Calling, secret: bytes) -> None:
        super().__init__(dialer, secret)
        self._link = link
        self._out: list[Call] = []
        self._number = 0
        self.calls: dict[int, Call] = {}
        """Written and without an answer."""

    @property
    def load(self) -> int:
        """Calls that it has not answered."""
        return len(self.calls) + len(self._out)

    def put(self, call: Call) -> None:
        """Send it with everything else of this loop turn."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(call)

    def _flush(self) -> None:
        self._fence.check()
        if self.gone:
            return
        out, self._out = self._out, []
        self._link.batched(len(out))
        numbered = []
        for call in out:
            self._number += 1
            self.calls[self._number] = call
            numbered.append((self._number, call.caller, call.request))
        for start in range(0, len(numbered), _BATCH):
            for frame in frames(Calls, numbered[start : start + _BATCH], self._unfit):
                self.say(frame)

    def _unfit(self, numbered: tuple[int, Caller, Request]) -> None:
        self._link.unfit(self.calls.pop(numbered[0]))

    def told(self, message: Any) -> None:
        if type(message) is not Answers:
            return
        take, answered = self.calls.pop, self._link.answered
        answer: Any  # or Strange
        for number, answer in message.answers:
            call = take(number, None)
            if call is None:
                continue  # it was late: answered here
            if type(answer) is Strange:
                self._link.puzzled(call)
            else:
                answered(call, answer)
        if self.leaving and not self.load:
            self.end("it said goodbye")

    def overdue(self, late: float) -> list[Call]:
        """Takes away those submitted before ``late``."""
        numbers = [number for number, call in self.calls.items() if call.at < late]
        return [self.calls.pop(number) for number in numbers]

    def abandon(self) -> tuple[list[Call], list[Call]]:
        """(calls that may have arrived, calls that were never written), when the connection is over."""
        calls = list(self.calls.values())
        self.calls.clear()  # this very dict: ``told`` may be at it
        out, self._out = self._out, []
        return calls, out
