"""Counts and rates at the door."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.core.metrics import Counter, Metrics
from chatcluster.services.gateway.admission import Admission, Bucket
from chatcluster.services.gateway.settings import GatewaySettings


def admission(chance: float = 0.5, **settings: object) -> Admission:
    return Admission(GatewaySettings(**settings), Metrics(), 0.0, lambda: chance)  # type: ignore[arg-type]


def refused(door: Admission, address: str = "a") -> int:
    refusal = door.enter(address)
    return 0 if refusal is None else int(refusal.status)


def test_the_newcomer_over_the_socket_cap_is_refused_and_counted() -> None:
    metrics = Metrics()
    door = Admission(GatewaySettings(max_sockets=2), metrics, 0.0, lambda: 0.0)
    assert [refused(door) for _ in range(3)] == [0, 0, 503]
    counts = {
        metric.labels["reason"]: metric.source.value
        for metric in metrics
        if metric.name == "gateway_refused_total" and isinstance(metric.source, Counter)
    }
    assert counts["sockets"] == 1
    door.leave("a")
    door.leave("a")
    assert refused(door) == 0


def test_authentication_makes_room_before_it() -> None:
    door = admission(preauth_sockets=1)
    assert [refused(door), refused(door)] == [0, 503]
    door.leave("a")
    door.authenticated("a")
    assert refused(door) == 0
    assert door.sockets == 2
    door.leave(None)
    assert (door.sockets, door.preauth) == (1, 1)


def test_one_address_leaves_room_for_the_others() -> None:
    door = admission(preauth_per_address=1)
    assert [refused(door, "a"), refused(door, "a"), refused(door, "b")] == [0, 429, 0]


def test_no_limit_per_address() -> None:
    door = admission(preauth_per_address=0)
    assert [refused(door) for _ in range(100)] == [0] * 100


@pytest.mark.parametrize(("chance", "expected"), [(0.0, "2"), (0.999, "30"), (0.5, "16")])
def test_retry_after_is_spread_over_its_bounds(chance: float, expected: str) -> None:
    refusal = admission(chance, max_sockets=0).enter("a")
    assert refusal is not None
    assert refusal.headers == [("Retry-After", expected)]


def test_upgrades_follow_the_bucket() -> None:
    door = admission(handshakes_per_second=10.0, handshake_burst=2.0)
    taken = [door.upgrade(0.0) is None for _ in range(3)]
    assert taken == [True, True, False]
    assert door.upgrade(0.05) is not None
    assert door.upgrade(0.11) is None
    assert [door.upgrade(100.0) is None for _ in range(3)] == [True, True, False]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=50))
def test_counts_return_to_nothing(visits: list[tuple[str, bool, bool]]) -> None:
    door = admission(max_sockets=10, preauth_sockets=5, preauth_per_address=3)
    inside: list[str | None] = []
    for address, leaves, authenticates in visits:
        if leaves and inside:
            door.leave(inside.pop(0))
            continue
        door.enter(address)
        if authenticates:
            door.authenticated(address)
        inside.append(None if authenticates else address)
        assert door.sockets == len(inside)
        assert door.preauth == sum(one is not None for one in inside)
    for one in inside:
        door.leave(one)
    assert (door.sockets, door.preauth) == (0, 0)
    assert refused(door) == 0


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60))
def test_a_bucket_never_gives_more_than_burst_and_rate(gaps: list[float]) -> None:
    bucket = Bucket(3.0, 5.0, 0.0)
    taken = sum(bucket.take(now) for now in itertools.accumulate(gaps))
    assert taken <= 5.0 + 3.0 * sum(gaps)
