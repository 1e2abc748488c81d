"""Read cursors, written back: every few seconds or every hundred changes, never beyond the channel's head."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chatcluster.core.ids import CLOCK_BOUND, id_time
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import MAX_AGE, READS, ReadFlush, encode, user_key
from chatcluster.core.rows import ReadCursorRow
from chatcluster.ports import Clock, ReadCursors, Store, Unavailable
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.persister.writing import Appender


class WriteBack:
    """Flushes what moved in ``ReadCursors`` to the `reads` topic and the store."""

    def __init__(
        self,
        *,
        cursors: ReadCursors,
        store: Store,
        appender: Appender,
        clock: Clock,
        metrics: Metrics,
        settings: PersisterSettings,
    ) -> None:
        self._cursors = cursors
        self._store = store
        self._appender = appender
        self._clock = clock
        self._settings = settings
        self._flushed = metrics.counter("persister_read_cursors_total", "Read cursors flushed.")

    async def run(self) -> None:
        """Until cancelled. What a crash leaves stays dirty and is flushed by the next one."""
        settings, clock = self._settings, self._clock
        last = clock.monotonic()
        while True:
            await asyncio.sleep(settings.read_poll_interval)
            try:
                rows = await self._cursors.dirty(settings.read_batch)
                due = clock.monotonic() - last >= settings.read_flush_interval
                if rows and (due or len(rows) >= settings.read_flush_count):
                    await self._flush(rows)
                if due:
                    last = clock.monotonic()
            except Unavailable:
                continue  # they stay dirty

    async def _flush(self, rows: Sequence[ReadCursorRow]) -> None:
        ready, done = await self._within_heads(rows)
        if ready:
            await self._appender.append(
                READS,
                [
                    (
                        f"{user_key(row.tenant, row.user)}/{row.channel}",
                        encode(ReadFlush(row.tenant, row.user, row.channel, row.message_id)),
                    )
                    for row in ready
                ],
            )
            await self._store.write(ready)
        await self._cursors.flushed(done)
        self._flushed.add(len(ready))

    async def _within_heads(self, rows: Sequence[ReadCursorRow]) -> tuple[list[ReadCursorRow], list[ReadCursorRow]]:
        """(rows to write, dirty rows that are done with them).

        A cursor ahead of the stored head waits: the message is on its way. When it can come no more
        (older than A), the head is written instead: never beyond it (promise 15).
        """
        by_tenant: dict[str, set[str]] = {}
        for row in rows:
            by_tenant.setdefault(row.tenant, set()).add(row.channel)
        heads = {
            (tenant, channel): head
            for tenant, channels in by_tenant.items()
            for channel, head in (await self._store.heads(tenant, sorted(channels))).items()
        }
        hopeless = self._clock.now() - MAX_AGE - 2 * CLOCK_BOUND
        ready: list[ReadCursorRow] = []
        done: list[ReadCursorRow] = []
        for row in rows:
            head = heads.get((row.tenant, row.channel), 0)
            if row.message_id <= head:
                ready.append(row)
                done.append(row)
            elif id_time(row.message_id) < hopeless:
                if head:
                    ready.append(ReadCursorRow(row.tenant, row.user, row.channel, head))
                done.append(row)
        return ready, done
