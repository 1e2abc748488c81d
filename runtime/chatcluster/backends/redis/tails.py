"""Tails as one Redis stream per timeline. A cache: any key may vanish, and a late writer is refused by the server.

An entry's id is ``<offset + 1>-0`` (Redis knows no 0-0). Its one field holds the entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from chatcluster.backends.redis.lanes import Command, settled
from chatcluster.backends.redis.shards import RedisShards
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Committed, TailEntry, Unavailable

Stage = Literal["messages", "inbox"]

# Of each key the newest id beside the entries, so that "nothing after" and "not so far" are told apart in one trip.
READ = """
local all = {}
for i, key in ipairs(KEYS) do
  local newest = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  all[i] = false
  if newest.err == nil and #newest > 0 then
    local out = {newest[1][1]}
    for j, one in ipairs(redis.call('XRANGE', key, '(' .. ARGV[i], '+')) do
      out[j + 1] = one[2][2]
    end
    all[i] = out
  end
end
return all
"""
# Of each key whether it is forgotten first, how many entries follow, and their ids and encodings. An id at or below the
# newest is refused by the server itself: a zombie's, and harmless. What is no stream at all makes room.
APPEND = """
local at = 3
for _, key in ipairs(KEYS) do
  if ARGV[at] == '1' then redis.call('UNLINK', key) end
  local last = at + 2 * tonumber(ARGV[at + 1])
  for i = at + 2, last, 2 do
    local added = redis.pcall('XADD', key, 'MAXLEN', '=', ARGV[1], ARGV[i], 'e', ARGV[i + 1])
    if type(added) == 'table' and added.err and string.find(added.err, 'WRONGTYPE', 1, true) then
      redis.call('UNLINK', key)
      added = redis.pcall('XADD', key, 'MAXLEN', '=', ARGV[1], ARGV[i], 'e', ARGV[i + 1])
    end
    if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then
      return added
    end
  end
  redis.call('PEXPIRE', key, ARGV[2])
  at = last + 2
end
return 1
"""
TOGETHER = 20
"""Timelines in one call of a script. To read one: 8 µs of our CPU instead of 22 by itself. More gain nothing and hold
the server for longer."""
COMMIT = """
for i = 1, #ARGV, 3 do
  for j, field in ipairs({'o', 't'}) do
    local name = field .. ARGV[i]
    local given = ARGV[i + j]
    local known = redis.call('HGET', KEYS[1], name)
    if not known or #known < #given or (#known == #given and known < given) then
      redis.call('HSET', KEYS[1], name, given)
    end
  end
