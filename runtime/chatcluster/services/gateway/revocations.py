"""Tokens that are no longer good: read from the store, polled, and told by the bus (promise 25)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chatcluster.core.metrics import Metrics
from chatcluster.ports import StoreReader, Unavailable

Ended = Callable[[str, str, int], None]
"""tenant, user, before (ms): sessions whose token was issued before it end."""


class Revocations:
    """(tenant, user) to the time before which tokens are refused, ms since 1970."""

    def __init__(self, *, store: StoreReader, metrics: Metrics, interval: float, ended: Ended) -> None:
        self._store = store
        self._interval = interval
        self._ended = ended
        self._before: dict[tuple[str, str], int] = {}
        self._failed = metrics.counter("revocation_failures_total", "Reads of the revocations that failed.")
        self.loaded = asyncio.Event()

    def revoked(self, tenant: str, user: str, issued_at: int) -> bool:
        """Whether a token issued at ``issued_at`` (ms; 0: unknown, so before everything) is refused."""
        return bool(self._before) and issued_at < self._before.get((tenant, user), issued_at)

    def note(self, tenant: str, user: str, before: int) -> None:
        """A revocation; the higher one wins. Ends sessions when it is news."""
        key = (tenant, user)
        if before > self._before.get(key, -1):
            self._before[key] = before
            self._ended(tenant, user, before)

    async def run(self) -> None:
        """Until cancelled. Hellos wait for the first load: a restart must not forget a revocation."""
        while True:
            try:
                rows = await self._store.revocations()
            except Unavailable:
                self._failed.add()
            else:
                for row in rows:
                    self.note(row.tenant, row.user, row.before)
                if len(self._before) > 2 * len(rows) + 1000:
                    self._before = {(row.tenant, row.user): row.before for row in rows}
                self.loaded.set()
            await asyncio.sleep(self._interval)
