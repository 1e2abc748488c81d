"""Presence arithmetic: converges to the truth, no flap inside the grace, bounded per user."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.core.envelope import PresenceChange, Status
from chatcluster.core.presence import Budget, Outbox, Rules, Shown, live_sessions, shares, shown_status

TTL = 60_000
TICK = 1_000
RULES = Rules(grace=10_000, spacing=2_000)


@pytest.mark.parametrize(
    ("sessions", "status", "since"),
    [
        ({}, "offline", 0),
        ({"a": ("away", 5)}, "away", 5),
        ({"a": ("away", 5), "b": ("online", 9)}, "online", 9),
        ({"a": ("online", 9), "b": ("online", 4), "c": ("away", 1)}, "online", 4),
    ],
)
def test_most_present_session_wins(sessions: dict[str, tuple[Status, int]], status: Status, since: int) -> None:
    assert shown_status(sessions) == (status, since)


def test_only_sessions_with_time_left_count() -> None:
    sessions: dict[str, tuple[Status, int, int]] = {
        "a": ("online", 1, 100),
        "b": ("away", 2, 101),
        "c": ("offline", 3, 200),
    }
    assert live_sessions(sessions, 100) == {"b": ("away", 2)}


def told(shown: Shown, now: int) -> tuple[str, int] | None:
    change = shown.tell("ada", now)
    return None if change is None else (change.status, change.since)


def test_first_observation_is_told_at_once() -> None:
    shown = Shown()
    assert shown.observe("offline", 7, 100, RULES)
    assert told(shown, 100) == ("offline", 7)
    assert told(shown, 200) is None


def test_leaving_shows_after_the_grace_with_the_time_it_began() -> None:
    shown = Shown()
    shown.start("online", 1)
    assert shown.observe("offline", 50_000, 50_000, RULES)
    assert told(shown, 59_999) is None
    assert told(shown, 60_000) == ("offline", 50_000)


def test_observing_again_does_not_put_it_off() -> None:
    shown = Shown()
    shown.start("online", 1)
    for now in range(50_000, 60_000, 1_000):
        shown.observe("offline", now, now, RULES)
    assert told(shown, 60_000) == ("offline", 50_000)


def test_expiry_is_grace_enough_also_while_a_grace_runs() -> None:
    shown = Shown()
    shown.start("online", 1)
    shown.observe("offline", 50_000, 50_000, RULES)
    shown.observe("offline", 51_000, 51_000, RULES, expired=True)
    assert told(shown, 51_000) == ("offline", 50_000)


def test_reconnect_inside_the_grace_shows_nothing() -> None:
    shown = Shown()
    shown.start("online", 1)
    shown.observe("offline", 50_000, 50_000, RULES)
    assert not shown.observe("online", 59_000, 59_000, RULES)
    assert told(shown, 90_000) is None
    assert (shown.status, shown.since) == ("online", 1)


def test_changes_of_one_user_keep_their_distance() -> None:
    shown = Shown()
    shown.start("online", 1)
    shown.observe("away", 10, 10, RULES)
    assert told(shown, 10) == ("away", 10)
    shown.observe("online", 20, 20, RULES)
    assert told(shown, 2_009) is None
    assert told(shown, 2_010) == ("online", 20)


Step = tuple[Literal["online", "away", "leave", "wait"], int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["online", "away", "leave", "wait"]),
        st.integers(min_value=0, max_value=2),  # which session
        st.integers(min_value=0, max_value=2 * TTL),  # ms until it happens
    ),
    max_size=25,
)


def play(
    script: list[Step], rest: int = TTL + 2 * TICK
) -> tuple[Shown, dict[str, tuple[Status, int, int]], list[tuple[int, PresenceChange]], int]:
    """Sessions beat, leave and run out; the node looks once a tick, as it does."""
    shown, sessions, changes, now = Shown(), {}, [], 0
    shown.start("offline", 0)

    def tick() -> None:
        live = live_sessions(sessions, now)
        left = {name for name, (_, _, expires) in sessions.items() if expires <= now}
        for name in left:
            del sessions[name]
        status, since = shown_status(live)
        shown.observe(status, since or now, now, RULES, expired=bool(left) and not live)
        change = shown.tell("ada", now)
        if change is not None:
            changes.append((now, change))

    for what, index, after in [*script, ("wait", 0, rest)]:
        until = now + after
        while now + TICK <= until:
            now += TICK
            tick()
        name = f"s{index}"
        if what == "leave":
            sessions.pop(name, None)
        elif what != "wait":
            began = sessions[name][1] if name in sessions and sessions[name][0] == what else now
            sessions[name] = (what, began, now + TTL)
    return shown, sessions, changes, now


@given(steps, st.sampled_from(["online", "away", None]))
def test_converges_to_the_truth_within_one_time_to_live(
    script: list[Step], stays: Literal["online", "away"] | None
) -> None:
    # In the end only one session beats on, or none: a time to live later that is what shows.
    beats: list[Step] = [(stays, 7, TTL // 3) for _ in range(4)] if stays else []
    shown, sessions, _, now = play([*script, *beats], rest=TICK if stays else TTL + 2 * TICK)
    assert shown.status == shown_status(live_sessions(sessions, now))[0] == (stays or "offline")


@given(steps)
def test_changes_per_user_are_bounded_and_each_is_a_change(script: list[Step]) -> None:
    _, _, changes, _ = play(script)
    times = [at for at, _ in changes]
    assert all(later - earlier >= RULES.spacing for earlier, later in pairwise(times))
    shown = ["offline", *(change.status for _, change in changes)]
    assert all(before != after for before, after in pairwise(shown))


@given(st.lists(st.tuples(st.integers(1, 40_000), st.integers(0, 9_000)), min_size=1, max_size=20))
def test_no_flap_while_every_absence_is_shorter_than_the_grace(visits: list[tuple[int, int]]) -> None:
    shown, now, told_changes = Shown(), 0, []
    shown.start("online", 0)
    for present, absent in visits:
        for status, length in (("online", present), ("offline", absent)):
            end = now + length
            while now < end:
                shown.observe(status, now, now, RULES)
                if (change := shown.tell("ada", now)) is not None:
                    told_changes.append(change)
                now += TICK
    assert told_changes == []


def test_budget_refills_with_time_and_saves_up_one_second() -> None:
    budget = Budget(100, now=0)
    assert budget.available(0) == 100
    budget.spend(100)
    assert budget.available(0) == 0
    assert budget.available(250) == 25
    assert budget.available(100) == 25  # a step back neither gives nor takes
    assert budget.available(60_000) == 100


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 200))
def test_shares_are_fair_and_waste_nothing(demands: list[int], available: int) -> None:
    grants = shares(demands, available)
    assert sum(grants) == min(available, sum(demands))
    for demand, grant in zip(demands, grants, strict=True):
        assert 0 <= grant <= demand
        if grant < demand:  # nobody got over one more than those who went short
            assert max(grants) <= grant + 1


def test_outbox_keeps_the_newest_state_at_the_first_ones_place() -> None:
    outbox = Outbox()
    for user, status, since in [("ada", "online", 1), ("bob", "online", 2), ("ada", "away", 3), ("cyd", "online", 4)]:
        outbox.put(("t", user), PresenceChange(user, status, since))  # type: ignore[arg-type]
    outbox.put(("u", "eve"), PresenceChange("eve", "online", 5))
    outbox.drop([("t", "cyd")])
    assert outbox.take(1) == {"t": [PresenceChange("ada", "away", 3)]}
    assert outbox.take(9) == {"t": [PresenceChange("bob", "online", 2)], "u": [PresenceChange("eve", "online", 5)]}
    assert len(outbox) == 0
