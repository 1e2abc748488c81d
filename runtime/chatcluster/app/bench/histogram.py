"""An HDR-style histogram: log-linear buckets, three significant digits, constant memory.

After Gil Tene's HdrHistogram: values keep a relative error of at most 1/1024, whatever their size.
"""

from __future__ import annotations

from collections.abc import Iterator

_BITS = 11  # 2^11 sub-buckets: relative error below 2^-10
_HALF = 1 << (_BITS - 1)


class LatencyHistogram:
    """Counts of microseconds, from 1 to 2^40."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.largest = 0

    def record(self, micros: int) -> None:
        """Count one value; below 1 counts as 1."""
        micros = max(1, micros)
        shift = max(0, micros.bit_length() - _BITS)
        index = (shift << _BITS) | (micros >> shift)
        self._counts[index] = self._counts.get(index, 0) + 1
        self.count += 1
        self.largest = max(self.largest, micros)

    def percentile(self, percent: float) -> int:
        """The smallest recorded value (as its bucket's upper end) that ``percent`` of all do not exceed; 0 if empty."""
        wanted = percent / 100 * self.count
        seen = 0
        for index, upper in self._ascending():
            seen += self._counts[index]
            if seen >= wanted:
                return min(upper, self.largest)
        return self.largest

    def _ascending(self) -> Iterator[tuple[int, int]]:
        for index in sorted(self._counts, key=lambda index: (index & ((1 << _BITS) - 1)) << (index >> _BITS)):
            shift = index >> _BITS
            yield index, (((index & ((1 << _BITS) - 1)) + 1) << shift) - 1
