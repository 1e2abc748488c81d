"""How often the SDK tries and for how long; what it bounds, takes up again and keeps over connections."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Literal

import pytest

from chatcluster.client import (
    ChatError,
    Client,
    ConnectionRefused,
    Forbidden,
    MemoryCursors,
    MessageReceived,
    PresenceChanged,
    RequestRefused,
    Saved,
    TimedOut,
    Typing,
    Unauthorized,
)
from chatcluster.core.frames import (
    ChannelSummary,
    Cursors,
    ErrorFrame,
    Event,
    Follow,
    History,
    ListChannels,
    Mark,
    PresenceInfo,
    Reconnect,
    RenewToken,
    Reply,
    Resync,
    SetPresence,
    Sync,
    TypingFrame,
    Unfollow,
    Watch,
    WireMessage,
)
from scripted_server import TIME, Jump, Peer, Refusal, message, now, scripted, stays

# -- how often it tries, and for how long -----------------------------------------------------------------------


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
