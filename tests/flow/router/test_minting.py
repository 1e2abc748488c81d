"""Worker numbers, clocks, sleep and the end: a router that may not mint does not."""

from __future__ import annotations

import asyncio
from typing import Any

from chatcluster.core.frames import Ack, Edit, ErrorFrame, History
from chatcluster.core.ids import CLOCK_BOUND, MAX_ID, first_id, id_time
from chatcluster.ports import Fenced, Lease, Unavailable
from chatcluster.services.router.settings import RouterSettings
from handmade_router import Jump, World, code, running, send


class HandWorkers:
    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.error: Exception | None = None
        self.ttl = 30.0
        self.number = 3
        self.skew: int | None = None
        self.floor = 0

    async def lease(self, holder: str) -> Lease:
        if self.error is not None:
            raise self.error
        return Lease(self.number, self.floor, self.clock.monotonic() + self.ttl, self.skew)


def test_a_clock_that_leaves_the_others_mints_nothing_until_it_is_back(jump: Jump, loop_clock: Any) -> None:
    async def main() -> None:
        world = World(loop_clock, RouterSettings())
        workers = world.workers = HandWorkers(loop_clock)
        workers.skew = -5_000  # the bound is allowed
        async with running(world):
            first = await world.answer(send())
            assert isinstance(first, Ack)
            for skew in (3_600_000, -5_500):
                workers.skew = skew
                await asyncio.sleep(12)
                answer = await world.answer(send(client_id=f"c{skew}"))
                assert isinstance(answer, ErrorFrame)
                assert (answer.code, answer.retryable) == ("unavailable", True)
            workers.skew = 0
            await asyncio.sleep(12)
            second = await world.answer(send(client_id="back"))
            assert isinstance(second, Ack)
            assert id_time(int(second.id)) < loop_clock.now() + CLOCK_BOUND

    jump(main())


def test_a_fenced_router_refuses_and_mints_again_with_another_number(jump: Jump, loop_clock: Any) -> None:
    async def main() -> None:
        world = World(loop_clock, RouterSettings())
        workers = world.workers = HandWorkers(loop_clock)
        async with running(world):
            first = await world.answer(send())
            assert isinstance(first, Ack)
            workers.error = Fenced("taken")
            await asyncio.sleep(6)
            answer = await world.answer(send())
            assert isinstance(answer, ErrorFrame)
            assert (answer.code, answer.retryable) == ("unavailable", True)
            workers.error, workers.number = None, 1
            await asyncio.sleep(2)
            again = await world.answer(send())
            assert isinstance(again, Ack)
            assert int(again.id) > int(first.id)
            assert int(again.id) >> 12 & 1023 == 1

    jump(main())


def test_ids_are_above_whatever_the_number_minted_before(jump: Jump, loop_clock: Any) -> None:
    async def main() -> None:
        world = World(loop_clock, RouterSettings())
        workers = world.workers = HandWorkers(loop_clock)
        workers.floor = first_id(loop_clock.now() + 3_000)
        async with running(world):
            ack = await world.answer(send())
            assert isinstance(ack, Ack)
            assert int(ack.id) > workers.floor

    jump(main())


def test_minting_stops_a_margin_before_the_lease_ends(jump: Jump, loop_clock: Any) -> None:
    async def main() -> None:
        world = World(loop_clock, RouterSettings(lease_margin=2.0))
        workers = world.workers = HandWorkers(loop_clock)
        async with running(world):
            workers.error = Unavailable("silent")
            await asyncio.sleep(27.9)
            assert code(await world.answer(send())) == "Ack"
            await asyncio.sleep(0.2)
            assert code(await world.answer(send())) == "unavailable"
            assert len(world.log.records) == 1

    jump(main())


def test_a_backward_clock_is_loud_and_never_makes_a_duplicate(play: Any) -> None:
    async def scene(world: World) -> None:
        first = await world.answer(send())
        world.clock.skew = -3_600_000
        assert code(await world.answer(send())) == "unavailable"
        world.clock.skew = -4_000
        again = await world.answer(send())
        assert isinstance(first, Ack)
        assert isinstance(again, Ack)
        assert int(again.id) > int(first.id)
        assert len(world.log.records) == 2

    play(scene)


