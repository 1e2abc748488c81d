"""The router as one object: takes requests from gateways, hands each to the part that answers it.

Owns every task of the role: they live in the ``TaskGroup`` of ``run`` and end with it, and whatever waited
is answered then. Knows no socket and no backend.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from chatcluster.core.codes import Refused
from chatcluster.core.faults import told
from chatcluster.core.frames import (
    Answer,
    ChannelAdd,
    ChannelCreate,
    ChannelJoin,
    ChannelLeave,
    ChannelMembers,
    ChannelRemove,
    ChannelUpdate,
    Delete,
    Edit,
    History,
    ListChannels,
    React,
    ReadUpTo,
    Reply,
    Request,
    Send,
    Sync,
    Type,
    refusal,
)
from chatcluster.core.metrics import Metrics
from chatcluster.ports import (
    Bus,
    Caller,
    Clock,
    Dedupe,
    Log,
    ReadCursors,
    StoreReader,
    Tails,
    Unavailable,
    Workers,
)
from chatcluster.services.router.changes import Changes
from chatcluster.services.router.channels import ChannelCache
from chatcluster.services.router.checks import Checks
from chatcluster.services.router.listing import Listing
from chatcluster.services.router.pump import Pump
from chatcluster.services.router.reads import Reads
from chatcluster.services.router.receipts import Receipts
from chatcluster.services.router.refusals import overloaded, unavailable, unknown_outcome
from chatcluster.services.router.sending import Sending
from chatcluster.services.router.settings import RouterSettings
from chatcluster.services.router.verdicts import Verdicts
from chatcluster.services.router.worker import Worker

log = logging.getLogger(__name__)

Done = Callable[[Answer], None]
_SENDS = frozenset({Send, Edit, Delete, React})


class RouterService:
    """Port ``Router``. ``submit`` is for the event loop that ``run`` runs on.

    Requests without a ``rid`` (``read``, ``typing``) are answered too, as the port says exactly once: with a
    ``Reply`` of rid "" or an ``ErrorFrame`` without one, which the gateway drops.
    """

    def __init__(
        self,
        *,
        log: Log,
        bus: Bus,
        store: StoreReader,
        dedupe: Dedupe,
        cursors: ReadCursors,
        tails: Tails,
        workers: Workers,
        clock: Clock,
        metrics: Metrics,
        settings: RouterSettings,
    ) -> None:
        self._settings = settings
        self._group: asyncio.TaskGroup | None = None
        self._open: dict[int, tuple[Done, str | None]] = {}  # requests other than sends, by number
        self._number = 0
        self._worker = Worker(workers=workers, clock=clock, metrics=metrics, settings=settings)
        self._cache = ChannelCache(store=store, bus=bus, clock=clock, metrics=metrics, settings=settings)
        checks = Checks(store=store, tails=tails, log=log, worker=self._worker, clock=clock, settings=settings)

        def verdicts(won: Callable[[Sending, int], None], lost: Callable[[Sending, Refused], None]) -> Verdicts:
            return Verdicts(store=store, clock=clock, settings=settings, won=won, lost=lost)

        self._pump = Pump(
            log=log,
            bus=bus,
            dedupe=dedupe,
            cache=self._cache,
            worker=self._worker,
            checks=checks,
            verdicts=verdicts,
            clock=clock,
            metrics=metrics,
            settings=settings,
        )
        changes = Changes(
            log=log, store=store, dedupe=dedupe, cache=self._cache, worker=self._worker, clock=clock, settings=settings
        )
        reads = Reads(
            log=log, store=store, tails=tails, cache=self._cache, clock=clock, metrics=metrics, settings=settings
        )
        listing = Listing(store=store, cursors=cursors, cache=self._cache, settings=settings)
        self._receipts = Receipts(
            bus=bus,
            store=store,
            cursors=cursors,
            cache=self._cache,
            worker=self._worker,
            clock=clock,
            settings=settings,
        )
        self._answering: dict[type, Callable[[Caller, Any], Awaitable[Reply]]] = {
            ChannelCreate: changes.create,
            ChannelUpdate: changes.update,
            ChannelAdd: changes.add,
            ChannelRemove: changes.remove,
            ChannelJoin: changes.join,
            ChannelLeave: changes.leave,
            ChannelMembers: listing.members,
            ListChannels: listing.channels,
            History: reads.history,
            Sync: reads.sync,
            ReadUpTo: self._receipts.read,
        }
        metrics.gauge("router_requests_running", "Requests being answered, sends aside", lambda: float(len(self._open)))
        self._shed = metrics.counter("router_typing_shed_total", "Typing notices dropped")

    def submit(self, caller: Caller, request: Request, done: Done) -> None:
        """See ``ports.Router``."""
        kind = type(request)
        if self._group is None:
            done(refusal(unavailable("this router is not running", 1_000), getattr(request, "rid", None)))
        elif kind in _SENDS:
            self._pump.submit(caller, request, done)  # type: ignore[arg-type]
        elif kind is Type:
            # Law 9: typing is shed before a message is delayed.
            if self._pump.backlog > self._settings.typing_backlog or not self._receipts.typing(caller, request):  # type: ignore[arg-type]
                self._shed.add()
            done(Reply(""))
        elif len(self._open) >= self._settings.max_reads:
            done(refusal(overloaded(self._settings.retry_after_ms), request.rid))  # type: ignore[union-attr]
        else:
            self._number += 1
            self._open[self._number] = (done, request.rid)  # type: ignore[union-attr]
            self._group.create_task(self._answer(self._number, caller, request), name=f"router {kind.__name__}")

    async def _answer(self, number: int, caller: Caller, request: Request) -> None:
        rid: str | None = request.rid  # type: ignore[union-attr]
        answer: Answer
        try:
            answer = await self._answering[type(request)](caller, request)
        except Refused as refused:
            answer = refusal(refused, rid)
        except Unavailable:
            answer = refusal(unavailable("a part of the platform does not answer", self._settings.retry_after_ms), rid)
        except Exception as error:
            log.error("a request failed: %s", told(error))
            answer = refusal(unavailable("this request failed here"), rid)
        done, _ = self._open.pop(number)
        done(answer)

    @property
    def minting(self) -> bool:
        """Whether sends can be taken: there is a worker number."""
        return self._worker.minting

    async def begun(self) -> None:
        """Returns when there was a worker number for the first time. A fresh Redis gives it after one lease."""
        await self._worker.leased.wait()

    async def run(self) -> None:
        """Serve until cancelled; then everything that waits is answered."""
        await self._worker.renew()
        try:
            async with asyncio.TaskGroup() as group:
                self._cache.start(group)
                self._pump.start(group)
                group.create_task(self._worker.run(), name="router lease")
                group.create_task(self._cache.run(), name="router cache")
                self._group = group
        finally:
            self._group = None
            self._pump.close()
            left, self._open = self._open, {}
            for done, rid in left.values():
                done(refusal(unknown_outcome(), rid))
