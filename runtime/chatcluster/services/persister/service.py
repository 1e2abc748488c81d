"""The persister: the log to the store, inboxes and tails; read cursors; ticks.

It holds nothing that cannot be rebuilt from the log.
"""

from __future__ import annotations

import asyncio

from chatcluster.core.metrics import Metrics
from chatcluster.core.records import INBOX, MESSAGES
from chatcluster.ports import Bus, Clock, Consumer, Log, LogReader, ReadCursors, Store, Tails
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.persister.stage import Stage, Topic, Work
from chatcluster.services.persister.stage1 import Stage1
from chatcluster.services.persister.stage2 import Stage2
from chatcluster.services.persister.ticks import Ticker
from chatcluster.services.persister.write_back import WriteBack
from chatcluster.services.persister.writing import Appender, Patience, TailWriter


class PersisterService:
    """Both stages, the write-back and the ticker. Can be killed at any instruction (law 10)."""

    def __init__(
        self,
        *,
        log: Log,
        reader: LogReader,
        messages: Consumer,
        inbox: Consumer,
        store: Store,
        tails: Tails,
        bus: Bus,
        cursors: ReadCursors,
        clock: Clock,
        metrics: Metrics,
        settings: PersisterSettings,
    ) -> None:
        patience = Patience(metrics=metrics, settings=settings)
        appender = Appender(log=log, patience=patience, chunk=settings.append_chunk)
        first = Stage1(
            log=log,
            reader=reader,
            store=store,
            tails=TailWriter(tails=tails, metrics=metrics, settings=settings, stage=MESSAGES),
            bus=bus,
            metrics=metrics,
            settings=settings,
            patience=patience,
            appender=appender,
        )
        second = Stage2(
            reader=reader,
            store=store,
            tails=TailWriter(tails=tails, metrics=metrics, settings=settings, stage=INBOX),
            bus=bus,
            metrics=metrics,
            settings=settings,
            patience=patience,
            appender=appender,
        )
        works: tuple[tuple[Topic, Consumer, Work], ...] = (("messages", messages, first), ("inbox", inbox, second))
        self._stages = [
            Stage(
                topic=topic,
                consumer=consumer,
                reader=reader,
                work=work,
                tails=tails,
                clock=clock,
                metrics=metrics,
                settings=settings,
                patience=patience,
            )
            for topic, consumer, work in works
        ]
        self._write_back = WriteBack(
            cursors=cursors, store=store, appender=appender, clock=clock, metrics=metrics, settings=settings
        )
        self._ticker = Ticker(log=log, clock=clock, metrics=metrics, interval=settings.tick_interval)

    async def run(self) -> None:
        """Until cancelled. Anything but a backend that does not answer ends it: a restart begins at the commit."""
        async with asyncio.TaskGroup() as group:
            for stage in self._stages:
                group.create_task(stage.run())
            group.create_task(self._write_back.run())
            group.create_task(self._ticker.run())
