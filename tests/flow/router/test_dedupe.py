"""A client_id is one message: repeats, claims, verdicts, retries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatcluster.core.frames import Ack, Delete, Edit, ErrorFrame, React, Send
from chatcluster.core.ids import first_id
from chatcluster.core.records import CHECK, PLAIN, RETRY
from chatcluster.core.rows import VerdictRow
from chatcluster.ports import Claim, Unavailable
from chatcluster.services.router.drafts import content_digest
from chatcluster.services.router.settings import RouterSettings
from handmade_router import Jump, World, code, running, send, verdict


def test_a_repeat_of_a_durable_send_is_acked_with_the_first_id(play: Any) -> None:
    async def scene(world: World) -> None:
        first = await world.answer(send(client_id="x"))
        await world.settle()
        again = await world.answer(send(client_id="x"))
        assert isinstance(first, Ack)
        assert isinstance(again, Ack)
        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.id == first.id
        assert len(world.log.records) == 1

    play(scene)


@pytest.mark.parametrize("settled", [True, False])
def test_other_content_under_the_same_client_id_is_a_conflict(play: Any, settled: bool) -> None:
    async def scene(world: World) -> None:
        world.log.hold = not settled
        world.ask(send(client_id="x", body="one"))
        await world.settle()
        before = len(world.live())
        for other in (send(client_id="x", body="two"), send(client_id="x", body="one", data={"a": 1})):
            answer = await world.answer(other)
            assert isinstance(answer, ErrorFrame)
            assert (answer.code, answer.retryable) == ("id_conflict", False)
        assert (len(world.log.records), len(world.live())) == (1, before)

    play(scene)


def test_a_repeat_that_differs_in_anything_is_other_content() -> None:
    contents = [
        Send("r", "small", "x", "one"),
        Send("r", "small", "x", "two"),
        Send("r", "small", "x", "one", {"a": 1}),
        Send("r", "small", "x", "one", None, "7"),
        Edit("r", "small", "7", "x", "one"),
        Edit("r", "small", "8", "x", "one"),
        Edit("r", "small", "7", "x", "two"),
        Edit("r", "small", "7", "x", "one", {"a": 1}),
        React("r", "small", "7", "x", "+"),
        React("r", "small", "8", "x", "+"),
        React("r", "small", "7", "x", "-"),
        React("r", "small", "7", "x", "+", remove=True),
        Delete("r", "small", "7", "x"),
        Delete("r", "small", "8", "x"),
    ]
    assert len({content_digest(content) for content in contents}) == len(contents)
    assert content_digest(Send("q", "small", "x", "one", after="9", retry=True)) == content_digest(contents[0])


def test_client_ids_of_users_and_channels_are_their_own(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.add("small", "bo")
        answers = [
            await world.answer(send(client_id="x", body="one")),
            await world.answer(send(client_id="x", body="two"), "bob"),
            await world.answer(send("pair", client_id="x", body="three")),
            await world.answer(send(client_id="nx", body="four"), "an", system=True),
            await world.answer(send(client_id="bx", body="one"), "bo"),  # together they read as bob's
        ]
        assert [code(answer) for answer in answers] == ["Ack"] * 5

    play(scene)


def test_a_pending_young_claim_goes_on_with_its_id_and_waits_for_the_verdict(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.hold = True
        first = world.ask(send(client_id="x"))
        await world.settle()
        await asyncio.sleep(5)
        again = world.ask(send(client_id="x"))
        await world.settle()
        one, two = world.log.sent
        assert two.id == one.id
        assert two.flag == CHECK
        world.log.report(0)
        world.log.report(1)
        assert isinstance(world.answers[first], Ack)
        await asyncio.sleep(1)
        assert again not in world.answers, "acked without the verdict"
        verdict(world, 0, one.id)
        await world.until(lambda: again in world.answers)
        ack = world.answers[again]
        assert isinstance(ack, Ack)
        assert (ack.id, ack.duplicate) == (str(one.id), True)

    play(scene)


def test_a_pending_old_claim_gets_a_new_id_flagged_and_the_winner_is_acked(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.hold = True
        world.ask(send(client_id="x"))
        await world.settle()
        await asyncio.sleep(31)
        world.log.hold = False
        world.log.age = 0.0
        again = world.ask(send(client_id="x"))
        await world.settle()
        one, two = world.log.sent
        assert two.id > one.id
        assert two.flag == CHECK
        verdict(world, 0, one.id)
        verdict(world, 1, one.id)
        await world.until(lambda: again in world.answers)
        ack = world.answers[again]
        assert isinstance(ack, Ack)
        assert (ack.id, ack.duplicate) == (str(one.id), True)
        # The newer attempt has the entry, and as it lost it must not be called durable.
        (held,) = await world.dedupe.claim([Claim("t/small/3:annx", 0, 0)])
        assert held is not None
        assert (held.id, held.durable) == (two.id, False)

    play(scene)


def test_an_id_that_was_acked_is_before_the_next_one(play: Any) -> None:
    async def scene(world: World) -> None:
        ahead = first_id(world.clock.now() + 4_000)  # of a router whose clock is a little ahead
        request = send(client_id="x")
        await world.dedupe.claim([Claim("t/small/3:annx", ahead, content_digest(request))])
        world.dedupe.settle([Claim("t/small/3:annx", ahead, content_digest(request))])
        ack = await world.answer(request)
        following = await world.answer(send())
        assert isinstance(ack, Ack)
        assert isinstance(following, Ack)
        assert int(following.id) > int(ack.id) == ahead

        further = first_id(world.clock.now() + 4_900)
        name = world.ask(send(client_id="y", retry=True))
        await world.until(lambda: len(world.log.sent) == 2)
        verdict(world, 1, further)
        await world.until(lambda: name in world.answers)
        following = await world.answer(send())
        assert isinstance(following, Ack)
        assert int(following.id) > further

    play(scene)


def test_a_dedupe_that_does_not_answer_is_left_alone_for_a_while(play: Any) -> None:
    async def scene(world: World) -> None:
        asked = 0

        async def silent(claims: Any) -> Any:
            nonlocal asked
            asked += 1
            raise Unavailable("down")

        world.dedupe.claim = silent  # type: ignore[method-assign]
        for _ in range(5):
            world.ask(send())
            await asyncio.sleep(0.1)
        assert asked == 1
        await asyncio.sleep(1.0)
        world.ask(send())
        await world.settle()
        assert asked == 2

    play(scene)


def test_over_the_bound_of_verdicts_a_flagged_send_is_refused_and_not_published(play: Any) -> None:
    async def scene(world: World) -> None:
        names = [world.ask(send(retry=True)) for _ in range(2)]
        await world.until(lambda: len(world.log.sent) == 2)
        await world.settle()
        before = len(world.live())
        assert code(await world.answer(send(retry=True))) == "overloaded"
        assert (len(world.log.sent), len(world.live())) == (2, before)
        assert code(await world.answer(send())) == "Ack", "others need no verdict"
        assert not world.answers.keys() & set(names)

    play(scene, max_verdicts=2)


def test_a_silent_dedupe_sends_on_flagged_and_acks_what_the_verdict_says(play: Any) -> None:
    async def scene(world: World) -> None:
        async def silent(claims: Any) -> Any:
            raise Unavailable("down")

        claim, world.dedupe.claim = world.dedupe.claim, silent  # type: ignore[method-assign]
        name = world.ask(send())
        await world.settle()
        (record,) = world.log.sent
        assert record.flag == CHECK
        assert len(world.live()) == 3, "sends go on live without dedupe"
        assert name not in world.answers
        verdict(world, 0, record.id)
        await world.until(lambda: name in world.answers)
        ack = world.answers[name]
        assert isinstance(ack, Ack)
        assert (ack.id, ack.duplicate) == (str(record.id), False)
        world.dedupe.claim = claim  # type: ignore[method-assign]
        await asyncio.sleep(1.1)
        assert code(await world.answer(send())) == "Ack"
        assert world.log.sent[-1].flag == PLAIN

    play(scene)


def test_a_flagged_send_without_a_verdict_or_with_a_void_one_is_of_unknown_outcome(play: Any) -> None:
    async def scene(world: World) -> None:
        never = world.ask(send(client_id="x", retry=True))
        void = world.ask(send(client_id="y", retry=True))
        await world.until(lambda: len(world.log.records) == 2)
        verdict(world, 1, None)
        await world.until(lambda: void in world.answers)
        assert code(world.answers[void]) == "unknown_outcome"
        assert never not in world.answers
        await world.until(lambda: never in world.answers, 11)
        assert code(world.answers[never]) == "unknown_outcome"

    play(scene)


def test_the_verdict_on_another_attempt_is_not_the_answer(play: Any) -> None:
    async def scene(world: World) -> None:
        name = world.ask(send(client_id="x", retry=True))
        await world.until(lambda: len(world.log.records) == 1)
        (record,) = world.log.sent
        void = VerdictRow("t", "small", "ann", "x", 99, record.id - 1, None, world.clock.now(), record.digest)
        world.store.rows.append(void)
        await asyncio.sleep(1)
        assert name not in world.answers
        verdict(world, 0, record.id)
        await world.until(lambda: name in world.answers, 1)
        assert code(world.answers[name]) == "Ack"

    play(scene)


def test_when_as_many_wait_for_verdicts_as_may_nothing_more_is_published(play: Any) -> None:
    async def scene(world: World) -> None:
        waiting = world.ask(send(retry=True))
        await world.until(lambda: len(world.log.records) == 1)
        await world.settle()
        assert code(await world.answer(send(retry=True))) == "overloaded"
        assert (len(world.log.records), len(world.live())) == (1, 3)
        assert waiting not in world.answers

    play(scene, max_verdicts=1)


@pytest.mark.parametrize("error", [Unavailable("down"), RuntimeError("a row that cannot be read")])
def test_a_verdict_that_cannot_be_read_is_asked_for_again_until_the_deadline(play: Any, error: Exception) -> None:
    async def scene(world: World) -> None:
        names = [world.ask(send(retry=True)) for _ in range(2)]
        await world.until(lambda: len(world.log.sent) == 2)
        read = world.store.verdicts

        async def fails(*args: Any) -> Any:
            raise error

        world.store.verdicts = fails  # type: ignore[method-assign]
        await asyncio.sleep(5)
        assert not world.answers
        world.store.verdicts = read  # type: ignore[method-assign]
        verdict(world, 0, world.log.sent[0].id)
        await world.until(lambda: names[0] in world.answers)
        assert code(world.answers[names[0]]) == "Ack"
        world.store.verdicts = fails  # type: ignore[method-assign]
        await world.until(lambda: names[1] in world.answers, limit=6.0)
        assert code(world.answers[names[1]]) == "unknown_outcome"

    play(scene, verdict_deadline=10.0)


def test_who_waits_for_a_verdict_is_answered_when_the_router_stops(jump: Jump, loop_clock: Any) -> None:
    async def main() -> None:
        world = World(loop_clock, RouterSettings())
        async with running(world):
            name = world.ask(send(retry=True))
            await world.until(lambda: len(world.log.sent) == 1)
            await world.settle()
            assert name not in world.answers
        assert code(world.answers[name]) == "unknown_outcome"

    jump(main())


def test_a_retry_is_answered_by_the_verdict_rows_even_with_dedupe_wiped(play: Any) -> None:
    async def scene(world: World) -> None:
        first = await world.answer(send(client_id="x"))
        assert isinstance(first, Ack)
        verdict(world, 0, int(first.id))
        world.dedupe.wipe()
        heard = len(world.live())
        again = await world.answer(send(client_id="x", retry=True))
        assert isinstance(again, Ack)
        assert (again.id, again.duplicate) == (first.id, True)
        assert len(world.log.records) == 1
        assert len(world.live()) == heard
        conflict = await world.answer(send(client_id="x", retry=True, body="other"))
        assert (code(conflict), len(world.log.records)) == ("id_conflict", 1)

    play(scene)


def test_what_is_sent_after_a_retry_sorts_behind_what_answered_it(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(send(client_id="x"))
        ahead = first_id(world.clock.now() + 3_000)  # minted by a router whose clock is ahead
        verdict(world, 0, ahead)
        again = await world.answer(send(client_id="x", retry=True))
        following = await world.answer(send(client_id="y"))
        assert isinstance(again, Ack)
        assert isinstance(following, Ack)
        assert int(following.id) > int(again.id) == ahead

    play(scene)


def test_a_retry_without_verdict_rows_is_produced_flagged_and_the_winner_acked(play: Any) -> None:
    async def scene(world: World) -> None:
        # The first attempt is in the log, its rows are not yet in the store, and dedupe says nothing.
        first = await world.answer(send(client_id="x"))
        assert isinstance(first, Ack)
        name = world.ask(send(client_id="x", retry=True))
        await world.until(lambda: len(world.log.records) == 2)
        one, two = world.log.sent
        assert (two.flag, two.id > one.id) == (RETRY, True)
        verdict(world, 0, one.id)
        verdict(world, 1, one.id)
        await world.until(lambda: name in world.answers)
        ack = world.answers[name]
        assert isinstance(ack, Ack)
        assert (ack.id, ack.duplicate) == (first.id, True)

    play(scene)


def test_a_verdict_for_other_content_is_a_conflict(play: Any) -> None:
    async def scene(world: World) -> None:
        name = world.ask(send(client_id="x", retry=True))
        await world.until(lambda: len(world.log.records) == 1)
        world.store.rows.append(VerdictRow("t", "small", "ann", "x", -5, 5, 5, world.clock.now(), 12345))
        verdict(world, 0, 5)
        await world.until(lambda: name in world.answers)
        assert code(world.answers[name]) == "id_conflict"

    play(scene)


def test_verdicts_beyond_the_horizon_do_not_answer_a_retry(play: Any) -> None:
    async def scene(world: World) -> None:
        request = send(client_id="x", retry=True)
        old = world.clock.now() - 2 * 86_400_000
        world.store.rows.append(VerdictRow("t", "small", "ann", "x", 0, 5, 5, old, content_digest(request)))
        world.ask(request)
        await world.until(lambda: len(world.log.records) == 1)

    play(scene)
