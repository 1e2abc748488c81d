"""A router's end of the link: calls in, answers out, many in one frame."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

from chatcluster.backends.links.serving import Guest, LinkServer
from chatcluster.backends.links.settings import LinkServerSettings
from chatcluster.backends.links.wire import Answers, Calls, Facts, Strange, encode, frames
from chatcluster.core.codes import Refused
from chatcluster.core.frames import Answer, refusal
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import TOPICS
from chatcluster.ports import Clock, Router


class Places(Protocol):
    """What of the log gateways are told."""

    @property
    def epoch(self) -> str: ...
    def partitions(self, topic: str) -> int: ...


class _Gateway(Guest):
    def __init__(self, server: LinkServer, router: Router) -> None:
        super().__init__(server)
        self._router = router
        self._answers: list[tuple[int, Answer]] = []
        self._scheduled = False
        self._open = 0
        self._bound = server.settings.max_in_flight

    def asked(self, message: Any) -> None:
        if type(message) is not Calls:
            self.end("it asked a router for something else")
            return
        submit, done = self._router.submit, self._done
        request: Any  # or Strange
        for number, caller, request in message.calls:
            self._open += 1
            if type(request) is Strange:
                refused = Refused("unavailable", "this router is too old for the request", retry_after_ms=1_000)
                done(number, refusal(refused, request.rid))
            elif self._open > self._bound:
                refused = Refused("overloaded", "too much is waiting", retry_after_ms=1_000)
                done(number, refusal(refused, getattr(request, "rid", None)))
            else:
                submit(caller, request, partial(done, number))

    def _done(self, number: int, answer: Answer) -> None:
        self._open -= 1
        self._answers.append((number, answer))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        answers, self._answers = self._answers, []
        if self.gone:
            return
        for frame in frames(Answers, answers, self._unfit):
            self.say(frame)

    def _unfit(self, numbered: tuple[int, Answer]) -> None:
        number, answer = numbered
        rid = getattr(answer, "rid", None)
        refused = Refused("unavailable", "the answer is too large", retryable=False)
        self.say(encode(Answers([(number, refusal(refused, rid if isinstance(rid, str) else None))])))


@asynccontextmanager
async def serve_router(
    router: Router,
    places: Places,
    settings: LinkServerSettings,
    *,
    name: str,
    metrics: Metrics,
    clock: Clock | None = None,
) -> AsyncIterator[LinkServer]:
    """Serve ``router`` to gateways for the time of the block. Raises ``OSError``, ``Misconfigured``."""
    facts = Facts(places.epoch, {topic: places.partitions(topic) for topic in TOPICS})
    server = LinkServer(settings, kind="router", name=name, facts=facts, clock=clock, metrics=metrics)
    async with server.listening(lambda: _Gateway(server, router)):
        yield server
        await asyncio.sleep(0)  # what was answered in this turn is written
