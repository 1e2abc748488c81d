"""Full-jitter exponential backoff: how long a client waits before it connects or asks again."""

from __future__ import annotations

from collections.abc import Callable

BASE = 0.5
"""Seconds: the window of the first attempt."""
CAP = 60.0
"""Seconds: no window is longer."""


def delay(attempt: int, random: Callable[[], float], *, base: float = BASE, cap: float = CAP) -> float:
    """Seconds to wait before attempt number ``attempt`` (0 is the first repeat).

    Uniform in ``[0, min(cap, base * 2^attempt))``: full jitter spreads a storm evenly over the window,
    where "equal jitter" would leave half of it empty. ``random`` returns a number in ``[0, 1)``.
    """
    window = cap if attempt > 30 else min(cap, base * float(1 << max(0, attempt)))
    return window * random()
