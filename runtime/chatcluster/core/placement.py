"""Which node serves a key: rendezvous hashing (Thaler and Ravishankar, 1998). In which partition it lies. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from zlib import crc32


def weight(key: str, node: str) -> int:
    """The 64-bit score of a node for a key: the same in every process and version, for ever."""
    raw = f"{len(node)}:{node}{key}".encode()
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "big")


def place(key: str, nodes: Iterable[str]) -> str:
    """The node with the highest score; ties go to the greater name. Raises ``ValueError`` without nodes.

    When a node leaves, only its own keys move; when one comes, only the keys that it wins. Whoever knows
    the same set of nodes gives the same answer, in whatever order it knows them.
    """
    return max(nodes, key=lambda node: (weight(key, node), node))


def ranked(key: str, nodes: Iterable[str]) -> list[str]:
    """All nodes by falling score: where the key goes when the first, the second, ... does not answer."""
    return sorted(nodes, key=lambda node: (weight(key, node), node), reverse=True)


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key: its CRC-32 modulo their number (librdkafka's ``consistent``). The same for ever."""
    return crc32(key.encode()) % partitions
