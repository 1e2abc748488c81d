"""Presence from a heartbeat to a gateway's envelope: grace, loss of the store, fan-out budget, bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

from chatcluster.backends.memory.presence import MemoryPresence
from chatcluster.core.envelope import Envelope, Presence, PresenceChange, Status, gateway_topic
from chatcluster.core.metrics import Counter, Metrics
from chatcluster.ports import Beat, Bus, Clock, Delivery, Lost, Unavailable
from chatcluster.services.presence.node import PresenceNode
from chatcluster.services.presence.settings import PresenceSettings

Jump = Callable[[Coroutine[Any, Any, None]], None]
SETTINGS = PresenceSettings()
TTL, GRACE, TICK = SETTINGS.ttl_ms / 1000, SETTINGS.grace_ms / 1000, SETTINGS.tick_ms / 1000


class Sessions(MemoryPresence):
    """The memory backend, unreachable when a test says so."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.down = False
        self.touched = 0

    async def touch(self, beats: Sequence[Beat], *, ttl: int) -> Sequence[bool]:
        self._up()
        self.touched += len(beats)
        return await super().touch(beats, ttl=ttl)

    async def sessions(self, users: Sequence[tuple[str, str]]) -> Sequence[Mapping[str, tuple[Status, int]]]:
        self._up()
        return await super().sessions(users)

    async def expired(self, limit: int) -> Sequence[tuple[str, str]]:
        self._up()
        return await super().expired(limit)

    def _up(self) -> None:
        if self.down:
            raise Unavailable("down")


class Told(Bus):
    """What was published, flattened: (gateway, user, status)."""

    def __init__(self) -> None:
        self.envelopes: list[tuple[str, Presence]] = []

    def publish(self, topics: Sequence[str], envelope: Envelope) -> None:
        assert isinstance(envelope, Presence)
        self.envelopes.extend((topic, envelope) for topic in topics)

    async def subscribe(self, topics: Sequence[str]) -> None: ...

    async def unsubscribe(self, topics: Sequence[str]) -> None: ...

    async def listen(self) -> AsyncIterator[Sequence[Delivery | Lost]]:
        if False:
            yield []

    def changes(self, gateway: str = "g1", tenant: str = "t") -> list[tuple[str, Status]]:
        return [
            (change.user, change.status)
            for topic, envelope in self.envelopes
            if topic == gateway_topic(gateway)
            for change in envelope.changes.get(tenant, [])
        ]


class World:
    """A node with its store and what it told."""

    def __init__(self, clock: Clock, settings: PresenceSettings) -> None:
        self.clock, self.settings = clock, settings
        self.store, self.told, self.metrics = Sessions(clock), Told(), Metrics()
        self.node = PresenceNode(store=self.store, bus=self.told, clock=clock, metrics=self.metrics, settings=settings)

    def beat(self, user: str, status: Status = "online", session: str = "s", gateway: str = "g1") -> None:
        self.node.beat(gateway, [Beat("t", user, session, status)])

    async def watch(self, *users: str, session: str = "w", gateway: str = "g1", tenant: str = "t") -> dict[str, Status]:
        answer = await self.node.watch(gateway, session, tenant, users)
        assert all(isinstance(change, PresenceChange) for change in answer)
        return {change.user: change.status for change in answer}

    async def stay(self, seconds: float, **users: Status) -> None:
        """Let these users beat three times per time to live."""
        end = self.clock.monotonic() + seconds
        while (left := end - self.clock.monotonic()) > 0:
            for user, status in users.items():
                self.beat(user, status)
            self.node.beat("g1", [])
            await asyncio.sleep(min(left, TTL / 3))

    def counted(self, name: str) -> float:
        (value,) = [
            metric.source.value for metric in self.metrics if isinstance(metric.source, Counter) and metric.name == name
        ]
        return value


@asynccontextmanager
async def running(clock: Clock, **settings: int) -> AsyncIterator[World]:
    world = World(clock, msgspec.structs.replace(SETTINGS, **settings))
    task = asyncio.create_task(world.node.run())
    try:
        yield world
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_a_change_comes_within_two_ticks_and_once_per_gateway(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock) as world:
            # The celebrity: 5,000 sessions watch on one gateway, a few on another.
            for number in range(5_000):
                assert await world.watch("ada", session=f"w{number}") == {"ada": "offline"}
            await world.watch("ada", gateway="g2")
            await world.watch("ada", gateway="g3", tenant="other")
            world.beat("ada")
            await asyncio.sleep(2 * TICK)
            assert world.told.changes("g1") == world.told.changes("g2") == [("ada", "online")]
            assert world.told.changes("g3", "other") == world.told.changes("g3") == []
            assert await world.watch("ada", session="late") == {"ada": "online"}

    jump(main())


