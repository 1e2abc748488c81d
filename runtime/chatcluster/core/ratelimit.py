"""Rates per key in bounded memory: a token bucket that keeps one number per key. Time is an argument."""

from __future__ import annotations

from collections import OrderedDict


class TokenBuckets:
    """``burst`` tokens per key, refilled at ``rate`` per second; the ``capacity`` most recently used keys are kept.

    Kept as the virtual time at which the bucket is full again (the generic cell rate algorithm, ATM Forum
    TM 4.0): the same admissions as a counter of tokens, in one float. A key that was forgotten starts full,
    which gives a flood of fresh keys nothing: each of them starts full anyway.
    """

    __slots__ = ("_capacity", "_full", "_interval", "_window")

    def __init__(self, *, rate: float, burst: int, capacity: int) -> None:
        if rate <= 0 or burst < 1 or capacity < 1:
            raise ValueError("rate, burst and capacity are positive")
        self._interval = 1.0 / rate
        self._window = burst / rate
        self._capacity = capacity
        self._full: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str, now: float) -> float:
        """Take a token at ``now`` (seconds). 0.0: granted; else the seconds until one is there, nothing taken."""
        full = self._full
        at = full.get(key)
        if at is None:
            if len(full) >= self._capacity:
                full.popitem(last=False)
            full[key] = now + self._interval
            return 0.0
        full.move_to_end(key)
        at = (at if at > now else now) + self._interval
        late = at - now - self._window
        if late > 1e-9:  # float dust must not refuse the last token of a burst
            return late
        full[key] = at
        return 0.0

    def __len__(self) -> int:
        return len(self._full)