end
return 1
"""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TailEntry).decode


@dataclass(slots=True)
class _Written:
    """What one call appends to a timeline: no more than its tail holds."""

    entries: deque[tuple[bytes, bytes]]
    anew: bool = False  # after an entry that is too large nothing before it is of use


class RedisTails:
    """Port ``Tails``. Committed positions stand on every node: each that answers is believed, the highest counts."""

    def __init__(
        self, shards: RedisShards, *, metrics: Metrics, entries: int | None = None, ttl: float | None = None
    ) -> None:
        settings = shards.settings
        self._shards = shards
        self._entries = entries or settings.tail_entries
        self._ttl = int((ttl or settings.tail_ttl) * 1000)
        self._largest = settings.tail_entry_bytes
        self._large = metrics.counter(
            "tail_entries_too_large_total", "Entries that no tail carries: read from the store."
        )
        self._corrupt = metrics.counter("tail_corrupt_total", "Tails that could not be decoded.")

    async def append(self, entries: Sequence[tuple[str, TailEntry]]) -> None:
        """See ``ports.Tails``. Where one node fails, the others have taken theirs before ``Unavailable`` is raised:

        writing all again is harmless, since what stands there already is refused.
        """
        timelines: dict[str, _Written] = {}
        for timeline, entry in entries:
            written = timelines.get(timeline)
            if written is None:
                written = timelines[timeline] = _Written(deque(maxlen=self._entries))
            encoded = _encode(entry)
            if len(encoded) > self._largest:
                # Not kept: the next entry's ``prev`` names it, so the chain breaks and readers ask the store.
                self._large.add()
                written.entries.clear()
                written.anew = True
            else:
                written.entries.append((b"%d-0" % (entry.offset + 1), encoded))
        places = list(timelines)
        groups = self._shards.together(places, TOGETHER)
        commands = [self._append([(places[at], timelines[places[at]]) for at in group]) for group in groups]
        for answer in await self._shards.run(commands):
            settled(answer)

    def _append(self, timelines: Sequence[tuple[str, _Written]]) -> tuple[str, Command]:
        """All entries of a few timelines of one node as one command."""
        key = self._shards.key
        arguments: list[bytes | int] = [self._entries, self._ttl]
        for _, written in timelines:
            arguments += (int(written.anew), len(written.entries))
            for entry in written.entries:
                arguments += entry
        keys = [key("t", timeline).encode() for timeline, _ in timelines]
        return timelines[0][0], ("EVAL", APPEND, len(keys), *keys, *arguments)

    async def read(self, positions: Sequence[tuple[str, int]]) -> Sequence[Sequence[TailEntry] | None]:
        key = self._shards.key
        groups = self._shards.together([timeline for timeline, _ in positions], TOGETHER)
        answers = await self._shards.run(
            [
                (
                    positions[group[0]][0],
                    (
                        "EVAL",
                        READ,
                        len(group),
                        *[key("t", positions[at][0]).encode() for at in group],
                        *[b"%d-0" % (positions[at][1] + 1) for at in group],
                    ),
                )
                for group in groups
            ]
        )
        if answers and all(isinstance(one, Unavailable) for one in answers):
            raise answers[0]
        found: list[Sequence[TailEntry] | None] = [None] * len(positions)
        for group, answer in zip(groups, answers, strict=True):
            if isinstance(answer, list):
                for at, one in zip(group, answer, strict=True):
                    found[at] = self._entries_of(one, positions[at][1])
        return found

    def _entries_of(self, answer: object, after: int) -> Sequence[TailEntry] | None:
        if not isinstance(answer, list) or _offset(answer[0]) < after:
            return None
        try:
            return [_decode(stored) for stored in answer[1:]]
        except (msgspec.DecodeError, ValueError):
            self._corrupt.add()
            return None

    async def commit(self, stage: Stage, positions: Mapping[int, Committed]) -> None:
        arguments: list[int] = []
        for partition, position in positions.items():
            arguments += (partition, position.offset, position.log_time)
        if arguments:
            answers = await self._shards.run(
                [
                    (place, ("EVAL", COMMIT, 1, self._shards.key("p", place, stage), *arguments))
                    for place in self._places()
                ]
            )
            if all(isinstance(one, Unavailable) for one in answers):
                raise answers[0]

    async def committed(self, stage: Stage) -> Mapping[int, Committed]:
        answers = await self._shards.run(
            [(place, ("HGETALL", self._shards.key("p", place, stage))) for place in self._places()]
        )
        known: dict[int, list[int]] = {}
        answered = False
        for answer in answers:
            if isinstance(answer, Exception):
                continue
            answered = True
            for field, value in answer.items():
                position = known.setdefault(int(field[1:]), [0, 0])
                at = 0 if field[:1] == b"o" else 1
                position[at] = max(position[at], int(value))
        if not answered:
            raise settled_error(answers)
        return {partition: Committed(*position) for partition, position in known.items()}

    def _places(self) -> Sequence[str]:
        return self._shards.everywhere()


def _offset(entry_id: bytes) -> int:
    return int(entry_id[:-2]) - 1  # every id here ends in -0


def settled_error(answers: Sequence[object]) -> Exception:
    """The first failure among answers that all failed."""
    for answer in answers:
        if isinstance(answer, Unavailable):
            return answer
    return Unavailable("redis: no node answers")
