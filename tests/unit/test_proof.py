"""The proof of one topic: the chain rule, what is told, what settles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.core.ids import CLOCK_BOUND, first_id, id_time
from chatcluster.core.proof import RECENT, UNKNOWN, Proof, covers, settled
from chatcluster.core.records import MAX_AGE, AliasRecord, MemberRecord, MessageRecord
from chatcluster.ports import TailEntry

NOW = 1_790_000_000_000


def message(number: int) -> MessageRecord:
    return MessageRecord("t", "c", first_id(NOW) + number, "u", "k", 1, 0, "hi")


def entry(offset: int, prev: int, record=None) -> TailEntry:
    return TailEntry(offset, prev, offset, record or message(offset))


@pytest.mark.parametrize(
    ("cursor", "chain", "covered"),
    [
        (5, [], True),
        (5, [(7, 5), (9, 7)], True),
        (5, [(7, 3)], True),  # the entry before it is at or before the cursor
        (5, [(7, 6)], False),  # 6 is missing
        (5, [(7, 5), (9, 8)], False),  # 8 is missing
        (-1, [(7, -1)], True),  # the timeline's first
        (5, [(9, 5), (7, 5)], False),  # not ascending
        (5, [(5, 3)], False),
    ],
)
def test_a_tail_covers_iff_its_chain_is_whole(cursor, chain, covered):
    assert covers(cursor, [entry(offset, prev) for offset, prev in chain]) is covered


@given(st.lists(st.integers(1, 50), unique=True, min_size=1), st.data())
def test_no_lost_entry_passes_the_chain(offsets, data):
    offsets.sort()
    chain = [entry(offset, [-1, *offsets][index]) for index, offset in enumerate(offsets)]
    cursor = data.draw(st.integers(-1, 50))
    after = [one for one in chain if one.offset > cursor]
    assert covers(cursor, after)
    if len(after) > 1:
        gone = data.draw(st.integers(0, len(after) - 2))
        assert not covers(cursor, after[:gone] + after[gone + 1 :])


def test_live_is_told_once_and_its_entry_not_again():
    proof = Proof()
    proof.start(0, 0)
    assert proof.hear(message(1), 10) is True
    assert proof.hear(message(1), 10) is False
    assert proof.advance(entry(1, 0)) is False
    assert (proof.cursor, proof.last_id, proof.pending) == (1, message(1).id, None)


def test_a_late_rumour_of_a_proven_event_is_not_told():
    proof = Proof()
    proof.start(0, 0)
    assert proof.advance(entry(1, 0)) is True
    assert proof.hear(message(1), 10) is False
    assert proof.pending is None


def test_a_late_rumour_is_not_told_while_others_are_pending_either():
    proof = Proof()
    proof.start(0, 0)
    proof.hear(message(2), 10)
    assert proof.advance(entry(1, 0)) is True
    assert proof.hear(message(1), 10) is False
    assert list(proof.pending) == [message(2).id]


def test_what_was_not_live_is_told_when_durable():
    proof = Proof()
    proof.start(0, 0)
    proof.hear(message(2), 10)
    assert proof.advance(entry(1, 0)) is True
    assert list(proof.pending) == [message(2).id]


def test_durable_only_kinds_and_aliases_are_always_told():
    proof = Proof()
    proof.start(0, 0)
    copy = message(1)
    proof.hear(copy, 10)
    assert proof.advance(entry(1, 0, AliasRecord("t", "c", copy.id, "u", "k", 1, 0, 7))) is True
    assert proof.pending is None
    member = MemberRecord("t", "c", first_id(NOW) + 9, "u", "", 0, 0, "v", "add")
    proof.hear(member, 10)
    assert proof.advance(entry(2, 1, member)) is True


def test_over_the_bound_the_newcomer_is_refused():
    proof = Proof()
    assert [proof.hear(message(n), 2) for n in (1, 2, 3)] == [True, True, None]
    assert list(proof.pending) == [message(1).id, message(2).id]
    assert Proof().hear(message(1), 0) is None


def test_recent_memory_is_bounded_and_given_back():
    proof = Proof()
    proof.start(0, 0)
    for offset in range(1, RECENT + 10):
        proof.advance(entry(offset, offset - 1))
    assert len(proof.recent) == RECENT
    assert proof.hear(message(RECENT + 9), 10) is False
    proof.rest()
    assert proof.recent is None


def test_settled_needs_age_and_clock_bound():
    event_id = first_id(NOW)
    limit = id_time(event_id) + MAX_AGE + CLOCK_BOUND
    assert not settled(event_id, limit)
    assert settled(event_id, limit + 1)


def test_doubtful_are_the_old_ones():
    proof = Proof()
    old, new = message(1), MessageRecord("t", "c", first_id(NOW + 1000), "u", "k", 1, 0, "hi")
    proof.hear(new, 10)
    proof.hear(old, 10)
    assert list(proof.doubtful(NOW + MAX_AGE + CLOCK_BOUND + 1)) == [old]
    assert proof.cursor == UNKNOWN
