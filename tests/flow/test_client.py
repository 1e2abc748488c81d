"""The SDK against a small server that speaks the protocol from a script, and against the real gateway."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from chatcluster.app.tokens import load_key, mint
from chatcluster.client import (
    ChannelView,
    ChatError,
    Client,
    ConnectionRefused,
    FileCursors,
    Forbidden,
    IdConflict,
    MemoryCursors,
    MessageReceived,
    NoSuchChannel,
    PresenceChanged,
    Replaced,
    RequestRefused,
    Saved,
    Shown,
    TimedOut,
    Typing,
    Unauthorized,
)
from chatcluster.core.frames import (
    CODECS,
    JSON_PROTOCOL,
    MSGPACK_PROTOCOL,
    Ack,
    ChannelSummary,
    Cursors,
    ErrorFrame,
    Event,
    Follow,
    Hello,
    History,
    Limits,
    ListChannels,
    Mark,
    Ping,
    Pong,
    PresenceInfo,
    Reconnect,
    RenewToken,
    Reply,
    Resync,
    Send,
    SetPresence,
    Sync,
    TypingFrame,
    Unfollow,
    Watch,
    Welcome,
    WireMessage,
)

TIME = "2026-09-21T14:13:20.000Z"


class Peer:
    """The server's side of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.codec = CODECS[str(socket.subprotocol)]
        self.hello: Hello | None = None

    async def read(self, *, pings: bool = False) -> Any:
        while True:
            frame = self.codec.decode(await self.socket.recv(decode=False))
            if pings or not isinstance(frame, Ping):
                return frame

    async def say(self, *frames: Any) -> None:
        for frame in frames:
            await self.socket.send(self.codec.encode(frame), text=self.codec.text)

    async def welcome(self, *, heartbeat: int = 30_000, follow: dict[str, str] | None = None, page: int = 100) -> Hello:
        hello = await self.read()
        assert isinstance(hello, Hello)
        resume = hello.resume
        inbox = "i0" if resume is None or resume.inbox is None else resume.inbox
        if follow is None:
            follow = {} if resume is None else dict(resume.channels)
        await self.say(
            Welcome(
                "hello", "s1", "ann", "default", TIME, heartbeat, resume is not None, inbox, follow, Limits(page=page)
            )
        )
        return hello

    async def ack(self, send: Send, message_id: str, *, duplicate: bool = False) -> None:
        await self.say(Ack(send.rid, send.channel, message_id, TIME, duplicate))

    async def until_closed(self) -> None:
        try:
            while True:
                await self.socket.recv()
        except ConnectionClosed:
            pass


Script = Callable[[Peer], Awaitable[None]]
Jump = Callable[[Coroutine[Any, Any, None]], None]


class Refusal:
    """In place of a script: a handshake that is refused."""

    def __init__(self, status: int, retry_after: str | None = None) -> None:
        self.status = status
        self.retry_after = retry_after
        self.at = 0.0

    def answer(self, connection: ServerConnection) -> Response:
        self.at = now()
        response = connection.respond(self.status, "")
        if self.retry_after is not None:
            response.headers["Retry-After"] = self.retry_after
        return response


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def scripted(*scripts: Script | Refusal) -> AsyncIterator[str]:
    """A server whose n-th connection follows the n-th script; a script's error fails the test."""
    left = list(scripts)
    errors: list[BaseException] = []

    def open_(connection: ServerConnection, _: Request) -> Response | None:
        first = left[0] if left else None
        if not isinstance(first, Refusal):
            return None
        del left[0]
        return first.answer(connection)

    async def handle(socket: ServerConnection) -> None:
        if not left:
            await socket.close(4403, "more connections than scripts")
            return
        script = left.pop(0)
        assert not isinstance(script, Refusal)
        try:
            await script(Peer(socket))
        except ConnectionClosed:
            pass
        except BaseException as error:
            errors.append(error)
            raise

    async with serve(
        handle,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol(MSGPACK_PROTOCOL), Subprotocol(JSON_PROTOCOL)],
        close_timeout=1,
        process_request=open_,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}"
    if errors:
        raise errors[0]
    assert not left, "the client did not come as often as the scripts say"


def message(message_id: str, body: str, *, live: bool = True, sender: str = "bob", channel: str = "c") -> Event:
    wire = WireMessage(message_id, channel, sender, f"k{message_id}", TIME, body)
    return Event("inbox", message_id, channel, "message", live, message=wire)


@pytest.mark.parametrize("codec", ["msgpack", "json"])
async def test_an_echo_bot(codec: Any) -> None:
    answered = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message("11", "hi"), message("12", "mine", sender="ann"))
        send = await peer.read()
        assert (send.channel, send.body, send.reply_to, send.after) == ("c", "echo: hi", "11", "12")
        await peer.ack(send, "13")
        answered.set()
        await peer.until_closed()

    async with scripted(script) as url, Client(url, token="t", device="bot", codec=codec) as chat:
        async for got in chat.messages():
            if got.sender != chat.user:
                sent = await chat.send(got.channel, "echo: " + got.body, reply_to=got.id)
                assert (sent.id, sent.duplicate) == ("13", False)
            if answered.is_set():
                break


async def test_a_send_without_an_answer_is_repeated_with_the_same_client_id() -> None:
    first: list[Send] = []

    async def breaks(peer: Peer) -> None:
        await peer.welcome()
        first.append(await peer.read())
        peer.socket.transport.abort()

    async def answers(peer: Peer) -> None:
        await peer.welcome()
        again = await peer.read()
        assert again.client_id == first[0].client_id
        assert (first[0].retry, again.retry) == (False, True)
        await peer.ack(again, "7", duplicate=True)
        await peer.until_closed()

    async with scripted(breaks, answers) as url, Client(url, token="t") as chat:
        sent = await chat.send("c", "once")
        assert (sent.id, sent.duplicate) == ("7", True)


