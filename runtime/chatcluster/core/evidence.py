"""Sorts the records of a history for the checks in ``promises``: attempts, acks, receipts, final reads.

Pure; takes records of any number of clients in any interleaving, each client's own in order.
"""

from __future__ import annotations

from collections.abc import Iterable

from chatcluster.core.history import (
    Acked,
    Closed,
    Failed,
    Final,
    FinalMessage,
    Finished,
    Got,
    Joined,
    Left,
    Marked,
    Opened,
    ReadAt,
    Record,
    Sent,
    Started,
    Truncated,
    Withdrawn,
)

Place = tuple[str, str]
"""(tenant, channel)."""
Key = tuple[str, str, str, str]
"""(tenant, channel, sender, client_id)."""

LEAVES_OPEN = frozenset({"unknown_outcome", "unavailable"})
"""Error codes after which the message may stand or not (*info*); every other refusal means that nothing happened."""


class Attempt:
    """A send and its answer, if one came."""

    __slots__ = ("acks", "answer", "sent")

    def __init__(self, sent: Sent) -> None:
        self.sent = sent
        self.acks: list[Acked] = []
        self.answer: Failed | None = None

    @property
    def failed(self) -> bool:
        """Nothing happened, for certain."""
        return not self.acks and self.answer is not None and self.answer.code not in LEAVES_OPEN


class Receipt:
    """What one client got of one message."""

    __slots__ = ("at", "durable", "live", "times", "withdrawn")

    def __init__(self) -> None:
        self.at = 0
        self.times = 0
        self.live: Got | None = None
        self.durable: Got | None = None
        self.withdrawn: Withdrawn | None = None

    @property
    def shown(self) -> bool:
        """The client shows it: a durable copy ends pending, a withdrawal ends a live one (delivery.md, 7)."""
        return self.durable is not None or (self.live is not None and self.withdrawn is None)


class Client:
    """One client's story."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tenant = ""
        self.user = ""
        self.connections = 0
        self.open = False
        self.finished = False
        self.joined: dict[str, Joined] = {}
        self.left: dict[str, Left] = {}
        self.got: dict[str, dict[int, Receipt]] = {}
        self.reads: dict[str, list[ReadAt]] = {}
        self.by_rid: dict[str, Attempt] = {}
        self.attempts: list[Attempt] = []

    @property
    def present(self) -> bool:
        """Connected to the end: everything owed must have come. Else its disconnect explains what is missing."""
        return self.open and self.finished


class Evidence:
    """A whole history."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = 0
        self.truncated: list[Truncated] = []
        self.clients: dict[str, Client] = {}
        self.sends: dict[Key, list[Attempt]] = {}
        self.changes: dict[tuple[str, str, str], list[Attempt]] = {}  # (tenant, channel, target)
        self.finals: dict[Place, list[Final]] = {}
        for record in records:
            self.records += 1
            client = self.clients.get(record.client)
            if client is None:
                client = self.clients[record.client] = Client(record.client)
            self._add(client, record)

    def _add(self, client: Client, record: Record) -> None:
        if isinstance(record, Got):
            receipt = client.got.setdefault(record.channel, {}).setdefault(int(record.id), Receipt())
            if receipt.times == 0:
                receipt.at = record.at
            receipt.times += 1
            if record.live:
                receipt.live = receipt.live or record
            else:
                receipt.durable = receipt.durable or record
        elif isinstance(record, Sent):
            attempt = Attempt(record)
            client.by_rid[record.rid] = attempt
            client.attempts.append(attempt)
            if record.op == "send":
                key = (client.tenant, record.channel, client.user, record.client_id)
                self.sends.setdefault(key, []).append(attempt)
            else:
                self.changes.setdefault((client.tenant, record.channel, record.target), []).append(attempt)
        elif isinstance(record, Acked):
            if (attempt_of := client.by_rid.get(record.rid)) is not None:
                attempt_of.acks.append(record)
        elif isinstance(record, Failed):
            if (attempt_of := client.by_rid.get(record.rid)) is not None:
                attempt_of.answer = record
        elif isinstance(record, Withdrawn) and not record.channel:
            # A gateway that knows only the id from `resume.pending` names no channel; ids are unique.
            for receipts in client.got.values():
                if int(record.id) in receipts:
                    receipts[int(record.id)].withdrawn = record
        elif isinstance(record, Withdrawn):
            client.got.setdefault(record.channel, {}).setdefault(int(record.id), Receipt()).withdrawn = record
        elif isinstance(record, Started):
            client.tenant, client.user = record.tenant, record.user
        elif isinstance(record, Opened):
            client.connections, client.open = record.conn, True
        elif isinstance(record, Closed):
            client.open = client.open and record.conn != client.connections
        elif isinstance(record, Joined):
            client.joined[record.channel] = record
            client.left.pop(record.channel, None)
        elif isinstance(record, Left):
            client.left[record.channel] = record
        elif isinstance(record, ReadAt):
            client.reads.setdefault(record.channel, []).append(record)
        elif isinstance(record, Final):
            self.finals.setdefault((client.tenant, record.channel), []).append(record)
        elif isinstance(record, Finished):
            client.finished = True
        elif isinstance(record, Truncated):
            self.truncated.append(record)
        else:
            assert isinstance(record, Marked)  # marks explain a recording to its reader; no check needs them


class FinalReads:
    """Complete final reads by channel with their ids, the messages in any of them, and everything acked."""

    def __init__(self, evidence: Evidence) -> None:
        self.reads: dict[Place, list[tuple[Final, frozenset[int]]]] = {}
        self.final: dict[Place, dict[int, FinalMessage]] = {}
        for place, finals in evidence.finals.items():
            complete = [(final, frozenset(int(m.id) for m in final.messages)) for final in finals if final.complete]
            if complete:
                self.reads[place] = complete
                self.final[place] = {int(m.id): m for final, _ in complete for m in final.messages}
        self.acked: dict[Place, dict[int, Acked]] = {}  # sends, edits, deletes and reactions
        self.acked_sends: dict[Place, dict[int, Acked]] = {}
        for client in evidence.clients.values():
            for attempt in client.attempts:
                place = (client.tenant, attempt.sent.channel)
                for ack in attempt.acks:
                    self.acked.setdefault(place, {}).setdefault(int(ack.id), ack)
                    if attempt.sent.op == "send":
                        self.acked_sends.setdefault(place, {}).setdefault(int(ack.id), ack)
