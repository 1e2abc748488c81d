"""The gateway as a process: sockets here, routers and presence over links, the bus and the tails on Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chatcluster.app import demo
from chatcluster.app.address import Address
from chatcluster.app.authentication import authentication
from chatcluster.app.pages import load_pages
from chatcluster.app.roles.process import Process, Running
from chatcluster.app.roles.settings import ClusterSettings, secret_of
from chatcluster.backends.cassandra.store import CassandraStore
from chatcluster.backends.links.presence import PresenceLink
from chatcluster.backends.links.router import RouterLink
from chatcluster.backends.redis.bus import RedisBuses
from chatcluster.backends.redis.shards import RedisShards
from chatcluster.backends.redis.tails import RedisTails
from chatcluster.services.gateway.server import GatewayServer
from chatcluster.services.gateway.sessions import Sessions


@asynccontextmanager
async def gateway(
    process: Process, settings: ClusterSettings, listen: Address, *, with_demo: bool = False
) -> AsyncIterator[Running]:
    """Runs while the block does. Entering waits for a router: it says of which incarnation the log is.

    ``with_demo``: tokens of the demo's users for anybody on this machine, and their channels.
    """
    clock, metrics, name = process.clock, process.metrics, process.name
    secret = secret_of(settings.auth)
    pages = demo.pages_with_demo(load_pages(), secret) if with_demo else load_pages()
    async with (
        RedisShards.open(settings.redis, clock=clock, metrics=metrics) as shards,
        CassandraStore.open(settings.cassandra, clock=clock, metrics=metrics) as store,
        RouterLink.open(settings.routers, name=name, clock=clock, metrics=metrics) as router,
        PresenceLink.open(settings.presences, name=name, clock=clock, metrics=metrics) as presence,
        authentication(settings.auth, secret, clock) as authenticator,
        RedisBuses.open(shards, clock=clock, metrics=metrics) as buses,
    ):
        for what, one in (("redis", shards), ("cassandra", store), ("router", router), ("presence", presence)):
            process.depends(what, one)
        places = await router.facts()
        sessions = Sessions(
            name=name,
            router=router,
            bus=buses.subscriber("gateway"),
            tails=RedisTails(shards, metrics=metrics),
            store=store,
            presence=presence,
            log=places,
            authenticator=authenticator,
            clock=clock,
            metrics=metrics,
            settings=settings.sessions,
        )
        presence.told = sessions.watching.changed
        server = GatewayServer(
            accept=sessions.accept,
            clock=clock,
            metrics=metrics,
            settings=settings.gateway,
            pages=pages,
            ready=lambda: router.problems() is None and authenticator.problems() is None,
        )

        async def draining() -> str | None:
            return "draining" if server.draining else None

        async def routers() -> str | None:
            return router.problems()

        async def keys() -> str | None:
            return authenticator.problems()

        async with asyncio.TaskGroup() as group:
            running = [group.create_task(role.run()) for role in (sessions, server)]
            await server.listen(host=listen.host, port=listen.port)
            if with_demo:
                running.append(group.create_task(demo.seed(router)))
            yield Running(
                checks={"gateway": draining, "routers": routers, "keys": keys},
                leave=server.drain,
                said=f"gateway  {listen.url('ws', server.port)}{settings.gateway.path}",
            )
            for task in reversed(running):
                task.cancel()