async def test_a_retryable_refusal_is_repeated_with_a_new_rid_and_a_late_ack_is_ignored() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        send = await peer.read()
        await peer.say(ErrorFrame("overloaded", "wait", True, send.rid, 10))
        again = await peer.read()
        assert again.rid != send.rid
        assert again.client_id == send.client_id
        assert again.retry
        await peer.ack(send, "666")  # to the rid given up
        await peer.ack(again, "8")
        other = await peer.read()
        await peer.say(ErrorFrame("id_conflict", "another body", False, other.rid))
        await peer.until_closed()

    async with scripted(script) as url, Client(url, token="t") as chat:
        assert (await chat.send("c", "x")).id == "8"
        with pytest.raises(IdConflict):
            await chat.send("c", "y", client_id="used")


async def test_a_send_ends_with_its_timeout() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.until_closed()

    async with scripted(script) as url, Client(url, token="t") as chat:
        with pytest.raises(TimedOut):
            await chat.send("c", "x", timeout=0.05)


async def test_resumes_with_cursors_and_pending_and_tells_each_event_once() -> None:
    async def first(peer: Peer) -> None:
        assert (await peer.welcome()).resume is None
        await peer.say(message("1", "one"), Mark(["1"], inbox="i1"), message("2", "two"))
        await peer.socket.close(1012, "restart")

    async def second(peer: Peer) -> None:
        hello = await peer.welcome()
        assert hello.resume is not None
        assert hello.resume.inbox == "i1"
        assert sorted(hello.resume.pending) == ["1", "2"]
        await peer.say(message("1", "one", live=False), message("2", "two"), message("3", "three"))
        await peer.until_closed()

    async with scripted(first, second) as url, Client(url, token="t") as chat:
        got = []
        async for each in chat.messages():
            got.append(each.body)
            if len(got) == 3:
                break
        assert got == ["one", "two", "three"]


async def test_a_mark_is_saved_when_what_came_before_it_was_dealt_with(tmp_path: Path) -> None:
    store = FileCursors(tmp_path / "deep" / "cursors.json")

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message("1", "one"), Mark([], inbox="i1"), message("2", "two"), Mark(["2"], inbox="i2"))
        await peer.until_closed()

    async def resumed(peer: Peer) -> None:
        hello = await peer.welcome()
        assert hello.resume is not None
        assert hello.resume.inbox == "i1"
        await peer.until_closed()

    async with scripted(script, resumed) as url:
        async with Client(url, token="t", device="d", cursors=store) as chat:
            events = chat.messages()
            assert (await anext(events)).body == "one"
            before = await store.load()
            assert before is None or before.inbox == "i0"
            assert (await anext(events)).body == "two"
            assert await store.load() == Saved("i1", {}, [], "1")
        async with Client(url, token="t", device="d", cursors=store):
            pass


async def test_an_application_that_is_behind_loses_nothing() -> None:
    """Over the queue events wait at the server: read on by sync, then by a connection that resumes."""
    bodies = [f"m{number}" for number in range(1, 31)]

    async def floods(peer: Peer) -> None:
        await peer.welcome(page=5)
        await peer.say(*(message(str(number), f"m{number}") for number in range(1, 4)), Mark([], inbox="3"))
        await peer.say(*(message(str(number), f"m{number}") for number in range(4, 31)), Mark([], inbox="30"))
        try:
            while True:
                sync = await peer.read()
                assert isinstance(sync, Sync)
                assert sync.inbox is not None
                assert sync.limit is not None
                at = int(sync.inbox)
                to = min(at + sync.limit, 28)  # the last two are not durable yet
                page = [message(str(number), f"m{number}", live=False) for number in range(at + 1, to + 1)]
                await peer.say(Reply(sync.rid, events=page, cursors=Cursors(inbox=str(to)), more=to < 28))
        except ConnectionClosed:
            pass

    async def goes_on(peer: Peer) -> None:
        hello = await peer.welcome()
        assert hello.resume is not None
        assert hello.resume.inbox == "28"
        await peer.say(*(message(str(number), f"m{number}") for number in range(29, 31)), Mark([], inbox="30"))
        await peer.until_closed()

    async with scripted(floods, goes_on) as url, Client(url, token="t", queue=8) as chat:
        got = []
        async for each in chat.messages():
            got.append(each.body)
            await asyncio.sleep(0.002)
            if each.body == bodies[-1]:
                break
        assert got == bodies


@pytest.mark.parametrize(
    ("code", "error"), [(4401, Unauthorized), (4403, Forbidden), (4409, Replaced), (4413, Unauthorized)]
)
async def test_closes_that_end_the_client(code: int, error: type[ChatError]) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.socket.close(code, "no")

    async with asyncio.timeout(20), scripted(script) as url, Client(url, token="t") as chat:
        with pytest.raises(error):
            await anext(event async for event in chat.messages())
        with pytest.raises(error):
            await chat.send("c", "x")


async def test_a_close_that_comes_before_hello_is_said_ends_the_client_too() -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.close(4403, "not here")

    async with scripted(script) as url:
        with pytest.raises(Forbidden, match="not here"):
            async with Client(url, token="t", connect_timeout=5):
                pass


async def test_an_expired_token_is_fetched_anew() -> None:
    tokens = iter(["old", "new"])

    async def token() -> str:
        return next(tokens)

    async def first(peer: Peer) -> None:
        assert (await peer.welcome()).token == "old"
        await peer.socket.close(4413, "expired")

    async def second(peer: Peer) -> None:
        assert (await peer.welcome()).token == "new"
        await peer.say(message("1", "on"))
        await peer.until_closed()

    async with scripted(first, second) as url, Client(url, token=token) as chat:
        assert (await anext(chat.messages())).body == "on"


