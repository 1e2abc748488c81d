"""What pods say of themselves: their ``/metrics``, over HTTP, with bounds. Knows no ChatCluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from chatcluster_operator.names import MANAGEMENT

TIMEOUT = 3.0
"""Seconds for one pod."""
LARGEST = 1 << 20
"""Bytes of an answer."""
AT_ONCE = 64
"""Pods asked at the same time, of all clusters."""
WANTED = frozenset({"chatcluster_gateway_sockets", "chatcluster_persister_lag_records", "chatcluster_dependency_up"})


class Pods:
    """Asks pods."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def measure(self, namespace: str, pod: Mapping[str, Any]) -> Mapping[str, float] | None:
        """Metrics by name, summed over labels (of ``dependency_up`` by ``name:dependency``); None: no answer."""
        status = pod.get("status") or {}
        address = status.get("podIP")
        if not address or status.get("phase") != "Running":
            return None
        host = f"[{address}]" if ":" in address else address
        async with self._gate:
            try:
                async with self._session.get(f"http://{host}:{MANAGEMENT}/metrics") as answer:
                    raw = await answer.content.read(LARGEST + 1)
                    if answer.status != 200 or len(raw) > LARGEST:
                        return None
                    return parsed(raw.decode())
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                return None


def parsed(text: str) -> dict[str, float]:
    """The metrics that are wanted. Raises ``ValueError`` for what is no exposition."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        if family.name not in WANTED:
            continue
        for sample in family.samples:
            key = sample.name
            if key == "chatcluster_dependency_up":
                key = f"{key}:{sample.labels.get('dependency', '')}"
                found[key] = min(found.get(key, 1.0), sample.value)
            else:
                found[key] = found.get(key, 0.0) + sample.value
    return found


@asynccontextmanager
async def pods() -> AsyncIterator[Pods]:
    """For the time of the block."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        yield Pods(session)
