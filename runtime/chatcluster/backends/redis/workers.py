"""Worker numbers 0 to 1023, leased through one node. Two live routers never mint with one number.

A new lease needs a watch that names the server as it is now (replication id and run id) and is older than a
lease: a server that was wiped, restarted or failed over has forgotten leases, and by then each of them has ended.
Holders renew meanwhile. The end of each lease is kept with its number, so that the next holder mints above it.
"""

from __future__ import annotations

import asyncio

from chatcluster.backends.redis.shards import RedisShards
from chatcluster.core.ids import CLOCK_BOUND, MAX_WORKER, first_id
from chatcluster.ports import Clock, Fenced, Lease, Unavailable

PLACE = "workers"

# All stands in one hash, so that eviction takes all or nothing: h<n> holder, e<n> server ms of the lease's end, f<n>
# wall ms up to which its holder may mint; server, since, clock: the watch. ARGV: holder, ttl ms, number held or -1,
# holder's wall time of the end, highest number. Answers {number, floor ms}, {-1, ms to wait} or {-2, 0}: another's.
LEASE = """
local key = KEYS[1]
local who, ttl, own, until_wall, highest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local said = redis.call('INFO', 'replication') .. redis.call('INFO', 'server')
local server = string.match(said, 'master_replid:(%x+)') .. string.match(said, 'run_id:(%x+)')
local all = {}
local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do all[flat[i]] = flat[i + 1] end
local since = tonumber(all['since'] or '0')
if all['server'] ~= server or since == 0 or now < tonumber(all['clock'] or '0') then
  since = now
  redis.call('HSET', key, 'server', server, 'since', string.format('%.0f', now))
end
redis.call('HSET', key, 'clock', string.format('%.0f', now))
local function grant(n, floor)
  local kept = math.max(tonumber(all['f' .. n] or '0'), tonumber(until_wall))
  local ends = string.format('%.0f', now + ttl)
  redis.call('HSET', key, 'h' .. n, who, 'e' .. n, ends, 'f' .. n, string.format('%.0f', kept))
  return {n, string.format('%.0f', floor)}
end
if own >= 0 then
  local holder = all['h' .. own]
  if not holder or holder == who then return grant(own, 0) end
  return {-2, '0'}
end
local wait = since + ttl - now
if wait > 0 then return {-1, string.format('%.0f', wait)} end
local best, oldest = -1, nil
for n = 0, highest do
  local ends = tonumber(all['e' .. n] or '0')
  if ends <= now and (not oldest or ends < oldest) then best, oldest = n, ends end
end
if best < 0 then return {-1, string.format('%.0f', ttl)} end
-- What this server forgot was leased before ``since``: it ended a lease later at the latest.
return grant(best, math.max(tonumber(all['f' .. best] or '0'), since + ttl))
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
        self._key = shards.key("w", PLACE)
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
            PLACE, "EVAL", LEASE, 1, self._key, holder, int(self._ttl * 1000), own, until, self._highest
        )
        if number == -2:
            del self._held[holder]
            raise Fenced(f"worker number {own} is held by another router")
        if number < 0:
            raise Unavailable(f"no worker number can be given for {int(told)} ms")
        floor = held.floor if held is not None else max(self._floor, first_id(int(told) + CLOCK_BOUND))
        lease = self._held[holder] = Lease(number, floor, now + self._ttl)
        return lease
