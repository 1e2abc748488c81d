"""The frame around a role: probes from the first moment, a start that waits, leaving in order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from chatcluster.app.roles.process import Process, ProcessSettings, Role, Running, run_role


class Dependency:
    def __init__(self) -> None:
        self.trouble: str | None = "nobody answers at redis-1"

    def problems(self) -> str | None:
        return self.trouble


class Stage:
    """A role that is held at its start, and what happened to it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.dependency = Dependency()
        self.happened: list[str] = []
        self.said: list[str] = []
        self.slow_leave = 0.0

    @asynccontextmanager
    async def role(self, process: Process) -> AsyncIterator[Running]:
        process.depends("redis", self.dependency)
        await self.gate.wait()
        self.happened.append("entered")

        async def own() -> str | None:
            return "closed" if "leave" in self.happened else None

        async def leave() -> None:
            self.happened.append("leave")
            await asyncio.sleep(self.slow_leave)
            self.happened.append("left")

        yield Running(checks={"own": own}, leave=leave, said="here")
        self.happened.append("stopped")


def run(stage: Stage, socket: Path, grace: float = 5.0) -> asyncio.Task[None]:
    role: Role = stage.role
    return asyncio.create_task(
        run_role(role, kind="router", settings=ProcessSettings(grace=grace), management=socket, ready=stage.said.append)
    )


async def ask(socket: Path, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.get(f"http://role{path}") as answer,
    ):
        return answer.status, await answer.text()


async def until(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_it_answers_while_it_starts_says_why_and_then_serves(tmp_path: Path) -> None:
    stage, socket = Stage(), tmp_path / "m.sock"
    running = run(stage, socket)
    await until(socket.exists)
    assert await ask(socket, "/healthz") == (200, "ok\n")
    assert await ask(socket, "/readyz") == (503, "router: starting; redis: nobody answers at redis-1\n")
    stage.gate.set()
    await until(lambda: stage.said)
    # A dependency that all share is told and takes nobody out of service.
    assert await ask(socket, "/readyz") == (200, "own: ok\nredis: degraded: nobody answers at redis-1\n")
    _, metrics = await ask(socket, "/metrics")
    assert 'chatcluster_dependency_up{dependency="redis"} 0.0' in metrics
    stage.dependency.trouble = None
    assert await ask(socket, "/readyz") == (200, "own: ok\nredis: ok\n")
    os.kill(os.getpid(), signal.SIGTERM)
    await running
    assert stage.happened == ["entered", "leave", "left", "stopped"]


async def test_told_to_leave_while_it_starts_it_leaves(tmp_path: Path) -> None:
    stage, socket = Stage(), tmp_path / "m.sock"
    running = run(stage, socket)
    await until(socket.exists)
    await ask(socket, "/healthz")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 5)
    assert stage.happened == []


async def test_leaving_has_an_end(tmp_path: Path) -> None:
    stage, socket = Stage(), tmp_path / "m.sock"
    stage.slow_leave = 3600
    stage.gate.set()
    running = run(stage, socket, grace=0.1)
    await until(lambda: stage.said)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 5)
    assert stage.happened == ["entered", "leave", "stopped"]


async def test_a_role_that_fails_ends_the_process(tmp_path: Path) -> None:
    class Broken(Exception):
        pass

    @asynccontextmanager
    async def role(process: Process) -> AsyncIterator[Running]:
        async def fail() -> None:
            await asyncio.sleep(0.05)
            raise Broken

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            yield Running()

    settings = ProcessSettings()
    with pytest.RaisesGroup(Broken):
        await run_role(role, kind="router", settings=settings, management=tmp_path / "m", ready=lambda _: None)
