"""The router as a process: gateways connect to its link, products' back ends to the server API beside the probes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from aiohttp import web

from chatcluster.app.api_keys import load_keys
from chatcluster.app.management import STALLED
from chatcluster.app.roles.process import Process, Running
from chatcluster.app.roles.schema import check_schema
from chatcluster.app.roles.settings import ClusterSettings
from chatcluster.app.server_api import ServerApi
from chatcluster.backends.cassandra.store import CassandraStore
from chatcluster.backends.kafka.log import KafkaLog
from chatcluster.backends.links.router_server import serve_router
from chatcluster.backends.redis.bus import RedisBuses
from chatcluster.backends.redis.dedupe import RedisDedupe
from chatcluster.backends.redis.read_cursors import RedisReadCursors
from chatcluster.backends.redis.shards import RedisShards
from chatcluster.backends.redis.tails import RedisTails
from chatcluster.backends.redis.workers import RedisWorkers
from chatcluster.services.router.service import RouterService


class _Minting:
    """The worker number as a dependency: told, and no reason to be unready once it was there."""

    def __init__(self, service: RouterService) -> None:
        self._service = service

    def problems(self) -> str | None:
        """For readiness."""
        return None if self._service.minting else "no worker number: sends are refused"


@asynccontextmanager
async def router(process: Process, settings: ClusterSettings) -> AsyncIterator[Running]:
    """Runs while the block does. Entering waits for Kafka's topics and for a worker number."""
    clock, metrics, name = process.clock, process.metrics, process.name
    keys = load_keys(settings.api.keys_file)
    async with (
        RedisShards.open(settings.redis, clock=clock, metrics=metrics) as shards,
        CassandraStore.open(settings.cassandra, clock=clock, metrics=metrics) as store,
        RedisBuses.open(shards, clock=clock, metrics=metrics) as buses,
        AsyncExitStack() as stack,
    ):
        process.depends("redis", shards)
        process.depends("cassandra", store)
        kafka = process.awaits("kafka")
        log = await stack.enter_async_context(KafkaLog.open(settings.kafka, clock=clock, metrics=metrics))
        kafka.there(log)
        bus = buses.subscriber("router")
        service = RouterService(
            log=log,
            bus=bus,
            store=store,
            dedupe=RedisDedupe(shards, metrics=metrics),
            cursors=RedisReadCursors(shards, metrics=metrics),
            tails=RedisTails(shards, metrics=metrics),
            workers=RedisWorkers(shards, clock=clock, epoch=log.epoch),
            clock=clock,
            metrics=metrics,
            settings=msgspec.structs.replace(settings.router, name=name),
        )

        async def stalled() -> str | None:
            seconds = log.stalled()
            return f"no report for {seconds:.1f} s" if seconds > STALLED else None

        def add_api(app: web.Application) -> None:
            if keys is not None:
                ServerApi(
                    router=service, store=store, bus=bus, keys=keys, clock=clock, metrics=metrics, settings=settings.api
                ).add_to(app)

        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(task) for task in (check_schema(settings.cassandra), service.run(), log.watch())
            ]
            number = process.awaits("worker_number")
            await service.begun()  # gateways need not know of a router that would refuse every send
            number.there(_Minting(service))
            async with serve_router(service, log, settings.link, name=name, metrics=metrics, clock=clock) as link:
                yield Running(
                    checks={"log": stalled}, leave=link.goodbye, add_to=add_api, said=f"router  link {link.port}"
                )
            for task in running:
                task.cancel()
