"""Rules of drains one by one: who counts, who goes first, how many may go, and what is said. Sequences of them are
in ``test_operator_drains``."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from chatcluster_operator import drains
from chatcluster_operator.drains import FIRST, PATIENCE, Asked, Step
from chatcluster_operator.observed import Pod, Workload

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = NOW + timedelta(minutes=5)


def pod(name="g", connections=1, revision="r", **others):
    measures = None if connections is None else {"chatcluster_gateway_sockets": float(connections)}
    return replace(Pod(name, "gateway", revision, True, None, measures), **others)


def workload(wanted=2, ready=2, total=2, revision="r", **others):
    return replace(
        Workload(f"main-gateway-{revision}", wanted, ready, ready, total, True, "", {}, "", revision), **others
    )


ROUTER = pod("router", component="router", asked=True, ends=ENDS, cost=FIRST)
"""Who is no gateway never counts."""


def test_gateways_are_those_that_were_not_told_to_leave():
    mine = pod()
    assert drains.gateways([mine, pod("left", ends=ENDS), ROUTER, replace(ROUTER, ends=None)]) == [mine]


# -- who was asked ----------------------------------------------------------------------------------------------------


def asked(*pods, **numbers):
    return drains.asked_of(pods, [workload(**numbers)]).get("r")


def test_of_a_revision_without_anybody_asked_nothing_is_said():
    assert asked(pod("a"), pod("b"), pod("c", revision="other", asked=True)) is None


def test_who_was_asked_waits_until_told():
    two = (pod("a", asked=True), pod("b"))
    assert asked(*two) == Asked(waiting=1, idle=0, seen=True, serving=2)
    assert asked(*two, pod("c", revision="other", ready=False, asked=True)) == asked(*two)
    told = Asked(waiting=0, idle=0, seen=False, serving=2)
    assert asked(*two, wanted=1) == told, "its controller has not acted yet"
    assert asked(*two, wanted=1, total=1) == told, "its pod is not seen going"
    assert asked(two[0], wanted=1).waiting == 0, "its Deployment is not seen smaller"
    assert asked(*two, wanted=0).waiting == 0


def test_who_is_not_ready_is_idle_as_far_as_it_waits():
    three = (pod("a", asked=True, ready=False), pod("b", asked=True), pod("c", ready=False))
    assert asked(*three, wanted=3, ready=1, total=3) == Asked(waiting=2, idle=1, seen=True, serving=1)
    both = (pod("a", asked=True, ready=False), pod("b", asked=True, ready=False))
    assert asked(*both, wanted=1).idle == 1


@pytest.mark.parametrize(
    ("pods", "wanted", "total", "seen"), [(2, 2, 2, True), (1, 2, 2, False), (2, 3, 2, False), (2, 2, 3, False)]
)
def test_numbers_agree_or_it_is_not_acted_upon(pods, wanted, total, seen):
    found = asked(*(pod(f"g{n}", asked=True) for n in range(pods)), wanted=wanted, total=total)
    assert found.seen is seen


# -- how many may go --------------------------------------------------------------------------------------------------


def test_room_is_what_the_budget_leaves():
    alive, left = [pod("a"), pod("b")], pod("left", ends=ENDS)
    assert drains.room(alive, [workload()], 3) == 3
    assert drains.room([*alive, left, ROUTER], [workload()], 3) == 2
    assert drains.room([*alive, left, left], [workload()], 1) == 0
    assert drains.room(alive, [workload(wanted=1)], 3) == 2, "told, and not seen going"
    assert drains.room(alive, [workload(wanted=1, total=1)], 3) == 2, "seen by its Deployment alone"
    assert drains.room(alive[:1], [workload(wanted=1)], 3) == 2, "seen by the pods alone"
    growing = workload(wanted=9, revision="new")
    assert drains.room(alive, [workload(wanted=1), growing], 3) == 2, "who comes makes no room"


@pytest.mark.parametrize(
    ("pods", "wanted", "ready", "expected"),
    [
        ([pod("a"), pod("b")], 2, 2, (0, 0)),
        ([pod("a"), pod("b", 0, ready=False)], 2, 1, (1, 1)),
        ([pod("a"), pod("b", 5, ready=False)], 2, 1, (1, 0)),
        ([pod("a"), pod("b", None, ready=False)], 2, 1, (1, 0)),  # nobody knows
        ([pod("a", 0), pod("b", 0, ready=False)], 2, 1, (1, 1)),  # who is ready may get some
        ([pod("a", 0), pod("b", 5, ready=False)], 2, 1, (1, 0)),
        ([pod("a")], 2, 1, (1, 1)),  # it was never made
        ([pod("a")], 2, 2, (0, 0)),  # it is ready, and not seen yet
        ([pod("a"), pod("b", revision="other"), pod("c", revision="other")], 2, 1, (1, 1)),
        ([pod("a"), pod("b")], 1, 2, (0, 0)),
        ([pod("a"), pod("b"), pod("c", 4, ready=False)], 2, 1, (1, 0)),
    ],
)
def test_who_is_not_ready_needs_no_successor_but_its_sockets_move(pods, wanted, ready, expected):
    assert drains.without_successor(pods, workload(wanted=wanted, ready=ready)) == expected


# -- marks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "unmarked", "taken_back"),
    [
        (pod(), False, False),
        (pod(cost=5), False, False),
        (pod(asked=True), True, False),
        (pod(asked=True, cost=0), True, False),
        (pod(asked=True, cost=FIRST), False, False),
        (pod(cost=FIRST), True, True),
        (pod(cost=FIRST, ends=ENDS), False, False),
    ],
)
def test_marks_are_as_they_should_be_before_anybody_goes(one, unmarked, taken_back):
    assert drains.unmarked([pod("other"), one, ROUTER]) is unmarked
    assert drains.taken_back([pod("other"), one, ROUTER]) is taken_back


def test_who_was_asked_goes_first_then_the_emptiest():
    pods = [pod("a", 7, asked=True), pod("b", 9), pod("c", None), pod("d", 10**12), pod("e", 3, ends=ENDS), ROUTER]
    assert drains.costs(pods, shrinking=False) == {"a": FIRST}
    assert drains.costs(pods, shrinking=True) == {"a": FIRST, "b": 9, "d": 2**31 - 1}
    back = pod("a", 7, cost=FIRST)
    assert drains.costs([back], shrinking=False) == {"a": 0}
    assert drains.costs([back], shrinking=True) == {"a": 7}
    assert drains.costs([replace(back, measures=None)], shrinking=True) == {"a": 0}


# -- a step -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "idle", "have", "wanted", "serving", "room", "expected"),
    [
        (1, 0, 3, 3, 3, 1, Step(3)),  # nobody came for it
        (1, 0, 4, 3, 4, 1, Step(3, 1)),
        (1, 0, 4, 3, 3, 1, Step(4)),  # its successor is not ready
        (1, 1, 4, 3, 3, 1, Step(3, 1)),  # it serves nobody
        (2, 0, 5, 3, 5, 1, Step(4, 1)),  # as many as may
        (2, 0, 5, 3, 5, 0, Step(5)),
        (1, 0, 6, 3, 6, 9, Step(3, 3)),  # and those that are too many
        (2, 0, 3, 3, 5, 9, Step(1, 2)),  # others serve in their place
        (1, 0, 3, 3, 1, 1, Step(3)),
    ],
)
def test_a_step_lets_go_as_many_as_may(waiting, idle, have, wanted, serving, room, expected):
    mine = Asked(waiting, idle)
    assert drains.step(mine, have=have, wanted=wanted, serving=serving, room=room, least=3) == expected
    unseen = replace(mine, seen=False)
    assert drains.step(unseen, have=have, wanted=wanted, serving=serving, room=room, least=3) == Step(have)


def held(pods, *running, wanted=2, budget=1):
    return drains.held(pods, running or [workload()], wanted=wanted, budget=budget)


MARKED = {"asked": True, "cost": FIRST}


def test_while_held_nothing_changes_without_anybody_asked():
    assert held([pod("a"), pod("b")], wanted=5) == {}
    assert held([pod("a"), pod("b")], wanted=1) == {}
    assert held([pod("a", **MARKED), pod("b")], wanted=0) == {}
    assert held([pod("a", asked=True), pod("b")]) == {}, "not marked yet"


def test_while_held_who_was_asked_gets_a_successor_of_its_own_revision():
    old, new = workload(revision="a", wanted=1, ready=1, total=1), workload(revision="b", wanted=1, ready=1, total=1)
    pods = [pod("a", revision="a"), pod("b", revision="b", **MARKED)]
    assert held(pods, old, new) == {"main-gateway-b": 2}
    asked = [pod(f"g{n}", **MARKED) for n in range(3)]
    three = workload(wanted=3, ready=3, total=3)
    assert held(asked, three, wanted=3, budget=2) == {"main-gateway-r": 5}, "no more than may drain"


def test_while_held_it_leaves_when_enough_serve_without_it():
    pods = [pod("a", **MARKED), pod("b"), pod("c")]
    three = workload(wanted=3, ready=3, total=3)
    assert held(pods, three) == {"main-gateway-r": 2}
    assert held([*pods, pod("left", ends=ENDS)], three) == {}, "the budget is used"
    assert held([*pods[:2], replace(pods[2], ready=False)], three) == {}, "its Deployment does not know yet"
    assert held(pods, replace(three, ready=2)) == {}, "the pods tell too early"
    going = workload(wanted=1, ready=2, total=2, revision="old")
    away = [pods[0], pod("b", ready=False), pod("d", revision="old"), pod("e", revision="old")]
    assert held(away, workload(ready=1), going, budget=2) == {}, "of the others one is told to go, and not gone yet"


def test_while_held_two_revisions_share_room_and_successors():
    both = [workload(revision=one, wanted=2, ready=2, total=2) for one in "ab"]
    pods = [pod(f"{one}{n}", revision=one, **(MARKED if not n else {})) for one in "ab" for n in range(2)]
    assert held(pods, *both, budget=2) == {"main-gateway-a": 1, "main-gateway-b": 1}
    three = [*pods, pod("a2", revision="a")]
    more = [replace(both[0], wanted=3, ready=3, total=3), both[1]]
    assert held(three, *more, wanted=3, budget=2) == {"main-gateway-a": 2, "main-gateway-b": 1}
    assert held(three, *more, wanted=3, budget=1) == {"main-gateway-a": 2}, "one of them has the room"
    away = [replace(one, ready=one.name != "a2") for one in three]
    short = [replace(more[0], ready=2), more[1]]
    assert held(away, *short, wanted=3, budget=2) == {"main-gateway-a": 2}, "one of them has the successor"
    other = [replace(one, asked=False, cost=None) if one.revision == "a" else one for one in three]
    assert held(other, *more, wanted=4) == {"main-gateway-b": 1}, "of the others nobody goes"


# -- what is said -----------------------------------------------------------------------------------------------------


def test_what_stands_in_the_way():
    old = {"created": NOW - PATIENCE - timedelta(seconds=1), "ready": False}

    def why(*pods, now=NOW, **others):
        return drains.obstacle(pods, [workload(wanted=0, refused="x", stuck="x"), workload(**others)], now)

    assert why(pod()) == ""
    assert why(pod(**old)) == "g not ready for more than 10 minutes"
    assert why(pod(**{**old, "created": NOW - PATIENCE})) == ""
    assert why(pod(**{**old, "created": None})) == ""
    assert why(pod(**{**old, "ready": True})) == ""
    assert why(pod(**old, asked=True)) == "", "it is the others that are waited for"
    assert why(pod(**old), refused="quota", stuck="late") == "quota"
    assert why(pod(**old), stuck="late").startswith("g not ready")
    assert why(pod(), stuck="late") == "late"
    many = [pod(f"g{n}", **old) for n in range(9)]
    assert why(*reversed(many)) == "g0, g1, g2, g3, g4 not ready for more than 10 minutes"
    router = workload(revision="", refused="quota", stuck="late")
    assert drains.obstacle([pod()], [router], NOW) == ""


def test_what_they_wait_for():
    def waits(*pods, paused=False, draining=0, obstacle=""):
        return drains.waits(pods, paused=paused, draining=draining, budget=1, obstacle=obstacle)

    mine = pod(asked=True)
    assert waits(pod(), ROUTER, pod(asked=True, ends=ENDS), paused=True, draining=1, obstacle="quota") == ""
    assert waits(mine) == "its successor is not ready yet"
    assert waits(mine, obstacle="quota") == "no successor gets ready: quota"
    assert waits(mine, obstacle="quota", draining=1) == "1 of 1 drain already"
    assert waits(mine, obstacle="quota", draining=1, paused=True) == "the ChatCluster is paused"


def told(*pods, before=(), now=NOW, stuck=False):
    return drains.told(pods, "its turn", now, before, stuck=stuck)


def test_who_leaves_is_told_first_then_who_waits_each_by_its_time():
    since = [NOW - timedelta(minutes=n) for n in range(4)]
    pods = [
        pod("waits-0", asked=True, since=since[1]), pod("calm"), pod("waits-b", asked=True, since=since[2]),
        pod("waits-a", asked=True, since=since[2]), pod("leaves", ends=ENDS, since=since[0]), ROUTER,
    ]  # fmt: skip
    assert [one["pod"] for one in told(*pods)] == ["leaves", "waits-a", "waits-b", "waits-0"]


def test_what_is_known_is_told_and_nothing_else():
    assert told(pod(connections=None, asked=True)) == [{"pod": "g", "phase": "Waiting", "message": "its turn"}]
    assert told(pod(connections=None, ends=ENDS)) == [{"pod": "g", "phase": "Leaving", "until": "2026-01-01T00:05:00Z"}]
    whole = pod(connections=0, asked=True, node="n", since=NOW)
    assert told(whole, stuck=True) == [
        {
            "pod": "g", "node": "n", "since": "2026-01-01T00:00:00Z", "phase": "Stuck", "message": "its turn",
            "connections": 0,
        }
    ]  # fmt: skip
    [late] = told(pod(ends=ENDS), now=ENDS + timedelta(seconds=1), stuck=False)
    assert (late["phase"], late["message"]) == ("Stuck", "it should have ended by now: look at its node")
    assert told(pod(ends=ENDS), now=ENDS)[0]["phase"] == "Leaving"


@pytest.mark.parametrize(
    ("before", "connections", "start"),
    [
        ([], 40, 40),
        ([{"pod": "g", "phase": "Leaving", "connectionsAtStart": 100}], 40, 100),
        ([{"pod": "g", "phase": "Stuck", "connectionsAtStart": 100}], None, 100),
        ([{"pod": "g", "phase": "Leaving", "connectionsAtStart": 30}], 40, 40),
        ([{"pod": "g", "phase": "Leaving"}], 40, 40),
        ([{"pod": "g", "phase": "Waiting", "connectionsAtStart": 100}], 40, 40),
        ([{"pod": "other", "phase": "Leaving", "connectionsAtStart": 100}], 40, 40),
    ],
)
def test_how_many_it_had_at_the_start_is_remembered_from_what_was_said(before, connections, start):
    [found] = told(pod(connections=connections, ends=ENDS), before=before)
    assert found["connectionsAtStart"] == start
    assert found.get("connections") == connections
