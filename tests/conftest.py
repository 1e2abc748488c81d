"""What every test may use: time that jumps, a clock on it, and a guard against leaked tasks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

T = TypeVar("T")

# No test fails because its machine was slow; CI runs the same examples every time, people run new ones.
settings.register_profile("people", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "people")


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer whenever nothing is ready.

    Work for executors runs inline, so no thread can be behind: runs are fast and repeatable.
    """

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self.offset = 0.0

    def time(self) -> float:
        return 1_000.0 + self.offset

    def run_in_executor(  # type: ignore[override]
        self, executor: concurrent.futures.Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("deadlock: nothing is ready and no timer is set")
        if not ready and timeout:
            self._loop.offset += timeout
        return ready


class LoopClock:
    """The ``Clock`` port on the running loop's time; ``skew`` ms may be set to step the wall clock."""

    def __init__(self, start: int = 1_790_000_000_000) -> None:
        self.start = start
        self.skew = 0

    def now(self) -> int:
        return self.start + self.skew + int((asyncio.get_running_loop().time() - 1_000.0) * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@pytest.fixture
def loop_clock() -> LoopClock:
    """A clock for services under ``jump``."""
    return LoopClock()


@pytest.fixture
def jumping_loop() -> type[JumpingLoop]:
    """The loop itself, for tests that run it piece by piece."""
    return JumpingLoop


@pytest.fixture
def jump() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine on jumping time; fails when it leaves a task behind."""

    def run(main: Coroutine[Any, Any, T]) -> T:
        async def guarded() -> T:
            result = await main
            await asyncio.sleep(0)
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            assert not left, f"leaked tasks: {left}"
            return result

        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            return runner.run(guarded())

    return run
