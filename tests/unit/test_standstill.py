"""When a member of a group stands still, by what the brokers say."""

from __future__ import annotations

import pytest

from chatcluster.backends.kafka.standstill import Standstill, View

OWNED = {0: 1, 1: 1}
VIEW = View(frozenset({0, 1}), {0: 5, 1: 7}, {0: 0, 1: 0}, {0: 5, 1: 7})


def changed(**parts):
    return View(**{**{name: getattr(VIEW, name) for name in ("granted", "committed", "starts", "ends")}, **parts})


def judged(*looks, patience=30.0):
    """The last of these looks, 20 s apart: (view, owned, following)."""
    standstill = Standstill(patience)
    return [standstill.judge(20.0 * number, *look) for number, look in enumerate(looks)]


MORE = changed(ends={0: 5, 1: 9})


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        pytest.param([(VIEW, OWNED, {})] * 3, "", id="nothing-to-read"),
        pytest.param([(MORE, OWNED, {})] * 3, "partition 1 goes on to 9, it came to 7", id="never-read"),
        pytest.param([(MORE, OWNED, {1: 8})] * 3, "partition 1 goes on to 9, it came to 8", id="stopped"),
        pytest.param([(MORE, OWNED, {1: 9})] * 3, "", id="read-and-not-committed"),
        pytest.param([(MORE, OWNED, {1: 8})] * 2, "", id="not-for-long"),
        pytest.param([(MORE, OWNED, {1: at}) for at in (7, 7, 8)], "", id="slow-but-moves"),
        pytest.param([(MORE, OWNED, {}), (VIEW, OWNED, {}), (MORE, OWNED, {})], "", id="in-between-it-moved"),
        pytest.param([(MORE, {0: 1, 1: at}, {}) for at in (1, 1, 2)], "", id="given-anew"),
        pytest.param([(MORE, {0: 1}, {})] * 3, "the group gave it [0, 1], it has [0]", id="lacks-a-partition"),
        pytest.param([(VIEW, {0: 1, 1: 1, 2: 1}, {})] * 3, "the group gave it [0, 1], it has [0, 1, 2]", id="too-many"),
        pytest.param(
            [(changed(granted=frozenset()), OWNED, {})] * 3, "the group gave it [], it has [0, 1]", id="thrown-out"
        ),
        pytest.param([(changed(granted=frozenset()), {}, {})] * 3, "", id="more-members-than-partitions"),
        pytest.param([(changed(granted=None), {}, {})] * 3, "", id="the-group-is-about-to-share"),
        pytest.param([(changed(starts={0: 0, 1: 9}, ends={0: 5, 1: 9}), OWNED, {})] * 3, "", id="retention-took-it"),
        pytest.param(
            [(changed(starts={0: 0, 1: 8}, ends={0: 5, 1: 9}), OWNED, {})] * 3,
            "partition 1 goes on to 9, it came to 8",
            id="retention-took-some",
        ),
        pytest.param([(changed(committed={}, ends={0: 0, 1: 0}), OWNED, {})] * 3, "", id="empty-topic"),
    ],
)
def test_what_stands_still(looks, told):
    assert judged(*looks)[-1] == told


def test_a_standstill_is_told_until_it_ends():
    assert [bool(told) for told in judged(*[(MORE, OWNED, {})] * 4, (VIEW, OWNED, {}))] == [
        False, False, True, True, False,
    ]  # fmt: skip


def test_a_busy_caller_starts_the_time_anew():
    standstill = Standstill(30.0)
    for now in (0.0, 20.0):
        standstill.judge(now, MORE, OWNED, {})
    standstill.forget()
    assert [standstill.judge(now, MORE, OWNED, {}) for now in (40.0, 60.0)] == ["", ""]
    assert standstill.judge(80.0, MORE, OWNED, {})