async def test_a_refused_hello_ends_a_client_with_a_fixed_token() -> None:
    async def script(peer: Peer) -> None:
        hello = await peer.read()
        await peer.say(ErrorFrame("unauthorized", "bad token", False, hello.rid))
        await peer.socket.close(4401, "unauthorized")

    async with scripted(script) as url:
        with pytest.raises(Unauthorized, match="bad token"):
            async with Client(url, token="t"):
                pass


async def test_a_silent_server_is_noticed_within_two_heartbeats() -> None:
    pinged = asyncio.Event()

    async def silent(peer: Peer) -> None:
        await peer.welcome(heartbeat=200)
        assert isinstance(await peer.read(pings=True), Ping)
        pinged.set()
        await peer.until_closed()

    async def second(peer: Peer) -> None:
        await peer.welcome(heartbeat=200)
        await peer.say(message("1", "again"))
        while True:
            assert isinstance(await peer.read(pings=True), Ping)
            await peer.say(Pong())

    async with scripted(silent, second) as url, Client(url, token="t") as chat:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await anext(chat.messages())).body == "again"
        assert pinged.is_set()
        # Noticed at 2 x 0.2 s (looked at every half heartbeat), then a first backoff below 0.5 s.
        assert 0.35 <= loop.time() - began < 1.5


async def test_an_advised_reconnect_is_kept() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(Reconnect(50, 10, "drain"))
        await peer.until_closed()
        assert peer.socket.close_code == 1001

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message("1", "elsewhere"))
        await peer.until_closed()

    async with scripted(first, second) as url, Client(url, token="t") as chat:
        assert (await anext(chat.messages())).body == "elsewhere"


async def test_a_switch_to_the_channel_timeline_is_followed_from_its_cursor() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(Event("inbox", "5", "c", "route", False, version="40", to="channel", cursor="c40"))
        follow = await peer.read()
        assert isinstance(follow, Follow)
        assert (follow.channel, follow.cursor) == ("c", "c40")
        await peer.say(Reply(follow.rid, cursor="c40", route="channel"), Mark([], channels={"c": "c41"}))
        await peer.socket.close(1012, "restart")

    async def second(peer: Peer) -> None:
        hello = await peer.welcome()
        assert hello.resume is not None
        assert hello.resume.channels == {"c": "c41"}
        await peer.say(message("9", "large"))
        await peer.until_closed()

    async with scripted(first, second) as url, Client(url, token="t") as chat:
        assert (await anext(chat.messages())).body == "large"


async def test_a_cursor_that_the_server_refuses_starts_anew() -> None:
    async def refuses(peer: Peer) -> None:
        hello = await peer.read()
        assert hello.resume is not None
        await peer.say(ErrorFrame("bad_cursor", "another timeline", False, hello.rid))
        await peer.socket.close(1008, "bad cursor")

    async def welcomes(peer: Peer) -> None:
        assert (await peer.welcome()).resume is None
        await peer.until_closed()

    store = MemoryCursors()
    await store.save(Saved("elsewhere", {}, []))
    async with scripted(refuses, welcomes) as url, Client(url, token="t", cursors=store):
        pass


async def test_a_device_that_is_too_far_behind_reads_on_from_its_own_cursor() -> None:
    async def too_far(peer: Peer) -> None:
        hello = await peer.read()
        assert hello.resume is not None
        assert hello.resume.inbox == "1"
        await peer.say(
            Welcome("hello", "s", "ann", "default", TIME, 30_000, False, "9", {}, Limits()),
            Resync("inbox", "too_far_behind"),
            message("9", "not yet"),
            Mark([], inbox="9"),
        )
        for at, more in (("1", True), ("3", False)):
            sync = await peer.read()
            assert isinstance(sync, Sync)
            assert sync.inbox == at
            end = int(at) + 2
            page = [message(str(number), f"m{number}", live=False) for number in range(int(at) + 1, end + 1)]
            await peer.say(Reply(sync.rid, events=page, cursors=Cursors(inbox=str(end)), more=more))
        await peer.until_closed()

    async def resumes(peer: Peer) -> None:
        hello = await peer.welcome()
        assert hello.resume is not None
        assert hello.resume.inbox == "5"
        await peer.say(message("9", "now", live=False))
        await peer.until_closed()

    store = MemoryCursors()
    await store.save(Saved("1", {}, []))
    async with scripted(too_far, resumes) as url, Client(url, token="t", cursors=store) as chat:
        got = []
        async for each in chat.messages():
            got.append(each.body)
            if each.body == "now":
                break
        assert got == ["m2", "m3", "m4", "m5", "now"]


async def test_a_token_is_renewed_before_it_ends() -> None:
    def jwt(number: int, life: float) -> str:
        claims = json.dumps({"exp": time.time() + life, "n": number}).encode()
        return f"e30.{urlsafe_b64encode(claims).decode().rstrip('=')}.s"

    made: list[str] = []

    async def token() -> str:
        made.append(jwt(len(made), 1.5 if not made else 3600))
        return made[-1]

    async def script(peer: Peer) -> None:
        assert (await peer.welcome()).token == made[0]
        renewal = await peer.read()
        assert isinstance(renewal, RenewToken)
        assert renewal.token == made[1]
        await peer.say(Reply(renewal.rid, expires=TIME), message("1", "still here"))
        await peer.until_closed()

    async with scripted(script) as url, Client(url, token=token) as chat:
        assert (await anext(chat.messages())).body == "still here"


