"""Kafka tells its clients the address of a proxy, so that the network in between can be broken."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from chatcluster_stack.kafka import brokers, kafka
from chatcluster_stack.ports import block
from chatcluster_stack.proxy import proxied

pytestmark = pytest.mark.slow


async def test_clients_pass_through_the_proxy(tmp_path: Path) -> None:
    base = block([0, 1, 2])
    async with proxied("127.0.0.1", base) as proxy:
        servers = kafka(tmp_path, base, base + 2, advertised={1: f"127.0.0.1:{proxy.port}"})
        try:
            await asyncio.to_thread(servers.start)
            before = proxy.passed
            assert await asyncio.to_thread(brokers, f"127.0.0.1:{proxy.port}") == 1
            assert proxy.passed > before
            proxy.faults.swallow = True
            with pytest.raises(KafkaException):
                await asyncio.to_thread(brokers, f"127.0.0.1:{proxy.port}")
        finally:
            await asyncio.to_thread(servers.stop, wipe=True)
