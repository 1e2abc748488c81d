"""One client's session: answers what a gateway answers itself and hands requests to a router.

Knows its link and its home (``Sessions``); nothing of sockets. Kept small: a gateway holds many idle ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args

from chatcluster.core.codes import Close, Refused
from chatcluster.core.frames import (
    BadFrame,
    ClientFrame,
    Follow,
    Hello,
    Ping,
    Pong,
    ReadUpTo,
    Reconnect,
    RenewToken,
    Request,
    SetPresence,
    Type,
    Unfollow,
    Watch,
    refusal,
)
from chatcluster.core.session import Phase, admit
from chatcluster.ports import Caller
from chatcluster.services.gateway.link import Link

if TYPE_CHECKING:
    from chatcluster.core.frames import Answer
    from chatcluster.services.gateway.hub import Topic
    from chatcluster.services.gateway.sessions import Sessions

PONG = Pong()
REQUESTS = frozenset(get_args(Request))
"""Frames for a router."""


class Following:
    """A large channel that a session has open. ``version``: the membership or switch it rests on.

    ``topic`` is None until the session is attached.
    """

    __slots__ = ("topic", "version")

    def __init__(self) -> None:
        self.topic: Topic | None = None
        self.version = -1


class Session:
    """The ``Handler`` of one connection."""

    __slots__ = (
        "__weakref__",
        "bad",
        "bearer",
        "claims",
        "device",
        "follows",
        "held",
        "home",
        "id",
        "in_flight",
        "inbox",
        "issued_at",
        "joined",
        "link",
        "paused",
        "phase",
        "status",
        "tenant",
        "user",
        "watching",
    )

    def __init__(self, link: Link, home: Sessions, bearer: str | None) -> None:
        self.link = link
        self.home = home
        self.bearer = bearer
        self.phase = Phase.NEW
        self.id = ""
        self.user = ""
        self.tenant = ""
        self.device = ""
        self.issued_at = 0  # ms since 1970
        self.inbox: Topic | None = None
        self.joined = False  # attached to the inbox
        self.follows: dict[str, Following] | None = None
        self.claims: dict[int, str | None] | None = None  # live ids told here that no topic proves; their channel
        self.held: list[ClientFrame] | None = None  # what came between hello and welcome
        self.in_flight = 0
        self.paused = False
        self.bad = 0
        self.status: str = "online"
        self.watching: tuple[str, ...] = ()

    # -- Handler -----------------------------------------------------------------------------------

    def on_frame(self, frame: ClientFrame) -> None:
        """A decoded frame, in the order of arrival."""
        if self.phase is Phase.OPEN and type(frame) in REQUESTS:
            self._submit(cast("Request", frame))
            return
        if self.phase is Phase.CLOSED:
            return
        if isinstance(frame, Ping):
            self.link.send(PONG)
            return
        try:
            admit(self.phase, frame)
            if isinstance(frame, Hello):
                self.home.resumer.hello(self, frame)
                self.phase = Phase.GREETING
                self.link.pause()  # requests wait for the welcome
            elif self.phase is Phase.GREETING:
                self._hold(frame)
            else:
                self._answer(frame)
        except Refused as refused:
            self.link.send(refusal(refused, getattr(frame, "rid", None)))

    def on_bad_frame(self, bad: BadFrame) -> None:
        """A message that is no frame: an answer, and after many of them the end."""
        if self.phase is Phase.CLOSED:
            return
        self.link.send(bad.error)
        self.bad += 1
        if self.bad >= self.home.settings.bad_frames:
            self.close(Close.POLICY, "too many bad frames")

    def on_closed(self) -> None:
        """The connection is gone."""
        if self.phase is not Phase.CLOSED:
            self.phase = Phase.CLOSED
        self.home.leave(self)

    def on_drain(self, after_ms: int, spread_ms: int, reason: str) -> None:
        """The gateway will close soon."""
        self.link.send(Reconnect(after_ms, spread_ms, reason))

    def closed(self) -> bool:
        """Whether it is over: it may become so during any wait."""
        return self.phase is Phase.CLOSED

    # -- for the home --------------------------------------------------------------------------------

    def close(self, code: Close, reason: str) -> None:
        """End the connection. Nothing more is delivered or accepted from here on (promise 25)."""
        if self.phase is not Phase.CLOSED:
            self.phase = Phase.CLOSED
            self.link.close(code, reason)
            self.home.leave(self)

    def refuse(self, refused: Refused, rid: str | None) -> None:
        """Answer no."""
        self.link.send(refusal(refused, rid))

    def opened(self) -> None:
        """The welcome is sent: take what was held."""
        self.phase = Phase.OPEN
        self.bearer = None
        held, self.held = self.held, None
        for frame in held or ():
            self.on_frame(frame)
        if not self.paused:
            self.link.resume()

    def claim(self, event_id: int, channel: str | None) -> None:
        """A live id that this client holds and that no topic it is attached to will decide."""
        if self.claims is None:
            self.claims = {}
            self.home.hub.claimants[self] = None
        self.claims[event_id] = channel

    def disclaim(self, event_id: int) -> bool:
        """The id is decided. Whether it was claimed."""
        claims = self.claims
        if claims is None or event_id not in claims:
            return False
        del claims[event_id]
        if not claims:
            self.claims = None
            self.home.hub.claimants.pop(self, None)
        return True

    # -- requests --------------------------------------------------------------------------------------

    def _hold(self, frame: ClientFrame) -> None:
        if self.held is None:
            self.held = []
        if len(self.held) >= self.home.settings.in_flight:
            raise Refused("overloaded", "wait for the welcome", retry_after_ms=1000)
        self.held.append(frame)

    def _submit(self, frame: Request) -> None:
        caller = Caller(self.tenant, self.user, self.id)
        if isinstance(frame, Type) or (isinstance(frame, ReadUpTo) and frame.rid is None):
            self.home.router.submit(caller, frame, _unanswered)
            return
        self.enter()
        self.home.router.submit(caller, frame, self._done)

    def enter(self) -> None:
        """A request is in flight. At the bound the socket is not read: nobody's requests grow without end."""
        self.in_flight += 1
        if self.in_flight >= self.home.settings.in_flight and not self.paused:
            self.paused = True
            self.link.pause()

    def _done(self, answer: Answer) -> None:
        self.finish(answer)

    def finish(self, answer: Answer) -> None:
        """The answer, or the refusal, of a request that ``enter`` counted."""
        self.in_flight -= 1
        if self.phase is Phase.CLOSED:
            return
        self.link.send(answer)
        if self.paused and self.in_flight <= self.home.settings.in_flight // 2:
            self.paused = False
            self.link.resume()

    def _answer(self, frame: ClientFrame) -> None:
        home = self.home
        if isinstance(frame, Follow):
            home.follows.asked(self, frame)
        elif isinstance(frame, Unfollow):
            home.follows.unfollow(self, frame)
        elif isinstance(frame, Watch):
            home.watching.watch(self, frame)
        elif isinstance(frame, SetPresence):
            home.watching.status(self, frame.status)
        elif isinstance(frame, RenewToken):
            home.resumer.renew(self, frame)
        else:
            raise AssertionError(f"no answer for {type(frame)}")


def _unanswered(answer: Answer) -> None:
    """Typing and reads without a rid have no answer, and nobody could match a refusal of them."""
