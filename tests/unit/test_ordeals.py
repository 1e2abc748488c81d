"""What a fault cost, from a recording."""

from __future__ import annotations

from chatcluster.core.history import Acked, Closed, Got, Opened, Sent, Withdrawn
from ordeals import Cost, measured


def said(at: int, number: int, acked: int) -> list[Sent | Acked | Got]:
    return [
        Sent("ann", at, 1, "send", "g", f"m{number}", f"{number}"),
        Acked("ann", acked, f"{number}", "g", f"id{number}"),
        Got("bob", acked + 100 * number, 1, "g", f"id{number}", "ann", f"m{number}", ""),
    ]


def test_each_fault_gets_what_began_in_its_time() -> None:
    records = [
        *said(1_000, 1, 1_010),
        *said(2_000, 2, 7_000),
        Closed("bob", 2_500, 1),
        Opened("bob", 5_500, 2),
        Withdrawn("bob", 6_000, "g", "id9"),
        *said(12_000, 3, 12_500),
    ]
    assert measured(records, [("first", 2_000, 8_000), ("second", 11_000, 13_000)]) == [
        Cost("first", silent=5.99, slowest=5.0, away=3.0, late=0.2, withdrawn=1),
        Cost("second", silent=5.5, slowest=0.5, away=0.0, late=0.3, withdrawn=0),
    ]
