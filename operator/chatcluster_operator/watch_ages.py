"""When each of kopf's watches last brought something: an event, or the server's bookmark of about every minute.

kopf tells handlers of events alone, and a watch without events looks as one that is dead. So the generator under its
queues is wrapped; a test on a real API server fails when kopf moves it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from kopf._cogs.clients import watching


class WatchAges:
    """Seconds since each watch proved to be alive."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def note(self, watch: str) -> None:
        """It brought something now."""
        self._last[watch] = time.monotonic()

    def ages(self) -> dict[str, float]:
        """By resource, behind its namespace where not all are watched."""
        now = time.monotonic()
        return {key: now - last for key, last in self._last.items()}

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """For the time of the block kopf's watches are noticed."""
        original = watching.continuous_watch

        async def noticed(*, resource: Any, namespace: Any, **arguments: Any) -> AsyncIterator[Any]:
            name = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
            if namespace is not None:
                name = f"{namespace}/{name}"
            self._last.setdefault(name, time.monotonic())  # silent from the start is silent, too
            stream = original(resource=resource, namespace=namespace, **arguments)
            async with aclosing(stream):  # type: ignore[type-var] # an async generator
                async for item in stream:
                    self.note(name)
                    yield item

        watching.continuous_watch = noticed
        try:
            yield
        finally:
            watching.continuous_watch = original
