"""One leader: the official client's election on a Lease, with bounded requests and a fence.

``leads`` is true only while the last renewal is younger than the renewal deadline, by the monotonic clock; others may
take the Lease ``LEASE - DEADLINE`` seconds later at the earliest. So two never write at the same time, as long as one
request takes less than that.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from kubernetes.aio.client import ApiClient, V1Lease, V1ObjectMeta
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

LEASE, DEADLINE, RETRY = 15, 8, 2
"""Seconds: of the Lease, after which a leader that cannot renew stops, and between two tries."""
REQUEST = 4.0
"""Seconds for one request of the election."""


class FencedLease(LeaseLock):
    """A lock that knows when it was last surely ours."""

    def __init__(self, name: str, namespace: str, identity: str, api: ApiClient) -> None:
        super().__init__(name, namespace, identity, api)
        self._held = float("-inf")

    def leads(self) -> bool:
        """Whether nobody else can be the leader now."""
        return time.monotonic() - self._held < DEADLINE

    def age(self) -> float:
        """Seconds since it was last surely ours; -1: it is not, or never was."""
        return -1.0 if self._held == float("-inf") else time.monotonic() - self._held

    def drop(self) -> None:
        """Not ours any more, whatever the clock says."""
        self._held = float("-inf")

    async def get(self, name: str, namespace: str) -> Any:
        """See ``LeaseLock``."""
        try:
            async with asyncio.timeout(REQUEST):
                return await super().get(name, namespace)
        except (TimeoutError, OSError) as error:
            return False, _Silent(type(error).__name__)

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        """See ``LeaseLock``, whose own passes an argument that its API refuses (kubernetes 37.0.2)."""
        body = V1Lease(metadata=V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        return await self._taken(self.api_instance.create_namespaced_lease(namespace, body))

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        """See ``LeaseLock``."""
        return await self._taken(super().update(name, namespace, updated_record))

    async def release(self, *, held: bool) -> None:
        """Give it back if it was held: the next one need not wait for it to run out. Nothing may write any more."""
        if not held:
            return
        try:
            async with asyncio.timeout(REQUEST):
                now = await self.api_instance.read_namespaced_lease(self.name, self.namespace)
                if now.spec is not None and now.spec.holder_identity == self.identity:
                    now.spec.holder_identity = now.spec.renew_time = now.spec.acquire_time = None
                    await self.api_instance.replace_namespaced_lease(self.name, self.namespace, now)
        except (TimeoutError, OSError, ApiException):
            pass  # it runs out

    async def _taken(self, writing: Any) -> bool:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(REQUEST):
                done = bool(await writing)
        except (TimeoutError, OSError, ApiException):
            return False  # somebody else made or renewed it, or nobody answered
        if done:
            self._held = asked  # the server had it later than this
        return done


class _Silent(Exception):
    """What the election reads of a server that did not answer."""

    body = None

    @property
    def reason(self) -> str:
        return str(self)
