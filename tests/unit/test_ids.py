from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.core.codes import Refused
from chatcluster.core.ids import CLOCK_BOUND, EPOCH, MAX_ID, ClockFault, Minter, first_id, id_time, parse_id

NOW = 1_790_000_000_000


def test_an_id_carries_its_time_and_has_nineteen_digits() -> None:
    minted = Minter(5).mint(NOW)

    assert id_time(minted) == NOW
    assert len(str(minted)) == 19


@given(st.lists(st.tuples(st.integers(-CLOCK_BOUND, 10_000), st.integers(0, 1)), min_size=1, max_size=300))
def test_ids_of_two_workers_are_unique_and_each_increases_whatever_the_clock_does(steps: list[tuple[int, int]]) -> None:
    minters = [Minter(1), Minter(2)]
    seen: set[int] = set()
    last = [0, 0]
    now = NOW
    for step, worker in steps:
        now = max(NOW, now + step)
        try:
            minted = minters[worker].mint(now)
        except ClockFault:
            continue
        assert minted not in seen
        assert minted > last[worker]
        seen.add(minted)
        last[worker] = minted


@given(st.integers(0, 1023), st.integers(0, 1023), st.integers(0, 4095), st.integers(-2, CLOCK_BOUND))
def test_an_answer_sorts_after_its_question(worker: int, other: int, sequence: int, ahead: int) -> None:
    question = first_id(NOW + ahead) | other << 12 | sequence
    minter = Minter(worker)

    answer = minter.mint(NOW, after=question)

    assert answer > question
    assert answer >> 12 & 1023 == worker


def test_a_thousandfold_burst_in_one_millisecond_stays_unique() -> None:
    minter = Minter(0)
    ids = [minter.mint(NOW) for _ in range(10_000)]

    assert ids == sorted(set(ids))
    assert {i >> 12 & 1023 for i in ids} == {0}


def test_a_clock_far_behind_what_was_seen_is_loud() -> None:
    minter = Minter(0)
    minter.observe(first_id(NOW + CLOCK_BOUND + 1))

    with pytest.raises(ClockFault, match="behind"):
        minter.mint(NOW)


def test_a_forged_after_cannot_push_the_clock() -> None:
    minter = Minter(0)

    with pytest.raises(ClockFault, match="future"):
        minter.mint(NOW, after=first_id(NOW + CLOCK_BOUND + 1))
    assert id_time(minter.mint(NOW)) == NOW


NOT_IDS = ["", "-1", "1.0", "1e3", "٣", "9" * 20, str(MAX_ID + 1), " 1", "1\n", "0x1", "007", "00"]


@pytest.mark.parametrize("text", NOT_IDS)
def test_what_is_not_an_id_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_id(text, "before")
    assert (refused.value.code, refused.value.field) == ("bad_request", "before")


def test_bounds() -> None:
    assert parse_id(str(MAX_ID), "x") == MAX_ID
    assert first_id(EPOCH - 5) == 0
    with pytest.raises(ValueError, match="1024"):
        Minter(1024)
