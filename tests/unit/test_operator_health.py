"""When a process of the operator is to be started anew, and when not."""

from __future__ import annotations

import asyncio
import time

import pytest

from chatcluster_operator.health import SLOW_LOOP, STALE_LOOK, STALE_WATCH, Lag, ailment

WELL = {"leads": True, "watches": {"Pod": 70.0, "Service": 1.0}, "behind": 10.0, "lag": 0.2}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"watches": {}}, ""),
        ({"watches": {"Pod": STALE_WATCH + 1, "Service": 1.0}}, "the watch of Pod gave nothing for 301 s"),
        ({"behind": STALE_LOOK + 1}, "a ChatCluster waits for a look for 181 s"),
        ({"lag": SLOW_LOOP + 1}, "the event loop lags 6.0 s"),
        ({"leads": False, "watches": {"Pod": 9999.0}, "behind": 9999.0, "lag": 99.0}, ""),
    ],
)
def test_what_is_ill_is_named(changed, words):
    assert ailment(**{**WELL, **changed}) == words


async def test_a_loop_that_is_held_up_is_seen_and_forgotten(monkeypatch):
    monkeypatch.setattr(Lag, "EVERY", 0.01)
    monkeypatch.setattr(Lag, "SPAN", 4)
    lag = Lag()
    task = asyncio.create_task(lag.run())
    await asyncio.sleep(0.03)
    assert lag.least == 0.0, "not yet known for the whole span"
    time.sleep(0.2)  # noqa: ASYNC251 - what a blocking call does
    await asyncio.sleep(0.02)
    assert lag.most > 0.1
    assert lag.least < 0.1, "once is no illness"
    await asyncio.sleep(0.2)
    assert lag.most < 0.1
    task.cancel()
    await asyncio.wait([task])
