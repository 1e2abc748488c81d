"""Delivery under every fault that applies, as a state machine: after the faults heal no promise is broken.

Rules do what clients, networks, backends and processes do; between them virtual time passes. At the end of each
example everything heals, time passes beyond A and all bounds, and then ``core.promises`` finds no violation in what
was recorded, and each device shows of each channel what the store holds.

``MODEL_EXAMPLES``, ``MODEL_STEPS``, ``MODEL_SEED``: run longer, or again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from chatcluster.core.frames import History, Send
from chatcluster.core.history import Sent
from chatcluster.core.promises import check
from chatcluster.core.records import decode_log, decode_reference

USERS = ("ann", "bob", "cid", "dan")
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "60"))
STEPS = int(os.environ.get("MODEL_STEPS", "30"))
SEED = os.environ.get("MODEL_SEED")

users = st.sampled_from(USERS)
pauses = st.sampled_from([0.0, 0.001, 0.02, 0.1, 1.0])
rates = st.sampled_from([0.0, 0.3, 1.0])
pick = st.integers(0, 63)


class Delivery(RuleBasedStateMachine):
    def __init__(self, new_world: Callable[..., Any]) -> None:
        super().__init__()
        self.new_world = new_world
        self.world: Any = None
        self.sends: list[tuple[str, str, str, Any]] = []  # (channel, user, client_id, task)
        self.number = 0
        self.wiped = False  # dedupe forgot: only a repeat that says `retry` is recognised before its ack

    @initialize(number=st.integers(0, 1 << 16), direct=st.booleans())
    def begin(self, number: int, direct: bool) -> None:
        self.path = Path(tempfile.mkdtemp(dir=self.new_world.base))
        self.world = self.new_world(number, self.path)
        self.world.run(self.world.start())
        self._create("ann", ["bob"], direct)
        self.run(0.1)

    def run(self, pause: float) -> None:
        self.world.run(asyncio.sleep(pause))

    def go(self, what: Callable[[], Any], pause: float) -> Any:
        async def act() -> Any:
            result = what()
            await asyncio.sleep(pause)
            return result

        return self.world.run(act())

    # -- what is there ---------------------------------------------------------------------------------------

    def device(self, user: str, number: int = 0) -> Any:
        devices = [device for device in self.world.devices if device.user == user]
        return devices[number % len(devices)]

    def channel(self, number: int) -> str:
        channels = list(self.world.channels)
        return channels[number % len(channels)]

    # -- clients ---------------------------------------------------------------------------------------------

    def _create(self, user: str, members: list[str], direct: bool) -> None:
        world = self.world
        device = self.device(user)
        if direct:
            other = next((one for one in members if one != user), None)
            if other is None:
                return
            channel = world.direct(user, other)
            act = lambda: device.client.create_direct(other, timeout=10_000)  # noqa: E731
        else:
            self.number += 1
            key = f"g{self.number}"
            channel = world.group(user, key)
            act = lambda: device.client.create_group(members, client_id=key, timeout=10_000)  # noqa: E731
        world.known(channel, user)
        self.go(lambda: world.task(world.quietly(act())), 0.0)

    @precondition(lambda self: len(self.world.channels) < 3)
    @rule(user=users, members=st.lists(users, min_size=1, max_size=3, unique=True), direct=st.booleans(), pause=pauses)
    def create(self, user: str, members: list[str], direct: bool, pause: float) -> None:
        self._create(user, members, direct)
        self.run(pause)

    @rule(user=users, device=pick, channel=pick, burst=st.integers(1, 4), pause=pauses)
    def send(self, user: str, device: int, channel: int, burst: int, pause: float) -> None:
        world, where, who = self.world, self.channel(channel), self.device(user, device)

        def act() -> None:
            for _ in range(burst):
                self.number += 1
                key = f"m{self.number}"
                task = world.task(world.quietly(who.client.send(where, f"says {self.number}", client_id=key)))
                self.sends.append((where, user, key, task))

        self.go(act, pause)

    def _repeat(self, which: int, device: int, body: str | None, retry: bool, pause: float) -> None:
        world = self.world
        where, user, key, _ = self.sends[which % len(self.sends)]
        engine = self.device(user, device).client._engine
        text = body or f"says {key[1:]}"

        def make(rid: str, again: bool) -> Send:
            # Who has said `retry` of a client_id says it from then on: such a repeat does not go through dedupe.
            said = any(isinstance(one, Sent) and one.retry and one.client_id == key for one in world.records)
            return Send(rid, where, key, text, retry=retry or again or said or self.wiped)

        self.go(lambda: world.task(world.quietly(engine.ask(make, timeout=10_000))), pause)

    @precondition(lambda self: self.sends)
    @rule(which=pick, device=pick, retry=st.booleans(), pause=pauses)
    def repeat(self, which: int, device: int, retry: bool, pause: float) -> None:
        """The same send again, on the same connection or another device: one message, whatever happens."""
        self._repeat(which, device, None, retry, pause)

    @precondition(lambda self: self.sends)
    @rule(which=pick, device=pick, retry=st.booleans(), pause=pauses)
    def conflict(self, which: int, device: int, retry: bool, pause: float) -> None:
        """Its client_id with another body."""
        self._repeat(which, device, "something else", retry, pause)

    @precondition(lambda self: self.sends)
    @rule(which=pick, user=users, what=st.sampled_from(["edit", "delete", "react", "unreact", "read"]), pause=pauses)
    def change(self, which: int, user: str, what: str, pause: float) -> None:
        """Edit, delete, react or read what this user's device shows."""
        world = self.world
        device = self.device(user, which)
        client = device.client
        shown = [
            (channel, row.message)
            for channel in world.channels
            for row in client.view(channel).messages()
            if row.message.id and row.mark in ("live", "durable") and not row.message.deleted
        ]
        own = [pair for pair in shown if pair[1].sender == user] if what in ("edit", "delete") else shown
        if not own:
            return
        channel, message = own[which % len(own)]
        self.number += 1
        key, timeout = f"c{self.number}", 300.0
        act = {
            "edit": lambda: client.edit(channel, message.id, f"edit {key}", client_id=key, timeout=timeout),
            "delete": lambda: client.delete(channel, message.id, client_id=key, timeout=timeout),
            "react": lambda: client.react(channel, message.id, "+1", client_id=key, timeout=timeout),
            "unreact": lambda: client.react(channel, message.id, "+1", remove=True, client_id=key, timeout=timeout),
            "read": lambda: client.read(channel, message.id, timeout=timeout),
        }[what]
        self.go(lambda: world.task(world.settled(act())), pause)

    @rule(channel=pick, user=users, what=st.sampled_from(["add", "add", "remove", "leave"]), pause=pauses)
    def member(self, channel: int, user: str, what: str, pause: float) -> None:
        world, where = self.world, self.channel(channel)
        owner = self.device(world.channels[where]).client
        act = {
            "add": lambda: owner.add(where, [user], timeout=300.0),
            "remove": lambda: owner.remove(where, [user], timeout=300.0),
            "leave": lambda: self.device(user).client.leave(where, timeout=300.0),
        }[what]
        self.go(lambda: world.task(world.settled(act())), pause)

    @rule(user=users, number=pick, pause=pauses)
    def drop(self, user: str, number: int, pause: float) -> None:
        """A connection breaks; what is in flight is lost."""
        socket = self.device(user, number).socket
        if socket is not None:
            self.go(socket.abort, pause)

    @rule(user=users, number=pick, stalled=st.booleans())
    def stall(self, user: str, number: int, stalled: bool) -> None:
        """A device reads nothing for a while."""
        device = self.device(user, number)
        device.stalled = stalled
        if device.socket is not None:
            self.go(device.socket.wake, 0.0)

    @precondition(lambda self: len(self.world.devices) < 6)
    @rule(user=users, pause=pauses)
    def new_device(self, user: str, pause: float) -> None:
        self.world.run(self.world.add_device(user))
        self.run(pause)

    # -- what fails --------------------------------------------------------------------------------------------

    @rule(lose=rates, double=rates, late=rates, shuffle=st.booleans())
    def bus(self, lose: float, double: float, late: float, shuffle: bool) -> None:
        faults = self.world.faults
        faults.lose, faults.double, faults.late, faults.shuffle = lose, double, late, shuffle

    @rule()
    def late_rumours(self) -> None:
        """What the bus held back comes after all."""
        world = self.world
        late, world.late[:] = list(world.late), []

        def act() -> None:
            for bus, item in late:
                bus._buffer.append(item)

        self.go(act, 0.0)

    @rule(number=pick)
    def bus_lost(self, number: int) -> None:
        """A subscriber's connection broke: it says so."""
        world = self.world
        services = [*world.gateways, *world.routers]
        names = [one for table in list(world.buses.table.values()) for one in table]
        if names and services:
            self.go(names[number % len(names)].lose, 0.0)

    @rule(what=st.sets(st.sampled_from(["store", "tails", "dedupe"]), max_size=2))
    def down(self, what: set[str]) -> None:
        self.wiped = self.wiped or "dedupe" in what  # what came meanwhile is not in it
        self.world.faults.down = what

    @rule(torn=rates, reports=rates, refused=st.sampled_from([0.0, 0.3]))
    def half(self, torn: float, reports: float, refused: float) -> None:
        """Writes that are applied in part; appends whose report is lost, or that are lost themselves."""
        faults = self.world.faults
        faults.torn, faults.reports, faults.refused = min(torn, 0.5), min(reports, 0.7), refused

    @rule(what=st.sampled_from(["tails", "dedupe", "regress"]))
    def wipe(self, what: str) -> None:
        world = self.world
        act = {"tails": world.tails.wipe, "dedupe": world.dedupe.wipe, "regress": world.regress}[what]
        self.wiped = self.wiped or what == "dedupe"
        self.go(act, 0.0)

    @rule(hold=st.sampled_from(["hold", "release", "release", "lose"]), number=pick)
    def hold(self, hold: str, number: int) -> None:
        """A router's way to the log is long; what is on it arrives, or never does."""
        router = self.world.routers[number % len(self.world.routers)]
        if hold == "hold":
            router.held = router.held if router.held is not None else deque()
        elif hold == "release":
            self.go(router.release, 0.0)
        else:
            self.go(router.forget, 0.0)

    @rule(steps=st.integers(0, 12), freeze=st.booleans(), who=st.sampled_from(["router", "persister"]), number=pick)
    def doom(self, steps: int, freeze: bool, who: str, number: int) -> None:
        """A router or persister dies, or is frozen, before its ``steps``-th call of a port from now."""
        processes = self.world.routers if who == "router" else self.world.persisters[-1:]
        processes[number % len(processes)].after(steps, freeze=freeze)

    @rule(number=pick)
    def second(self, number: int) -> None:
        """Another router; another persister, the one before is a zombie."""
        world = self.world
        if number % 2:
            if len([one for one in world.routers if not one.dead]) < 2:
                self.go(world.add_router, 0.0)
        elif len([one for one in world.persisters if not one.dead]) < 2:
            self.go(world.add_persister, 0.0)

    @rule()
    def revive(self) -> None:
        self.go(self.world.revive, 0.0)

    @rule(number=pick)
    def thaw(self, number: int) -> None:
        processes = [*self.world.routers, *self.world.persisters]
        self.go(processes[number % len(processes)].thaw, 0.0)

    @rule(number=st.integers(0, 1), pause=pauses)
    def kill_gateway(self, number: int, pause: float) -> None:
        self.go(lambda: self.world.kill_gateway(number), pause)

    @rule(who=pick, skew=st.sampled_from([-5_000, -2_500, 0, 2_500, 5_000]))
    def skew(self, who: int, skew: int) -> None:
        world = self.world
        clocks = [world.log_clock, *(one.clock for one in (*world.routers, *world.persisters, *world.gateways))]
        clocks[who % len(clocks)].skew = skew

    @rule(seconds=st.sampled_from([0.05, 0.5, 2.0, 7.0, 25.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.run(seconds)

    # -- the end -------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            self.world.run(self._judge())
        finally:
            self.world.run(self.world.stop())
            self.world.runner.close()
            shutil.rmtree(self.path, ignore_errors=True)

    async def _judge(self) -> None:
        world = self.world
        await world.heal()
        for _ in range(40):
            await asyncio.sleep(10)
            world.revive()
            if all(task.done() for *_, task in self.sends):
                break
        for where, user, key, task in self.sends:
            assert task.done(), f"{user}'s {key} in {where} is never answered"
        await asyncio.sleep(130)
        for device in world.devices:
            assert device.client.status.name == "live", (device.name, device.client.status)
            assert not device.client._engine.lagging, device.name
        for process in (world.routers[-1], world.persisters[-1], *world.gateways):
            assert not process.task.done(), process.name
        for channel in world.channels:
            await self._compare(channel)
        audit = check(world.records)
        assert not audit.violations, "\n".join(f"{one.promise}: {one.text}" for one in audit.violations)

    async def _compare(self, channel: str) -> None:
        """What each device shows is what the store holds for its user."""
        world = self.world
        stored = await world.store.history("t", channel, before=None, after=None, limit=10_000)
        offsets = await world.store.has_events("t", [(channel, message.id) for message in stored])
        rows = await world.store.memberships("t", channel, USERS)
        there = await world.store.channel("t", channel)
        for device in world.devices:
            user = device.user
            member = user in rows and rows[user].role is not None
            shown = {
                int(row.message.id): row for row in device.client.view(channel).messages() if row.message.id
            }  # drafts have no id
            shown = {key: row for key, row in shown.items() if row.mark != "withdrawn"}
            always = True
            last = -1  # the last offset at which the user was a member: until then history was open to him
            for offset in range(await world.end(channel)):
                at = await world.store.memberships("t", channel, [user], at=offset)
                last = offset if user in at and at[user].role is not None else last
            for message in stored:
                at = await world.store.memberships("t", channel, [user], at=offsets[(channel, message.id)])
                then = user in at and at[user].role is not None
                always = always and then
                due = (
                    device.first
                    or channel in device.asked
                    or offsets[(channel, message.id)] >= device.after.get(channel, 0)
                )
                what = f"{device.name} in {channel}: {message.id} ({message.client_id})"
                if then and due:
                    assert message.id in shown, f"missing: {what}\n{await self._traces(device, message)}"
                if message.id in shown:
                    # Who was just removed and not yet refused is acked: his own message is his to keep.
                    assert last >= offsets[(channel, message.id)] or member or message.sender == user, (
                        f"not for this user: {what}\n{await self._traces(device, message)}"
                    )
                    assert shown[message.id].mark == "durable", f"still live: {what}"
                if then and due and member and always:
                    self._same(message, shown[message.id].message, what)
            left = shown.keys() - {message.id for message in stored}
            assert not left, f"{device.name} shows in {channel} what is not stored: {left}"
            if there is not None and member and device.first and always and there.kind == "direct":
                device.observer.joined(channel)
            elif not (member and always):
                device.observer.left(channel)  # what was told him in error may be withdrawn from him, acked or not
        if there is not None:
            reader = next((one for one in world.devices if one.user in rows and rows[one.user].role is not None), None)
            if reader is not None:
                reply = await reader.client._engine.ask(lambda rid, _: History(rid, channel, limit=100), timeout=60.0)
                reader.observer.final(channel, reply.messages, complete=reply.more is False)

    async def _traces(self, device: Any, message: Any) -> str:
        """Where a message stands and what a device saw of it."""
        world = self.world
        rows = [
            f"{key} {row.offset} (prev {row.prev}) {row.record}"
            for key in (f"u:t/{device.user}", f"c:t/{message.channel}")
            for row in await world.store.timeline(key, after=-1, limit=1000)
            if (row.record.channel == message.channel and message.id in (row.record.id, getattr(row.record, "of", 0)))
            or type(row.record).__name__ in ("RouteRecord", "MemberRecord")
        ]
        seen = [
            str(one)
            for one in world.records
            if str(message.id) in str(one) or (one.client == device.name and type(one).__name__[-2:] == "ed")
        ]
        view = device.client.view(message.channel)
        held = {
            one: (entry.base, entry.live, entry.withdrawn)
            for one, entry in view._entries.items()
            if entry.base is None or entry.base.client_id == message.client_id
        }
        log = [
            f"{topic} {part}/{entry.offset} at {entry.time} {decode(entry.value)}"
            for topic, decode in (("messages", decode_log), ("inbox", decode_reference))
            for part in range(2)
            for entry in await world.log.read(topic, part, 0, 10_000)
            if message.client_id in str(decode(entry.value))
        ]
        rows += log
        more = [str(device.client._engine.state.channels), f"view: {held} {view._aliases} {view._drafts}"]
        return "\n".join([str(message), *rows, *seen, *more])

    def _same(self, stored: Any, shown: Any, what: str) -> None:
        assert shown.deleted is bool(stored.deleted), f"deleted: {what}"
        if not stored.deleted:
            assert shown.body == stored.body, f"body: {what}: {shown.body!r} for {stored.body!r}"
            wanted = {emoji: set(who) for emoji, who in (stored.reactions or {}).items() if who}
            assert {emoji: set(who) for emoji, who in shown.reactions.items() if who} == wanted, f"reactions: {what}"


def test_every_promise_holds(new_world: Callable[..., Any]) -> None:
    wanted = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=SEED is None and "CI" in os.environ,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink)
        if "MODEL_SHRINK" in os.environ
        else (Phase.explicit, Phase.generate),
        print_blob=True,
        database=None,
    )

    def machine() -> Delivery:
        return Delivery(new_world)

    if SEED is not None:
        machine._hypothesis_internal_use_seed = int(SEED)  # type: ignore[attr-defined]
    run_state_machine_as_test(machine, settings=wanted)
