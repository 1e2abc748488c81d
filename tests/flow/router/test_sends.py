"""From a send to its ack: the path, its limits, what is refused before anything is published, and reports."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatcluster.core.envelope import ROUTERS_TOPIC, Changed, Live
from chatcluster.core.frames import Ack, Edit, ErrorFrame, React, Request, Send
from chatcluster.core.ids import first_id
from chatcluster.core.records import MAX_AGE, PLAIN, EditRecord, MessageRecord
from chatcluster.ports import Delivery, Failure
from handmade_router import World, code, send

# -- the path --------------------------------------------------------------------------------------


def test_a_send_is_told_to_every_member_and_acked_when_durable(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.hold = True
        name = world.ask(send(body="hi", data={"a": 1}))
        await world.settle()

        assert world.answers == {}, "acked before the log reported"
        assert sorted(d.topic for d in world.live()) == [f"u:t/{user}" for user in ("ann", "bob", "cat")]
        record = world.log.sent[0]
        assert isinstance(record, MessageRecord)
        assert (record.tenant, record.channel, record.actor, record.body, record.data, record.flag) == (
            "t", "small", "ann", "hi", {"a": 1}, PLAIN,
        )  # fmt: skip
        assert all(d.envelope == Live(record) for d in world.live())

        world.log.report(0)
        ack = world.answers[name]
        assert isinstance(ack, Ack)
        assert (ack.id, ack.channel, ack.duplicate) == (str(record.id), "small", False)

    play(scene)


def test_a_large_channel_is_told_on_its_own_topic_only(play: Any) -> None:
    async def scene(world: World) -> None:
        assert code(await world.answer(send("large"))) == "Ack"
        assert [d.topic for d in world.live()] == ["c:t/large"]

    play(scene)


def test_sends_of_a_session_keep_their_order_and_an_answer_sorts_after_its_question(play: Any) -> None:
    async def scene(world: World) -> None:
        names = [world.ask(send(body=str(n))) for n in range(50)]
        await world.until(lambda: len(world.answers) == 50)
        ids = [int(world.answers[name].id) for name in names]  # type: ignore[union-attr]
        assert ids == sorted(set(ids))
        assert [r.body for r in world.log.sent if isinstance(r, MessageRecord)] == [str(n) for n in range(50)]

        ahead = first_id(world.clock.now() + 3_000)  # another router's clock is ahead
        answer = await world.answer(send(after=str(ahead)))
        assert isinstance(answer, Ack)
        assert int(answer.id) > ahead

    play(scene, send_burst=100)


def test_sends_keep_their_order_while_their_channel_is_loaded_and_an_edit_is_checked(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.message("small", 77, "ann")
        world.store.slow = 0.2
        world.ask(send(body="one"))
        world.ask(Edit("e1", "small", "77", "ce1", "two"))
        world.ask(send(body="three"))
        world.ask(Edit("e2", "small", "77", "ce2", "four"))
        world.ask(send(body="five"))
        other = world.ask(send(body="other"), "bob", session="s2")
        await world.until(lambda: len(world.answers) == 6)
        bodies = [record.body for record in world.log.sent if isinstance(record, MessageRecord | EditRecord)]
        assert [body for body in bodies if body != "other"] == ["one", "two", "three", "four", "five"]
        assert bodies.index("other") < bodies.index("two"), "one session's edit held up another session"
        assert code(world.answers[other]) == "Ack"
        ids = [record.id for record in world.log.sent]
        assert ids == sorted(ids)

    play(scene)


def test_who_comes_just_before_the_channel_is_loaded_stays_behind_who_waited(play: Any) -> None:
    async def scene(world: World) -> None:
        members = world.store.members

        async def late(*args: Any, **more: Any) -> Any:
            rows = await members(*args, **more)
            world.ask(send(body="two"))
            return rows

        world.store.slow = 0.1
        world.store.members = late  # type: ignore[method-assign]
        world.ask(send(body="one"))
        await world.until(lambda: len(world.answers) == 2)
        assert [record.body for record in world.log.sent if isinstance(record, MessageRecord)] == ["one", "two"]

    play(scene)


def test_news_that_come_while_a_channel_is_read_are_not_overwritten_by_what_was_read(play: Any) -> None:
    async def scene(world: World) -> None:
        members = world.store.members

        async def old(*args: Any, **more: Any) -> Any:
            rows = await members(*args, **more)
            world.store.members = members  # type: ignore[method-assign]
            world.store.remove("small", "bob")
            news = Changed("t", "small", world.store.channels["small"].version)
            world.router._cache.follow([Delivery(ROUTERS_TOPIC, news)])
            return rows

        world.store.members = old  # type: ignore[method-assign]
        assert code(await world.answer(send(), "bob")) == "no_such_channel"
        assert world.log.records == []

    play(scene)


def test_one_flight_loads_a_channel_for_all_who_wait(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.slow = 0.1
        for n in range(20):
            world.ask(send(), "ann" if n % 2 else "bob", session=f"s{n}")
        await world.until(lambda: len(world.answers) == 20)
        assert world.store.reads.count("channel") <= 2

    play(scene)


@pytest.mark.parametrize("client_id", ["7f3e 1", "👩\u200d👩\u200d👧", "no\u00a0break", "é" * 64])
def test_a_client_id_is_any_text_without_control_characters(play: Any, client_id: str) -> None:
    async def scene(world: World) -> None:
        assert isinstance(await world.answer(send(client_id=client_id)), Ack)

    play(scene)


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (send(body=""), "body_empty"),
        (send(body="ä" * 9), "body_too_long"),
        (send(body="a" * 17), "body_too_long"),
        (send(client_id="x" * 65), "bad_client_id"),
        (send(client_id="a\nb"), "bad_client_id"),
        (Send("r-empty", "small", "", "body"), "bad_client_id"),
        (send(after="x"), "bad_request"),
        (send(reply_to="-1"), "bad_request"),
        (Edit("r-edit", "small", "1", "c", ""), "body_empty"),
    ],
)
def test_bad_input_has_one_named_error_and_no_effect(play: Any, request_: Request, wanted: str) -> None:
    async def scene(world: World) -> None:
        answer = await world.answer(request_)
        assert isinstance(answer, ErrorFrame)
        assert (answer.code, answer.retryable, answer.rid) == (wanted, False, request_.rid)  # type: ignore[union-attr]
        assert (world.log.records, world.live()) == ([], [])

    play(scene, max_body_bytes=16)


def test_bodies_up_to_the_limit_in_bytes_pass(play: Any) -> None:
    async def scene(world: World) -> None:
        for body in ("ä" * 8, "a" * 16, "😀" * 4):
            assert code(await world.answer(send(body=body))) == "Ack"

    play(scene, max_body_bytes=16)


def test_each_user_has_a_rate(play: Any) -> None:
    async def scene(world: World) -> None:
        answers = [await world.answer(send()) for _ in range(4)]
        assert [code(answer) for answer in answers] == ["Ack", "Ack", "Ack", "rate_limited"]
        refused = answers[-1]
        assert isinstance(refused, ErrorFrame)
        assert refused.retryable
        assert isinstance(refused.retry_after_ms, int)
        assert 0 < refused.retry_after_ms <= 1_000
        assert code(await world.answer(send(), "bob")) == "Ack"
        assert code(await world.answer(send(), "ann", system=True)) == "Ack"
        assert code(await world.answer(send(), "ann", tenant="other")) == "no_such_channel", "another ann's rate"
        await asyncio.sleep(refused.retry_after_ms / 1_000)
        assert code(await world.answer(send())) == "Ack"
        assert len(world.log.records) == 6

    play(scene, send_burst=3, sends_per_second=1)


# -- refusals before anything is published ---------------------------------------------------------


def test_a_stalled_log_refuses_before_anything_is_claimed_or_published(play: Any) -> None:
    async def scene(world: World) -> None:
        again = send(client_id="same")
        world.log.age = 1.1
        answer = await world.answer(again)
        assert isinstance(answer, ErrorFrame)
        assert (answer.code, answer.retryable) == ("overloaded", True)
        assert isinstance(answer.retry_after_ms, int)
        assert (world.log.records, world.live()) == ([], [])
        world.log.age = 0.9
        ack = await world.answer(send(client_id="same", body="another"))
        assert code(ack) == "Ack", "the refused send had claimed its client_id"

    play(scene)


def test_a_log_that_stalls_during_the_claim_refuses_before_anything_is_published(play: Any) -> None:
    async def scene(world: World) -> None:
        claim = world.dedupe.claim

        async def slowly(claims: Any) -> Any:
            world.log.age = 2.0
            return await claim(claims)

        world.dedupe.claim = slowly  # type: ignore[method-assign]
        assert code(await world.answer(send())) == "overloaded"
        assert (world.log.records, world.live()) == ([], [])

    play(scene)


def test_a_full_log_refuses_and_nothing_of_it_is_published(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.full = True
        answer = await world.answer(send())
        assert isinstance(answer, ErrorFrame)
        assert (answer.code, answer.retryable) == ("overloaded", True)
        await world.settle()
        assert world.live() == []

    play(scene)


def test_what_is_in_flight_is_bounded(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.hold = True
        names = [world.ask(send()) for _ in range(8)]
        await world.settle()
        assert [code(world.answers[name]) for name in names[5:]] == ["overloaded"] * 3
        assert len(world.log.records) == 5
        assert len(world.live()) == 15
        for offset in range(5):
            world.log.report(offset)
        assert [code(world.answers[name]) for name in names[:5]] == ["Ack"] * 5
        world.log.hold = False
        assert code(await world.answer(send())) == "Ack"

    play(scene, max_in_flight=5)


@pytest.mark.parametrize("bound", ["max_waiting", "max_arrivals"])
def test_what_waits_for_a_channel_is_bounded(play: Any, bound: str) -> None:
    async def scene(world: World) -> None:
        world.store.slow = 0.5
        names = []
        for _ in range(5):
            names.append(world.ask(send()))
            await world.settle()
        assert [code(world.answers[name]) for name in names[3:]] == ["overloaded"] * 2
        await world.until(lambda: len(world.answers) == 5)
        assert [code(world.answers[name]) for name in names[:3]] == ["Ack"] * 3

    play(scene, **{bound: 3})


@pytest.mark.parametrize(("bound", "taken"), [("max_waiting", 4), ("max_arrivals", 3)])
def test_sessions_that_wait_for_one_channel_are_bounded(play: Any, bound: str, taken: int) -> None:
    async def scene(world: World) -> None:
        world.store.slow = 0.5
        names = []
        for n in range(6):
            names.append(world.ask(send(), session=f"s{n}"))
            await world.settle()
        assert [code(world.answers[name]) for name in names[taken:]] == ["overloaded"] * (6 - taken)
        await world.until(lambda: len(world.answers) == 6)
        assert [code(world.answers[name]) for name in names[:taken]] == ["Ack"] * taken

    play(scene, **{bound: 3})


def test_reads_before_sends_are_bounded(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.message("small", 1, "ann")
        await world.answer(send())
        world.store.slow = 0.5
        names = [world.ask(React(f"r{n}", "small", "1", f"c{n}", "+"), session=f"s{n}") for n in range(3)]
        await world.until(lambda: len(world.answers) == 4)
        assert [code(world.answers[name]) for name in names] == ["Ack", "Ack", "overloaded"]

    play(scene, max_checks=2)


def test_a_channel_that_changes_all_the_time_is_sent_to_all_the_same(play: Any) -> None:
    async def scene(world: World) -> None:
        channel = world.store.channel

        async def restless(*args: Any) -> Any:
            row = await channel(*args)
            world.router._cache.follow([Delivery(ROUTERS_TOPIC, Changed("t", "small", row.version + 1))])
            return row

        world.store.slow = 0.01
        world.store.channel = restless  # type: ignore[method-assign]
        assert code(await world.answer(send())) == "Ack"

    play(scene)


def test_arrivals_are_bounded(play: Any) -> None:
    async def scene(world: World) -> None:
        names = [world.ask(send()) for _ in range(5)]
        assert [code(world.answers[name]) for name in names[3:]] == ["overloaded"] * 2
        await world.until(lambda: len(world.answers) == 5)
        assert [code(world.answers[name]) for name in names[:3]] == ["Ack"] * 3

    play(scene, max_arrivals=3)


def test_who_waits_for_a_read_is_bounded(play: Any) -> None:
    async def scene(world: World) -> None:
        world.store.slow = 1.0
        names = [world.ask(send()) for _ in range(5)]  # behind one another
        await world.settle()
        assert [code(world.answers[name]) for name in names[3:]] == ["overloaded"] * 2
        others = [world.ask(send("pair"), session=f"s{number}") for number in range(3)]  # in lanes of their own
        await world.settle()
        assert [code(world.answers[name]) for name in others[2:]] == ["overloaded"]
        more = world.ask(send("pair"), session="s0")
        await world.settle()
        assert code(world.answers[more]) == "overloaded"
        await world.until(lambda: len(world.answers) == 9)
        assert [code(world.answers[name]) for name in (*names[:3], *others[:2])] == ["Ack"] * 5

    play(scene, max_waiting=3, max_arrivals=5)


def test_checks_at_once_are_bounded(play: Any) -> None:
    async def scene(world: World) -> None:
        await world.answer(send())
        world.store.slow = 1.0
        names = [world.ask(send(retry=True), session=f"s{number}") for number in range(3)]
        await world.settle()
        assert [name in world.answers for name in names] == [False, False, True]
        assert code(world.answers[names[2]]) == "overloaded"
        assert code(await world.answer(send(), session="s3")) == "Ack", "who needs no read passes"

    play(scene, max_checks=2)


# -- reports ---------------------------------------------------------------------------------------


def test_a_record_void_by_age_is_never_acked(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.late = MAX_AGE + 1
        answer = await world.answer(send(client_id="x"))
        assert isinstance(answer, ErrorFrame)
        assert (answer.code, answer.retryable) == ("unknown_outcome", True)
        world.log.late = 0
        assert code(await world.answer(send(client_id="y"))) == "Ack"

    play(scene)


def test_a_record_just_within_the_age_is_acked(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.late = MAX_AGE
        assert code(await world.answer(send())) == "Ack"

    play(scene)


def test_a_failed_report_and_a_missing_one_are_of_unknown_outcome(play: Any) -> None:
    async def scene(world: World) -> None:
        world.log.hold = True
        failed, missing = world.ask(send()), world.ask(send())
        await world.settle()
        world.log.report(0, Failure("leader lost"))
        assert code(world.answers[failed]) == "unknown_outcome"
        await asyncio.sleep(9.9)
        assert missing not in world.answers
        await asyncio.sleep(1.0)
        assert code(world.answers[missing]) == "unknown_outcome"
        world.log.report(1)  # late: must not answer a second time
        await world.settle()

    play(scene, report_deadline=10.0)