async def test_what_waits_for_a_connection_is_sent_in_the_order_it_was_asked() -> None:
    async def breaks(peer: Peer) -> None:
        await peer.welcome()
        for _ in range(5):
            await peer.read()
        await peer.socket.close(1012, "restart")

    async def answers(peer: Peer) -> None:
        await peer.welcome()
        for number in range(5):
            send = await peer.read()
            assert send.body == f"m{number}"
            await peer.ack(send, str(number + 1))
        await peer.until_closed()

    async with scripted(breaks, answers) as url, Client(url, token="t") as chat:
        sends = [asyncio.create_task(chat.send("c", f"m{number}")) for number in range(5)]
        assert [sent.id for sent in await asyncio.gather(*sends)] == ["1", "2", "3", "4", "5"]


# -- how often it tries, and for how long -----------------------------------------------------------------------


async def stays(peer: Peer) -> None:
    await peer.welcome()
    await peer.until_closed()


def test_a_server_that_is_full_is_left_alone_for_as_long_as_it_says(jump: Jump) -> None:
    async def main() -> None:
        full, odd = Refusal(503, "20"), Refusal(503, "Fri, 31 Dec 2027 23:59:59 GMT")
        async with scripted(full, odd, stays) as url, Client(url, token="t"):
            assert 20.0 <= odd.at - full.at <= 20.6
            assert now() - odd.at <= 1.1  # a date is no number of seconds: as if it had said nothing

    jump(main())


def test_a_hello_that_is_refused_for_now_is_repeated_when_the_server_says(jump: Jump) -> None:
    async def main() -> None:
        began = now()

        async def full(peer: Peer) -> None:
            hello = await peer.read()
            await peer.say(ErrorFrame("overloaded", "full", True, hello.rid, 20_000))
            await peer.socket.close(1013, "full")

        async with scripted(full, stays) as url, Client(url, token="t"):
            assert 20.0 <= now() - began <= 20.6

    jump(main())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ConnectionRefused),
        (401, Unauthorized),
        (403, Forbidden),
        (404, ConnectionRefused),
        (426, ConnectionRefused),
    ],
)
async def test_a_handshake_that_cannot_succeed_is_not_repeated(status: int, error: type[ChatError]) -> None:
    async with scripted(Refusal(status)) as url:
        with pytest.raises(error):
            async with Client(url, token="t"):
                pass


def test_a_server_that_drops_everybody_is_asked_ever_more_rarely(jump: Jump) -> None:
    """To be welcomed is not enough to begin anew: the connection must have lived a while."""

    async def main() -> None:
        times: list[float] = []

        async def drops(peer: Peer) -> None:
            times.append(now())
            await peer.welcome()
            await peer.socket.close(1012, "restart")

        async def lives(peer: Peer) -> None:
            await peer.welcome()
            await asyncio.sleep(11.0)
            times.append(now())
            await peer.socket.close(1012, "restart")

        async def last(peer: Peer) -> None:
            times.append(now())
            await peer.welcome()
            await peer.say(message("1", "at last"))
            await peer.until_closed()

        async with scripted(*[drops] * 16, lives, last) as url, Client(url, token="t") as chat:
            assert (await anext(chat.messages())).body == "at last"
        assert times[15] - times[0] > 10.0  # windows that do not grow: 7.5 s at most; that do: 480 s
        assert times[17] - times[16] <= 0.6

    jump(main())


def test_clients_that_are_advised_at_once_reconnect_spread(jump: Jump) -> None:
    async def main() -> None:
        came: list[float] = []

        async def drained(peer: Peer) -> None:
            await peer.welcome()
            await peer.say(Reconnect(5_000, 40_000, "drain"))
            await peer.until_closed()

        async def elsewhere(peer: Peer) -> None:
            came.append(now())
            await stays(peer)

        async with scripted(*[drained] * 20, *[elsewhere] * 20) as url, AsyncExitStack() as clients:
            began = now()
            for _ in range(20):
                await clients.enter_async_context(Client(url, token="t"))
            await asyncio.sleep(60)
        assert len(came) == 20
        assert min(came) - began >= 5.0
        assert max(came) - began <= 46.0
        assert max(came) - min(came) > 10.0

    jump(main())


def test_advice_to_reconnect_is_for_one_attempt(jump: Jump) -> None:
    """When nobody listens at the advised time, the usual backoff follows."""

    async def main() -> None:
        advised: list[float] = []

        async def drained(peer: Peer) -> None:
            await peer.welcome()
            await peer.say(Reconnect(5_000, 40_000, "drain"))
            advised.append(now())
            await peer.until_closed()

        async def elsewhere(peer: Peer) -> None:
            await peer.welcome()
            await peer.say(message("1", "elsewhere"))
            await peer.until_closed()

        nobody = [Refusal(502) for _ in range(16)]
        async with scripted(drained, *nobody, elsewhere) as url, Client(url, token="t") as chat:
            assert (await anext(chat.messages())).body == "elsewhere"
        assert 5.0 <= nobody[0].at - advised[0] <= 46.0
        assert nobody[-1].at - nobody[0].at > 10.0

    jump(main())


def test_a_server_that_does_not_answer_hello_is_left(jump: Jump) -> None:
    async def main() -> None:
        async def mute(peer: Peer) -> None:
            await peer.until_closed()

        began = now()
        async with scripted(mute, stays) as url, Client(url, token="t"):
            assert 10.0 <= now() - began <= 13.0

    jump(main())


def test_a_request_without_an_answer_is_repeated_on_the_same_connection(jump: Jump) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.welcome()
            began, lost = now(), await peer.read()
            again = await peer.read()
            assert 20.0 <= now() - began <= 21.0
            assert (again.client_id, again.retry) == (lost.client_id, True)
            await peer.ack(again, "7")
            await peer.until_closed()

        async with scripted(script) as url, Client(url, token="t") as chat:
            assert (await chat.send("c", "x")).id == "7"

    jump(main())


