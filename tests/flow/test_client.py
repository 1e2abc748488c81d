"""The SDK against a small server that speaks the protocol from a script."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from chatcluster.client import (
    ChatError,
    Client,
    FileCursors,
    Forbidden,
    IdConflict,
    MemoryCursors,
    Replaced,
    Saved,
    TimedOut,
    Unauthorized,
)
from chatcluster.core.frames import (
    Cursors,
    ErrorFrame,
    Event,
    Follow,
    Limits,
    Mark,
    Ping,
    Pong,
    Reconnect,
    RenewToken,
    Reply,
    Resync,
    Send,
    Sync,
    Welcome,
)
from scripted_server import TIME, Peer, message, scripted


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
