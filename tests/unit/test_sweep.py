"""The wheel of deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chatcluster.services.gateway.sweep import Wheel


class Thing:
    def __init__(self) -> None:
        self.slot = -1
        self.looked: list[float] = []
        self.again: list[float | None] = []

    def check(self, now: float) -> float | None:
        self.looked.append(now)
        return self.again.pop(0) if self.again else None


def turn(wheel: Wheel, until: float, step: float = 0.5) -> None:
    for at in range(1, int(until / step) + 1):
        wheel.turn(at * step)


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=20))
def test_everything_is_looked_at_once_and_at_most_a_slot_late(deadlines: list[float]) -> None:
    wheel = Wheel(0.5, 0.0)
    things = [(Thing(), at) for at in deadlines]
    for thing, at in things:
        wheel.watch(thing, at)
    turn(wheel, 102.0)
    for thing, at in things:
        assert len(thing.looked) == 1
        assert at <= thing.looked[0] <= at + 1.0


def test_an_earlier_appointment_stays_and_a_later_one_is_moved() -> None:
    wheel, thing = Wheel(1.0, 0.0), Thing()
    wheel.watch(thing, 50.0)
    wheel.watch(thing, 10.0)
    wheel.watch(thing, 90.0)
    turn(wheel, 100.0)
    assert thing.looked == [11.0]


def test_who_says_so_is_looked_at_again() -> None:
    wheel, thing = Wheel(1.0, 0.0), Thing()
    thing.again = [5.0, 9.0]
    wheel.watch(thing, 1.0)
    turn(wheel, 20.0)
    assert thing.looked == [2.0, 6.0, 10.0]


def test_the_forgotten_are_left_alone_even_in_the_same_turn() -> None:
    wheel = Wheel(1.0, 0.0)

    class Killer(Thing):
        def check(self, now: float) -> float | None:
            for other in killers:
                if other is not self:
                    wheel.forget(other)
            return super().check(now)

    killers = [Killer(), Killer(), Killer()]
    for killer in killers:
        wheel.watch(killer, 3.0)
    turn(wheel, 10.0)
    assert sum(len(killer.looked) for killer in killers) == 1


def test_a_long_sleep_misses_nobody() -> None:
    wheel = Wheel(0.5, 1_000_000.0)
    things = [Thing() for _ in range(10)]
    for at, thing in enumerate(things):
        wheel.watch(thing, 1_000_000.0 + at * 100.0)
    wheel.turn(1_000_450.0)
    assert [len(thing.looked) for thing in things] == [1] * 5 + [0] * 5
    wheel.turn(2_000_000.0)
    assert [len(thing.looked) for thing in things] == [1] * 10
