"""Full jitter: uniform below a window that doubles up to the cap."""

from __future__ import annotations

import pytest

from chatcluster.core.backoff import BASE, CAP, delay


@pytest.mark.parametrize(
    ("attempt", "window"), [(0, 0.5), (1, 1.0), (2, 2.0), (6, 32.0), (7, 60.0), (31, 60.0), (10**9, 60.0)]
)
def test_the_window_doubles_up_to_the_cap(attempt: int, window: float) -> None:
    assert (BASE, CAP) == (0.5, 60.0)
    assert delay(attempt, lambda: 0.0) == 0.0
    assert delay(attempt, lambda: 0.5) == window / 2
    assert window * 0.99 < delay(attempt, lambda: 0.999) < window
