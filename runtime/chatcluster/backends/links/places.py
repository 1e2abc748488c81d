"""What a gateway knows of the log: told by routers, so that it needs no connection to the brokers."""

from __future__ import annotations

import msgspec

from chatcluster.backends.links.wire import Facts
from chatcluster.core.placement import partition_of


class LinkPlaces(msgspec.Struct, frozen=True):
    """The log's incarnation and partitions, as a gateway's proof asks for them."""

    facts: Facts

    @property
    def epoch(self) -> str:
        return self.facts.epoch

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""
        return self.facts.partitions[topic]

    def partition_of(self, topic: str, key: str) -> int:
        """The partition of a key: the same for ever."""
        return partition_of(key, self.facts.partitions[topic])


def difference(known: Facts, other: Facts) -> str | None:
    """Why two routers cannot be served together; None when they speak of the same log.

    A topic that only one of them knows is no reason: versions differ while they are replaced.
    """
    if known.epoch != other.epoch:
        return f"its log is of epoch {other.epoch}, the other routers' of {known.epoch}"
    for topic in known.partitions.keys() & other.partitions.keys():
        if known.partitions[topic] != other.partitions[topic]:
            return f"its {topic} has {other.partitions[topic]} partitions, the other routers' {known.partitions[topic]}"
    return None