def test_a_polite_leave_shows_after_the_grace_and_a_reconnect_inside_it_never(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock) as world:
            for user in ("ada", "bob"):
                world.beat(user)
            await world.watch("ada", "bob")
            await asyncio.sleep(5)
            world.told.envelopes.clear()
            for user in ("ada", "bob"):
                world.beat(user, "offline")
            await asyncio.sleep(GRACE - 2 * TICK)
            world.beat("ada", session="s2")
            assert world.told.changes() == []
            await asyncio.sleep(4 * TICK)
            assert world.told.changes() == [("bob", "offline")]
            await world.stay(TTL, ada="online")
            assert world.told.changes() == [("bob", "offline")]

    jump(main())


def test_silence_shows_within_a_tick_of_the_time_to_live(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock) as world:
            world.beat("ada")
            await asyncio.sleep(0.1)
            assert await world.watch("ada") == {"ada": "online"}
            await world.stay(TTL - 2 * TICK)
            assert world.told.changes() == []
            await world.stay(4 * TICK)
            assert world.told.changes() == [("ada", "offline")]

    jump(main())


def test_one_of_two_sessions_running_out_is_found_by_the_sweep(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock) as world:
            world.beat("ada", "online", "desktop")
            await asyncio.sleep(0.1)
            await world.watch("ada")
            await world.stay(TTL + SETTINGS.sweep_ms / 1000 + 2 * TICK, ada="away")
            assert world.told.changes() == [("ada", "away")]

    jump(main())


def test_a_wiped_store_is_rebuilt_without_a_flap(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock) as world:
            await world.stay(2, ada="online", bob="online")
            await world.watch("ada", "bob")
            await world.stay(30, ada="online", bob="online")
            assert world.told.changes() == []
            world.store.wipe()
            await world.stay(TTL - TICK, ada="online")  # bob left while nothing was known
            assert world.told.changes() == []
            assert world.counted("presence_store_losses_total") == 1
            await world.stay(3 * TICK, ada="online")
            assert world.told.changes() == [("bob", "offline")]
            await world.stay(2 * TTL, ada="online")
            assert world.told.changes() == [("bob", "offline")]

    jump(main())


def test_a_store_that_is_well_is_never_taken_for_lost(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock) as world:
            await world.stay(30 * TTL, ada="online")  # longer than its sentinel lives unrenewed
            assert world.counted("presence_store_losses_total") == 0

    jump(main())


def test_who_asks_just_after_a_loss_is_not_told_that_everybody_left(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock) as world:
            await world.stay(2, ada="online", bob="online")
            world.store.wipe()
            await asyncio.sleep(2 * TICK)
            world.beat("ada")
            await asyncio.sleep(0)
            assert await world.watch("ada", "bob") == {"ada": "online"}
            await world.stay(TTL + 3 * TICK, ada="online", bob="online")
            assert world.told.changes() == [("bob", "online")]

    jump(main())


def test_a_set_that_is_replaced_while_it_is_read_answers_with_what_is_left(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock) as world:
            await world.stay(2, ada="online", bob="online")
            sessions = world.store.sessions

            async def slowly(users: Sequence[tuple[str, str]]) -> Sequence[Mapping[str, tuple[Status, int]]]:
                found = await sessions(users)
                await asyncio.sleep(0.1)
                return found

            world.store.sessions = slowly  # type: ignore[method-assign]
            first, second = await asyncio.gather(world.watch("ada", "cyd"), world.watch("bob"))
            assert (first, second) == ({}, {"bob": "online"})

    jump(main())


def test_an_unreachable_store_announces_nothing_and_comes_back(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock) as world:
            await world.stay(2, ada="online")
            await world.watch("ada")
            world.store.down = True
            await world.stay(3 * TTL, ada="online")
            assert await world.watch("ada", "cyd", session="x") == {"ada": "online"}  # what is known; cyd is not
            world.store.down = False
            await world.stay(TTL - TICK, ada="online", cyd="online")
            assert world.told.changes() == []
            await world.stay(3 * TICK, ada="online", cyd="online")
            assert world.told.changes() == [("cyd", "online")]

    jump(main())


