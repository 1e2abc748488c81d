"""The store's schema, checked at every start: a role does not write into a keyspace of another version."""

from __future__ import annotations

import asyncio
import logging
import random

from chatcluster.backends.cassandra import CassandraSettings, check
from chatcluster.core.backoff import delay
from chatcluster.ports import Misconfigured, Unavailable

log = logging.getLogger("chatcluster.cassandra")


async def check_schema(settings: CassandraSettings) -> None:
    """Asks until the store answers; meanwhile the role works without it. Raises ``Misconfigured``."""
    loop = asyncio.get_running_loop()
    attempt = 0
    while True:
        try:
            await loop.run_in_executor(None, check, settings)
        except Unavailable:
            await asyncio.sleep(delay(attempt, random.random, base=0.5, cap=10.0))
            attempt += 1
        except Misconfigured as error:
            log.error("%s", error)
            raise
        else:
            return
