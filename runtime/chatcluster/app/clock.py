"""The machine's time as the ``Clock`` port."""

from __future__ import annotations

import time

# Boot time counts sleep: a lease must not outlive a suspended machine (delivery.md section 1).
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """Wall clock and boot time."""

    __slots__ = ()

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.clock_gettime(_ELAPSED)
