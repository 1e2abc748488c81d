"""The bus that lies on purpose."""

from __future__ import annotations

import asyncio

import pytest

from chatcluster.backends.redis.liar import Liar
from chatcluster.backends.redis.settings import RedisSettings
from chatcluster.core.envelope import Nudge


def told(**shares: float) -> list[int]:
    """What is told of a hundred publications, half a second later."""

    async def main() -> list[int]:
        found: list[int] = []
        liar = Liar(lambda topics, envelope: found.append(envelope.offset), RedisSettings(**shares))  # type: ignore[arg-type, union-attr]
        for offset in range(100):
            liar(("a",), Nudge(offset))
        await asyncio.sleep(0.5)
        return found

    return asyncio.run(main())


def test_shares_of_one_lose_repeat_and_delay_all() -> None:
    assert told(bus_loss=1.0) == []
    assert told(bus_repeat=1.0) == [offset for offset in range(100) for _ in range(2)]
    late = told(bus_delay=1.0)
    assert sorted(late) == list(range(100))
    assert late != sorted(late)


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValueError, match="bus_loss is 2"):
        RedisSettings(bus_loss=2.0)
