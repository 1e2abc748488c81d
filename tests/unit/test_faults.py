from __future__ import annotations

from chatcluster.core.faults import told


def test_a_fault_is_told_by_kind_and_place_alone() -> None:
    def deep() -> None:
        raise ValueError("a client's secret")

    try:
        deep()
    except ValueError as error:
        line = told(error)

    assert line == f"ValueError at {__file__}:{deep.__code__.co_firstlineno + 1}"


def test_a_fault_without_a_trace_is_told_too() -> None:
    assert told(KeyError("secret")) == "KeyError at unknown place"
