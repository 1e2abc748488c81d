"""Sessions with the real router, persister, SQLite log and store: what the parts promise each other."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from chatcluster.backends.memory.bus import MemoryBuses
from chatcluster.backends.memory.dedupe import MemoryDedupe
from chatcluster.backends.memory.read_cursors import MemoryReadCursors
from chatcluster.backends.memory.tails import MemoryTails
from chatcluster.backends.memory.workers import MemoryWorkers
from chatcluster.backends.sqlite import SqliteLog, SqliteStore
from chatcluster.core.envelope import Live
from chatcluster.core.frames import (
    MSGPACK,
    Ack,
    ChannelAdd,
    ChannelCreate,
    ChannelRemove,
    Delete,
    Edit,
    Reply,
    Resume,
    Send,
)
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import INBOX, MESSAGES
from chatcluster.services.gateway.session_settings import SessionSettings
from chatcluster.services.gateway.sessions import Sessions
from chatcluster.services.persister.service import PersisterService
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.router.service import RouterService
from chatcluster.services.router.settings import RouterSettings


class Platform:
    """Two gateways, one router, one persister."""

    def __init__(self, buses, tails, gateways, new_client):
        self.buses = buses
        self.tails = tails
        self.gateways = gateways
        self._client = new_client
        self._rid = 0

    async def connect(self, user, resume=None, *, gateway=0, codec=None):
        client = self._client(self.gateways[gateway], user, codec)
        client.hello(resume=resume)
        while not any(type(frame).__name__ == "Welcome" for frame in client.link.frames):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return client

    async def ask(self, client, make):
        self._rid += 1
        rid = f"q{self._rid}"
        client.say(make(rid))
        for _ in range(6000):
            for frame in reversed(client.link.frames):
                if getattr(frame, "rid", None) == rid:
                    return frame
            await asyncio.sleep(0.01)
        raise AssertionError("no answer")

    async def group(self, client, *members):
        reply = await self.ask(client, lambda rid: ChannelCreate(rid, rid, "group", list(members), "g"))
        assert isinstance(reply, Reply), reply
        return reply.channel

    async def send(self, client, channel, body):
        answer = await self.ask(client, lambda rid: Send(rid, channel, rid, body))
        assert isinstance(answer, Ack), answer
        return int(answer.id)


@pytest.fixture
def open_platform(loop_clock, tmp_path, new_client):
    @asynccontextmanager
    async def opened(large=20, small=10, **settings):
        async with AsyncExitStack() as stack:
            clock, metrics = loop_clock, Metrics()
            log = await stack.enter_async_context(SqliteLog.open(tmp_path, clock=clock, metrics=metrics))
            store = await stack.enter_async_context(SqliteStore.open(tmp_path, clock=clock, metrics=metrics))
            buses, tails, cursors = MemoryBuses(), MemoryTails(clock=clock), MemoryReadCursors()
            persister = PersisterService(
                log=log,
                reader=log,
                messages=log.consumer("stage1", MESSAGES),
                inbox=log.consumer("stage2", INBOX),
                store=store,
                tails=tails,
                bus=buses.subscriber("persister"),
                cursors=cursors,
                clock=clock,
                metrics=metrics,
                settings=PersisterSettings(inbox_fanout_limit=large, inbox_fanout_floor=small),
            )
            router = RouterService(
                log=log,
                bus=buses.subscriber("router"),
                store=store,
                dedupe=MemoryDedupe(clock=clock),
                cursors=cursors,
                tails=tails,
                workers=MemoryWorkers(clock=clock, floor=0),
                clock=clock,
                metrics=metrics,
                settings=RouterSettings(sends_per_second=1000, send_burst=1000),
            )
            presence, authenticator = new_client.presence(), new_client.authenticator()
            gateways = [
                Sessions(
                    router=router,
                    bus=buses.subscriber(name),
                    tails=tails,
                    store=store,
                    presence=presence,
                    log=log,
                    authenticator=authenticator,
                    clock=clock,
                    metrics=metrics,
                    settings=SessionSettings(**settings),
                    name=name,
                )
                for name in ("g1", "g2")
            ]
            tasks = [asyncio.create_task(part.run()) for part in (persister, router, *gateways)]
            try:
                await asyncio.sleep(0.2)
                yield Platform(buses, tails, gateways, new_client)
                assert not any(task.done() for task in tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    return opened


def bodies(client, kind="message"):
    return [event.message.body for event in client.events(kind)]


def test_a_conversation_over_two_gateways(jump, open_platform):
    async def main():
        async with open_platform() as p:
            alice = await p.connect("alice")
            bob = await p.connect("bob", gateway=1, codec=MSGPACK)
            bob2 = await p.connect("bob")
            channel = await p.group(alice, "bob")
            first = await p.send(alice, channel, "hi")
            await p.send(bob, channel, "ho")
            await asyncio.sleep(1)
            await p.ask(alice, lambda rid: Edit(rid, channel, str(first), rid, "hello"))
            await p.ask(alice, lambda rid: Delete(rid, channel, str(first), rid))
            await asyncio.sleep(6)
            for client in (alice, bob, bob2):
                assert bodies(client) == ["hi", "ho"]
                assert bodies(client, "edited") == ["hello"]
                assert len(client.events("deleted")) == 1
                assert client.events("retracted") == []
                assert client.mark.pending == []
                assert len({event.id for event in client.events()}) == len(client.events())
            again = await p.connect("bob", bob.saved(), gateway=1)
            assert again.welcome.resumed
            assert again.events() == []
            fresh = await p.connect("bob", Resume(bob.welcome.inbox))
            assert fresh.welcome.resumed
            assert bodies(fresh) == ["hi", "ho"]

    jump(main())


@pytest.mark.parametrize("loss", [0.5, 1.0])
def test_whatever_the_bus_loses_arrives_once(jump, open_platform, loss):
    async def main():
        chance = random.Random(3)
        async with open_platform() as p:
            alice, bob = await p.connect("alice"), await p.connect("bob", gateway=1)
            channel = await p.group(alice, "bob")
            await asyncio.sleep(6)
            p.buses.drop = lambda topic, envelope: chance.random() < loss
            ids = [await p.send(alice, channel, str(n)) for n in range(40)]
            await asyncio.sleep(7)
            for client in (alice, bob):
                assert sorted(client.ids()) == ids
                assert client.mark.pending == []

    jump(main())


def test_a_live_event_that_never_was_is_withdrawn_by_the_ticks_of_the_log(jump, open_platform, world_record):
    async def main():
        async with open_platform() as p:
            alice, bob = await p.connect("alice"), await p.connect("bob", gateway=1)
            channel = await p.group(alice, "bob")
            kept = await p.send(alice, channel, "kept")
            lost = world_record("acme", channel, kept + 1, "alice")
            p.buses.subscriber("x").publish(["u:acme/alice", "u:acme/bob"], Live(lost))
            await asyncio.sleep(40)
            for client in (alice, bob):
                assert client.ids() == [kept, lost.id]
                assert client.events("retracted") == []
                assert client.mark.pending == [str(lost.id)]
            await asyncio.sleep(50)
            for client in (alice, bob):
                assert [event.message_id for event in client.events("retracted")] == [str(lost.id)]
                assert client.mark.pending == []

    jump(main())


def test_a_channel_grows_large_and_shrinks_while_people_talk(jump, open_platform):
    async def main():
        async with open_platform(large=6, small=3) as p:
            alice, bob, eve = await p.connect("alice"), await p.connect("bob", gateway=1), await p.connect("eve")
            channel = await p.group(alice, "bob", "eve")
            sent = []

            async def talk(count):
                for _ in range(count):
                    sent.append(await p.send(alice, channel, str(len(sent))))
                    await asyncio.sleep(0.05)

            await talk(5)
            crowd = [f"user{n}" for n in range(8)]
            growing = asyncio.create_task(p.ask(alice, lambda rid: ChannelAdd(rid, channel, crowd)))
            await talk(20)
            await growing
            await asyncio.sleep(2)
            await talk(5)
            assert {event.timeline for event in bob.events("message")} == {"inbox", f"channel:{channel}"}
            away = bob.saved()
            bob.gone()
            await talk(5)
            back = await p.connect("bob", away, gateway=1)
            await talk(5)
            # Nothing of the channel after one's own removal.
            await p.ask(alice, lambda rid: ChannelRemove(rid, channel, ["eve"]))
            await asyncio.sleep(5)
            heard = len(eve.ids())
            await talk(3)
            await p.ask(alice, lambda rid: ChannelRemove(rid, channel, crowd))
            await talk(20)
            await asyncio.sleep(8)
            assert sorted(set(alice.ids())) == sent
            assert sorted({*bob.ids(), *back.ids()}) == sent
            assert len(eve.ids()) == heard
            for client in (alice, back):
                assert client.mark.pending == []
                assert client.events("retracted") == []
                assert {event.to for event in client.events("route")} >= {"inbox"}

    jump(main())
