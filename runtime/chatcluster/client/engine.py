"""Keeps one device connected: opens, resumes, tells what came, repeats what got no answer, backs off.

The shell around ``state``. It runs in one task, which the client owns.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import UNSET

from chatcluster.client.chores import Chores
from chatcluster.client.connection import Connection, Ending, NotConnected, connected
from chatcluster.client.credentials import Token, expiry
from chatcluster.client.cursors import CursorStore
from chatcluster.client.errors import (
    ChatError,
    ConnectionLost,
    ConnectionRefused,
    Forbidden,
    Replaced,
    Stopped,
    TimedOut,
    Unauthorized,
    from_frame,
)
from chatcluster.client.events import ChatEvent, Connected, Disconnected, PresenceChanged, Typing
from chatcluster.client.feed import Feed
from chatcluster.client.recorder import Observer
from chatcluster.client.state import CatchUp, Effect, State, Tell
from chatcluster.client.view import ChannelView
from chatcluster.core.backoff import delay
from chatcluster.core.codes import Close
from chatcluster.core.frames import (
    Ack,
    ClientInfo,
    ErrorFrame,
    Event,
    Hello,
    Mark,
    PresenceFrame,
    PresenceInfo,
    Reconnect,
    RenewToken,
    Reply,
    Resync,
    ServerFrame,
    SetPresence,
    TypingFrame,
    Welcome,
)

ANSWER_TIMEOUT = 20.0
"""Seconds after which a request without an answer is given up and repeated with a new rid."""
STABLE = 10.0
"""Seconds a connection must live before the next break counts as the first again."""
RENEW_AT = 0.8
"""Share of a token's remaining life after which it is renewed."""

_FATAL: dict[int, type[ConnectionRefused]] = {
    Close.UNAUTHORIZED: Unauthorized,
    Close.FORBIDDEN: Forbidden,
    Close.REPLACED: Replaced,
}
_FATAL_STATUS: dict[int, type[ConnectionRefused]] = {
    400: ConnectionRefused,
    401: Unauthorized,
    403: Forbidden,
    404: ConnectionRefused,
    426: ConnectionRefused,
}


class Status(msgspec.Struct, frozen=True):
    """``connecting``, ``live``, ``waiting`` (the next attempt is at loop time ``until``) or ``stopped``."""

    name: str
    reason: str = ""
    until: float = 0.0


