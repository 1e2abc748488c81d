"""The operator's own autoscaling: up at once, down late, hold without knowledge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster_operator.observed import Pod
from chatcluster_operator.scale import Wish, gateways, persisters
from chatcluster_operator.spec import GatewayAutoscaling, PersisterAutoscaling

SCALING = GatewayAutoscaling(mode="builtin", min=2, max=10, target_connections_percent=50, headroom_percent=0)
WINDOW = SCALING.scale_down.stabilization_seconds


def pods(*connections, component="gateway"):
    measures = {"gateway": "chatcluster_gateway_sockets", "persister": "chatcluster_persister_lag_records"}[component]
    return [
        Pod(f"p{n}", component, "", True, None, None if many is None else {measures: float(many)})
        for n, many in enumerate(connections)
    ]


def decided(current, *connections, wishes=(), now=1000.0, draining=False):
    return gateways(SCALING, 1000, current, pods(*connections), wishes, now, draining=draining)


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
