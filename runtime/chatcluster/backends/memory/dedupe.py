"""Recent client_ids in memory. A cache: the persister's verdict is what counts (delivery.md section 4)."""

from __future__ import annotations

from collections.abc import Sequence

from chatcluster.core.records import DEDUPE_WINDOW
from chatcluster.ports import Claim, Claimed, Clock

ENTRIES = 200_000
"""Client ids kept at most; over it the oldest claims go first (any entry may vanish)."""


class _Held:
    __slots__ = ("digest", "durable", "expires", "id")

    def __init__(self, claim: Claim, expires: int) -> None:
        self.id = claim.id
        self.digest = claim.digest
        self.durable = False
        self.expires = expires


class MemoryDedupe:
    """Port ``Dedupe``. ``entries``: bound; ``window``: ms that an entry lives."""

    def __init__(self, *, clock: Clock, entries: int = ENTRIES, window: int = DEDUPE_WINDOW) -> None:
        self._clock = clock
        self._entries = entries
        self._window = window
        # In the order of claiming: every entry lives equally long, so the expired stand in front.
        self._held: dict[str, _Held] = {}

    async def claim(self, claims: Sequence[Claim]) -> Sequence[Claimed | None]:
        now = self._now()
        held = self._held
        answers: list[Claimed | None] = []
        for claim in claims:
            old = held.get(claim.key)
            if old is not None and old.expires > now:
                answers.append(Claimed(old.id, old.digest, old.durable))
                continue
            self._put(claim, now)
            answers.append(None)
        self._trim(now)
        return answers

    async def replace(self, claim: Claim) -> None:
        now = self._now()
        self._put(claim, now)
        self._trim(now)

    def settle(self, settled: Sequence[Claim]) -> None:
        find = self._held.get
        for claim in settled:
            entry = find(claim.key)
            # Only where it still holds this id: a newer attempt's entry must not be called durable.
            if entry is not None and entry.id == claim.id:
                entry.durable = True

    def wipe(self) -> None:
        """Forget everything, as a cache that restarts empty."""
        self._held.clear()

    def _put(self, claim: Claim, now: int) -> None:
        self._held.pop(claim.key, None)
        self._held[claim.key] = _Held(claim, now + self._window)

    def _trim(self, now: int) -> None:
        held = self._held
        while held:
            key, entry = next(iter(held.items()))
            if len(held) <= self._entries and entry.expires > now:
                break
            del held[key]

    def _now(self) -> int:
        return int(self._clock.monotonic() * 1000)
