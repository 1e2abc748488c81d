"""Worker numbers 0 to 1023, leased through one node. Two live routers never mint with one number.

No clock of a server decides. Whoever wants a number watches on its own monotonic clock: a lease whose sequence has
not moved for as long as it lasts has ended, and a server that has been the same for a lease has forgotten none that
still runs. So a step of any wall clock, a wiped, restarted or failed-over server cost waiting, never a number twice.

Wall clocks are compared on the way: each holder's, and the server's as one more. Who is far from their middle is told.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from statistics import median

from chatcluster.backends.redis.shards import RedisShards
from chatcluster.core.ids import CLOCK_BOUND, MAX_WORKER, first_id
from chatcluster.ports import Clock, Fenced, Lease, Unavailable

PLACE = "workers"

# All stands in one hash, so that eviction takes all or nothing. h<n> ``sequence ttl holder`` of a lease; f<n> wall ms
# up to which its holders may mint; c<n> ms by which its holder's clock is ahead of the server's; q the last sequence;
# watch: a word for this server, as it is, with this hash; server: what the word stands for; since: wall ms at which it
# was first seen; ripe: a watch that stood for a lease.
# ARGV: holder, ttl ms, number held or -1, holder's wall time now, highest number, a new word, the watch seen for a
# lease or "", then (number, sequence) of leases seen unmoved for as long as they last.
# Answers number (-1: none, -2: another's), floor ms, watch, each c<n>, then sequence, ttl and number of each lease.
LEASE = """
local key = KEYS[1]
local who, ttl, own, wall, highest = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local server_time = time[1] * 1000 + math.floor(time[2] / 1000)
local said = redis.call('INFO', 'replication') .. redis.call('INFO', 'server')
local server = string.match(said, 'master_replid:(%x+)') .. string.match(said, 'run_id:(%x+)')
local all = {}
local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do all[flat[i]] = flat[i + 1] end
local function put(name, value)
  all[name] = value
  redis.call('HSET', key, name, value)
end
if all.server ~= server or not all.watch then
  put('server', server)
  put('watch', ARGV[6])
  put('since', string.format('%.0f', wall))
  put('ripe', '')
elseif ARGV[7] == all.watch and all.ripe ~= all.watch then
  put('ripe', all.watch)
end
for i = 8, #ARGV, 2 do
  local name = 'h' .. ARGV[i]
  if all[name] and string.match(all[name], '^%d+') == ARGV[i + 1] then
    all[name] = nil
    redis.call('HDEL', key, name)
  end
end
local number, floor = -1, 0
local function grant(n)
  put('h' .. n, redis.call('HINCRBY', key, 'q', 1) .. ' ' .. ttl .. ' ' .. who)
  put('c' .. n, string.format('%.0f', wall - server_time))
  put('f' .. n, string.format('%.0f', math.max(tonumber(all['f' .. n] or '0'), wall + ttl)))
  number = n
end
if own >= 0 then
  local holder = all['h' .. own] and string.match(all['h' .. own], '^%d+ %d+ (.*)$')
  if not holder or holder == who then grant(own) else number = -2 end
elseif all.ripe == all.watch then
  local best, oldest = -1, nil
  for n = 0, highest do
    local minted = tonumber(all['f' .. n] or '0')
    if not all['h' .. n] and (not oldest or minted < oldest) then best, oldest = n, minted end
  end
  if best >= 0 then
    -- Leases that this server forgot were given before ``since``: they ended a lease later at the latest.
    floor = math.max(oldest, tonumber(all.since) + ttl)
    grant(best)
  end
