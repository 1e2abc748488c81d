"""What every test may use: time that jumps, a clock on it, and a guard against leaked tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from jumping import JumpingLoop, LoopClock, run_to_end

pytest_plugins = ["real_servers", "resuming"]

T = TypeVar("T")

# No test fails because its machine was slow; CI runs the same examples every time, people run new ones.
settings.register_profile("people", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "people")


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
    return run_to_end
