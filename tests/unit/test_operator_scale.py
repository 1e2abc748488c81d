"""The operator's own autoscaling: up at once, down late, hold without knowledge."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster_operator.observed import Pod
from chatcluster_operator.scale import Wish, gateways, persisters
from chatcluster_operator.spec import GatewayAutoscaling, PersisterAutoscaling, ScaleDown

SCALING = GatewayAutoscaling(mode="builtin", min=2, max=10, target_connections_percent=50, headroom_percent=0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = SCALING.scale_down.stabilization_seconds


def pods(*connections, component="gateway"):
    measures = {"gateway": "chatcluster_gateway_sockets", "persister": "chatcluster_persister_lag_records"}[component]
    return [
        Pod(f"p{n}", component, "", True, None, None if many is None else {measures: float(many)})
        for n, many in enumerate(connections)
    ]


def decided(current, *connections, wishes=(), now=1000.0, draining=False):
    return gateways(SCALING, 1000, current, pods(*connections), wishes, now, draining=draining)


PERSISTERS = PersisterAutoscaling(mode="builtin", min=2, max=10, lag_per_replica=10)


def lagging(current, *records):
    return persisters(PERSISTERS, 16, current, pods(*records, component="persister"), (), 0.0)


def test_up_at_once():
    assert decided(2, 900, 900).replicas == 4


def test_bounds_are_kept_and_told():
    assert (decided(2, 9000, 9000).replicas, decided(2, 9000, 9000).limited) == (10, "TooManyReplicas")
    assert (decided(2, 0, 0).replicas, decided(2, 0, 0).limited) == (2, "TooFewReplicas")


@pytest.mark.parametrize("connections", [(900, None), (None, None), ()])
def test_without_the_word_of_every_pod_it_holds(connections):
    found = decided(5, *connections)
    assert (found.replicas, found.active, found.reason) == (5, False, "NoMetrics")


def test_down_only_after_the_whole_window_and_only_to_what_was_wanted_in_it():
    few = (100, 100, 100, 100, 100)
    short = [Wish(1000.0 - 10 * n, 2) for n in range(20)]
    assert decided(5, *few, wishes=short).replicas == 5, "the window is not known as a whole"
    whole = [Wish(1000.0 - 10 * n, 2) for n in range(WINDOW // 10 + 1)]
    assert decided(5, *few, wishes=whole).replicas == 2
    assert decided(5, *few, wishes=[*whole, Wish(1000.0 - WINDOW / 2, 4)]).replicas == 4
    assert decided(5, *few, wishes=whole, draining=True).replicas == 5


def test_what_was_before_a_time_of_which_nothing_is_known_does_not_count():
    few = (100, 100, 100, 100, 100)
    before = [Wish(1000.0 - WINDOW - 10 * n, 2) for n in range(30)]
    assert decided(5, *few, wishes=before).replicas == 5, "the whole window is a gap"
    whole = [Wish(1000.0 - 10 * n, 2) for n in range(WINDOW // 10 + 1)]
    holed = [one for one in whole if not 300 <= 1000.0 - one.at <= 380]
    assert (decided(5, *few, wishes=whole).replicas, decided(5, *few, wishes=holed).replicas) == (2, 5)


@pytest.mark.parametrize(("current", "held"), [(0, 2), (1, 2), (5, 5), (50, 10)])
def test_who_holds_keeps_within_the_bounds_and_says_that_it_holds(current, held):
    for found in (decided(current, None), lagging(current, None)):
        assert (found.replicas, found.active, found.reason, found.wish) == (held, False, "NoMetrics", None)
        assert found.message.startswith(f"holding {held}: 1 of 1 ")


def test_a_target_and_headroom_are_of_what_a_pod_may_hold():
    scaling = SCALING.model_copy(update={"target_connections_percent": 80, "headroom_percent": 20})
    found = gateways(scaling, 1000, 2, pods(1000, 1001), (), 0.0, draining=False)
    assert (found.replicas, found.wish) == (4, 4), "2001 and 20 % are more than three times 800"
    assert gateways(scaling, 1000, 2, pods(1000, 1000), (), 0.0, draining=False).replicas == 3


def test_who_leaves_need_not_say_but_what_it_still_has_comes_back():
    leaving = [replace(one, ends=NOW) for one in pods(600, None)]
    found = gateways(SCALING, 1000, 2, [*pods(500, 500), *leaving], (), 0.0, draining=True)
    assert (found.replicas, found.active) == (4, True)
    going = [replace(one, ends=NOW) for one in pods(5000, None, component="persister")]
    found = persisters(PERSISTERS, 16, 2, [*pods(15, 15, component="persister"), *going], (), 0.0)
    assert (found.replicas, found.active) == (3, True), "its partitions are others' now"


def test_what_is_wanted_is_remembered_as_it_was_and_told_where_it_is_limited():
    assert [decided(2, each, each).limited for each in (499, 501, 2500, 2501)] == ["", "", "", "TooManyReplicas"]
    assert (decided(2, 9000, 9000).wish, decided(2, 0, 0).wish) == (36, 0)
    assert decided(5, 250).limited == "TooFewReplicas"
    wild = [Wish(1000.0 - 10 * n, 99) for n in range(WINDOW // 10 + 1)]
    assert decided(12, 100, wishes=wild).replicas == 10, "never more than may be"


def test_up_also_while_some_drain_and_down_without_a_window_at_once():
    assert decided(2, 900, 900, draining=True).replicas == 4
    at_once = SCALING.model_copy(update={"scale_down": ScaleDown(stabilization_seconds=0)})
    assert gateways(at_once, 1000, 5, pods(1, 1, 1, 1, 1), (), 0.0, draining=False).replicas == 2
    long_ago = [Wish(1000.0 - 10 * n, 9 if 10 * n > WINDOW else 2) for n in range(WINDOW // 5)]
    assert decided(5, 100, 100, 100, 100, 100, wishes=long_ago).replicas == 2, "what was before the window"
    more = [Wish(1000.0 - 10 * n, 9) for n in range(WINDOW // 10 + 1)]
    assert decided(5, 100, 100, 100, 100, 100, wishes=more).replicas == 5, "down to what was wanted, never up to it"


def test_persisters_follow_the_lag_of_all_that_say_it():
    assert (lagging(2, 15, 16).replicas, lagging(2, 0, 0).replicas, lagging(2, 15, 15).replicas) == (4, 2, 3)
    assert lagging(2, 5, None).reason == "NoMetrics"
    assert lagging(2).reason == "NoMetrics"
    other = replace(pods(1)[0], component="persister")  # it says, but not that
    assert persisters(PERSISTERS, 16, 2, [other], (), 0.0).reason == "NoMetrics"


def test_persisters_never_exceed_the_partitions():
    scaling = PersisterAutoscaling(mode="builtin", min=1, max=100, lag_per_replica=10)
    found = persisters(scaling, 8, 2, pods(5000, 5000, component="persister"), (), 0.0)
    assert found.replicas == 8


@given(st.lists(st.integers(0, 9000), min_size=1, max_size=60))
def test_a_step_changes_direction_at_most_once_within_a_window(loads):
    """Whatever the load does: within one window the number does not go down after it went up."""
    wishes: list[Wish] = []
    current, ups = 2, []
    for step, load in enumerate(loads):
        now = 20.0 * step
        each = load / current
        found = gateways(SCALING, 1000, current, pods(*[each] * current), wishes, now, draining=False)
        wishes.append(Wish(now, found.wish))
        if found.replicas > current:
            ups.append(now)
        if found.replicas < current:
            assert all(now - at >= WINDOW for at in ups[-1:])
        current = found.replicas
        assert SCALING.min <= current <= SCALING.max
