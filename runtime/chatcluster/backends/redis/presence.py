"""Sessions with a time to live. Everything may vanish: the next heartbeats rebuild it.

Users are spread over slices; a slice lives on one node, and a batch of beats is one script per slice. A user is a
hash, session -> ``status since expires``; a sorted set per slice says when to look at which user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast
from zlib import crc32

from chatcluster.backends.redis.lanes import settled
from chatcluster.backends.redis.shards import RedisShards
from chatcluster.core.envelope import Status
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Beat, Unavailable

SLICES = 16
User = tuple[str, str]

# KEYS: looks. ARGV: prefix of users' keys, ttl ms, bound of users here, then (user, session, status) of each beat.
TOUCH = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local ttl, bound = tonumber(ARGV[2]), tonumber(ARGV[3])
local rank = {offline = 0, away = 1, online = 2}
local out = {}
for i = 4, #ARGV, 3 do
  local user, session, status = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = ARGV[1] .. user
  local flat = redis.call('HGETALL', key)
  local before, rest, last, old = 0, 0, 0, nil
  for j = 1, #flat, 2 do
    local s, since, ends = string.match(flat[j + 1], '(%a+) (%d+) (%d+)')
    if s and tonumber(ends) > now then
      if rank[s] > before then before = rank[s] end
      if flat[j] == session then
        old = {s, since}
      else
        if rank[s] > rest then rest = rank[s] end
        if tonumber(ends) > last then last = tonumber(ends) end
      end
    end
  end
  local after = before
  if status == 'offline' then
    redis.call('HDEL', key, session)
    after = rest
    if last > 0 then redis.call('ZADD', KEYS[1], last, user) else redis.call('ZREM', KEYS[1], user) end
  elseif #flat > 0 or redis.call('ZCARD', KEYS[1]) < bound then
    local since = string.format('%.0f', now)
    if old and old[1] == status then since = old[2] end
    local ends = now + ttl
    redis.call('HSET', key, session, status .. ' ' .. since .. ' ' .. string.format('%.0f', ends))
    if ends > last then last = ends end
    redis.call('PEXPIREAT', key, string.format('%.0f', last + 60000))
    redis.call('ZADD', KEYS[1], string.format('%.0f', last), user)
    after = math.max(rest, rank[status])
  end
  out[#out + 1] = after ~= before and 1 or 0
end
return out
"""
# Users whose look has come: still alive ones are put back, the others are named, once.
EXPIRED = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local out = {}
for _, user in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[2])) do
  local last = 0
  for _, value in ipairs(redis.call('HVALS', ARGV[1] .. user)) do
    last = math.max(last, tonumber(string.match(value, '(%d+)$') or '0'))
  end
  if last > now then
    redis.call('ZADD', KEYS[1], string.format('%.0f', last), user)
  else
    redis.call('ZREM', KEYS[1], user)
    redis.call('UNLINK', ARGV[1] .. user)
    out[#out + 1] = user
  end
end
return out
"""


class RedisPresence:
    """Port ``PresenceStore``. Times are the server's. ``sessions``: users kept at most, roughly."""

    def __init__(
        self, shards: RedisShards, *, metrics: Metrics, sessions: int | None = None, slices: int = SLICES
    ) -> None:
        self._shards = shards
        self._bound = -(-(sessions or shards.settings.sessions) // slices)
        self._places = [f"s{number}" for number in range(slices)]
        self._touched = metrics.counter("presence_beats_stored_total", "Signs of life written.")
        self._next = 0

    async def touch(self, beats: Sequence[Beat], *, ttl: int) -> Sequence[bool]:
        by_place: dict[str, list[int]] = {}
        for index, beat in enumerate(beats):
            by_place.setdefault(self._place(beat.tenant, beat.user), []).append(index)
        commands: list[tuple[str, tuple[Any, ...]]] = []
        for place, indexes in by_place.items():
            words: list[Any] = ["EVAL", TOUCH, 1, self._looks(place), self._users(place), ttl, self._bound]
            for index in indexes:
                beat = beats[index]
                words += (_named(beat.tenant, beat.user), beat.session, beat.status)
            commands.append((place, tuple(words)))
        changed = [False] * len(beats)
        for indexes, answer in zip(by_place.values(), await self._shards.run(commands), strict=True):
            for index, one in zip(indexes, settled(answer), strict=True):
                changed[index] = one == 1
        self._touched.add(len(beats))
        return changed

    async def sessions(self, users: Sequence[User]) -> Sequence[Mapping[str, tuple[Status, int]]]:
        commands: list[tuple[str, tuple[Any, ...]]] = []
        for tenant, user in users:
            place = self._place(tenant, user)
            commands.append((place, ("HGETALL", self._users(place) + _named(tenant, user))))
        now = await self._now(commands)
        found = await self._shards.run(commands)
        return [_alive(settled(answer), now) for answer in found]

    async def _now(self, commands: Sequence[tuple[str, tuple[Any, ...]]]) -> int:
        if not commands:
            return 0
        seconds, micro = await self._shards.ask(commands[0][0], "TIME")
        return int(seconds) * 1000 + int(micro) // 1000

    async def expired(self, limit: int) -> Sequence[User]:
        # A share of the limit for each slice, another slice first each time: nobody is named and then forgotten.
        slices = len(self._places)
        share, gone = max(1, limit // slices), []
        self._next = (self._next + 1) % slices
        turn = self._places[self._next :] + self._places[: self._next]
        places = turn[: max(1, min(slices, limit // share))]
        commands = [(place, ("EVAL", EXPIRED, 1, self._looks(place), self._users(place), share)) for place in places]
        answers = await self._shards.run(commands)
        for answer in answers:
            if not isinstance(answer, Exception):
                gone += [_user(name) for name in answer]
        if not gone and answers and isinstance(answers[0], Unavailable):
            raise answers[0]
        return gone

    def _place(self, tenant: str, user: str) -> str:
        return self._places[crc32(f"{tenant}/{user}".encode()) % len(self._places)]

    def _users(self, place: str) -> str:
        return self._shards.key("u", place, ":")

    def _looks(self, place: str) -> str:
        return self._shards.key("l", place)


def _named(tenant: str, user: str) -> str:
    return f"{len(tenant)}:{tenant}{user}"


def _user(name: bytes) -> User:
    length, _, rest = name.decode().partition(":")
    return rest[: int(length)], rest[int(length) :]


def _alive(held: Mapping[bytes, bytes], now: int) -> Mapping[str, tuple[Status, int]]:
    alive: dict[str, tuple[Status, int]] = {}
    for session, value in held.items():
        status, since, ends = value.decode().split(" ")
        if int(ends) > now:
            alive[session.decode()] = (cast("Status", status), int(since))
    return alive
