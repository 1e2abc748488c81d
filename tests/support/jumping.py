"""Time that jumps: an event loop and a clock for services, and how a test runs on them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


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


def run_to_end(main: Coroutine[Any, Any, T], loop: Callable[[], asyncio.AbstractEventLoop] | None = JumpingLoop) -> T:
    """Run a coroutine (``loop`` None: on real time); fails when it leaves a task behind."""

    async def guarded() -> T:
        result = await main
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"leaked tasks: {left}"
        return result

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(guarded())
