"""The platform on a Redis that Sentinel guards: a fail-over that loses writes loses no message."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chatcluster_stack.named import Stack, platform
from chatcluster_stack.processes import Node
from chatcluster_stack.redis import MASTER, command
from ordeals import ordeal
from real_servers import needed

pytestmark = pytest.mark.slow
SERVERS = (1, 2, 3)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Stack]:
    with ExitStack() as running:
        with needed("stack"):
            kinds = ("redis_sentinel", "kafka", "cassandra")
            started = running.enter_context(platform(f"tests-{os.getpid()}-guarded", kinds))
        yield started


def master(stack: Stack) -> tuple[str, int]:
    """Whom the sentinels call master."""
    host, _, port = stack.servers["redis_sentinel"].address.partition("@")[2].rpartition(":")
    address, number = command(host, int(port), "sentinel", "get-master-addr-by-name", MASTER).split()
    return address, int(number)


def written(address: str, port: int) -> int:
    """Bytes of the replication stream that it has."""
    lines = command(address, port, "info", "replication").splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith("master_repl_offset:"))


async def test_a_fail_over_loses_writes_and_no_message(guarded: Stack, tmp_path: Path) -> None:
    async with ordeal(guarded, tmp_path, 41) as running:
        async with running.fault("Redis failed over, seconds of writes lost", after=5.0):
            before = await asyncio.to_thread(master, guarded)
            names = {f"127.0.0.{number}": f"redis-ha-{number}" for number in SERVERS}
            leader = names.pop(before[0])
            kept = await asyncio.to_thread(written, *before)
            for name in names.values():
                await running.act(name, Node.kill)
            await asyncio.sleep(4.0)
            had = await asyncio.to_thread(written, *before)
            assert had > kept  # these bytes are nowhere else
            await running.act(leader, Node.kill)
            for name in names.values():
                await running.act(name, Node.start)
            async with asyncio.timeout(60):
                while (after := await asyncio.to_thread(master, guarded)) == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
        assert after[0] in names