class Engine:
    """One device. ``run`` ends when cancelled, or with ``fatal`` set when trying again cannot help."""

    def __init__(
        self,
        url: str,
        *,
        token: Token,
        device: str,
        cursors: CursorStore,
        codecs: Sequence[str],
        info: ClientInfo,
        queue: int,
        open_timeout: float,
        random: Callable[[], float] = random.random,
        observer: Observer | None = None,
    ) -> None:
        self.state = State(window=max(8192, 4 * queue))
        self.feed = Feed(queue, cursors)
        self.feed.on_empty = self._on_empty
        self.views: dict[str, ChannelView] = {}
        self.status = Status("connecting")
        self.welcome: Welcome | None = None
        self.fatal: ChatError | None = None
        self.lagging = False
        """The application is behind by more than the queue: what comes waits at the server, behind our cursor."""
        self.chores: deque[Effect] = deque()
        self.watched: list[str] | None = None
        self.presence: Literal["online", "away", "invisible"] | None = None
        self._url = url
        self._token = token
        self._device = device
        self._cursors = cursors
        self._codecs = codecs
        self._info = info
        self._open_timeout = open_timeout
        self._random = random
        self._observer = observer
        self._connection: Connection | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._chore = asyncio.Event()
        self._leave_at: float | None = None  # loop time of an advised reconnect
        self._leaving = asyncio.Event()
        self._token_doubted = False

    # -- the task --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, serve, wait, again."""
        loop = asyncio.get_running_loop()
        try:
            self.state = State(await self._cursors.load(), window=max(8192, 4 * self.feed.size))
            attempt = 0
            while True:
                self.status = Status("connecting", self.status.reason)
                began = loop.time()
                ending = await self._once()
                if self.welcome is not None:
                    self._token_doubted = False
                    if loop.time() - began >= STABLE:
                        attempt = 0
                wait = self._pause(ending, attempt)
                attempt += 1
                self.status = Status("waiting", ending.reason, loop.time() + wait)
                self._tell_if_room(Disconnected(ending.code, ending.reason, wait))
                await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self.fatal = Stopped("the client was closed")
            raise
        except ChatError as error:
            self.fatal = error
        except Exception as error:
            self.fatal = ChatError(f"the client failed: {error!r}")
            self.fatal.__cause__ = error
        finally:
            assert self.fatal is not None
            self.status = Status("stopped", str(self.fatal))
            self.feed.finish(self.fatal)
            self._wake_waiters()

    def _pause(self, ending: Ending, attempt: int) -> float:
        """Seconds until the next attempt. Raises what ends the client for good."""
        fatal = _FATAL.get(ending.code or 0) or _FATAL_STATUS.get(ending.status or 0)
        if ending.code == Close.TOKEN_EXPIRED and isinstance(self._token, str):
            raise Unauthorized(f"{ending.reason} (give the client a function that fetches tokens to go on by itself)")
        if fatal is Unauthorized and not isinstance(self._token, str) and not self._token_doubted:
            # Never again with this token; a fresh one is another matter, once.
            self._token_doubted = True
            fatal = None
        if fatal is not None:
            raise fatal(ending.reason)
        if self._leave_at is not None:
            # An advised reconnect: the server has spread its clients already.
            wait = max(0.0, self._leave_at - asyncio.get_running_loop().time())
            self._leave_at = None
            return wait
        wait = delay(attempt, self._random)
        return wait if ending.retry_after is None else wait + ending.retry_after

    async def _once(self) -> Ending:
        """One connection, from opening to its end."""
        self.welcome = None
        try:
            token = self._token if isinstance(self._token, str) else await self._token()
        except ChatError:
            raise
        except Exception as error:  # the application's function: whatever it raises, a later try may work
            return Ending(f"no token: {error!r}")
        try:
            connection = await connected(self._url, codecs=self._codecs, timeout=self._open_timeout)
        except NotConnected as error:
            return error.ending
        connection.observer = self._observer
        try:
            hello = Hello("hello", token, self._device, self.state.resume(), self._info)
            try:
                welcome = await connection.hello(hello, self._open_timeout)
            except NotConnected as error:
                if error.error is not None and error.error.code == "bad_cursor":
                    self.do(self.state.forget())
                return error.ending
            self.welcome = welcome
            self.lagging = False
            new = self.state.inbox is None
            self.do(self.state.welcome(welcome))
            self._tell_if_room(Connected(welcome.session, welcome.resumed))
            if new:
                self.feed.mark(self.state.saved())
            self._connection = connection
            self.status = Status("live")
            self._wake_waiters()
            return await self._serve(connection, token)
        finally:
            self._connection = None
            await connection.close(1000, "")

    async def _serve(self, connection: Connection, token: str) -> Ending:
        """Read; beside it do chores, renew the token, and leave when advised."""
        self._leave_at = None
        self._leaving.clear()
        beside = [
            asyncio.create_task(self._show()),
            asyncio.create_task(self._work()),
            asyncio.create_task(self._renew(token)),
            asyncio.create_task(self._leave(connection)),
        ]
        try:
            return await connection.run(self._on_frame)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    def renewed(self, token: str) -> None:
        """The application has a newer token: the next connection says hello with it."""
        if isinstance(self._token, str):
            self._token = token

    async def _show(self) -> None:
        """What a session holds and no cursor: renewed with each. Nothing waits for it, as presence may be away."""
        if self.presence is not None:
            await self.post(SetPresence(self.presence))
        if self.watched is not None:
            await Chores(self).watch(self.watched)

    async def _work(self) -> None:
        chores = Chores(self)
        while True:
            while self.chores:
                await chores.do(self.chores[0])
                self.chores.popleft()
            self._chore.clear()
            await self._chore.wait()

    async def _renew(self, token: str) -> None:
        """Renews before the token ends, when there is somebody to ask for a new one."""
        if isinstance(self._token, str):
            return
        while True:
            ends = expiry(token)
            if ends is None:
                return
            await asyncio.sleep(max(1.0, RENEW_AT * (ends - time.time())))
            try:
                token = await self._token()
                await self.ask(lambda rid, _, fresh=token: RenewToken(rid, fresh), timeout=ANSWER_TIMEOUT)  # type: ignore[misc]
            except Exception:  # noqa: S110  # the old one still holds; when it ends, the close code says so
                pass

    async def _leave(self, connection: Connection) -> None:
        await self._leaving.wait()
        assert self._leave_at is not None
        await asyncio.sleep(self._leave_at - asyncio.get_running_loop().time())
        await connection.close(Close.GOING_AWAY, "reconnecting")

    def leave(self, after: float) -> None:
        """Replace this connection by another in ``after`` seconds."""
        self._leave_at = asyncio.get_running_loop().time() + after
        self._leaving.set()

    # -- what comes ------------------------------------------------------------------------------------

    def _on_frame(self, frame: ServerFrame) -> None:
        if isinstance(frame, Event):
            self.take(frame)
        elif isinstance(frame, Mark):
            for view in self.views.values():
                view.proven(frame.pending)
            if not self.lagging:
                self.feed.mark(self.state.mark(frame))
        elif isinstance(frame, Resync):
            self.do(self.state.resync(frame))
        elif isinstance(frame, PresenceFrame):
            self.present(frame.changes)
        elif isinstance(frame, TypingFrame):
            self._tell_if_room(Typing(frame.channel, frame.user))
        elif isinstance(frame, Reconnect):
            self.leave((frame.after_ms + frame.spread_ms * self._random()) / 1000)

    def present(self, changes: Sequence[PresenceInfo]) -> None:
        """How users show now."""
        for change in changes:
            self._tell_if_room(PresenceChanged(change.user, change.status, change.since))

    def take(self, event: Event) -> None:
        """An event, from the socket or a page of ``sync``."""
        if event.kind == "retracted" and not event.channel:
            # The server knows only the id that we resumed with, not its channel: whoever shows it does.
            for view in self.views.values():
                view.apply(event)
        elif (known := self.views.get(event.channel)) is not None:
            known.apply(event)
        if self.lagging:
            return
        if self.feed.full:
            # Not taken: it stays behind our cursor. When the reader has caught up it is read from there.
            self.lagging = True
            return
        self.do(self.state.event(event))

    def do(self, effects: Sequence[Effect]) -> None:
        """Tell the application; put the rest on the list of chores."""
        for effect in effects:
            if isinstance(effect, Tell):
                self.feed.push(effect.event)
            elif isinstance(effect, CatchUp):
                self.lagging = True  # read on from the cursor; what comes meanwhile is let go
                self._catch_up()
            else:
                self.chores.append(effect)
                self._chore.set()

    def _on_empty(self) -> None:
        if self.lagging:
            self._catch_up()

    def _catch_up(self) -> None:
        if not any(isinstance(chore, CatchUp) for chore in self.chores):
            self.chores.append(CatchUp())
            self._chore.set()

    def _tell_if_room(self, event: ChatEvent) -> None:
        """Presence, typing and the like: shed before a message is (law 9)."""
        if not self.feed.full:
            self.feed.push(event)

    # -- what goes -------------------------------------------------------------------------------------

    async def ask(self, make: Callable[[str, bool], msgspec.Struct], *, timeout: float | None) -> Ack | Reply:
        """Send what ``make(rid, again)`` builds until it is answered, over as many connections as it takes.

        Every request may be repeated: each is idempotent by itself or by its client_id. ``timeout``: seconds; None: for
        ever, and then only what repeating cannot mend is raised. Raises ``RequestRefused``, ``TimedOut``, or what ended
        the client.
        """
        loop = asyncio.get_running_loop()
        deadline = math.inf if timeout is None else loop.time() + timeout
        attempt = 0
        while True:
            connection = await self._live(deadline)
            left = deadline - loop.time()
            again = attempt > 0
            attempt += 1
            try:
                answer = await connection.request(lambda rid: make(rid, again), min(left, ANSWER_TIMEOUT))  # noqa: B023
            except ConnectionLost:
                continue
            except TimeoutError:
                if loop.time() >= deadline:
                    raise TimedOut(f"no answer within {timeout:g} s") from None
                continue
            if not isinstance(answer, ErrorFrame):
                return answer
            if not answer.retryable:
                raise from_frame(answer)
            wait = delay(min(attempt - 1, 5), self._random)
            if answer.retry_after_ms is not UNSET:
                wait += answer.retry_after_ms / 1000
            if loop.time() + wait >= deadline:
                raise from_frame(answer)
            await asyncio.sleep(wait)

    async def post(self, frame: msgspec.Struct) -> None:
        """Send a frame that has no answer; nothing happens while there is no connection."""
        connection = self._connection
        if connection is not None and connection.alive:
            with suppress(ConnectionLost):
                await connection.send(frame)

    async def live(self, timeout: float) -> None:
        """Wait for a connection. Raises ``TimedOut``, or what ended the client."""
        await self._live(asyncio.get_running_loop().time() + timeout)

    async def _live(self, deadline: float) -> Connection:
        while True:
            if self.fatal is not None:
                raise self.fatal
            connection = self._connection
            if connection is not None and connection.alive:
                return connection
            # Woken in the order of arrival: what waited for the connection is sent in the order it was asked.
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout_at(None if deadline == math.inf else deadline):
                    await waiter
            except TimeoutError:
                raise TimedOut(f"no connection: {self.status.reason or self.status.name}") from None
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
