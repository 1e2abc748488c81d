"""The platform on three Cassandra nodes and a Redis Cluster: one node of three goes, and nothing of what was said."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from chatcluster.app.commands.audit import records_of
from chatcluster.app.tokens import mint
from chatcluster.client import Client
from chatcluster.core.history import Got
from chatcluster_stack.named import Stack, platform
from chatcluster_stack.processes import Node
from chatcluster_stack.redis import command
from ordeals import ordeal
from real_servers import needed
from talking import stored

pytestmark = pytest.mark.slow
KINDS = ("redis_cluster", "kafka", "cassandra3")


@pytest.fixture(scope="module")
def copied() -> Iterator[Stack]:
    with needed("stack"), platform(f"tests-{os.getpid()}-copied", KINDS) as started:
        yield started


@pytest.mark.parametrize("name", ["cassandra-1", "cassandra-2"])
async def test_the_store_goes_on_without_one_of_three(copied: Stack, tmp_path: Path, name: str) -> None:
    """Also without the one that was asked first; history is read and written by the other two meanwhile."""
    people = [f"{one}-{uuid4().hex[:8]}" for one in ("hal", "ivy")]
    hal, ivy = (
        Client(url, token=mint(copied.key, user=user), device="d", connect_timeout=60)
        for url, user in zip(copied.urls, people, strict=True)
    )
    async with ordeal(copied, tmp_path, 51) as running, hal, ivy:
        channel = await hal.create_direct(people[1])
        await hal.send(channel, "before", timeout=30)
        async with running.fault(f"{name} killed", after=5.0):
            await running.act(name, Node.kill)
            for number in range(10):
                await hal.send(channel, f"without {number}", timeout=30)
            assert await stored(ivy, channel, 11) == ["before", *(f"without {number}" for number in range(10))]


async def test_a_node_of_the_redis_cluster_is_gone_and_comes_back(copied: Stack, tmp_path: Path) -> None:
    """A third of the topics has no bus and no tail meanwhile: they are told from the store."""
    async with ordeal(copied, tmp_path, 52) as running:
        async with running.fault("a third of the Redis Cluster away for 10 s", after=5.0):
            await running.act("redis-cluster-2", Node.kill)
            await asyncio.sleep(10)
        async with running.fault("a third of the Redis Cluster emptied", after=5.0):
            port = int(copied.servers["redis_cluster"].address.rpartition(":")[2])
            assert await asyncio.to_thread(command, "127.0.0.3", port, "flushall") == "OK"
    got = [record for record in records_of([tmp_path / "history.jsonl"]) if isinstance(record, Got)]
    assert any(record.live for record in got)
