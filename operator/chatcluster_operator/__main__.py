"""``python -m chatcluster_operator``: settings, the Lease, kopf in this process, probes. Nothing else."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection

from chatcluster_operator import lease
from chatcluster_operator.cache import Cache
from chatcluster_operator.connection import connected
from chatcluster_operator.definition import known
from chatcluster_operator.exposition import CONTENT_TYPE, Exposition
from chatcluster_operator.handlers import watched
from chatcluster_operator.health import Lag, ailment
from chatcluster_operator.kube import Kube
from chatcluster_operator.logs import write_logs
from chatcluster_operator.measuring import pods
from chatcluster_operator.metrics import Metrics
from chatcluster_operator.reconciler import Reconciler
from chatcluster_operator.watches import Watches

log = logging.getLogger("chatcluster_operator")

ENDING = 5.0
"""Seconds for what runs to end by itself."""
EXIT_LOST = 3
"""Exit code of a leader that lost its Lease: whoever restarts it starts a follower."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line; its defaults are the environment's."""
    parser = argparse.ArgumentParser(prog="chatcluster-operator", description="Runs ChatClusters.")
    environ = os.environ
    parser.add_argument("--kubeconfig", default=environ.get("KUBECONFIG"), help="Not set: the pod's own account.")
    parser.add_argument(
        "--namespace",
        action="append",
        default=[one for one in environ.get("CHATCLUSTER_OPERATOR_NAMESPACES", "").split(",") if one],
        help="Watch this namespace alone (repeatable). Not set: all.",
    )
    parser.add_argument("--lease-namespace", default=environ.get("POD_NAMESPACE") or _own_namespace())
    parser.add_argument("--lease-name", default="chatcluster-operator")
    parser.add_argument("--identity", default=environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}")
    parser.add_argument("--listen", default="0.0.0.0:8082", help="Probes and metrics.")
    parser.add_argument("--log-level", default=environ.get("CHATCLUSTER_OPERATOR_LOG_LEVEL", "info"))
    return parser.parse_args(given)


def _own_namespace() -> str:
    path = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return path.read_text().strip() if path.is_file() else "default"


async def operate(options: argparse.Namespace) -> int:
    """Until SIGTERM, or the Lease is lost. The exit code."""
    if options.kubeconfig is not None:
        os.environ["KUBECONFIG"] = options.kubeconfig  # where kopf looks
    # By which kopf knows itself; else it asks for the user's name, and a pod's user has none.
    os.environ.setdefault("POD_ID", options.identity)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    async with connected(options.kubeconfig, metrics) as api, pods() as measuring:
        lock = lease.FencedLease(options.lease_name, options.lease_namespace, options.identity, api)
        kube = Kube(api, lock.leads)
        reconciler = Reconciler(kube, Cache(), measuring.measure, metrics)
        lost = asyncio.Event()

        watches = Watches(kube, reconciler, options.namespace)
        lag = Lag()
        exposition = Exposition(reconciler, watches, lag, leads=lock.leads, lease_age=lock.age)
        leading: list[asyncio.Task[None] | None] = []

        async def lead() -> None:
            await known(api)
            log.info("%s leads", options.identity)
            leading.append(asyncio.current_task())
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(watches.run())
                    group.create_task(reconciler.run())
                    group.create_task(watched(reconciler, options.namespace))
            except Exception:
                log.exception("the leader failed")
            finally:
                lost.set()

        async def end() -> None:
            lock.drop()
            lost.set()

        election = LeaderElection(
            Config(lock, lease.LEASE, lease.DEADLINE, lease.RETRY, onstarted_leading=lead, onstopped_leading=end)
        )
        async with _probes(options.listen, reconciler, watches, lag, lock, exposition):
            lagging = asyncio.create_task(lag.run())
            running = asyncio.create_task(election.run())
            waits = [asyncio.create_task(one.wait()) for one in (stop, lost)]
            await asyncio.wait([running, *waits], return_when=asyncio.FIRST_COMPLETED)
            held = lock.leads()
            lock.drop()  # nothing new is written from here on
            with suppress(TimeoutError):
                async with asyncio.timeout(ENDING if stop.is_set() else 0.0):
                    await reconciler.idle()  # and what was sent is answered
            # The election, when it is cancelled, cancels nobody.
            tasks = [one for one in (running, lagging, *waits, *leading) if one is not None]
            for task in tasks:
                task.cancel()
            _, left = await asyncio.wait(tasks, timeout=ENDING)
            if running.done() and not running.cancelled() and running.exception() is not None:
                log.error("the election failed", exc_info=running.exception())
            if left:
                # Watches of a server that is away do not end.
                log.error("%s does not lead any more: ending at once", options.identity)
                os._exit(0 if stop.is_set() else EXIT_LOST)
            if stop.is_set() and not reconciler.working:
                await lock.release(held=held)
    if stop.is_set():
        return 0
    log.error("%s does not lead any more: ending", options.identity)
    return EXIT_LOST


@asynccontextmanager
async def _probes(
    listen: str,
    reconciler: Reconciler,
    watches: Watches,
    lag: Lag,
    lock: lease.FencedLease,
    exposition: Exposition,
) -> AsyncIterator[None]:
    async def alive(_: web.Request) -> web.Response:
        ill = ailment(leads=lock.leads(), watches=watches.ages(), behind=reconciler.behind(), lag=lag.least)
        return web.Response(status=503, text=f"{ill}\n") if ill else web.Response(text="ok\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=await exposition.render(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get("/healthz", alive), web.get("/readyz", alive), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        await web.TCPSite(runner, host, int(port)).start()
        yield
    finally:
        await runner.cleanup()


def main() -> None:
    """Console script ``chatcluster-operator``."""
    options = arguments()
    write_logs(options.log_level)
    sys.exit(asyncio.run(operate(options)))


if __name__ == "__main__":
    main()
