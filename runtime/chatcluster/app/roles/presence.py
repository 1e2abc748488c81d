"""A presence node as a process: gateways connect to its link, sessions live in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chatcluster.app.roles.process import Process, Running
from chatcluster.app.roles.settings import ClusterSettings
from chatcluster.backends.links.presence_server import serve_presence
from chatcluster.backends.redis.bus import RedisBuses
from chatcluster.backends.redis.presence import RedisPresence
from chatcluster.backends.redis.shards import RedisShards
from chatcluster.services.presence.node import PresenceNode


@asynccontextmanager
async def presence(process: Process, settings: ClusterSettings) -> AsyncIterator[Running]:
    """Runs while the block does. Sessions may have a Redis of their own; what is told goes over the platform's bus."""
    clock, metrics, name = process.clock, process.metrics, process.name
    async with (
        RedisShards.open(settings.redis, clock=clock, metrics=metrics) as shards,
        RedisShards.open(settings.presence_redis or settings.redis, clock=clock, metrics=metrics) as sessions,
        RedisBuses.open(shards, clock=clock, metrics=metrics) as buses,
    ):
        for what, one in (("redis", shards), ("presence_redis", sessions)):
            process.depends(what, one)
        node = PresenceNode(
            store=RedisPresence(sessions, metrics=metrics),
            bus=buses.subscriber("presence"),
            clock=clock,
            metrics=metrics,
            settings=settings.presence,
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(node.run())
            async with serve_presence(node, settings.link, name=name, metrics=metrics, clock=clock) as link:
                yield Running(leave=link.goodbye, said=f"presence  link {link.port}")
            running.cancel()
