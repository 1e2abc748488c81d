"""Recent client_ids in Redis. A cache: the persister's verdict is what counts (delivery.md section 4)."""

from __future__ import annotations

from collections.abc import Sequence

from chatcluster.backends.redis.lanes import settled
from chatcluster.backends.redis.shards import RedisShards
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Claim, Claimed

SETTLE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
end
return 1
"""


class RedisDedupe:
    """Port ``Dedupe``: one round trip per node for all claims of a call. A value is ``id digest p|d``."""

    def __init__(self, shards: RedisShards, *, metrics: Metrics) -> None:
        self._shards = shards
        self._window = shards.settings.dedupe_window
        self._corrupt = metrics.counter("dedupe_corrupt_total", "Entries of client_ids that could not be read.")

    async def claim(self, claims: Sequence[Claim]) -> Sequence[Claimed | None]:
        key = self._shards.key
        answers = await self._shards.run(
            [(one.key, ("SET", key("d", one.key), _pending(one), "NX", "GET", "EX", self._window)) for one in claims]
        )
        return [None if (held := settled(answer)) is None else self._claimed(held) for answer in answers]

    def _claimed(self, held: bytes) -> Claimed | None:
        try:
            number, digest, state = held.split(b" ")
            return Claimed(int(number), int(digest), state == b"d")
        except ValueError:
            # Whatever wrote this, it is none of ours: as if the entry had vanished.
            self._corrupt.add()
            return None

    async def replace(self, claim: Claim) -> None:
        await self._shards.ask(claim.key, "SET", self._shards.key("d", claim.key), _pending(claim), "EX", self._window)

    def settle(self, settled: Sequence[Claim]) -> None:
        for one in settled:
            pending = _pending(one)
            # Only where it still holds this id: a newer attempt's entry must not be called durable.
            self._shards.post(one.key, "EVAL", SETTLE, 1, self._shards.key("d", one.key), pending, pending[:-1] + "d")


def _pending(claim: Claim) -> str:
    return f"{claim.id} {claim.digest} p"
