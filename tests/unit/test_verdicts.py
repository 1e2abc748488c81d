from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.core.ids import CLOCK_BOUND, first_id
from chatcluster.core.records import CHECK, DEDUPE_WINDOW, MAX_AGE, PLAIN, RETRY, RETRY_HORIZON, Flag, MessageRecord
from chatcluster.core.rows import VerdictRow
from chatcluster.core.verdicts import HORIZON, MEMORY, Seen, judge

NOW = 1_790_000_000_000


def record(number: int, flag: Flag = PLAIN) -> MessageRecord:
    return MessageRecord("t", "c", first_id(NOW) + number, "ann", "k", 7, flag, "hello")


def row(offset: int, time: int, number: int, winner: int | None) -> VerdictRow:
    won = None if winner is None else first_id(NOW) + winner
    return VerdictRow("t", "c", "ann", "k", offset, first_id(NOW) + number, won, time, 7)


def test_a_first_record_wins_for_itself() -> None:
    assert judge(record(1), 10, NOW, []) == (record(1).id, False)


def test_the_windows_are_those_of_the_rules() -> None:
    assert MEMORY == DEDUPE_WINDOW + MAX_AGE
    assert HORIZON == RETRY_HORIZON + MAX_AGE


@pytest.mark.parametrize(("flag", "window"), [(PLAIN, MEMORY), (CHECK, HORIZON), (RETRY, HORIZON)])
def test_a_later_record_is_an_alias_within_the_window_of_append_times_and_not_beyond(flag: Flag, window: int) -> None:
    first = row(3, NOW, 1, 1)

    assert judge(record(2, flag), 10, NOW + window, [first]) == (first.id, False)
    assert judge(record(2, flag), 10, NOW + window + 1, [first]) == (record(2, flag).id, False)


def test_void_records_and_those_at_greater_offsets_do_not_count() -> None:
    void = row(3, NOW, 1, None)
    beyond = row(11, NOW, 3, 3)
    itself = row(10, NOW, 2, 3)  # written by a run before this one

    assert judge(record(2), 10, NOW, [void, beyond, itself]) == (record(2).id, False)


def test_the_lowest_offset_within_the_window_decides_whatever_the_order_of_the_rows() -> None:
    rows = [row(7, NOW + HORIZON, 3, 3), row(5, NOW + 1, 2, 2), row(3, NOW, 1, 1)]

    assert judge(record(4, RETRY), 10, NOW + HORIZON, rows)[0] == rows[2].id
    assert judge(record(4, RETRY), 10, NOW + HORIZON + 1, rows)[0] == rows[1].id
    assert judge(record(4), 10, NOW + HORIZON + 1, rows)[0] == rows[0].id


def test_an_alias_of_an_alias_has_the_first_ones_winner() -> None:
    second = row(5, NOW + MEMORY, 2, 1)

    assert judge(record(3), 10, NOW + 2 * MEMORY, [row(3, NOW, 1, 1), second])[0] == first_id(NOW) + 1


def test_the_same_id_again_is_a_repeat_of_a_winner_and_of_an_alias() -> None:
    assert judge(record(1), 10, NOW, [row(3, NOW, 1, 1)]) == (record(1).id, True)
    assert judge(record(2), 10, NOW, [row(3, NOW, 1, 1), row(4, NOW, 2, 1)]) == (record(1).id, True)


@given(st.lists(st.tuples(st.integers(-CLOCK_BOUND, 400_000), st.integers(0, 5)), max_size=60))
def test_seen_never_misses_a_key_within_the_window(steps: list[tuple[int, int]]) -> None:
    seen = Seen()
    past: list[tuple[int, int]] = []
    newest = 0
    for step, number in steps:
        at = max(0, newest + step)
        newest = max(newest, at)
        known = seen.add(("t/c", "ann", str(number)), at)
        if any(other == number and at - time <= MEMORY for time, other in past):
            assert known
        past.append((at, number))


def test_seen_keeps_what_is_within_the_window_of_a_time_that_steps_back() -> None:
    seen = Seen()
    key = ("t/c", "ann", "k")
    first = MAX_AGE - 1  # the last moment of the first slice
    assert not seen.add(key, first)
    seen.add(("t/c", "ann", "other"), MAX_AGE)
    seen.add(("t/c", "ann", "newest"), MAX_AGE + MEMORY + 1)
    assert seen.add(key, first + MEMORY)  # of a leader whose clock is a little behind the one's before


def test_seen_is_bounded_by_time() -> None:
    seen = Seen()
    for minute in range(60):
        for number in range(10):
            seen.add(("t/c", "ann", f"{minute}/{number}"), minute * 60_000)

    assert len(seen) <= 10 * (MEMORY // 60_000 + 3)
    assert not seen.add(("t/c", "ann", "0/0"), 60 * 60_000)
