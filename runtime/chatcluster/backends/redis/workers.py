"""Worker numbers 0 to 1023, leased through one node. Two live routers never mint with one number.

A new lease needs a watch key that names the server as it is now (replication id and run id) and is older than a
lease: a server that was wiped, restarted or failed over has forgotten leases, and by then each of them has ended.
Holders renew meanwhile. The end of each lease is kept with its number, so that the next holder mints above it.
"""

from __future__ import annotations

import asyncio

from chatcluster.backends.redis.shards import RedisShards
from chatcluster.core.ids import CLOCK_BOUND, MAX_WORKER, first_id
from chatcluster.ports import Clock, Fenced, Lease, Unavailable

PLACE = "workers"

# KEYS: holders (number -> holder), ends (number -> server ms of the end; stays), floors (number -> wall ms that the
# holder may mint up to), watch. ARGV: holder, ttl ms, holder's number or -1, holder's wall time of the end, highest.
# Answers {number, floor ms} or {-1, ms to wait} or {-2, 0} for a number that another one holds.
LEASE = """
local holders, ends, floors, watch = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local who, ttl, own, until_wall, highest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local said = redis.call('INFO', 'replication') .. redis.call('INFO', 'server')
local server = string.match(said, 'master_replid:(%x+)') .. string.match(said, 'run_id:(%x+)')
local function grant(number, floor)
  redis.call('HSET', holders, number, who)
  redis.call('ZADD', ends, now + ttl, number)
  local kept = tonumber(redis.call('HGET', floors, number) or '0')
  if kept < tonumber(until_wall) then redis.call('HSET', floors, number, until_wall) end
  return {number, floor}
end
local seen = redis.call('HMGET', watch, 'server', 'since', 'clock')
if seen[1] ~= server or not seen[2] or now < tonumber(seen[3] or '0') then
  redis.call('HSET', watch, 'server', server, 'since', now)
  seen[2] = now
end
redis.call('HSET', watch, 'clock', now)
if own >= 0 then
  local holder = redis.call('HGET', holders, own)
  if not holder or holder == who then
    return grant(own, '0')
  end
  return {-2, '0'}
end
local wait = tonumber(seen[2]) + ttl - now
if wait > 0 then return {-1, tostring(wait)} end
local number = -1
local used = redis.call('ZCARD', ends)
if used <= highest then
  for n = 0, highest do
    if not redis.call('ZSCORE', ends, n) then number = n break end
  end
else
  local free = redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 1)
  if #free == 0 then return {-1, tostring(ttl)} end
  number = tonumber(free[1])
end
return grant(number, redis.call('HGET', floors, number) or '0')
"""


class RedisWorkers:
    """Port ``Workers``. ``ttl``: seconds of a lease (settings). One object serves one process's holders."""

    def __init__(
        self, shards: RedisShards, *, clock: Clock, ttl: float | None = None, floor: int = 0, highest: int = MAX_WORKER
    ) -> None:
        self._shards = shards
        self._clock = clock
        self._ttl = ttl or shards.settings.lease
        self._floor = floor
        self._highest = highest
        self._keys = [shards.key("w", PLACE, kind) for kind in ("holders", "ends", "floors", "watch")]
        self._held: dict[str, Lease] = {}
        self._turn = asyncio.Lock()

    async def lease(self, holder: str) -> Lease:
        async with self._turn:
            return await self._lease(holder)

    async def _lease(self, holder: str) -> Lease:
        held = self._held.get(holder)
        # Before the request leaves: the server counts from later on, so our lease ends first.
        now = self._clock.monotonic()
        until = self._clock.now() + int(self._ttl * 1000)
        if held is not None and now >= held.expires:
            # It ended while we slept or Redis was away: somebody may have had the number since. A new one.
            del self._held[holder]
            held = None
        own = -1 if held is None else held.worker
        number, told = await self._shards.ask(
            PLACE, "EVAL", LEASE, 4, *self._keys, holder, int(self._ttl * 1000), own, until, self._highest
        )
        if number == -2:
            del self._held[holder]
            raise Fenced(f"worker number {own} is held by another router")
        if number < 0:
            raise Unavailable(f"no worker number can be given for {int(told)} ms")
        if held is None:
            floor = max(self._floor, first_id(int(told) + CLOCK_BOUND) if int(told) else 0)
        else:
            floor = held.floor
        lease = self._held[holder] = Lease(number, floor, now + self._ttl)
        return lease