end
local clocks = {}
local out = {number, string.format('%.0f', floor), all.watch, ''}
for n = 0, highest do
  local held = all['h' .. n]
  if held then
    clocks[#clocks + 1] = all['c' .. n] or '0'
    local sequence, length = string.match(held, '^(%d+) (%d+)')
    out[#out + 1] = sequence
    out[#out + 1] = length
    out[#out + 1] = n
  end
end
out[4] = table.concat(clocks, ' ')
return out
"""


# For a log that was just made: nothing was minted. ARGV: a new word. Answers 1 when the hash was not there.
BEGIN = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local said = redis.call('INFO', 'replication') .. redis.call('INFO', 'server')
local server = string.match(said, 'master_replid:(%x+)') .. string.match(said, 'run_id:(%x+)')
redis.call('HSET', KEYS[1], 'server', server, 'watch', ARGV[1], 'since', '0', 'ripe', ARGV[1])
return 1
"""


class _Watch:
    """What this process saw of the leases, and since when: always the moment after the answer came."""

    def __init__(self) -> None:
        self.word = b""
        self._since = 0.0
        self._seen: dict[int, tuple[int, float, float]] = {}  # number: sequence, seconds it lasts, seen since

    def ripe(self, now: float, ttl: float) -> bytes:
        """The watch's word when it has been seen for a lease, else nothing."""
        return self.word if self.word and now - self._since >= ttl else b""

    def ended(self, now: float) -> list[int]:
        """Number and sequence of each lease that has not moved for as long as it lasts."""
        words: list[int] = []
        for number, (sequence, lasts, since) in self._seen.items():
            if now - since >= lasts:
                words += (number, sequence)
        return words

    def see(self, word: bytes, leases: Sequence[object], now: float, ttl: float) -> None:
        """Take in an answer."""
        if word != self.word:
            self.word, self._since, self._seen = word, now, {}
        seen: dict[int, tuple[int, float, float]] = {}
        for at in range(0, len(leases), 3):
            sequence, length, number = (int(one) for one in leases[at : at + 3])  # type: ignore[call-overload]
            known = self._seen.get(number)
            since = known[2] if known is not None and known[0] == sequence else now
            seen[number] = (sequence, max(length / 1000, ttl), since)
        self._seen = seen


def _skew(number: int, clocks: bytes, leases: Sequence[object]) -> int:
    """How far the clock of ``number``'s holder is ahead of the middle of all; the server's stands for one."""
    ahead = [int(one) for one in clocks.split()]
    numbers = [int(one) for one in leases[2::3]]  # type: ignore[call-overload]
    return round(ahead[numbers.index(number)] - median([0, *ahead]))


class RedisWorkers:
    """Port ``Workers``. ``ttl``: seconds of a lease (settings). One object serves one process's holders.

    ``epoch``: of the log whose ids are minted; a number is leased per log, since ids are unique within one.
    """

    def __init__(
        self,
        shards: RedisShards,
        *,
        clock: Clock,
        epoch: str = "",
        ttl: float | None = None,
        floor: int = 0,
        highest: int = MAX_WORKER,
    ) -> None:
        self._shards = shards
        self._clock = clock
        self._ttl = ttl or shards.settings.lease
        self._floor = floor
        self._highest = highest
        self._key = shards.key(f"w{epoch}", PLACE)
        self._held: dict[str, Lease] = {}
        self._watch = _Watch()
        self._turn = asyncio.Lock()

    async def begin(self) -> bool:
        """Of a log that was made less than a lease ago: nobody can hold a number of it, so nobody has to wait.

        Whether it was so noted; False where something is known of this log already. Raises ``Unavailable``.
        """
        return bool(await self._shards.ask(PLACE, "EVAL", BEGIN, 1, self._key, secrets.token_hex(8)))

    async def lease(self, holder: str) -> Lease:
        async with self._turn:
            return await self._lease(holder)

    async def _lease(self, holder: str) -> Lease:
        held = self._held.get(holder)
        # Before the request leaves: whoever watches sees the lease later, so ours ends first.
        now = self._clock.monotonic()
        if held is not None and now >= held.expires:
            # It ended while we slept or Redis was away: somebody may have had the number since. A new one.
            del self._held[holder]
            held = None
        own = -1 if held is None else held.worker
        watch = self._watch
        words = (holder, int(self._ttl * 1000), own, self._clock.now(), self._highest, secrets.token_hex(8))
        answer = await self._shards.ask(
            PLACE, "EVAL", LEASE, 1, self._key, *words, watch.ripe(now, self._ttl), *watch.ended(now)
        )
        number, told, word, clocks, *leases = answer
        watch.see(word, leases, self._clock.monotonic(), self._ttl)
        if number == -2:
            del self._held[holder]
            raise Fenced(f"worker number {own} is held by another router")
        if number < 0:
            raise Unavailable("no worker number can be given yet: leases that may still run have to end first")
        floor = held.floor if held is not None else max(self._floor, first_id(int(told) + CLOCK_BOUND))
        lease = self._held[holder] = Lease(number, floor, now + self._ttl, _skew(number, clocks, leases))
        return lease
