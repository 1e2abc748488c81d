"""What is remembered of one ChatCluster between two looks: nothing that could not be lost. Knows no server."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from chatcluster_operator.names import Component
from chatcluster_operator.scale import Scaling, Wish

MEASURES_AGE = 10.0
"""Seconds for which what pods said of themselves counts."""
WISHES = 4000
"""Of one component: more than an hour's window, at one a second."""


@dataclass
class Memory:
    """Of one ChatCluster. Times are seconds of the monotonic clock."""

    attempt: int = 0
    """Looks that failed one after the other."""
    wishes: dict[Component, deque[Wish]] = field(default_factory=dict)
    """What autoscaling wanted, the oldest first."""
    measures: dict[str, tuple[float, Mapping[str, float] | None]] = field(default_factory=dict)
    """Of each pod when it was asked and what it said; None: it did not answer."""
    told: set[str] = field(default_factory=set)
    """Events of the roll-out that is under way: each is told once."""
    uid: str = ""
    ended: str = ""
    """The uid of what nothing can be made for any more."""
    without: set[str] = field(default_factory=set)
    """Optional kinds of which it had no object, and wants none."""
    decided: dict[Component, int] = field(default_factory=dict)
    leaving: dict[str, float] = field(default_factory=dict)
    """Gateways that drain, since when."""

    def wish(self, component: Component, wish: Wish) -> None:
        """One a second, the highest: an hour's window fits, however often one looks."""
        known = self.wishes.setdefault(component, deque(maxlen=WISHES))
        if known and wish.at - known[-1].at < 1.0:
            known[-1] = Wish(known[-1].at, max(known[-1].replicas, wish.replicas))
        else:
            known.append(wish)

    def stale(self, pods: Set[str], now: float) -> bool:
        """Whether these pods are to be asked again; what others said is forgotten."""
        for name in self.measures.keys() - pods:
            del self.measures[name]
        return any(name not in self.measures or now - self.measures[name][0] > MEASURES_AGE for name in pods)

    def drained(self, leaving: Set[str], now: float) -> list[float]:
        """Seconds that each drain took which has ended since the last look. ``leaving``: gateways that drain now."""
        took = [now - self.leaving.pop(gone) for gone in self.leaving.keys() - leaving]
        for name in leaving:
            self.leaving.setdefault(name, now)
        return took

    def direction(self, component: Component, current: int, outcome: Scaling) -> str:
        """How autoscaling decides otherwise than before, from ``current`` at first: up, down, held, or empty."""
        before = self.decided.get(component, current)
        self.decided[component] = outcome.replicas
        if not outcome.active:
            return "held"
        return "up" if outcome.replicas > before else "down" if outcome.replicas < before else ""