def test_a_request_that_is_refused_for_now_waits_as_long_as_the_server_says(jump: Jump) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.welcome()
            refused, began = await peer.read(), now()
            await peer.say(ErrorFrame("rate_limited", "slow down", True, refused.rid, 5_000))
            again = await peer.read()
            assert 5.0 <= now() - began <= 5.6
            await peer.ack(again, "7")
            late = await peer.read()
            await peer.say(ErrorFrame("rate_limited", "slow down", True, late.rid, 5_000))
            await peer.until_closed()

        async with scripted(script) as url, Client(url, token="t") as chat:
            assert (await chat.send("c", "x")).id == "7"
            began = now()
            with pytest.raises(RequestRefused, match="slow down"):
                await chat.send("c", "y", timeout=3)
            assert now() - began <= 0.1  # there will be no time left to repeat it: that is known now

    jump(main())


def test_a_token_that_is_refused_is_fetched_anew_once(jump: Jump) -> None:
    async def main() -> None:
        tokens = (str(number) for number in range(9))

        async def token() -> str:
            return next(tokens)

        async def refuses(peer: Peer) -> None:
            hello = await peer.read()
            await peer.say(ErrorFrame("unauthorized", f"not {hello.token}", False, hello.rid))
            await peer.socket.close(4401, "unauthorized")

        async def revokes(peer: Peer) -> None:
            await peer.welcome()
            await peer.say(message("1", "welcome again"))
            await peer.socket.close(4401, "revoked")

        async with scripted(refuses, revokes, stays) as url, Client(url, token=token) as chat:
            assert (await anext(chat.messages())).body == "welcome again"
            await asyncio.sleep(5.0)  # the second doubt came after a welcome: it is a first one again
            assert chat.status.name == "live"
        async with scripted(refuses, refuses) as url:
            with pytest.raises(Unauthorized, match="not 4"):
                async with Client(url, token=token):
                    pass

    jump(main())


def test_a_token_that_cannot_be_fetched_is_asked_for_again(jump: Jump) -> None:
    async def main() -> None:
        tries = 0

        async def token() -> str:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise OSError("the token service is away")
            return "t"

        async with scripted(stays) as url, Client(url, token=token):
            assert tries == 3

    jump(main())


async def test_frames_of_a_newer_protocol_are_ignored_and_what_is_no_frame_ends_the_connection() -> None:
    async def newer(peer: Peer) -> None:
        await peer.welcome()
        await peer.socket.send(b'{"type":"of_tomorrow","what":1}', text=True)
        await peer.say(message("1", "one"))
        await peer.socket.send(b"{", text=True)
        await peer.until_closed()
        assert peer.socket.close_code == 1007

    async def goes_on(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message("2", "two"))
        await peer.until_closed()

    async with asyncio.timeout(20), scripted(newer, goes_on) as url, Client(url, token="t", codec="json") as chat:
        messages = chat.messages()
        assert [(await anext(messages)).body for _ in range(2)] == ["one", "two"]


def test_a_refused_token_ends_the_client_also_when_no_close_follows(jump: Jump) -> None:
    async def main() -> None:
        async def refuses(peer: Peer) -> None:
            hello = await peer.read()
            await peer.say(ErrorFrame("unauthorized", "bad token", False, hello.rid))
            await peer.until_closed()

        async with scripted(refuses) as url:
            with pytest.raises(Unauthorized, match="bad token"):
                async with Client(url, token="t"):
                    pass

    jump(main())


def test_a_client_that_could_not_be_opened_leaves_nothing_running(jump: Jump) -> None:
    async def main() -> None:
        async with scripted(Refusal(503, "60")) as url:
            with pytest.raises(TimedOut, match="503"):
                async with Client(url, token="t", connect_timeout=3):
                    pass

    jump(main())


# -- what is bounded, and what is taken up again -----------------------------------------------------------------


async def test_what_may_be_lost_is_shed_while_nobody_reads() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(*(TypingFrame("c", "bob") for _ in range(100)))
        await peer.ack(await peer.read(), "7")
        await peer.until_closed()

    async with scripted(script) as url:
        async with Client(url, token="t", queue=3) as chat:
            await chat.send("c", "behind all of it")
        assert len([event async for event in chat.events()]) == 3


async def test_history_is_read_no_faster_than_the_application_reads() -> None:
    asked: list[History] = []

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(Resync("inbox", "epoch"))
        listing = await peer.read()
        assert isinstance(listing, ListChannels)
        channel = ChannelSummary("c", "group", None, "999", None, 0, "inbox", "member", 2)
        await peer.say(Reply(listing.rid, channels=[channel]))
        while True:
            history = await peer.read()
            assert isinstance(history, History)
            assert history.after is not None
            assert history.limit is not None
            asked.append(history)
            first = int(history.after) + 1
            ids = [str(first + at) for at in range(history.limit)]
            await peer.say(
                Reply(history.rid, messages=[WireMessage(i, "c", "bob", i, TIME, i) for i in ids], more=True)
            )

    store = MemoryCursors()
    await store.save(Saved("old", {}, [], "1"))
    async with scripted(script) as url, Client(url, token="t", cursors=store, queue=5) as chat:
        await asyncio.sleep(0.3)
        assert len(asked) <= 2
        messages = chat.messages()
        for _ in range(50):
            await anext(messages)
        assert len(asked) >= 9


