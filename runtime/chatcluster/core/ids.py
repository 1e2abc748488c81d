"""Event ids: Snowflakes from a hybrid logical clock.

Layout (63 bits): ``41 bit milliseconds since EPOCH | 10 bit worker | 12 bit sequence``. The epoch is
2015-01-01T00:00:00Z, so every id from 2022 until the layout runs out in 2084 has 19 decimal digits:
comparing them as text or as numbers gives the same order.

Order of a channel is the order of its ids, everywhere (law 5).
"""

from __future__ import annotations

from chatcluster.core.codes import Refused

EPOCH = 1_420_070_400_000
"""Milliseconds since 1970 of the id clock's zero."""

WORKER_BITS = 10
SEQUENCE_BITS = 12
TIME_SHIFT = WORKER_BITS + SEQUENCE_BITS
MAX_WORKER = (1 << WORKER_BITS) - 1
MAX_ID = (1 << 63) - 1
CLOCK_BOUND = 5_000
"""Milliseconds by which clocks that mint ids may differ. More is a fault, and loud."""


class ClockFault(Exception):
    """The wall clock is more than the bound away from ids that were seen: sends are refused."""


def id_time(event_id: int) -> int:
    """Milliseconds since 1970 in an id."""
    return (event_id >> TIME_SHIFT) + EPOCH


def first_id(at: int) -> int:
    """The smallest id of the millisecond ``at`` (since 1970); 0 for times before the epoch."""
    return max(0, at - EPOCH) << TIME_SHIFT


def parse_id(text: str, field: str) -> int:
    """An id from the wire: decimal digits without leading zeros, at most 63 bits. Raises ``Refused(bad_request)``."""
    plain = text.isascii() and text.isdigit() and (text[0] != "0" or text == "0")
    if plain and len(text) <= 19 and (value := int(text)) <= MAX_ID:
        return value
    raise Refused("bad_request", f"{field} is not an id: 1 to 19 decimal digits", field=field)


class Minter:
    """Mints strictly increasing ids for one worker number.

    A hybrid logical clock: never backward, and past every id observed, so an answer sorts after its
    question. Exhausted sequences borrow from the next millisecond.
    """

    __slots__ = ("_last", "_worker", "bound")

    def __init__(self, worker: int, *, bound: int = CLOCK_BOUND) -> None:
        if not 0 <= worker <= MAX_WORKER:
            raise ValueError(f"worker number {worker} is not in 0..{MAX_WORKER}")
        self._worker = worker << SEQUENCE_BITS
        self._last = 0  # the largest id minted or observed
        self.bound = bound

    @property
    def last(self) -> int:
        """The largest id minted or observed."""
        return self._last

    def observe(self, event_id: int) -> None:
        """Take note of an id of another worker: later ids are greater."""
        self._last = max(self._last, event_id)

    def mint(self, now: int, after: int = 0) -> int:
        """A new id, greater than every id minted or observed and than ``after``.

        ``now`` is wall time in ms since 1970. Raises ``ClockFault`` when the wall clock is more than
        ``bound`` behind what was observed, or when ``after`` lies more than ``bound`` in the future
        (a forged ``after`` must not push the clock).
        """
        if after > self._last:
            if id_time(after) > now + self.bound:
                raise ClockFault(f"`after` is {id_time(after) - now} ms in the future")
            floor = after
        else:
            floor = self._last
        if id_time(floor) > now + self.bound:
            raise ClockFault(f"the clock is {id_time(floor) - now} ms behind ids already seen")
        wall = (now - EPOCH) << TIME_SHIFT | self._worker
        if wall > floor:
            minted = wall
        else:
            sequence_mask = (1 << SEQUENCE_BITS) - 1
            if (floor >> SEQUENCE_BITS << SEQUENCE_BITS) == (floor >> TIME_SHIFT << TIME_SHIFT | self._worker):
                same = floor & sequence_mask
                minted = floor + 1 if same < sequence_mask else ((floor >> TIME_SHIFT) + 1) << TIME_SHIFT | self._worker
            else:
                at = floor >> TIME_SHIFT
                minted = at << TIME_SHIFT | self._worker
                if minted <= floor:
                    minted = (at + 1) << TIME_SHIFT | self._worker
        self._last = minted
        return minted
