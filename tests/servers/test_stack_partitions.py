"""Each process that others connect to is cut off from all of them by name, under load: packets vanish, nothing ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatcluster_stack.named import Stack, partitioned
from chatcluster_stack.partitions import Partitions
from ordeals import Ordeal, ordeal
from real_servers import needed

pytestmark = pytest.mark.slow
LONG = bool(os.environ.get("CHATCLUSTER_LONG"))


@pytest.fixture(scope="module")
def between() -> Iterator[tuple[Stack, Partitions]]:
    with needed("stack"), partitioned(f"tests-{os.getpid()}-between") as started:
        yield started


async def cut_off(running: Ordeal, partitions: Partitions, *names: str, seconds: float = 8.0) -> None:
    """Then together again."""
    before = {name: partitions.lost(name) for name in names}
    async with running.fault(f"{' + '.join(names)} cut off for {seconds:g} s", after=5.0):
        for name in names:
            partitions.cut(name)
        await asyncio.sleep(seconds)
        for name in names:
            partitions.join(name)
    assert all(partitions.lost(name) > before[name] for name in names), "somebody spoke to it"


def test_all_but_persisters_can_be_cut_off(between: tuple[Stack, Partitions]) -> None:
    """Nobody connects to a persister: what it connects to is cut off."""
    stack, partitions = between
    assert set(partitions.via) == {name for name in stack.nodes if not name.startswith("persister")}
    with pytest.raises(KeyError):
        partitions.cut("persister-1")


@pytest.mark.parametrize(
    "names",
    [("router-1", "presence-1"), ("redis-1", "kafka-2"), ("cassandra-1", "gateway-2")],
    ids=["roles", "redis and a broker", "store and a gateway"],
)
async def test_who_is_cut_off_loses_nothing(
    between: tuple[Stack, Partitions], tmp_path: Path, names: tuple[str, ...]
) -> None:
    stack, partitions = between
    async with ordeal(stack, tmp_path, 61) as running:
        for name in names:
            await cut_off(running, partitions, name)
        await cut_off(running, partitions, *names, seconds=20.0 if LONG else 5.0)