def test_a_forged_after_does_not_push_the_clock(play: Any) -> None:
    async def scene(world: World) -> None:
        assert code(await world.answer(send(after=str(MAX_ID)))) == "unavailable"
        ack = await world.answer(send())
        assert isinstance(ack, Ack)
        assert id_time(int(ack.id)) <= world.clock.now()

    play(scene)


def test_who_slept_drops_what_waited_before_acting_on_it(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(send())
        name = world.ask(send(client_id="slept"))
        asyncio.get_running_loop().offset += 10.5  # type: ignore[attr-defined]
        await world.until(lambda: name in world.answers)
        assert code(world.answers[name]) == "unavailable"
        assert len(world.log.records) == 1
        assert len(world.live()) == 3
        again = await world.answer(send(client_id="slept", body="another"))
        assert code(again) == "Ack", "what was dropped had claimed its client_id"

    play(scene, report_deadline=60.0)


def test_what_was_claimed_while_the_process_slept_is_not_published(play: Any) -> None:
    async def scene(world: World) -> None:
        claim = world.dedupe.claim
        await world.answer(send())

        async def asleep(claims: Any) -> Any:
            asyncio.get_running_loop().offset += 10.5  # type: ignore[attr-defined]
            return await claim(claims)

        async def late(claims: Any) -> Any:
            await asyncio.sleep(10.5)  # the sweep looks at the clock meanwhile
            return await claim(claims)

        for slowly in (asleep, late):
            world.dedupe.claim = slowly  # type: ignore[method-assign]
            assert code(await world.answer(send())) == "unavailable"
        assert (len(world.log.records), len(world.live())) == (1, 3)
        world.dedupe.claim = claim  # type: ignore[method-assign]
        assert code(await world.answer(send())) == "Ack"

    play(scene)


def test_who_waited_for_a_read_while_the_process_slept_is_dropped_too(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.slow = 1.0
        names = [world.ask(send()) for _ in range(2)]
        await world.settle()
        asyncio.get_running_loop().offset += 10.5  # type: ignore[attr-defined]
        await world.until(lambda: len(world.answers) == 2)
        assert [code(world.answers[name]) for name in names] == ["unavailable"] * 2
        await asyncio.sleep(2)
        assert (world.log.records, world.live()) == ([], [])

    play(scene)


def test_what_was_produced_before_the_stop_is_of_unknown_outcome_and_the_rest_never_happened(
    jump: Jump, loop_clock: Any
) -> None:
    async def main() -> None:
        world = World(loop_clock, RouterSettings())
        async with running(world):
            world.log.hold = True
            world.ask(send(client_id="x"))
            await world.settle()
            await asyncio.sleep(31)  # the next of this client_id takes its place

            async def never(claim: Any) -> None:
                await asyncio.Event().wait()

            world.dedupe.replace = never  # type: ignore[method-assign]
            produced, replacing, behind = world.ask(send()), world.ask(send(client_id="x")), world.ask(send())
            await world.settle()
            assert len(world.log.records) == 2
        assert code(world.answers[produced]) == "unknown_outcome"
        assert code(world.answers[replacing]) == code(world.answers[behind]) == "unavailable"

    jump(main())


def test_stopping_answers_everything(jump: Jump, loop_clock: Any) -> None:
    async def main() -> None:
        world = World(loop_clock, RouterSettings())
        async with running(world):
            await world.answer(send())
            world.log.hold = True
            produced = world.ask(send())
            await world.settle()
            world.store.slow = 5.0
            parked = world.ask(send("pair"))
            checked = world.ask(Edit("e", "large", "1", "c", "b"))
            read = world.ask(History("h", "pair"))
            await world.settle()
            queued = world.ask(send())
        codes = {name: code(world.answers[name]) for name in (produced, parked, checked, read, queued)}
        assert codes[produced] == "unknown_outcome"
        assert codes[parked] == codes[checked] == "unavailable"
        assert {codes[read], codes[queued]} <= {"unavailable", "unknown_outcome"}
        world.log.report(1)
        assert code(world.answers[produced]) == "unknown_outcome"
        late = world.ask(send())
        assert code(world.answers[late]) == "unavailable"

    jump(main())
