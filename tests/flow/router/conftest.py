"""Scenes against one router on jumping time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chatcluster.services.router.settings import RouterSettings
from handmade_router import Jump, World, running


@pytest.fixture
def play(jump: Jump, loop_clock: Any) -> Callable[..., None]:
    """Runs a scene against a router on jumping time."""

    def run(scene: Callable[[World], Awaitable[None]], **settings: Any) -> None:
        async def main() -> None:
            async with running(World(loop_clock, RouterSettings(**settings))) as world:
                await scene(world)

        jump(main())

    return run
