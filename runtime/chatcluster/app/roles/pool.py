"""Several processes of one role on one port, for a pod with more cores (SO_REUSEPORT).

The parent serves nobody: it starts its children, starts them again when they die, passes signals on, and answers
probes and scrapes for all of them. Each child serves its own management on a Unix socket of the parent's folder.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

import aiohttp
from aiohttp import web

from chatcluster.app.address import Address
from chatcluster.app.exposition import CONTENT_TYPE
from chatcluster.app.management import serve_management
from chatcluster.core.backoff import delay

log = logging.getLogger("chatcluster.pool")

NAME, REUSE = "CHATCLUSTER_PROCESS__NAME", "CHATCLUSTER_GATEWAY__REUSE_PORT"
_ANSWER = 2.0
_BASE, _CAP = 0.2, 10.0
_STEADY = 30.0
"""Seconds that a child has to live for its next death to count as a first one."""
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(.*)\})? (.+)$")


class Pool:
    """``command``: what starts a child, to which ``--management <socket>`` is added."""

    def __init__(self, command: Sequence[str], *, processes: int, name: str) -> None:
        self._command = list(command)
        self._count = processes
        self._name = name
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._leaving = asyncio.Event()

    async def run(self, management: Address, grace: float) -> None:
        """Until SIGTERM or SIGINT; then every child leaves politely, within ``grace`` seconds."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._leaving.set)
        with tempfile.TemporaryDirectory(prefix="chatcluster-pool-") as folder:
            app = web.Application()
            app.router.add_get("/healthz", self._healthz)
            app.router.add_get("/readyz", lambda _: self._readyz(Path(folder)))
            app.router.add_get("/metrics", lambda _: self._metrics(Path(folder)))
            async with serve_management(app, management.host, management.port), asyncio.TaskGroup() as group:
                keeping = [group.create_task(self._keep(Path(folder), index)) for index in range(self._count)]
                await self._leaving.wait()
                for child in self._children.values():
                    if child.returncode is None:
                        child.send_signal(signal.SIGTERM)
                _, late = await asyncio.wait(keeping, timeout=grace + 5.0)
                for child in self._children.values():
                    if child.returncode is None:
                        child.kill()
                if late:
                    log.warning("%d processes took too long to leave and were ended", len(late))

    async def _keep(self, folder: Path, index: int) -> None:
        """One child, started again with backoff whenever it dies."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while not self._leaving.is_set():
            began = loop.time()
            child = await asyncio.create_subprocess_exec(
                *self._command,
                "--management",
                str(folder / f"{index}.sock"),
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, NAME: f"{self._name}-{index}", REUSE: "true"},
            )
            self._children[index] = child
            status = await child.wait()
            if self._leaving.is_set():
                return
            attempt = 0 if loop.time() - began > _STEADY else attempt + 1
            pause = delay(attempt, random.random, base=_BASE, cap=_CAP)
            log.error("process %d ended with status %d: starting it again in %.1f s", index, status, pause)
            try:
                async with asyncio.timeout(pause):
                    await self._leaving.wait()
            except TimeoutError:
                continue

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, folder: Path) -> web.Response:
        answers = await asyncio.gather(*(self._ask(folder, index, "/readyz") for index in range(self._count)))
        text = "".join(
            f"process {index}: {line}\n" for index, (_, body) in enumerate(answers) for line in body.splitlines()
        )
        return web.Response(status=200 if all(status == 200 for status, _ in answers) else 503, text=text)

    async def _metrics(self, folder: Path) -> web.Response:
        answers = await asyncio.gather(*(self._ask(folder, index, "/metrics") for index in range(self._count)))
        bodies = {index: body for index, (status, body) in enumerate(answers) if status == 200}
        return web.Response(body=merged(bodies).encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _ask(self, folder: Path, index: int, path: str) -> tuple[int, str]:
        connector = aiohttp.UnixConnector(str(folder / f"{index}.sock"))
        timeout = aiohttp.ClientTimeout(total=_ANSWER)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(f"http://process{path}") as response,
            ):
                return response.status, await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 503, "no answer\n"


def merged(bodies: dict[int, str]) -> str:
    """Several processes' metrics as one text: every sample gets the label ``process``, every family stays together."""
    families: dict[str, list[str]] = {}
    for index, body in bodies.items():
        family = ""
        for line in body.splitlines():
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                head = families.setdefault(family, [])
                if line not in head and not any(one.startswith(line[:7]) and one[0] == "#" for one in head):
                    head.append(line)
            elif match := _SAMPLE.match(line):
                name, _, labels, value = match.groups()
                labels = f'process="{index}"' + (f",{labels}" if labels else "")
                families.setdefault(family or name, []).append(f"{name}{{{labels}}} {value}")
    return "".join(f"{line}\n" for lines in families.values() for line in lines)
