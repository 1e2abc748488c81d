"""The store on Cassandra: its two halves on one link, and its lifetime."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from chatcluster.backends.cassandra.buckets import level_of_days
from chatcluster.backends.cassandra.cluster import CassandraLink
from chatcluster.backends.cassandra.members import ChannelReads
from chatcluster.backends.cassandra.migrations import sane
from chatcluster.backends.cassandra.reads import EventReads
from chatcluster.backends.cassandra.settings import CassandraSettings
from chatcluster.backends.cassandra.widths import Widths
from chatcluster.backends.cassandra.writes import CassandraWrites
from chatcluster.core.metrics import Metrics
from chatcluster.core.rows import AnyRow
from chatcluster.ports import Clock, Unavailable


class CassandraStore(EventReads, ChannelReads):
    """Port ``Store``. Made by ``open``."""

    def __init__(self, link: CassandraLink, settings: CassandraSettings, *, clock: Clock, metrics: Metrics) -> None:
        level = level_of_days(settings.bucket_days)
        assert level is not None  # ``sane`` has seen it
        widths = Widths(link, settings, clock=clock, level=level)
        EventReads.__init__(self, link, clock, widths, level)
        ChannelReads.__init__(self)
        self._writes = CassandraWrites(link, settings, widths)
        self._clock = clock
        self._seconds = metrics.histogram("store_write_seconds", "Time of one write of the store.")
        self._written = metrics.counter("store_rows_total", "Rows written to the store.")
        self._trouble = metrics.counter("store_failures_total", "Failed writes of the store.")

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: CassandraSettings, *, clock: Clock, metrics: Metrics
    ) -> AsyncIterator[CassandraStore]:
        """For the time of the block. Comes up without a server too: calls raise ``Unavailable`` until it is there.

        Raises ``Misconfigured`` for what the settings alone show.
        """
        sane(settings)
        async with CassandraLink.open(settings) as link:
            yield cls(link, settings, clock=clock, metrics=metrics)

    def problems(self) -> str | None:
        """Why the store cannot work now, for readiness; None: nothing known."""
        return self._link.problems()

    async def write(self, rows: Sequence[AnyRow]) -> None:
        """See the port."""
        if not rows:
            return
        begun = self._clock.monotonic()
        try:
            await self._writes.write(rows)
        except Unavailable:
            self._trouble.add()
            raise
        self._written.add(len(rows))
        self._seconds.observe(self._clock.monotonic() - begun)
