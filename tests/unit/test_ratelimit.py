from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.core.ratelimit import TokenBuckets


def test_a_burst_passes_and_then_the_rate() -> None:
    buckets = TokenBuckets(rate=10, burst=5, capacity=10)

    assert [buckets.take("ann", 100.0) for _ in range(5)] == [0.0] * 5
    wait = buckets.take("ann", 100.0)
    assert wait == pytest.approx(0.1)
    assert buckets.take("ann", 100.0 + wait) == 0.0
    assert buckets.take("ann", 100.0 + wait) > 0.0


def test_a_refusal_takes_nothing() -> None:
    buckets = TokenBuckets(rate=1, burst=1, capacity=10)
    buckets.take("ann", 0.0)

    assert [buckets.take("ann", 0.5) for _ in range(3)] == [pytest.approx(0.5)] * 3
    assert buckets.take("ann", 1.0) == 0.0


def test_users_do_not_pay_for_each_other() -> None:
    buckets = TokenBuckets(rate=1, burst=1, capacity=10)
    buckets.take("ann", 0.0)

    assert buckets.take("ann", 0.0) > 0.0
    assert buckets.take("bob", 0.0) == 0.0


def test_memory_is_bounded_and_the_one_least_recently_used_is_forgotten() -> None:
    buckets = TokenBuckets(rate=0.001, burst=1, capacity=2)
    buckets.take("ann", 0.0)
    buckets.take("bob", 0.0)
    assert buckets.take("ann", 1.0) > 0.0  # used again: bob is the oldest now
    buckets.take("cat", 1.0)

    assert len(buckets) == 2
    assert buckets.take("ann", 2.0) > 0.0
    assert buckets.take("bob", 2.0) == 0.0


@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=200),
    st.integers(1, 20),
    st.integers(1, 50),
)
def test_no_window_grants_more_than_burst_and_rate_allow(steps: list[float], burst: int, rate: int) -> None:
    buckets = TokenBuckets(rate=rate, burst=burst, capacity=1)
    now = 1_000.0
    granted: list[float] = []
    for step in steps:
        now += step
        if buckets.take("ann", now) == 0.0:
            granted.append(now)
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            allowed = burst + rate * (granted[last] - granted[first])
            assert last - first + 1 <= allowed + 1e-6


@pytest.mark.parametrize(("rate", "burst", "capacity"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_limits_that_make_no_sense_are_refused(rate: float, burst: int, capacity: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        TokenBuckets(rate=rate, burst=burst, capacity=capacity)