def test_over_the_budget_changes_wait_and_the_newest_state_wins(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        users = [f"u{number}" for number in range(450)]
        bounds = {"entries_per_second": 100, "envelope_entries": 60}
        async with running(loop_clock, spacing_ms=0, tick_ms=250, **bounds) as world:
            await world.watch(*users)
            for user in users:
                world.beat(user, "away")
            await asyncio.sleep(2.5)
            early = len(world.told.changes())
            assert 200 <= early <= 350  # one second saved up, and 100 a second
            for user in users:
                world.beat(user, "online")
            await asyncio.sleep(10)
            told = world.told.changes()
            assert dict(told) == dict.fromkeys(users, "online")
            # Those who waited skipped "away": only what had been told already is told twice.
            assert len(told) < 2 * len(users)
            per_tick = [sum(map(len, envelope.changes.values())) for _, envelope in world.told.envelopes]
            assert max(per_tick) <= 60

    jump(main())


def test_what_waits_is_dropped_with_its_last_watcher(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock, entries_per_second=1) as world:
            await world.watch("ada", "bob", "cyd")
            for user in ("ada", "bob", "cyd"):
                world.beat(user)
            await asyncio.sleep(0.5 * TICK)
            await world.watch("cyd")
            await asyncio.sleep(10 * TICK)
            assert [user for user, _ in world.told.changes()] in (["cyd"], ["ada", "cyd"])

    jump(main())


def test_nothing_is_told_after_a_loss_however_slowly_everybody_is_read_again(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        users: dict[str, Status] = {f"u{number}": "online" for number in range(40)}
        async with running(loop_clock, reads_per_tick=1) as world:
            await world.stay(1, **users)
            await world.watch(*users)
            await world.stay(5, **users)
            for user in list(users)[:5]:
                world.beat(user, "offline")  # their grace runs when the store is lost
            await asyncio.sleep(6 * TICK)
            world.store.wipe()
            await asyncio.sleep(6 * TICK)
            await world.stay(2 * TTL, **users)
            assert world.told.changes() == []

    jump(main())


def test_what_waits_for_the_budget_waits_after_a_loss_too(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        users: dict[str, Status] = {f"u{number}": "online" for number in range(40)}
        async with running(loop_clock, entries_per_second=1) as world:
            await world.watch(*users)
            await world.stay(3, **users)
            world.store.wipe()
            await asyncio.sleep(TICK)
            told = len(world.told.changes())
            assert 0 < told < 10
            await world.stay(TTL - 2 * TICK, **users)
            assert len(world.told.changes()) == told
            await world.stay(60, **users)
            assert dict(world.told.changes()) == users

    jump(main())


def test_a_flapping_user_costs_one_entry_per_spacing(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock, spacing_ms=5_000) as world:
            await world.watch("ada")
            for turn in range(600):
                world.beat("ada", "online" if turn % 2 else "away")
                await asyncio.sleep(0.1)
            assert 2 <= len(world.told.changes()) <= 60 / 5 + 1

    jump(main())


def test_forgotten_sessions_and_silent_gateways_cost_nothing(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock) as world:
            await world.watch("ada", session="w1")
            await world.watch("ada", "bob", session="w2")
            await world.watch("ada", gateway="g2")
            world.node.forget("g1", ["w1", "never seen"])
            await asyncio.sleep(2 * TICK)
            world.beat("ada")
            await asyncio.sleep(2 * TICK)
            assert world.told.changes() == [("ada", "online")]  # w2 still watches
            world.node.forget("g1", ["w2"])
            await asyncio.sleep(2 * TICK)
            world.beat("ada", "away")
            world.beat("bob")
            await asyncio.sleep(2 * TICK)
            assert world.told.changes() == [("ada", "online")]
            assert world.told.changes("g2") == [("ada", "online"), ("ada", "away")]
            await world.stay(2 * TTL + 2 * TICK)  # g2 says nothing any more: it was killed
            told = world.told.changes("g2")
            world.beat("ada", "online")
            await asyncio.sleep(2 * TICK)
            assert world.told.changes("g2") == told
            gauges = {metric.name: metric.source for metric in world.metrics if callable(metric.source)}
            assert gauges["presence_watched_users"]() == 0

    jump(main())


def test_a_session_that_watches_anew_after_forget_is_kept(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock) as world:
            await world.watch("ada")
            world.node.forget("g1", ["w"])
            await world.watch("bob")
            await asyncio.sleep(2 * TICK)
            world.beat("ada")
            world.beat("bob")
            await asyncio.sleep(2 * TICK)
            assert world.told.changes() == [("bob", "online")]

    jump(main())


def test_visible_sets_are_bounded_per_session_and_gateway(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock, watch_users=3, gateway_entries=5, gateways=2) as world:
            assert list(await world.watch("a", "b", "c", "d", session="w1")) == ["a", "b", "c"]
            assert list(await world.watch("d", "e", "f", session="w2")) == ["d", "e"]
            assert list(await world.watch("x", "y", session="w1")) == ["x", "y"]  # its old ones made room
            assert list(await world.watch("a", gateway="g2")) == ["a"]
            assert list(await world.watch("a", gateway="g3")) == []

    jump(main())


def test_over_the_bound_the_oldest_beats_are_dropped(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        world = World(loop_clock, msgspec.structs.replace(SETTINGS, beat_queue=10))
        await world.watch("u0", "u14")
        for number in range(15):
            world.beat(f"u{number}")
        assert world.counted("presence_beats_dropped_total") == 5
        task = asyncio.create_task(world.node.run())
        await asyncio.sleep(2 * TICK)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert world.told.changes() == [("u14", "online")]

    jump(main())


def test_a_flood_of_beats_leaves_the_loop_free(jump: Jump, loop_clock: Clock) -> None:
    async def main() -> None:
        async with running(loop_clock, slice=100) as world:
            world.node.beat("g1", [Beat("t", f"u{number}", "s", "online") for number in range(10_000)])
            turns, before = 0, world.store.touched
            while world.store.touched < 10_000:
                await asyncio.sleep(0)
                assert world.store.touched - before <= 100 + 1  # a slice, and the sentinel
                before = world.store.touched
                turns += 1
            assert turns >= 100

    jump(main())