async def test_reading_anew_that_a_break_cut_short_is_taken_up_again() -> None:
    async def breaks(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(Resync("inbox", "epoch"), Mark([], inbox="new"))
        assert isinstance(await peer.read(), ListChannels)
        peer.socket.transport.abort()

    async def answers(peer: Peer) -> None:
        hello = await peer.welcome()
        assert hello.resume is not None
        assert hello.resume.inbox == "new"  # behind the hole: nobody else will tell of it
        listing = await peer.read()
        assert isinstance(listing, ListChannels)
        await peer.say(Reply(listing.rid, channels=[]), message("9", "on"))
        await peer.until_closed()

    store = MemoryCursors()
    await store.save(Saved("old", {}, [], "1"))
    async with (
        asyncio.timeout(20),
        scripted(breaks, answers) as url,
        Client(url, token="t", cursors=store) as chat,
    ):
        assert (await anext(chat.messages())).body == "on"


def test_reading_anew_waits_for_a_store_that_is_away_however_long(jump: Jump) -> None:
    async def main() -> None:
        async def script(peer: Peer) -> None:
            await peer.welcome()
            began = now()
            await peer.say(Resync("inbox", "epoch"), Mark([], inbox="new"))
            listing = await peer.read()
            while now() - began < 1_000:
                await peer.say(ErrorFrame("unavailable", "the store does not answer", True, listing.rid))
                listing = await peer.read()
            channel = ChannelSummary("c", "group", None, "9", None, 0, "inbox", "member", 2)
            await peer.say(Reply(listing.rid, channels=[channel]))
            history = await peer.read()
            await peer.say(Reply(history.rid, messages=[WireMessage("9", "c", "bob", "k", TIME, "missed")], more=False))
            await peer.until_closed()

        store = MemoryCursors()
        await store.save(Saved("old", {}, [], "1"))
        async with scripted(script) as url, Client(url, token="t", cursors=store) as chat:
            assert (await anext(chat.messages())).body == "missed"

    jump(main())


def test_the_end_of_a_switched_channel_is_read_on_by_the_next_connection(jump: Jump) -> None:
    async def main() -> None:
        broke = 0.0

        async def breaks(peer: Peer) -> None:
            nonlocal broke
            await peer.welcome()
            await peer.say(Event("inbox", "700", "c", "route", False, version="7", to="inbox", cursor="7", since="5"))
            sync = await peer.read()
            assert isinstance(sync, Sync)
            assert sync.channels == {"c": "5"}
            broke = now()
            peer.socket.transport.abort()

        async def answers(peer: Peer) -> None:
            await peer.welcome()
            assert now() - broke < 5  # nobody waited for an answer on the connection that is gone
            sync = await peer.read()
            assert isinstance(sync, Sync)
            assert sync.channels == {"c": "5"}
            wire = WireMessage("699", "c", "bob", "k", TIME, "the last one")
            event = Event("channel:c", "699", "c", "message", False, message=wire)
            await peer.say(Reply(sync.rid, events=[event], cursors=Cursors(channels={"c": "6"}), more=False))
            unfollow = await peer.read()
            assert isinstance(unfollow, Unfollow)
            await peer.say(Reply(unfollow.rid))
            await peer.until_closed()

        async with scripted(breaks, answers) as url, Client(url, token="t") as chat:
            assert (await anext(chat.messages())).body == "the last one"
            await asyncio.sleep(1)

    jump(main())


async def test_reading_does_not_wait_for_presence() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        watch = await peer.read()
        await peer.say(Reply(watch.rid, presence=[]))
        await peer.socket.close(1012, "restart")

    async def second(peer: Peer) -> None:
        await peer.welcome()
        assert isinstance(await peer.read(), Watch)  # which nobody answers
        await peer.say(Event("inbox", "5", "c", "route", False, version="40", to="channel", cursor="c40"))
        follow = await peer.read()
        assert isinstance(follow, Follow)
        await peer.say(Reply(follow.rid, cursor="c40", route="channel"), message("9", "large"))
        await peer.until_closed()

    async with asyncio.timeout(10), scripted(first, second) as url, Client(url, token="t") as chat:
        await asyncio.sleep(0.05)  # it has begun: what follows is said by this call alone
        await chat.watch(["bob"])
        assert (await anext(chat.messages())).body == "large"


async def test_a_new_device_is_known_from_its_welcome_on() -> None:
    async def first(peer: Peer) -> None:
        assert (await peer.welcome()).resume is None
        await peer.say(TypingFrame("c", "bob"))
        await peer.until_closed()

    async def second(peer: Peer) -> None:
        hello = await peer.welcome()
        assert hello.resume is not None
        assert hello.resume.inbox == "i0"  # nothing that comes between the two is lost
        await peer.until_closed()

    store = MemoryCursors()
    async with scripted(first, second) as url:
        async with Client(url, token="t", cursors=store) as chat:
            async for event in chat.events():
                if isinstance(event, Typing):
                    break
        async with Client(url, token="t", cursors=store):
            pass


# -- what a session holds and no cursor ----------------------------------------------------------------------------


async def test_presence_and_whom_we_watch_are_kept_over_reconnects() -> None:
    async def watched(peer: Peer, status: Literal["online", "offline"]) -> None:
        watch = await peer.read()
        assert isinstance(watch, Watch)
        assert watch.users == ["bob"]
        await peer.say(Reply(watch.rid, presence=[PresenceInfo("bob", status, TIME)]))

    async def first(peer: Peer) -> None:
        await peer.welcome()
        assert await peer.read() == SetPresence("invisible")
        await watched(peer, "online")
        await peer.socket.close(1012, "restart")

    async def second(peer: Peer) -> None:
        await peer.welcome()
        assert await peer.read() == SetPresence("invisible")
        await watched(peer, "offline")
        await peer.until_closed()

    async with asyncio.timeout(20), scripted(first, second) as url, Client(url, token="t") as chat:
        await asyncio.sleep(0.05)  # it has begun: what follows is said by these calls alone
        await chat.set_presence("invisible")
        assert [info.status for info in await chat.watch(["bob"])] == ["online"]
        async for event in chat.events():
            if isinstance(event, PresenceChanged):
                assert (event.user, event.status) == ("bob", "offline")
                break


async def test_a_renewed_token_and_what_is_followed_are_kept() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        renewal = await peer.read()
        assert isinstance(renewal, RenewToken)
        await peer.say(Reply(renewal.rid, expires=TIME))
        follow = await peer.read()
        assert isinstance(follow, Follow)
        await peer.say(Reply(follow.rid, channel="c", cursor="at c", route="channel"))
        unfollow = await peer.read()
        assert isinstance(unfollow, Unfollow)
        await peer.say(Reply(unfollow.rid, channel="c"))
        await peer.socket.recv()
        await peer.socket.close(1012, "restart")

    async def second(peer: Peer) -> None:
        hello = await peer.welcome()
        assert hello.token == "newer"
        assert hello.resume is not None
        assert hello.resume.channels == {}
        await peer.say(message("1", "on"))
        await peer.until_closed()

    store = MemoryCursors()

    async def saved(channels: dict[str, str]) -> None:
        while (await store.load() or Saved(None, {}, [])).channels != channels:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async with asyncio.timeout(20), scripted(first, second) as url, Client(url, token="older", cursors=store) as chat:
        reading = asyncio.ensure_future(anext(chat.messages()))  # marks are saved by who reads
        assert await chat.renew_token("newer") == TIME
        await chat.follow("c")
        await saved({"c": "at c"})
        await chat.unfollow("c")
        await saved({})
        await chat.typing("c")  # and the server goes
        assert (await reading).body == "on"


async def test_nothing_is_left_running() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.until_closed()

    before = asyncio.all_tasks()
    async with scripted(script) as url:
        async with Client(url, token="t") as chat:
            reading = asyncio.create_task(_read(chat))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            assert reading.cancelled()
        names = {task.get_name() for task in asyncio.all_tasks() - before}
        assert "chatcluster client" not in names


async def _read(chat: Client) -> None:
    async for event in chat.events():
        assert not isinstance(event, MessageReceived)


# -- against the real gateway ---------------------------------------------------------------------------------


@asynccontextmanager
async def platform(data: Path, *arguments: str) -> AsyncIterator[dict[str, str]]:
    """``chatcluster dev`` in a process of its own; its addresses by name."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatcluster", "dev", "--data", str(data)),
        *("--listen", "127.0.0.1:0", "--management", "127.0.0.1:0", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    addresses: dict[str, str] = {}
    try:
        async with asyncio.timeout(30):
            while not {"page", "socket", "management"} <= addresses.keys():
                words = (await process.stdout.readline()).decode().split()
                assert words or not process.stdout.at_eof(), "chatcluster dev ended before it listened"
                if len(words) == 2:
                    addresses[words[0]] = words[1]
        yield addresses
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, str, Path]]:
    data = tmp_path_factory.mktemp("platform")
    async with platform(data, "--no-demo") as addresses:
        yield addresses["socket"], addresses["management"], data


async def eventually(wanted: Callable[[], Awaitable[object]]) -> None:
    """Waits until ``wanted`` is true; the platform stores a moment after it acks."""
    async with asyncio.timeout(20):
        while not await wanted():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def until(view: ChannelView, wanted: Callable[[list[Shown]], bool]) -> list[Shown]:
    """What the view shows when it is as wanted."""

    async def shows() -> bool:
        return wanted(view.messages())

    await eventually(shows)
    return view.messages()


async def bodies(chat: Client, channel: str) -> list[str]:
    """The channel's history, the newest first."""
    return [message.body async for message in chat.history(channel, page=1)]


@pytest.mark.asyncio(loop_scope="module")
async def test_two_users_talk(embedded: tuple[str, str, Path]) -> None:
    url, _, data = embedded
    key = load_key(data)
    async with (
        Client(url, token=mint(key, user="ann"), device="a") as ann,
        Client(url, token=mint(key, user="bob"), device="b", codec="json") as bob,
    ):
        channel = await ann.create_direct("bob")
        assert await bob.create_direct("ann") == channel
        shown = ann.view(channel)
        question = await ann.send(channel, "how do you do?")
        heard = bob.messages()
        message = await anext(heard)
        assert (message.body, message.id, message.sender) == ("how do you do?", question.id, "ann")
        answer = await bob.send(channel, "how do you do", reply_to=message.id)
        assert int(answer.id) > int(question.id)
        again = await bob.send(channel, "how do you do", reply_to=message.id, client_id=answer.client_id)
        assert (again.id, again.duplicate) == (answer.id, True)
        with pytest.raises(IdConflict):
            await bob.send(channel, "something else", client_id=answer.client_id)
        rows = await until(shown, lambda rows: [row.mark for row in rows] == ["durable", "durable"])
        assert [row.message.body for row in rows] == ["how do you do?", "how do you do"]

        await bob.edit(channel, answer.id, "well, thank you")
        await ann.react(channel, answer.id, "👍")
        await until(shown, lambda rows: rows[1].message.body == "well, thank you")
        await until(shown, lambda rows: rows[1].message.reactions == {"👍": ["ann"]})
        await ann.delete(channel, question.id)
        await until(shown, lambda rows: rows[0].message.deleted)
        await eventually(lambda: _is(bodies(bob, channel), ["well, thank you", ""]))
        assert await ann.read(channel, answer.id) == answer.id
        [row] = [row async for row in ann.channels()]
        assert (row.id, row.kind, row.read, row.unread) == (channel, "direct", answer.id, 0)
        assert sorted([member.user async for member in ann.members(channel)]) == ["ann", "bob"]
        with pytest.raises(NoSuchChannel):
            await ann.send("nowhere", "x")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_bot_misses_nothing_while_it_is_away(embedded: tuple[str, str, Path], tmp_path: Path) -> None:
    """More is said than the queue, a page and a resume hold."""
    url, _, data = embedded
    key = load_key(data)
    cursors = FileCursors(tmp_path / "bot.json")
    count = 120

    async def hear(chat: Client, wanted: int) -> list[str]:
        heard = []
        async with asyncio.timeout(40):
            async for message in chat.messages():
                heard.append(message.body)
                if len(heard) == wanted:
                    return heard
        return heard

    async with Client(url, token=mint(key, user="carl"), device="c") as carl:
        channel = await carl.create_group(["bot"], name="long")
        async with Client(url, token=mint(key, user="bot"), device="bot", cursors=cursors, queue=7) as bot:
            await carl.send(channel, "first")
            assert await hear(bot, 1) == ["first"]
            reading = asyncio.create_task(_read_on(bot))  # comes back for what follows, so the mark is saved

            async def marked() -> bool:
                saved = await cursors.load()
                return saved is not None and saved.newest is not None

            await eventually(marked)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        said = [f"m{number}" for number in range(count)]
        for body in said:
            await carl.send(channel, body)
        async with Client(url, token=mint(key, user="bot"), device="bot", cursors=cursors, queue=7) as bot:
            heard = await hear(bot, count)
            if heard[0] == "first":  # at least once: the mark may be from before it
                heard = [*heard[1:], *await hear(bot, 1)]
            assert heard == said


async def _is(found: Awaitable[list[str]], wanted: list[str]) -> bool:
    return await found == wanted


async def _read_on(chat: Client) -> None:
    async for _ in chat.messages():
        pass


async def test_a_send_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    data = tmp_path / "platform"
    async with platform(data, "--no-demo") as addresses:
        url = addresses["socket"]
        port = url.split(":")[2].split("/")[0]
        chat = Client(url, token=mint(load_key(data), user="ann"), device="a")
        await chat.__aenter__()
        channel = await chat.create_group(["bob"], name="g")
        before = await chat.send(channel, "before")
    sending = asyncio.create_task(chat.send(channel, "during"))
    try:
        await asyncio.sleep(0)
        async with platform(data, "--no-demo", "--listen", f"127.0.0.1:{port}"):
            sent = await sending
            assert int(sent.id) > int(before.id)
            await eventually(lambda: _is(bodies(chat, channel), ["during", "before"]))
            await chat.close()
    finally:
        sending.cancel()
        await chat.close()


async def _chatcluster(*arguments: str, typed: str = "") -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatcluster", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate(typed.encode())
    return process.returncode or 0, out.decode()


@pytest.mark.asyncio(loop_scope="module")
async def test_chat_in_a_pipe(embedded: tuple[str, str, Path]) -> None:
    url, _, data = embedded
    who = ("--url", url, "--data", str(data))
    status, out = await _chatcluster("chat", "--user", "dora", *who, typed="/direct emil\nhello\x1b[31m\n/nonsense\n")
    assert status == 0, out
    assert "* live as dora" in out
    assert "/nonsense is no command" in out
    status, out = await _chatcluster("chat", "--user", "emil", *who, "--open", "dora", typed="/list\nhi\n/quit\n")
    assert status == 0, out
    assert "1. dora (direct, 2 members" in out
    async with Client(url, token=mint(load_key(data), user="emil")) as chat:
        channel = await chat.create_direct("dora")
        await eventually(lambda: _is(bodies(chat, channel), ["hi", "hello\x1b[31m"]))
    status, out = await _chatcluster("chat", "--token", "forged", "--url", url)
    assert status == 1
    assert "Error:" in out
    assert "Traceback" not in out


@pytest.mark.asyncio(loop_scope="module")
async def test_administration(embedded: tuple[str, str, Path], tmp_path: Path) -> None:
    url, management, data = embedded
    api = ("--management", management, "--data", str(data))
    status, out = await _chatcluster("channel", "create", "--name", "crowd", "--creator", "root", *api)
    assert status == 0, out
    channel = out.strip()
    people = tmp_path / "people.txt"
    people.write_text("# the crowd\n\n" + "".join(f"p{number:04d}\n" for number in range(1500)) + "p0001\n")
    status, out = await _chatcluster("members", "import", str(people), "--channel", channel, "--batch", "400", *api)
    assert status == 0, out
    assert os.listdir(tmp_path) == ["people.txt"]
    status, out = await _chatcluster("members", "list", "--channel", channel, *api)
    listed = out.splitlines()
    assert len(listed) == 1501
    assert "root\towner" in listed
    status, out = await _chatcluster("members", "remove", "--channel", channel, *api, "p0000", "p0001")
    assert status == 0, out
    status, out = await _chatcluster(
        "channel", "rename", channel, "multitude", "--user", "root", "--url", url, *api[2:]
    )
    assert status == 0, out

    async def renamed() -> bool:
        _, out = await _chatcluster("channel", "show", channel, "--json", *api)
        shown = json.loads(out)
        return (shown["name"], shown["members"]) == ("multitude", 1499)

    await eventually(renamed)
    status, out = await _chatcluster("channel", "list", "--user", "root", "--url", url, *api[2:])
    assert status == 0, out
    assert "multitude" in out
    status, out = await _chatcluster("channel", "show", "nowhere", *api)
    assert status == 1
    assert "no_such_channel" in out
