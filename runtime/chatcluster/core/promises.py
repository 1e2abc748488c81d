"""The promises as checks of a recorded history. Pure: records in, violations and counts out.

Sound rather than complete: what a history leaves open (no answer, a client that was gone in the end) is
never called a violation; it is counted. The numbers are those of the project's list of promises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from chatcluster.core.evidence import Attempt, Client, Evidence, FinalReads, Key, Receipt
from chatcluster.core.history import FinalMessage, Record
from chatcluster.core.records import DEDUPE_WINDOW, RETRY_HORIZON

PROMISES = {
    1: "no acked loss",
    2: "no phantom",
    3: "no invention",
    4: "rejected stays rejected",
    5: "one message per client_id",
    6: "id_conflict",
    7: "one order per channel",
    8: "sender FIFO",
    9: "no silent gap",
    11: "cursor completeness",
    13: "ids unique",
    15: "read cursors",
    16: "edits and deletes win",
}
"""Promises that a history of clients can show broken."""

Counts = Counter[str]

LATE = 5_000
"""ms after its ack by which a message reaches every connected client (promise 9); later ones are counted."""


class Violation(msgspec.Struct, frozen=True):
    """A broken promise. ``witnesses``: the records that show it."""

    promise: int
    name: str
    text: str
    witnesses: list[Record] = []


class Audit(msgspec.Struct, frozen=True):
    """The outcome. ``unchecked``: channels with messages and no complete final read, as tenant/channel.

    ``truncated``: recordings that reached their bound: what is missing after it says nothing.
    """

    violations: list[Violation]
    counts: dict[str, int]
    unchecked: list[str]
    truncated: int

    @property
    def broken(self) -> dict[int, int]:
        """Violations per promise."""
        return dict(Counter(violation.promise for violation in self.violations))


def check(records: Iterable[Record]) -> Audit:
    """Check a history. Memory grows with distinct messages times their receivers."""
    evidence = Evidence(records)
    history = FinalReads(evidence)
    counts: Counts = Counter()
    violations: list[Violation] = []
    for judge in (
        _acked_loss,
        _phantoms,
        _inventions,
        _rejected,
        _one_per_client_id,
        _conflicts,
        _order,
        _sender_fifo,
        _gaps,
        _unique_ids,
        _read_cursors,
        _changes,
    ):
        violations.extend(judge(evidence, history, counts))
    _count(evidence, history, counts)
    unchecked = sorted(
        f"{tenant}/{channel}"
        for tenant, channel in {key[:2] for key in evidence.sends} | set(evidence.finals)
        if (tenant, channel) not in history.final
    )
    ordered = sorted(violations, key=lambda violation: violation.promise)
    names = (*_ALWAYS, *sorted(set(counts) - set(_ALWAYS)))
    return Audit(ordered, {name: counts[name] for name in names}, unchecked, len(evidence.truncated))


_ALWAYS = (
    "clients",
    "channels",
    "messages",
    "attempts",
    "acked",
    "refused",
    "unknown",
    "delivered",
    "late",
    "duplicates",
    "excused",
    "missing",
    "phantoms",
    "inventions",
    "rejected_but_present",
    "double_messages",
    "id_conflicts",
    "order_violations",
    "sender_fifo",
    "cursor_gaps",
    "retracted_but_acked",
    "ids_not_unique",
    "read_cursors_back",
    "changes_lost",
)


def _violation(promise: int, text: str, witnesses: Sequence[Record | None]) -> Violation:
    return Violation(promise, PROMISES[promise], text, [record for record in witnesses if record is not None][:8])


def _received(evidence: Evidence) -> Iterator[tuple[Client, str, int, Receipt]]:
    for client in evidence.clients.values():
        for channel, receipts in client.got.items():
            for message_id, receipt in receipts.items():
                yield client, channel, message_id, receipt


def _acked_loss(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    for place, acks in history.acked_sends.items():
        for final, ids in history.reads.get(place, ()):
            for message_id in acks.keys() - ids:
                counts["missing"] += 1
                text = f"{message_id} in {place[1]} was acked and is not in the history that {final.client} read"
                yield _violation(1, text, [acks[message_id]])


def _phantoms(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    for client, channel, message_id, receipt in _received(evidence):
        place = (client.tenant, channel)
        ack = history.acked.get(place, {}).get(message_id)
        # Who was removed may see withdrawn what was told to him in error, though it stands (delivery.md, 5).
        if receipt.withdrawn is not None and ack is not None and channel not in client.left:
            counts["retracted_but_acked"] += 1
            yield _violation(2, f"{message_id} in {channel} was acked and withdrawn", [ack, receipt.withdrawn])
        final = history.final.get(place)
        if final is None or message_id in final or not receipt.shown:
            continue
        if receipt.durable is None and (not client.present or channel in client.left):
            counts["excused"] += 1  # the withdrawal comes a minute later: to who is still there
            continue
        counts["phantoms"] += 1
        text = f"{client.name} shows {message_id} in {channel}, which is not in history"
        yield _violation(2, text, [receipt.live, receipt.durable])


def _inventions(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    seen: dict[tuple[tuple[str, str], int, str, str, str], Record] = {}
    for client, channel, message_id, receipt in _received(evidence):
        for got in (receipt.live, receipt.durable):
            if got is not None:
                key = ((client.tenant, channel), message_id, got.sender, got.message_id, got.digest)
                seen.setdefault(key, got)
    for place, finals in evidence.finals.items():
        for final in finals:
            for m in final.messages:
                about = (place, int(m.id), m.sender, m.client_id, m.digest)
                if not m.deleted and about not in seen:
                    seen[about] = msgspec.structs.replace(final, messages=[m])
    for (place, message_id, sender, client_id, digest), witness in seen.items():
        attempts = evidence.sends.get((*place, sender, client_id))
        if attempts is None:
            text = f"{message_id} in {place[1]} was never sent by {sender} ({client_id})"
        elif digest in {attempt.sent.digest for attempt in attempts} | {
            change.sent.digest
            for change in evidence.changes.get((*place, str(message_id)), ())
            if change.sent.op == "edit"
        }:
            continue
        else:
            text = f"{message_id} in {place[1]} has not the content that {sender} sent ({client_id})"
        counts["inventions"] += 1
        yield _violation(3, text, [witness])


def _rejected(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    # By content: an id_conflict refuses one content of a client_id and leaves the other.
    refused: dict[tuple[Key, str], list[Attempt]] = {}
    for key, attempts in evidence.sends.items():
        by_digest: dict[str, list[Attempt]] = {}
        for attempt in attempts:
            by_digest.setdefault(attempt.sent.digest, []).append(attempt)
        for digest, same in by_digest.items():
            if all(attempt.failed for attempt in same):
                refused[(key, digest)] = same
    if not refused:
        return
    present: dict[tuple[Key, str], Record] = {}
    for client, channel, _, receipt in _received(evidence):
        got = receipt.durable or receipt.live
        if got is not None and receipt.shown:
            present.setdefault(((client.tenant, channel, got.sender, got.message_id), got.digest), got)
    for place, reads in history.reads.items():
        for final, _ in reads:
            for m in final.messages:
                said = ((*place, m.sender, m.client_id), m.digest)
                if said in refused and said not in present:
                    present[said] = msgspec.structs.replace(final, messages=[m])
    for about in refused.keys() & present.keys():
        counts["rejected_but_present"] += 1
        (_, channel, sender, client_id), _ = about
        text = f"{sender}'s {client_id} in {channel} was refused and is there"
        yield _violation(4, text, [*(attempt.answer for attempt in refused[about]), present[about]])


def _one_per_client_id(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    found: dict[Key, dict[int, Record | None]] = {}
    for place, final in history.final.items():
        for message_id, m in final.items():
            found.setdefault((*place, m.sender, m.client_id), {})[message_id] = None
    for key, attempts in evidence.sends.items():
        for attempt in attempts:
            for ack in attempt.acks:
                found.setdefault(key, {})[int(ack.id)] = ack
    for key, ids in found.items():
        attempts = evidence.sends.get(key, [])
        if len(ids) > 1 and _within_horizon(attempts):
            counts["double_messages"] += 1
            text = f"{key[2]}'s {key[3]} in {key[1]} became {len(ids)} messages: {', '.join(map(str, sorted(ids)))}"
            yield _violation(5, text, [*ids.values(), *(attempt.sent for attempt in attempts)])


def _within_horizon(attempts: Sequence[Attempt]) -> bool:
    """Whether repeats of this client_id had to be recognised: 10 minutes, or 24 hours with ``retry``."""
    if not attempts:
        return True
    first = min(attempt.sent.at for attempt in attempts)
    return all(
        attempt.sent.at - first <= (RETRY_HORIZON if attempt.sent.retry else DEDUPE_WINDOW) for attempt in attempts
    )


def _conflicts(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    for key, attempts in evidence.sends.items():
        acked = {attempt.sent.digest: attempt for attempt in attempts if attempt.acks}
        conflicts = [attempt for attempt in attempts if attempt.answer and attempt.answer.code == "id_conflict"]
        counts["id_conflicts"] += len(conflicts)
        about = f"{key[2]}'s {key[3]} in {key[1]}"
        if len(acked) > 1 and _within_horizon(attempts):
            witnesses: list[Record] = []
            for attempt in acked.values():
                witnesses += (attempt.sent, *attempt.acks)
            yield _violation(6, f"{about} was acked with {len(acked)} different contents", witnesses)
        if conflicts and len({attempt.sent.digest for attempt in attempts}) == 1:
            yield _violation(6, f"{about} was called a conflict with itself", [a.answer for a in conflicts])


def _order(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    for finals in evidence.finals.values():
        for final in finals:
            for before, after in pairwise(final.messages):
                if int(before.id) >= int(after.id):
                    counts["order_violations"] += 1
                    text = f"{final.client} read {after.id} after {before.id} in {final.channel}"
                    yield _violation(7, text, [msgspec.structs.replace(final, messages=[before, after])])
    for reads in history.reads.values():
        for (first, first_ids), (second, second_ids) in pairwise(reads):
            if first_ids != second_ids:
                counts["order_violations"] += 1
                differ = [m for m in (*first.messages, *second.messages) if int(m.id) in first_ids ^ second_ids]
                text = f"{first.client} and {second.client} read {len(differ)} messages of {first.channel} differently"
                yield _violation(7, text, [msgspec.structs.replace(second, messages=differ[:8])])
    for key, attempts in evidence.sends.items():
        for attempt in attempts:
            for ack in attempt.acks:
                if attempt.sent.after and int(ack.id) <= int(attempt.sent.after):
                    counts["order_violations"] += 1
                    text = f"{ack.id} in {key[1]} answers {attempt.sent.after} and sorts before it"
                    yield _violation(7, text, [attempt.sent, ack])


def _sender_fifo(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    for client in evidence.clients.values():
        last: dict[tuple[int, str], tuple[int, Attempt]] = {}
        seen: set[tuple[str, str]] = set()
        for attempt in client.attempts:
            sent = attempt.sent
            if sent.op != "send" or sent.retry or (sent.channel, sent.client_id) in seen:
                continue  # a repeat keeps its first place
            seen.add((sent.channel, sent.client_id))
            for ack in attempt.acks:
                if ack.duplicate:
                    continue
                before = last.get((sent.conn, sent.channel))
                if before is not None and int(ack.id) < before[0]:
                    counts["sender_fifo"] += 1
                    text = f"{client.name} sent {before[1].sent.client_id} before {sent.client_id} in {sent.channel}"
                    yield _violation(8, f"{text}; their ids say otherwise", [*before[1].acks, ack])
                else:
                    last[(sent.conn, sent.channel)] = (int(ack.id), attempt)


def _gaps(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    for client in evidence.clients.values():
        for channel, joined in client.joined.items():
            final = history.final.get((client.tenant, channel), {})
            receipts = client.got.get(channel, {})
            after, held = int(joined.after), {int(held) for held in joined.held}
            for message_id in sorted(final):
                if message_id <= after or message_id in held:
                    continue
                receipt = receipts.get(message_id)
                if receipt is not None and receipt.shown:
                    continue
                if not client.present or channel in client.left:
                    counts["excused"] += 1
                    continue
                counts["cursor_gaps"] += 1
                promise = 9 if client.connections <= 1 else 11
                ack = history.acked_sends.get((client.tenant, channel), {}).get(message_id)
                text = f"{client.name} never got {message_id} in {channel} and was there to the end"
                yield _violation(promise, text, [joined, ack, receipt.withdrawn if receipt else None])


def _unique_ids(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    owners: dict[int, tuple[Key, Record | None]] = {}

    def claims() -> Iterator[tuple[int, Key, Record | None]]:
        for client in evidence.clients.values():
            for attempt in client.attempts:
                sent = attempt.sent
                # Edits and sends may share a client_id: their key is told apart by what they change.
                name = sent.client_id if sent.op == "send" else f"{sent.op} {sent.target} {sent.client_id}"
                for ack in attempt.acks:
                    yield int(ack.id), (client.tenant, sent.channel, client.user, name), ack
        for client, channel, message_id, receipt in _received(evidence):
            for got in (receipt.live, receipt.durable):
                if got is not None:
                    yield message_id, (client.tenant, channel, got.sender, got.message_id), got
        for place, final in history.final.items():
            for message_id, m in final.items():
                yield message_id, (*place, m.sender, m.client_id), None

    for message_id, key, witness in claims():
        owner = owners.setdefault(message_id, (key, witness))
        if owner[0] != key:
            counts["ids_not_unique"] += 1
            yield _violation(13, f"{message_id} is the id of two things", [owner[1], witness])


def _read_cursors(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    for client in evidence.clients.values():
        for channel, reads in client.reads.items():
            answered = [read for read in reads if not read.live]
            for before, after in pairwise(answered):
                if int(after.id) < int(before.id):
                    counts["read_cursors_back"] += 1
                    yield _violation(15, f"{client.user}'s read cursor in {channel} went back", [before, after])
            final = history.final.get((client.tenant, channel))
            head = max(final, default=0) if final is not None else None
            for read in reads:
                if head is not None and int(read.id) > head:
                    counts["read_cursors_back"] += 1
                    yield _violation(15, f"{client.user} has read beyond the head {head} of {channel}", [read])


def _changes(evidence: Evidence, history: FinalReads, counts: Counts) -> Iterator[Violation]:
    for (tenant, channel, target), attempts in evidence.changes.items():
        m = history.final.get((tenant, channel), {}).get(int(target))
        if m is None:
            continue
        deletes = [attempt for attempt in attempts if attempt.sent.op == "delete"]
        acked = [attempt for attempt in deletes if attempt.acks]
        if acked and not m.deleted:
            counts["changes_lost"] += 1
            yield _violation(16, f"{target} in {channel} was deleted and is back", acked[0].acks)
        if m.deleted and all(attempt.failed for attempt in deletes):
            counts["changes_lost"] += 1
            text = f"{target} in {channel} is deleted, which nobody did"
            yield _violation(16, text, [attempt.answer for attempt in deletes])
        if not m.deleted and (lost := _edit_lost(m, attempts)) is not None:
            counts["changes_lost"] += 1
            yield _violation(16, f"{target} in {channel} does not show its newest edit", [lost.sent, *lost.acks])


def _edit_lost(m: FinalMessage, attempts: Sequence[Attempt]) -> Attempt | None:
    """The newest acked edit when neither it nor one of unknown outcome is what history shows."""
    edits = [attempt for attempt in attempts if attempt.sent.op == "edit"]
    acked = [attempt for attempt in edits if attempt.acks]
    if not acked:
        return None
    settled = {attempt.sent.client_id for attempt in acked}
    unknown = {a.sent.digest for a in edits if not a.failed and a.sent.client_id not in settled}
    newest = max(acked, key=lambda attempt: int(attempt.acks[0].id))
    return None if m.digest == newest.sent.digest or m.digest in unknown else newest


def _count(evidence: Evidence, history: FinalReads, counts: Counts) -> None:
    counts["clients"] = len(evidence.clients)
    counts["channels"] = len({key[:2] for key in evidence.sends} | set(evidence.finals))
    counts["messages"] = sum(map(len, history.final.values()))
    counts["acked"] = sum(map(len, history.acked_sends.values()))
    for attempts in evidence.sends.values():
        counts["attempts"] += len(attempts)
        if not any(attempt.acks for attempt in attempts):
            counts["refused" if all(attempt.failed for attempt in attempts) else "unknown"] += 1
    for client, channel, message_id, receipt in _received(evidence):
        if not receipt.times:
            continue
        counts["delivered"] += 1
        # A live copy and a durable one are the protocol's; what comes more often is only allowed.
        counts["duplicates"] += receipt.times - (receipt.live is not None) - (receipt.durable is not None)
        ack = history.acked_sends.get((client.tenant, channel), {}).get(message_id)
        if ack is not None and client.connections == 1 and receipt.at - ack.at > LATE:
            counts["late"] += 1
