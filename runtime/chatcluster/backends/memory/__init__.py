"""Backends on memory: for one process, bounded, forgotten at its end. The log and the store never live here."""

from chatcluster.backends.memory.bus import MemoryBus, MemoryBuses
from chatcluster.backends.memory.dedupe import MemoryDedupe
from chatcluster.backends.memory.presence import MemoryPresence
from chatcluster.backends.memory.read_cursors import MemoryReadCursors
from chatcluster.backends.memory.tails import MemoryTails
from chatcluster.backends.memory.workers import MemoryWorkers

__all__ = [
    "MemoryBus",
    "MemoryBuses",
    "MemoryDedupe",
    "MemoryPresence",
    "MemoryReadCursors",
    "MemoryTails",
    "MemoryWorkers",
]
