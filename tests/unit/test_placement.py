from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.core.placement import place, ranked

PINNED = ["b", "a", "c", "a", "c", "b", "c", "c"]
"""Places of the first eight keys on a, b, c."""

KEYS = [f"default/g{number}" for number in range(3_000)]
nodes_strategy = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=12, unique=True)


@given(st.text(max_size=40), nodes_strategy, st.randoms())
def test_the_order_in_which_nodes_are_known_changes_nothing(key: str, nodes: list[str], chance: object) -> None:
    shuffled = list(nodes)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]

    assert place(key, shuffled) == place(key, nodes) == ranked(key, nodes)[0]


@given(st.text(max_size=40), nodes_strategy)
def test_when_a_node_leaves_its_keys_go_to_the_next_and_no_other_key_moves(key: str, nodes: list[str]) -> None:
    home = place(key, nodes)
    order = ranked(key, nodes)
    for gone in nodes:
        rest = [node for node in nodes if node != gone]
        if rest:
            assert place(key, rest) == (home if gone != home else order[1])


def test_a_new_node_takes_its_share_and_only_that() -> None:
    before = {key: place(key, ["a", "b", "c"]) for key in KEYS}
    after = {key: place(key, ["a", "b", "c", "d"]) for key in KEYS}
    moved = [key for key in KEYS if before[key] != after[key]]

    assert {after[key] for key in moved} == {"d"}
    assert 0.2 < len(moved) / len(KEYS) < 0.3


def test_keys_are_spread_evenly() -> None:
    counts = Counter(place(key, [f"router-{number}" for number in range(6)]) for key in KEYS)

    assert len(counts) == 6
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_the_answer_is_the_same_in_every_version() -> None:
    assert [place(f"default/g{n}", ["a", "b", "c"]) for n in range(8)] == PINNED


def test_no_nodes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"max|empty|iterable"):
        place("key", [])
