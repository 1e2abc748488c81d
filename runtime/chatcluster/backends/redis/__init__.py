"""Backends on Redis: the bus, tails, caches and leases. Nothing here is the truth; any of it may vanish."""

from chatcluster.backends.redis.bus import RedisBus, RedisBuses
from chatcluster.backends.redis.dedupe import RedisDedupe
from chatcluster.backends.redis.presence import RedisPresence
from chatcluster.backends.redis.read_cursors import RedisReadCursors
from chatcluster.backends.redis.settings import RedisSettings
from chatcluster.backends.redis.shards import RedisShards
from chatcluster.backends.redis.tails import RedisTails
from chatcluster.backends.redis.workers import RedisWorkers

__all__ = [
    "RedisBus",
    "RedisBuses",
    "RedisDedupe",
    "RedisPresence",
    "RedisReadCursors",
    "RedisSettings",
    "RedisShards",
    "RedisTails",
    "RedisWorkers",
]
