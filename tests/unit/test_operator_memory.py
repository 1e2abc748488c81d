"""What is remembered between two looks: enough, not for ever, and no more than fits."""

from __future__ import annotations

from chatcluster_operator.memory import MEASURES_AGE, Memory
from chatcluster_operator.scale import Scaling, Wish


def test_an_hour_of_wishes_is_kept_however_often_one_looks():
    memory = Memory()
    for tick in range(36_000):
        memory.wish("gateway", Wish(tick / 10, 9 if tick == 5 else 2))
    wishes = memory.wishes["gateway"]
    assert len(wishes) == 3600
    assert wishes[0] == Wish(0.0, 9), "of one second the highest"
    for second in range(10_000):
        memory.wish("gateway", Wish(3600.0 + second, 2))
    assert len(wishes) == 4000


def test_pods_are_asked_again_when_one_is_new_or_what_they_said_is_old():
    memory = Memory(measures={"a": (100.0, {}), "b": (104.0, None), "gone": (105.0, {})})
    assert not memory.stale({"a", "b"}, 100.0 + MEASURES_AGE)
    assert set(memory.measures) == {"a", "b"}
    assert memory.stale({"a", "b"}, 100.1 + MEASURES_AGE)
    assert memory.stale({"a", "b", "new"}, 105.0)
    assert not memory.stale(set(), 1e9)


def test_a_drain_takes_from_the_first_look_at_it_until_it_is_gone():
    memory = Memory()
    assert memory.drained({"a", "b"}, 10.0) == []
    assert memory.drained({"a", "b"}, 20.0) == []
    assert memory.drained({"a"}, 25.0) == [15.0]
    assert memory.drained(set(), 40.0) == [30.0]
    assert memory.drained(set(), 50.0) == []


def test_a_decision_is_up_or_down_from_the_one_before():
    memory = Memory()

    def decided(current, replicas, *, active=True):
        return memory.direction("gateway", current, Scaling(replicas, active, "", ""))

    assert [decided(3, 5), decided(3, 5), decided(5, 4), decided(4, 4)] == ["up", "", "down", ""]
    assert [decided(4, 4, active=False), decided(4, 6)] == ["held", "up"]
    assert memory.direction("persister", 6, Scaling(5, True, "", "")) == "down"
