"""Sessions over a fake link: hello, requests, caps, live fan-out, tokens, presence."""

from __future__ import annotations

import asyncio

import pytest

from chatcluster.core.codes import Close
from chatcluster.core.envelope import Disconnect, Live, Presence, PresenceChange, Read, Revoke, Typing, gateway_topic
from chatcluster.core.frames import (
    JSON,
    MSGPACK,
    Ack,
    BadFrame,
    ErrorFrame,
    Follow,
    Hello,
    Ping,
    Pong,
    PresenceFrame,
    Reconnect,
    RenewToken,
    Reply,
    Resume,
    Send,
    SetPresence,
    Type,
    TypingFrame,
    Watch,
    Welcome,
)
from chatcluster.core.records import inbox_timeline
from chatcluster.core.rows import RevocationRow
from chatcluster.ports import Unavailable

TENANT = "acme"


def inbox(user: str) -> str:
    return inbox_timeline(TENANT, user)


# -- hello -------------------------------------------------------------------------------------------


def test_welcome_of_a_new_device(jump, open_world):
    async def main():
        async with open_world(heartbeat_ms=123) as world:
            alice = await world.connect("alice")
            welcome = alice.welcome
            assert (welcome.rid, welcome.user, welcome.tenant) == ("h", "alice", TENANT)
            assert welcome.heartbeat_ms == 123
            assert welcome.resumed is False
            assert welcome.inbox == world.cursor(-1) or welcome.inbox
            assert welcome.follow == {}
            assert alice.link.key == "acme/alice"
            assert alice.link.expires == 2e9
            assert alice.link.paused is False
            other = await world.connect("alice")
            assert other.welcome.session != welcome.session

    jump(main())


