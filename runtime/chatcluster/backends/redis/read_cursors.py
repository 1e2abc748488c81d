"""Read cursors, written back later: merged by max, flushed by the persister. Any key may vanish.

Users are spread over slices, each on one node. A user is a hash, channel -> id. What waits for its flush is a
sorted set per slice (oldest first) with a hash of its values beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import msgspec

from chatcluster.backends.redis.lanes import settled
from chatcluster.backends.redis.shards import RedisShards
from chatcluster.core.metrics import Metrics
from chatcluster.core.rows import ReadCursorRow
from chatcluster.ports import Unavailable

SLICES = 16

# KEYS: user, line, values. ARGV: channel, id, member, ttl, bound. Ids are compared as text: they pass 2^53.
ADVANCE = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and (#known > #ARGV[2] or (#known == #ARGV[2] and known >= ARGV[2])) then return known end
if not redis.call('ZSCORE', KEYS[2], ARGV[3]) then
  if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[5]) then return false end
  local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
  local t = redis.call('TIME')
  local at = math.max(t[1] * 1000000 + t[2], tonumber(last[2] or '0') + 1)
  redis.call('ZADD', KEYS[2], string.format('%.0f', at), ARGV[3])
end
redis.call('HSET', KEYS[3], ARGV[3], ARGV[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return ARGV[2]
"""
# The oldest with their values; members whose value vanished are forgotten.
DIRTY = """
local found = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
local out = {}
for i = 1, #found, 2 do
  local value = redis.call('HGET', KEYS[2], found[i])
  if value then
    out[#out + 1] = found[i]
    out[#out + 1] = found[i + 1]
    out[#out + 1] = value
  else
    redis.call('ZREM', KEYS[1], found[i])
  end
end
return out
"""
FLUSHED = """
for i = 1, #ARGV, 2 do
  local value = redis.call('HGET', KEYS[2], ARGV[i])
  if not value or #value < #ARGV[i + 1] or (#value == #ARGV[i + 1] and value <= ARGV[i + 1]) then
    redis.call('ZREM', KEYS[1], ARGV[i])
    redis.call('HDEL', KEYS[2], ARGV[i])
  end
end
return 1
"""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, str, str]).decode


class RedisReadCursors:
    """Port ``ReadCursors``. ``dirty``: changes that may wait, over all slices; over it ``Unavailable``."""

    def __init__(
        self, shards: RedisShards, *, metrics: Metrics, dirty: int | None = None, slices: int = SLICES
    ) -> None:
        self._shards = shards
        self._ttl = shards.settings.cursor_ttl
        self._bound = -(-(dirty or shards.settings.dirty_cursors) // slices)
        self._places = [f"r{number}" for number in range(slices)]
        self._full = metrics.counter("read_cursors_full_total", "Read cursors refused: too many wait for their flush.")

    async def advance(self, row: ReadCursorRow) -> int:
        place = self._place(row.tenant, row.user)
        member = _encode((row.tenant, row.user, row.channel))
        keys = (self._user(place, row.tenant, row.user), self._line(place), self._values(place))
        told = await self._shards.ask(
            place, "EVAL", ADVANCE, 3, *keys, row.channel, row.message_id, member, self._ttl, self._bound
        )
        if told is None:
            self._full.add()
            raise Unavailable("too many read cursors wait for their flush")
        return int(told)

    async def get(self, tenant: str, user: str, channels: Sequence[str]) -> Mapping[str, int]:
        if not channels:
            return {}
        place = self._place(tenant, user)
        found = await self._shards.ask(place, "HMGET", self._user(place, tenant, user), *channels)
        return {channel: int(value) for channel, value in zip(channels, found, strict=True) if value is not None}

    async def dirty(self, limit: int) -> Sequence[ReadCursorRow]:
        answers = await self._shards.run(
            [(place, ("EVAL", DIRTY, 2, self._line(place), self._values(place), limit)) for place in self._places]
        )
        if all(isinstance(answer, Exception) for answer in answers):
            settled(answers[0])
        waiting: list[tuple[float, ReadCursorRow]] = []
        for answer in answers:
            if isinstance(answer, Exception):
                continue  # that node's wait; the others' need not
            waiting += [
                (float(answer[at + 1]), ReadCursorRow(*_decode(answer[at]), int(answer[at + 2])))
                for at in range(0, len(answer), 3)
            ]
        waiting.sort(key=lambda one: one[0])
        return [row for _, row in waiting[:limit]]

    async def flushed(self, rows: Sequence[ReadCursorRow]) -> None:
        by_place: dict[str, list[bytes | int]] = {}
        for row in rows:
            words = by_place.setdefault(self._place(row.tenant, row.user), [])
            words += (_encode((row.tenant, row.user, row.channel)), row.message_id)
        answers = await self._shards.run(
            [
                (place, ("EVAL", FLUSHED, 2, self._line(place), self._values(place), *words))
                for place, words in by_place.items()
            ]
        )
        for answer in answers:
            settled(answer)

    def _place(self, tenant: str, user: str) -> str:
        return self._places[crc32(f"{tenant}/{user}".encode()) % len(self._places)]

    def _user(self, place: str, tenant: str, user: str) -> str:
        return self._shards.key("r", place, f":{len(tenant)}:{tenant}{user}")

    def _line(self, place: str) -> str:
        return self._shards.key("rl", place)

    def _values(self, place: str) -> str:
        return self._shards.key("rv", place)
