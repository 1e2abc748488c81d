"""Whether a member of a group stands still though there is something to read: seen from outside the driver.

The driver may hold on to a state in which it fetches nothing and says nothing, and goes on with its signs of life,
so the group never gives its partitions to another. What the brokers say is compared with what arrived here.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]


@dataclass(frozen=True)
class View:
    """What the brokers say of a group and its topic, as of about one moment."""

    granted: frozenset[int] | None
    """Partitions that are this member's. None: nothing can be said, as the group is about to share them anew."""
    committed: Mapping[int, int]
    starts: Mapping[int, int]
    """Of each partition the offset of the oldest record that is kept."""
    ends: Mapping[int, int]
    """Of each partition the offset after the newest record that may be read."""


class Standstill:
    """Judges one member. Pure: it sees what it is given."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: dict[Hashable, tuple[object, float]] = {}

    def judge(self, now: float, view: View, owned: Mapping[int, int], following: Mapping[int, int]) -> str:
        """What stood still for ``patience`` seconds or longer, as a text; empty when all moves.

        ``owned``: generation by partition, as the member believes. ``following``: by partition the offset after
        the last record that arrived.
        """
        found: dict[Hashable, tuple[object, str]] = {}
        if view.granted is not None and view.granted != owned.keys():
            text = f"the group gave it {sorted(view.granted)}, it has {sorted(owned)}"
            found["share"] = (view.granted, tuple(owned)), text
        for partition, generation in owned.items():
            if partition in view.ends:
                start = view.starts.get(partition, 0)
                at = max(following.get(partition, view.committed.get(partition, 0)), start)
                if at < view.ends[partition]:
                    text = f"partition {partition} goes on to {view.ends[partition]}, it came to {at}"
                    found[partition] = (generation, at), text
        since = {}
        for key, (what, _) in found.items():
            before, began = self._since.get(key, (None, now))
            since[key] = (what, began if before == what else now)
        self._since = since
        return "; ".join(text for key, (_, text) in found.items() if now - since[key][1] >= self._patience)

    def forget(self) -> None:
        """The member is another one now, or its caller does not take what came."""
        self._since.clear()


class GroupView:
    """Asks brokers for a ``View``, without waiting for them."""

    def __init__(self, wanted: Mapping[str, Any], group: str, topic: str, partitions: int, timeout: float) -> None:
        self.admin = AdminClient(dict(wanted))
        self._group = group
        self._topic = topic
        self._places = [TopicPartition(topic, at) for at in range(partitions)]
        self._timeout = timeout
        self._member: str | None = None
        self._asked: list[Mapping[Any, Future[Any]]] = []

    def ask(self, member: str | None) -> None:
        """Begin, for the member with this id; what was asked before is forgotten. Raises ``KafkaException``."""
        admin, timeout = self.admin, self._timeout
        self._member = member
        self._asked = [
            admin.describe_consumer_groups([self._group], request_timeout=timeout),
            admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(self._group, self._places)], request_timeout=timeout
            ),
            *(
                admin.list_offsets(dict.fromkeys(self._places, which), request_timeout=timeout)
                for which in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
            ),
        ]

    def take(self) -> View | None:
        """The answer, once. None while it is under way, or when brokers did not give it all."""
        if not self._asked or not all(future.done() for futures in self._asked for future in futures.values()):
            return None
        groups, committed, starts, ends = self._asked
        self._asked = []
        try:
            return View(
                self._granted(groups[self._group].result()),
                {
                    at.partition: at.offset
                    for at in committed[self._group].result().topic_partitions
                    if at.error is None and at.offset >= 0
                },
                _offsets(starts),
                _offsets(ends),
            )
        except KafkaException:
            return None

    def _granted(self, group: Any) -> frozenset[int] | None:
        if group.state != ConsumerGroupState.STABLE:
            return None
        share: Sequence[TopicPartition] = [
            at
            for member in group.members
            if member.member_id == self._member
            for at in member.assignment.topic_partitions
        ]
        return frozenset(at.partition for at in share if at.topic == self._topic)


def _offsets(asked: Mapping[Any, Future[Any]]) -> dict[int, int]:
    return {at.partition: future.result().offset for at, future in asked.items()}