def test_nothing_before_hello_and_one_hello_only(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = world.client("alice")
            alice.say(Send("1", "room", "k", "hi"))
            alice.say(Ping())
            assert alice.errors() == ["not_authenticated"]
            assert alice.of(ErrorFrame)[0].rid == "1"
            assert alice.of(Pong)
            assert world.router.asked == []
            alice.hello()
            alice.hello()
            await world.until(lambda: bool(alice.of(Welcome)))
            alice.hello()
            assert alice.errors() == ["not_authenticated", "already_authenticated", "already_authenticated"]
            assert len(alice.of(Welcome)) == 1

    jump(main())


@pytest.mark.parametrize("token", ["bad", None])
def test_a_bad_token_is_refused_and_closed(jump, open_world, token):
    async def main():
        async with open_world() as world:
            client = world.client("alice")
            client.hello(token=token)
            await asyncio.sleep(0.1)
            assert client.errors() == ["unauthorized"]
            assert client.link.code is Close.UNAUTHORIZED
            assert client.link.key == ""

    jump(main())


def test_a_token_that_nobody_can_judge_yet_is_not_called_bad(jump, open_world):
    async def main():
        async with open_world() as world:
            client = world.client("alice")
            client.hello(token="early")
            await asyncio.sleep(0.1)
            assert client.errors() == ["unavailable"]
            assert client.link.code is Close.TRY_LATER

    jump(main())


def test_a_bearer_of_the_handshake_needs_no_token(jump, open_world):
    async def main():
        async with open_world() as world:
            client = world.client("alice")
            client.handler = world.sessions.accept(client.link, "alice")
            client.link.handler = client.handler
            client.hello(token=None)
            await world.until(lambda: bool(client.of(Welcome)))

    jump(main())


def test_what_comes_between_hello_and_welcome_waits(jump, open_world):
    async def main():
        async with open_world(in_flight=3) as world:
            alice = world.client("alice")
            alice.hello()
            assert alice.link.paused
            for rid in "1234":
                alice.say(Send(rid, "room", rid, "hi"))
            assert world.router.asked == []
            await world.until(lambda: bool(alice.of(Welcome)))
            assert [request.rid for _, request, _ in world.router.asked] == ["1", "2", "3"]
            assert [(error.code, error.rid) for error in alice.of(ErrorFrame)] == [("overloaded", "4")]
            assert alice.link.paused  # three in flight

    jump(main())


def test_a_hello_with_a_pending_id_that_is_none_is_refused_and_may_be_said_again(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = world.client("alice")
            alice.hello(resume=Resume(pending=["x"]))
            assert alice.errors() == ["bad_request"]
            alice.hello()
            await world.until(lambda: bool(alice.of(Welcome)))

    jump(main())


# -- caps ----------------------------------------------------------------------------------------------


def test_the_same_device_replaces_its_old_connection(jump, open_world):
    async def main():
        async with open_world() as world:
            old = await world.connect("alice", device="phone")
            other = await world.connect("alice", device="desk")
            unnamed = [await world.connect("alice"), await world.connect("alice")]
            bob = await world.connect("bob", device="phone")
            new = await world.connect("alice", device="phone")
            assert old.link.code is Close.REPLACED
            assert not any(one.link.closed for one in (other, bob, new, *unnamed))
            record = world.say()
            world.live(record, "alice")
            await asyncio.sleep(0.1)
            assert new.ids() == other.ids() == [record.id]

    jump(main())


def test_sessions_per_user_are_capped(jump, open_world):
    async def main():
        async with open_world(sessions_per_user=2) as world:
            first = await world.connect("alice")
            await world.connect("alice")
            third = await world.connect("alice")
            assert third.errors() == ["too_many"]
            assert third.link.code is Close.TOO_MANY
            first.gone()
            assert (await world.connect("alice")).welcome

    jump(main())


def test_hellos_of_one_moment_are_capped_like_any(jump, open_world):
    async def main():
        async with open_world(sessions_per_user=2) as world:
            clients = [world.client("alice") for _ in range(5)]
            for client in clients:
                client.hello()
            await asyncio.sleep(0.1)
            assert sum(bool(client.of(Welcome)) for client in clients) == 2
            assert [client.link.code for client in clients if client.link.closed] == [Close.TOO_MANY] * 3

    jump(main())


def test_whoever_leaves_while_the_token_is_looked_at_takes_no_place(jump, open_world):
    async def main():
        async with open_world(sessions_per_user=1) as world:
            world.authenticator.slow = 1.0
            client = world.client("alice")
            client.hello()
            await asyncio.sleep(0.5)
            client.gone()
            await asyncio.sleep(1.0)
            assert (await world.connect("alice")).welcome

    jump(main())


def test_requests_in_flight_stop_the_reading(jump, open_world):
    async def main():
        async with open_world(in_flight=4) as world:
            alice = await world.connect("alice")
            for n in range(4):
                assert not alice.link.paused
                alice.say(Send(str(n), "room", str(n), "hi"))
            assert alice.link.paused
            caller, request, done = world.router.asked.pop()
            assert (caller.tenant, caller.user, caller.session) == (TENANT, "alice", alice.welcome.session)
            done(Ack(request.rid, "room", "1", "", False))
            assert alice.link.paused
            world.router.answer()
            assert not alice.link.paused
            assert {ack.rid for ack in alice.of(Ack)} == set("0123")

    jump(main())


def test_typing_has_no_answer_and_holds_no_place(jump, open_world):
    async def main():
        async with open_world(in_flight=1) as world:
            alice = await world.connect("alice")
            alice.say(Type("room"))
            assert not alice.link.paused
            _, request, done = world.router.asked.pop()
            assert request == Type("room")
            done(Reply(""))
            assert alice.of(Reply) == []

    jump(main())


def test_an_answer_after_the_end_goes_nowhere(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            alice.say(Send("1", "room", "k", "hi"))
            alice.gone()
            world.router.answer()
            assert alice.of(Ack) == []

    jump(main())


def test_bad_frames_are_answered_and_too_many_close(jump, open_world):
    async def main():
        async with open_world(bad_frames=3) as world:
            alice = await world.connect("alice")
            for _ in range(3):
                assert not alice.link.closed
                alice.handler.on_bad_frame(BadFrame(ErrorFrame("bad_json", "no", False)))
            assert alice.errors() == ["bad_json"] * 3
            assert alice.link.code is Close.POLICY

    jump(main())


# -- live -------------------------------------------------------------------------------------------------


def test_live_reaches_every_device_in_its_codec(jump, open_world):
    async def main():
        async with open_world() as world:
            clients = [
                await world.connect("alice", codec=JSON),
                await world.connect("alice", codec=MSGPACK),
                await world.connect("bob", codec=MSGPACK),
                await world.connect("bob", codec=JSON),
            ]
            carol = await world.connect("carol")
            record = world.say("bob")
            world.live(record, "alice", "bob")
            await asyncio.sleep(0.01)
            for client in clients:
                (event,) = client.events()
                assert event.live is True
                assert event.timeline == "inbox"
                assert event.message.body == "hi"
                assert event.message.client_id == record.client_id
            assert carol.events() == []

    jump(main())


def test_envelopes_of_one_batch_are_one_write(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            await asyncio.sleep(1)
            before = alice.link.writes
            records = [world.say(body=str(n)) for n in range(8)]
            for record in records:
                world.live(record, "alice")
            await asyncio.sleep(0.01)
            assert alice.ids() == [record.id for record in records]
            assert alice.link.writes == before + 1

    jump(main())


def test_typing_is_not_told_to_the_typist(jump, open_world):
    async def main():
        async with open_world() as world:
            alice, alice2, bob = [await world.connect(user) for user in ("alice", "alice", "bob")]
            world.publish([inbox("alice"), inbox("bob")], Typing("room", "alice"))
            await asyncio.sleep(0.01)
            assert bob.of(TypingFrame) == [TypingFrame("room", "alice")]
            assert alice.of(TypingFrame) == alice2.of(TypingFrame) == []

    jump(main())


def test_read_cursors_are_told_live_and_never_pending(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            world.publish([inbox("alice")], Read("room", "bob", 17, 99))
            await asyncio.sleep(0.01)
            (event,) = alice.events("read")
            assert (event.id, event.channel, event.user, event.message_id) == ("99", "room", "bob", "17")
            assert world.sessions.hub.pending == 0

    jump(main())


def test_kinds_that_must_be_durable_are_not_told_live(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            record = world.member("alice", "add")
            world.publish([inbox("alice")], Live(record))
            await asyncio.sleep(0.01)
            assert alice.events() == []
            await world.durable(record, "alice", nudge=True)
            await asyncio.sleep(0.1)
            assert [event.live for event in alice.events("member")] == [False]

    jump(main())


def test_a_topic_that_nobody_needs_is_left_after_its_linger(jump, open_world):
    async def main():
        async with open_world(linger=15.0) as world:
            alice = await world.connect("alice")
            assert inbox("alice") in world.buses.table
            alice.gone()
            await asyncio.sleep(10)
            assert inbox("alice") in world.sessions.hub.topics
            await asyncio.sleep(10)
            assert world.sessions.hub.topics == {}
            assert inbox("alice") not in world.buses.table
            assert not any(world.sessions.hub.wheel)
            again = await world.connect("alice")
            world.live(world.say(), "alice")
            await asyncio.sleep(0.01)
            assert len(again.ids()) == 1

    jump(main())


def test_a_topic_that_the_bus_did_not_take_is_asked_for_again(jump, open_world):
    async def main():
        async with open_world(linger=15.0) as world:

            class Away:
                async def subscribe(self, topics):
                    raise Unavailable("the bus is away")

            hub = world.sessions.hub
            bus, hub._bus = hub._bus, Away()
            alice = await world.connect("alice")
            hub._bus = bus
            await asyncio.sleep(5)
            world.live(world.say(), "alice")
            await asyncio.sleep(0.01)
            assert len(alice.ids(live=True)) == 1

    jump(main())


def test_a_slow_consumer_that_is_cut_by_a_write_harms_nobody(jump, open_world):
    async def main():
        async with open_world() as world:
            first, second = await world.connect("alice"), await world.connect("alice")
            first.link.write = lambda wire: first.link.close(Close.SLOW_CONSUMER, "slow")
            world.live(world.say(), "alice")
            await asyncio.sleep(0.01)
            assert first.link.closed
            assert len(second.ids()) == 1

    jump(main())


def test_drain_tells_where_to_go(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            alice.handler.on_drain(1, 2, "restart")
            assert alice.of(Reconnect) == [Reconnect(1, 2, "restart")]

    jump(main())


# -- tokens ------------------------------------------------------------------------------------------------


def test_a_token_is_renewed_for_the_same_user_only(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            alice.link.expires = None
            alice.say(RenewToken("1", "bob"))
            alice.say(RenewToken("2", "bad"))
            alice.say(RenewToken("4", "alice#other"))
            await asyncio.sleep(0.1)
            assert alice.errors() == ["unauthorized"] * 3
            assert alice.link.expires is None
            alice.say(RenewToken("3", "alice@1790000100"))
            await asyncio.sleep(0.1)
            (reply,) = alice.of(Reply)
            assert (reply.rid, reply.expires) == ("3", "2033-05-18T03:33:20.000Z")
            assert alice.link.expires == 2e9
            assert alice.welcome.user == "alice"
            world.publish([inbox("alice")], Revoke(1_790_000_050_000, "stolen"))
            await asyncio.sleep(0.1)
            assert not alice.link.closed  # it lives on the newer token

    jump(main())


def test_a_revocation_on_the_bus_ends_sessions_at_once(jump, open_world):
    async def main():
        async with open_world() as world:
            old, new, bob = [await world.connect(user) for user in ("alice@100", "alice@300", "bob@100")]
            world.publish([inbox("alice")], Revoke(200_000, "stolen"))
            await asyncio.sleep(0.01)
            assert old.link.code is Close.UNAUTHORIZED
            assert not new.link.closed
            assert not bob.link.closed
            again = await world.connect("alice@100")
            assert again.errors() == ["unauthorized"]

    jump(main())


def test_a_revocation_in_the_store_ends_sessions_within_its_interval(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice@100")
            world.store.revoked.append(RevocationRow(TENANT, "alice", 200_000))
            assert await world.until(lambda: alice.link.closed) < 2.5
            assert alice.link.code is Close.UNAUTHORIZED

    jump(main())


def test_a_second_revocation_ends_what_came_after_the_first(jump, open_world):
    async def main():
        async with open_world() as world:
            world.store.revoked.append(RevocationRow(TENANT, "alice", 200_000))
            await asyncio.sleep(3)
            alice = await world.connect("alice@300")
            world.store.revoked[:] = [RevocationRow(TENANT, "alice", 400_000)]
            assert await world.until(lambda: alice.link.closed) < 2.5
            assert alice.link.code is Close.UNAUTHORIZED
            world.publish([inbox("alice")], Revoke(200_000, "an old rumour"))
            await asyncio.sleep(0.01)
            assert (await world.connect("alice@300")).errors() == ["unauthorized"]

    jump(main())


@pytest.mark.parametrize(
    ("envelope", "code"),
    [(Revoke(200_000, "stolen"), Close.UNAUTHORIZED), (Disconnect("moved"), Close.RESTART)],
)
def test_who_waits_for_the_welcome_is_ended_too(jump, open_world, envelope, code):
    async def main():
        async with open_world() as world:
            await asyncio.sleep(0.1)
            world.store.down = True
            alice = world.client("alice@100")
            alice.hello()
            await asyncio.sleep(0.5)
            world.publish([inbox("alice")], envelope)
            await asyncio.sleep(0.1)
            assert alice.link.code is code
            assert alice.of(Welcome) == []

    jump(main())


def test_no_hello_before_the_revocations_are_known(jump, open_world):
    async def main():
        async with open_world() as world:
            world.store.down = True
            world.store.revoked.append(RevocationRow(TENANT, "alice", 200_000))
            alice = world.client("alice@100")
            alice.hello()
            await asyncio.sleep(1)
            assert alice.of(Welcome) == []
            world.store.down = False
            await world.until(lambda: alice.link.closed)
            assert alice.errors() == ["unauthorized"]

    jump(main())


def test_disconnect_ends_sessions_that_may_come_back(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            world.publish([inbox("alice")], Disconnect("moved"))
            await asyncio.sleep(0.01)
            assert alice.link.code is Close.RESTART
            assert (await world.connect("alice")).welcome

    jump(main())


def test_nothing_is_accepted_after_the_end(jump, open_world):
    async def main():
        async with open_world() as world:
            world.enlarge("big", "alice")
            alice = await world.connect("alice")
            world.publish([inbox("alice")], Disconnect("moved"))
            await asyncio.sleep(0.01)
            alice.say(Send("1", "room", "k", "hi"))
            alice.say(Follow("2", "big"))
            alice.say(Watch("3", ["bob"]))
            await asyncio.sleep(1)
            assert world.router.asked == []
            assert alice.handler.follows is None
            assert world.presence.watched == {}

    jump(main())


# -- presence -------------------------------------------------------------------------------------------------


def test_heartbeats_come_in_even_batches_once_per_interval(jump, open_world):
    async def main():
        async with open_world(presence_interval=10.0) as world:
            clients = [await world.connect(f"user{n}") for n in range(20)]
            await asyncio.sleep(0.5)
            presence = world.presence
            assert {beat.session for beat in presence.beats} >= {client.welcome.session for client in clients}
            presence.beats.clear()
            presence.batches = 0
            await asyncio.sleep(10)
            assert sorted(beat.user for beat in presence.beats) == sorted(f"user{n}" for n in range(20))
            assert presence.batches > 5
            presence.beats.clear()
            clients[0].gone()
            await asyncio.sleep(0.5)
            assert ("user0", "offline") in [(beat.user, beat.status) for beat in presence.beats]

    jump(main())


def test_invisible_sends_no_heartbeats(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            alice.say(SetPresence("away"))
            alice.say(SetPresence("invisible"))
            await asyncio.sleep(1)
            assert [beat.status for beat in world.presence.beats] == ["online", "away", "offline"]
            await asyncio.sleep(20)
            assert len(world.presence.beats) == 3
            alice.say(SetPresence("online"))
            await asyncio.sleep(1)
            assert world.presence.beats[3].status == "online"

    jump(main())


def test_watching_tells_the_state_now_and_every_change(jump, open_world):
    async def main():
        async with open_world() as world:
            alice, bob = await world.connect("alice"), await world.connect("bob")
            alice.say(Watch("1", ["carol", "dave"]))
            bob.say(Watch("1", ["dave"]))
            await asyncio.sleep(0.1)
            assert [info.user for info in alice.of(Reply)[0].presence] == ["carol", "dave"]
            change = Presence({TENANT: [PresenceChange("carol", "online", 5), PresenceChange("dave", "away", 6)]})
            world.publish([gateway_topic("g1")], change)
            await asyncio.sleep(0.1)
            (told,) = alice.of(PresenceFrame)
            assert [(info.user, info.status) for info in told.changes] == [("carol", "online"), ("dave", "away")]
            assert [info.user for info in bob.of(PresenceFrame)[0].changes] == ["dave"]
            world.publish([gateway_topic("g1")], Presence({"other": [PresenceChange("carol", "online", 5)]}))
            alice.say(Watch("2", ["erin"]))
            await asyncio.sleep(0.1)
            world.publish([gateway_topic("g1")], change)
            await asyncio.sleep(0.1)
            assert len(alice.of(PresenceFrame)) == 1
            session = alice.welcome.session
            assert world.presence.watched[session] == ("erin",)
            alice.gone()
            assert world.presence.forgotten == [session]

    jump(main())


def test_who_leaves_while_presence_is_asked_is_watched_for_no_more(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            held = world.presence.watched
            world.presence.forget = lambda _, sessions: [held.pop(session, None) for session in sessions]
            alice.say(Watch("1", ["bob"]))
            await asyncio.sleep(0.0005)
            alice.gone()
            await asyncio.sleep(1)
            assert held == {}

    jump(main())


def test_watching_too_many_or_without_presence_is_refused(jump, open_world):
    async def main():
        async with open_world() as world:
            alice = await world.connect("alice")
            alice.say(Watch("1", [f"u{n}" for n in range(501)]))
            world.presence.down = True
            alice.say(Watch("2", ["bob"]))
            await asyncio.sleep(0.1)
            assert alice.errors() == ["too_many", "unavailable"]

    jump(main())


def test_a_hello_with_a_damaged_token_leaves_no_topic(jump, open_world):
    async def main():
        async with open_world() as world:
            client = world.client("x" * 200)
            client.say(Hello("h", "x" * 200))
            await asyncio.sleep(0.1)
            assert client.errors() == ["unauthorized"]
            assert world.sessions.hub.topics == {}

    jump(main())
