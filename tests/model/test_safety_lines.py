"""Each safety rule has a test that fails without it: the rule's line is changed in a copy, and the test must fail.

The table is also ``docs/safety.md``. The quick test holds the table to the code; the slow one runs every mutant.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("runtime", "operator", "stack", "tests")


class Mutant(NamedTuple):
    """``old`` stands exactly once in ``file``; with ``new`` in its place ``test`` must fail."""

    rule: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = [
    Mutant(
        "ack only on report",
        "services/router/pump.py",
        "        self._bus.publish(state.topics, Live(record))\n",
        "        self._bus.publish(state.topics, Live(record))\n        sending.ack(sending.id, duplicate=False)\n",
        "tests/flow/router/test_sends.py::test_a_send_is_told_to_every_member_and_acked_when_durable",
    ),
    Mutant(
        "void by age: no ack",
        "services/router/pump.py",
        "elif result.time - id_time(event_id) > MAX_AGE:",
        "elif result.time - id_time(event_id) > MAX_AGE * 1000:",
        "tests/flow/router/test_sends.py::test_a_record_void_by_age_is_never_acked",
    ),
    Mutant(
        "void by age: no row",
        "core/materialise.py",
        "    if item.time > id_time(record.id) + MAX_AGE:",
        "    if item.time > id_time(record.id) + MAX_AGE * 1000:",
        "tests/unit/test_materialise.py::test_the_age_of_a_record_decides_alone",
    ),
    Mutant(
        "refusal before publish: stalled log",
        "services/router/pump.py",
        "        if self._log.stalled() <= self._settings.stalled:",
        "        if self._log.stalled() <= self._settings.stalled * 1e9:",
        "tests/flow/router/test_sends.py::test_a_stalled_log_refuses_before_anything_is_claimed_or_published",
    ),
    Mutant(
        "refusal before publish: full log",
        "services/router/pump.py",
        "        record = draft(sending, state.tenant, claim.digest)\n",
        "        record = draft(sending, state.tenant, claim.digest)\n"
        "        self._bus.publish(state.topics, Live(record))\n",
        "tests/flow/router/test_sends.py::test_a_full_log_refuses_and_nothing_of_it_is_published",
    ),
    Mutant(
        "flagged sends ack the winner",
        "services/router/pump.py",
        "        elif sending.flag:\n            sending.offset",
        "        elif False:\n            sending.offset",
        "tests/flow/router/test_dedupe.py::test_a_silent_dedupe_sends_on_flagged_and_acks_what_the_verdict_says",
    ),
    Mutant(
        "first wins: append times decide",
        "core/verdicts.py",
        "        if time - row.time <= window and row.offset < lowest:",
        "        if row.offset < lowest:",
        "tests/unit/test_verdicts.py",
    ),
    Mutant(
        "first wins: void ones do not",
        "core/verdicts.py",
        "        if row.winner is None or row.offset >= offset:",
        "        if row.offset >= offset:",
        "tests/unit/test_verdicts.py::test_void_records_and_those_at_greater_offsets_do_not_count",
    ),
    Mutant(
        "an alias changes nothing",
        "core/materialise.py",
        "        if not repeated and winner != record.id:",
        "        if False and winner != record.id:",
        "tests/unit/test_materialise.py::test_a_second_record_of_a_client_id_changes_nothing_and_tells_its_alias",
    ),
    Mutant(
        "versions: the highest wins",
        "backends/sqlite/schema.py",
        " WHERE excluded.{column} {than} {table}.{column}",
        "",
        "tests/contract/test_store.py::test_edits_deletes_and_reactions_are_applied",
    ),
    Mutant(
        "contiguous commit: written first",
        "services/persister/stage.py",
        "            await self._enter(batch, owned[batch.partition])\n",
        "            await self._enter(batch, owned[batch.partition])\n"
        "            self._progress[batch.partition].next = batch.entries[-1].offset + 1\n"
        "            await self._commit()\n",
        "tests/flow/test_persister.py::test_what_is_not_written_is_not_committed",
    ),
    Mutant(
        "as-of membership",
        "services/persister/loading.py",
        "                fold(state, await store.member_rows(tenant, channel, below=below))\n            else:",
        "                fold(state, await store.member_rows(tenant, channel, below=1 << 60))\n            else:",
        "tests/flow/test_persister.py::test_a_replay_after_later_joins_and_leaves_fans_out_as_of_the_position",
    ),
    Mutant(
        "rows before references",
        "services/persister/stage1.py",
        "        if out.rows:  # step 1\n            await insist(lambda: store.write(out.rows))\n",
        "        await self._appender.append(INBOX, out.references)\n"
        "        if out.rows:  # step 1\n            await insist(lambda: store.write(out.rows))\n",
        "tests/flow/test_persister.py::test_nothing_refers_to_what_is_not_stored",
    ),
    Mutant(
        "store before tail",
        "services/persister/stage2.py",
        "        store = self._store\n        if rows:\n",
        "        store = self._store\n"
        "        entries = [(r.timeline, TailEntry(r.offset, r.prev, r.source, r.record)) for r in rows]\n"
        "        await self._tails.append(entries)\n"
        "        if rows:\n",
        "tests/flow/test_persister.py::test_nothing_refers_to_what_is_not_stored",
    ),
    Mutant(
        "a reference is told once",
        "core/inboxes.py",
        "        if self.note(offset, reference):\n            return None\n",
        "        self.note(offset, reference)\n",
        "tests/flow/test_persister.py::test_references_appended_again_are_told_once_also_by_a_new_owner",
    ),
    Mutant(
        "the proof repairs",
        "core/proof.py",
        "        return not (live and type(record) in TOLD_LIVE)",
        "        return type(record) not in TOLD_LIVE",
        "tests/flow/gateway/test_proof.py::test_without_the_bus_everything_arrives_within_five_seconds",
    ),
    Mutant(
        "retract only when settled",
        "core/proof.py",
        "    return log_time > id_time(event_id) + MAX_AGE + CLOCK_BOUND",
        "    return log_time > id_time(event_id)",
        "tests/unit/test_proof.py::test_settled_needs_age_and_clock_bound",
    ),
    Mutant(
        "retract only what has no row",
        "services/gateway/prover.py",
        "            offset = present.get((channel, event_id))\n            strangers",
        "            offset = None\n            strangers",
        "tests/flow/gateway/test_proof.py::test_what_is_stored_is_never_withdrawn_from_members",
    ),
    Mutant(
        "prev-chain of a tail",
        "core/proof.py",
        "        if entry.prev > at or entry.offset <= at:",
        "        if entry.offset <= at:",
        "tests/flow/gateway/test_proof.py::test_a_tail_with_a_hole_is_not_believed",
    ),
    Mutant(
        "after Lost the store is asked",
        "services/gateway/sessions.py",
        "            self.prover.suspect(topics.values())",
        "            pass",
        "tests/flow/gateway/test_proof.py::test_after_lost_the_store_is_asked_whatever_the_tail_says",
    ),
    Mutant(
        "tails refuse older offsets",
        "backends/memory/tails.py",
        "            if entry.offset <= tail.newest:\n                continue\n",
        "",
        "tests/contract/test_tails.py::test_a_zombie_that_writes_late_changes_nothing",
    ),
    Mutant(
        "read cursors: max",
        "backends/memory/read_cursors.py",
        "        if known is not None and known >= row.message_id:\n            return known\n",
        "",
        "tests/contract/test_read_cursors.py::test_it_only_moves_forward",
    ),
    Mutant(
        "read cursors: never beyond the head",
        "services/router/receipts.py",
        '                raise Refused("cursor_ahead", "this is beyond the newest message", field="id")',
        "                pass",
        "tests/flow/router/test_reads.py::test_read_cursors_go_forward_never_beyond_the_head_and_are_told",
    ),
    Mutant(
        "bounds: in flight",
        "services/router/pump.py",
        "        if self._in_flight + ahead >= settings.max_in_flight:",
        "        if False:",
        "tests/flow/router/test_sends.py::test_what_is_in_flight_is_bounded",
    ),
    Mutant(
        "bounds: a slow reader is cut",
        "services/gateway/connection.py",
        '                self._cut(Close.SLOW_CONSUMER, "buffer is full")',
        "                pass",
        "tests/flow/test_gateway_sockets.py::test_slow_reader_is_cut_and_the_others_get_everything",
    ),
    Mutant(
        "bounds: unproven events",
        "core/proof.py",
        "        if len(pending) >= bound:\n            return None\n",
        "",
        "tests/unit/test_proof.py::test_over_the_bound_the_newcomer_is_refused",
    ),
    Mutant(
        "self-fencing of a router",
        "services/router/pump.py",
        "        slept = now - self._pulse > self._settings.asleep",
        "        slept = False",
        "tests/flow/router/test_minting.py::test_who_slept_drops_what_waited_before_acting_on_it",
    ),
    Mutant(
        "self-fencing of a gateway",
        "services/gateway/sockets.py",
        "            connection.fence()",
        "            pass",
        "tests/flow/test_gateway_sockets.py::test_sleeping_process_closes_before_it_acts",
    ),
    Mutant(
        "a send that may have arrived is not sent again",
        "backends/links/router.py",
        "            if type(call.request) in _REPEATABLE and not call.retried and not self.fenced:",
        "            if not call.retried and not self.fenced:",
        "tests/unit/test_link_router.py::test_what_was_written_is_unknown_what_was_not_goes_elsewhere",
    ),
    Mutant(
        "nobody overtakes in a lane",
        "backends/links/router.py",
        "        elif lane.held is not None or lane.peer.leaving or lane.peer.gone:",
        "        elif lane.peer.leaving:\n            peer = self._place(call.key)\n"
        "        elif lane.held is not None or lane.peer.gone:",
        "tests/unit/test_link_router.py::test_a_lane_with_an_unanswered_send_waits_for_it_when_its_router_leaves",
    ),
    Mutant(
        "one log for all routers",
        "backends/links/router.py",
        "        if reason is None:\n            return super().accepts(peer)\n",
        "        if True:\n            return super().accepts(peer)\n",
        "tests/unit/test_link_router.py::test_a_router_of_another_log_is_refused",
    ),
    Mutant(
        "tails refuse older offsets, on Redis",
        "backends/redis/tails.py",
        'written.entries.append((b"%d-0" % (entry.offset + 1), encoded))',
        'written.entries.append((b"*", encoded))',
        "tests/contract/test_tails.py::test_a_zombie_that_writes_late_changes_nothing[redis]",
    ),
    Mutant(
        "whoever writes is told what Redis refused",
        "backends/redis/lanes.py",
        'return Unavailable(f"redis {self.name} refused: {said(answer)}")',
        "return answer",
        "tests/servers/test_redis_more_faults.py::test_a_full_server_refuses_aloud_and_takes_all_once_it_has_room",
    ),
    Mutant(
        "a connection that the driver closes under a call is no answer, on Redis",
        "backends/redis/lanes.py",
        "AWAY = (RedisError, OSError, TimeoutError, AttributeError)",
        "AWAY = (RedisError, OSError, TimeoutError)",
        "tests/servers/test_redis_more_faults.py::test_a_connection_that_another_task_closes_is_no_answer",
    ),
    Mutant(
        "a page of the log has no hole before it, on Kafka",
        "backends/kafka/reader.py",
        "self._consumer.consume(missing, 0) if missing else ()",
        "self._consumer.consume(max(1, missing), 0)[:missing]",
        "tests/contract/test_log.py::test_pages_read_one_after_the_other_have_no_holes[kafka-1]",
    ),
    Mutant(
        "a repeat is a repeat wherever rounds are cut",
        "services/persister/stage1.py",
        "if apply(state, item, thresholds, out):",
        "if apply(state, item, thresholds, out) or True:",
        "tests/flow/test_persister.py::test_whether_an_event_is_a_repeat_does_not_hang_on_where_rounds_are_cut",
    ),
    Mutant(
        "read cursors: max, on Redis",
        "backends/redis/read_cursors.py",
        "if known and (#known > #ARGV[2] or (#known == #ARGV[2] and known >= ARGV[2])) then return known end",
        "if false then return known end",
        "tests/contract/test_read_cursors.py::test_it_only_moves_forward[redis]",
    ),
    Mutant(
        "a gap of the bus is told, on Redis",
        "backends/redis/bus.py",
        "            bus.put(Lost(frozenset(names)))",
        "            pass",
        "tests/servers/test_redis_faults.py::test_a_gap_is_told_for_the_topics_of_that_node_and_hearing_goes_on",
    ),
    Mutant(
        "no worker number while a lease may run",
        "backends/redis/workers.py",
        "elseif all.ripe == all.watch then",
        "elseif true then",
        "tests/servers/test_redis_faults.py::test_a_wiped_server_gives_no_number_that_is_still_held",
    ),
    Mutant(
        "durable is acks=all",
        "backends/kafka/settings.py",
        '    if settings.acks != "all":',
        '    if settings.acks == "":',
        "tests/unit/test_kafka_settings.py::test_durable_is_on_all_copies_and_nothing_less",
    ),
    Mutant(
        "the log's own time is in the receipt",
        "backends/kafka/log.py",
        "            if kind == TIMESTAMP_LOG_APPEND_TIME:",
        "            if kind is not None:",
        "tests/servers/test_kafka_topics.py::test_a_record_without_an_append_time_is_no_receipt",
    ),
    Mutant(
        "whoever is answered that members are there finds them counted",
        "services/router/changes.py",
        " and now[user].offset <= version if",
        " if",
        "tests/flow/router/test_platform.py::test_members_without_the_version_that_counts_them_are_no_answer",
    ),
    Mutant(
        "who added last what was there already waits for the others",
        "services/router/changes.py",
        " and await seen(users, stored.version)",
        "",
        "tests/flow/router/test_platform.py::test_who_added_what_another_added_meanwhile_is_answered",
    ),
    Mutant(
        "members on their way count towards the limit",
        "services/router/changes.py",
        "            unsure = coming.begun - ended",
        "            unsure = 0",
        "tests/flow/router/test_platform.py"
        "::test_additions_on_their_way_count_towards_the_limit_and_an_exact_fit_passes",
    ),
    Mutant(
        "a bulk call that failed leaves nothing on its way",
        "app/server_api.py",
        "                if asked:",
        "                if False:",
        "tests/flow/test_server_api.py::test_a_bulk_call_that_fails_is_answered_when_nothing_of_it_is_on_its_way",
    ),
    Mutant(
        "only the owner commits",
        "backends/kafka/consumer.py",
        "            if partition not in owned or (generations is not None and "
        "owned[partition] != generations[partition]):",
        "            if False:",
        "tests/contract/test_consumer.py::test_what_is_not_owned_is_not_committed[kafka]",
    ),
    Mutant(
        "members before the version that announces them, on Cassandra",
        "backends/cassandra/writes.py",
        "        for parts in (work.parts, work.routes, work.changes, work.channels, *self._pieces(work.timelines)):",
        "        for parts in (work.parts | work.changes, work.routes, work.channels, *self._pieces(work.timelines)):",
        "tests/servers/test_cassandra_store.py::test_who_sees_a_version_finds_its_members",
    ),
    Mutant(
        "members before the switch that stands for a version, on Cassandra",
        "backends/cassandra/writes.py",
        '        _add(work.routes, values[:2], "route", values)',
        '        _add(work.parts, (*values[:2], b"route"), "route", values)',
        "tests/servers/test_cassandra_store.py::test_who_sees_a_switch_as_the_version_finds_the_members_before_it",
    ),
    Mutant(
        "a timeline's rows in their order, on Cassandra",
        "backends/cassandra/writes.py",
        "        for parts in (work.parts, work.routes, work.changes, work.channels, *self._pieces(work.timelines)):",
        "        together = {(*key, bytes([at])): one for at, piece in enumerate(self._pieces(work.timelines))"
        " for key, one in piece.items()}\n"
        "        for parts in (work.parts, work.routes, work.changes, work.channels, together):",
        "tests/servers/test_cassandra_store.py::test_who_sees_a_position_of_a_timeline_finds_all_before_it[at once]",
    ),
    Mutant(
        "a timeline's buckets read as of one moment, on Cassandra",
        "backends/cassandra/reads.py",
        "        if found and not whole(after, found):",
        "        if False:",
        "tests/servers/test_cassandra_store.py::test_who_sees_a_position_of_a_timeline_finds_all_before_it[slowly]",
    ),
    Mutant(
        "versions: the greater rank stays, on Cassandra",
        "backends/cassandra/rows.py",
        "    cell = long(row.event_id) + _pack((row.body, row.data))\n    return row.tenant.encode(), "
        "row.channel.encode(), bucket, long(row.message_id), cell, by_id(row.event_id)",
        "    cell = long(0) + _pack((row.body, row.data))\n    return row.tenant.encode(), "
        "row.channel.encode(), bucket, long(row.message_id), cell, by_id(0)",
        "tests/contract/test_store.py::test_edits_deletes_and_reactions_are_applied[cassandra]",
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_every_rule_is_where_the_table_says(mutant: Mutant) -> None:
    assert (ROOT / "runtime/chatcluster" / mutant.file).read_text().count(mutant.old) == 1
    path, _, name = mutant.test.partition("[")[0].partition("::")
    assert f"def {name}" in (ROOT / path).read_text()
    row = f"| {mutant.rule} | `{mutant.file}` | `{mutant.test}` |"
    assert row in (ROOT / "docs/safety.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_without_the_rule_its_test_fails(mutant: Mutant, tmp_path: Path) -> None:
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file = tmp_path / "runtime/chatcluster" / mutant.file
    text = file.read_text()
    assert text.count(mutant.old) == 1
    file.write_text(text.replace(mutant.old, mutant.new))
    # The copy stands before an editable install on the path.
    sources = os.pathsep.join(str(tmp_path / part) for part in PARTS)
    environment = {**os.environ, "PYTHONPATH": sources}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.test],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 1, f"the test did not fail:\n{run.stdout[-2000:]}{run.stderr[-1000:]}"
