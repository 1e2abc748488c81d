"""The checker: for each promise a minimal history that breaks it and the same one that keeps it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import UNSET

from chatcluster.client.recorder import Observer
from chatcluster.core.frames import Ack, Delete, Edit, ErrorFrame, Event, Mark, ReadUpTo, Reply, Send, WireMessage
from chatcluster.core.history import Record
from chatcluster.core.promises import PROMISES, Audit, check
from chatcluster.core.records import DEDUPE_WINDOW, RETRY_HORIZON


class Story:
    """Writes a history through the recorder, one ms per record."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.now = 1_000
        self.rids = 0
        self.ada, self.bob = self.client("ada"), self.client("bob")

    def client(self, name: str, *, user: str = "", tenant: str = "t") -> Observer:
        def tick() -> int:
            self.now += 1
            return self.now

        observer = Observer(self.records.append, tick, name, user=user or name, tenant=tenant)
        observer.opened()
        return observer

    def send(self, who: Observer, client_id: str, body: str = "hi", *, retry: bool = False, after: str = "") -> str:
        self.rids += 1
        rid = f"r{self.rids}"
        who.out(Send(rid, "c", client_id, body, after=after or None, retry=retry))
        return rid

    def ack(self, who: Observer, rid: str, message_id: int, *, duplicate: bool = False) -> None:
        who.got(Ack(rid, "c", str(message_id), "", duplicate))

    def said(self, message_id: int, client_id: str, body: str = "hi", *, who: Observer | None = None) -> None:
        """Sent by ada and acked."""
        sender = who or self.ada
        self.ack(sender, self.send(sender, client_id, body), message_id)

    def got(
        self,
        who: Observer,
        message_id: int,
        client_id: str,
        body: str = "hi",
        *,
        live: bool = False,
        sender: str = "ada",
    ) -> None:
        message = wire(message_id, client_id, body, sender=sender)
        who.got(Event("inbox", str(message_id), "c", "message", live, message=message))

    def withdraw(self, who: Observer, message_id: int) -> None:
        who.got(Event("inbox", str(message_id), "c", "retracted", False, message_id=str(message_id)))

    def audit(self) -> Audit:
        for observer in (self.ada, self.bob):
            observer.finish()
        return check(self.records)


def wire(
    message_id: int,
    client_id: str,
    body: str = "hi",
    *,
    sender: str = "ada",
    deleted: bool = False,
    edited: bool = False,
) -> WireMessage:
    return WireMessage(
        str(message_id),
        "c",
        sender,
        client_id,
        "",
        "" if deleted else body,
        deleted=True if deleted else UNSET,
        edited="2026-01-01T00:00:00.000Z" if edited else UNSET,
    )


Scene = Callable[[Story], None]


def acked(story: Story) -> None:
    story.said(10, "m1")
    story.ada.final("c", [wire(10, "m1")])


def acked_and_lost(story: Story) -> None:
    story.said(10, "m1")
    story.ada.final("c", [])


def acked_and_lost_for_one_reader(story: Story) -> None:
    acked(story)
    story.bob.final("c", [])


def live_then_there(story: Story) -> None:
    acked(story)
    story.got(story.bob, 10, "m1", live=True)


def live_then_withdrawn(story: Story) -> None:
    story.send(story.ada, "m1")
    story.got(story.bob, 10, "m1", live=True)
    story.withdraw(story.bob, 10)
    story.ada.final("c", [])


def live_and_neither(story: Story) -> None:
    story.send(story.ada, "m1")
    story.got(story.bob, 10, "m1", live=True)
    story.ada.final("c", [])


def withdrawn_at_one_of_two(story: Story) -> None:
    live_then_withdrawn(story)
    story.got(story.ada, 10, "m1", live=True)


def durable_and_not_there(story: Story) -> None:
    story.send(story.ada, "m1")
    story.got(story.bob, 10, "m1")
    story.bob.closed()  # no excuse: durable was said
    story.ada.final("c", [])


def live_and_gone_in_the_end(story: Story) -> None:
    story.send(story.ada, "m1")
    story.got(story.bob, 10, "m1", live=True)
    story.bob.closed(1006)
    story.ada.final("c", [])


def acked_and_withdrawn(story: Story) -> None:
    acked(story)
    story.got(story.bob, 10, "m1", live=True)
    story.withdraw(story.bob, 10)


def acked_and_withdrawn_from_a_former_member(story: Story) -> None:
    acked(story)
    story.bob.joined("c")
    story.bob.left("c")
    story.got(story.bob, 10, "m1", live=True)
    story.withdraw(story.bob, 10)


def never_sent(story: Story) -> None:
    story.ada.final("c", [wire(10, "m1")])


def sent_by_another(story: Story) -> None:
    story.said(10, "m1")
    story.got(story.bob, 10, "m1", sender="bob")


def other_bytes(story: Story) -> None:
    acked(story)
    story.got(story.bob, 10, "m1", body="hi!")


def other_tenant(story: Story) -> None:
    acked(story)
    eve = story.client("eve", tenant="other")
    story.got(eve, 10, "m1")


def refused(story: Story, code: str = "overloaded") -> None:
    rid = story.send(story.ada, "m1")
    story.ada.got(ErrorFrame(code, "", True, rid))  # type: ignore[arg-type]


def refused_and_absent(story: Story) -> None:
    refused(story)
    story.ada.final("c", [])


def refused_and_present(story: Story) -> None:
    refused(story)
    story.ada.final("c", [wire(10, "m1")])


def unknown_and_present(story: Story) -> None:
    refused(story, "unknown_outcome")
    story.ada.final("c", [wire(10, "m1")])


def refused_once_unanswered_once(story: Story) -> None:
    refused(story)
    story.send(story.ada, "m1", retry=True)
    story.ada.final("c", [wire(10, "m1")])


def retried(story: Story, second: int, *, later: int = 0, retry: bool = True) -> None:
    story.send(story.ada, "m1")
    story.now += later
    story.ack(story.ada, story.send(story.ada, "m1", retry=retry), 10)
    story.ada.final("c", [wire(10, "m1"), wire(second, "m1")] if second else [wire(10, "m1")])


def retried_once(story: Story) -> None:
    retried(story, 0)


def retried_twice_there(story: Story) -> None:
    retried(story, 11)


def twice_there_at_the_end_of_the_horizon(story: Story) -> None:
    retried(story, 11, later=RETRY_HORIZON - 1)


def twice_there_beyond_the_horizon(story: Story) -> None:
    retried(story, 11, later=RETRY_HORIZON + 1)


def twice_there_at_the_end_of_the_window(story: Story) -> None:
    retried(story, 11, later=DEDUPE_WINDOW - 1, retry=False)


def twice_there_beyond_the_window_without_retry(story: Story) -> None:
    retried(story, 11, later=DEDUPE_WINDOW + 1, retry=False)


def two_acks_two_ids(story: Story) -> None:
    story.said(10, "m1")
    story.ack(story.ada, story.send(story.ada, "m1", retry=True), 11, duplicate=True)


def conflict(story: Story) -> None:
    story.said(10, "m1")
    rid = story.send(story.ada, "m1", "other")
    story.ada.got(ErrorFrame("id_conflict", "", False, rid))
    story.ada.final("c", [wire(10, "m1")])


def conflict_not_seen(story: Story) -> None:
    story.said(10, "m1")
    story.said(10, "m1", "other")


def conflict_with_itself(story: Story) -> None:
    story.said(10, "m1")
    rid = story.send(story.ada, "m1", retry=True)
    story.ada.got(ErrorFrame("id_conflict", "", False, rid))


def two_said(story: Story) -> None:
    story.said(10, "m1")
    story.said(11, "m2", who=story.bob)


def in_order(story: Story) -> None:
    two_said(story)
    for who in (story.ada, story.bob):
        who.final("c", [wire(10, "m1"), wire(11, "m2", sender="bob")])


def out_of_order(story: Story) -> None:
    two_said(story)
    story.ada.final("c", [wire(11, "m2", sender="bob"), wire(10, "m1")])


def read_twice(story: Story) -> None:
    story.said(10, "m1")
    story.ada.final("c", [wire(10, "m1"), wire(10, "m1")])


def readers_differ(story: Story) -> None:
    story.send(story.ada, "m1")
    story.ada.final("c", [wire(10, "m1")])
    story.bob.final("c", [])


def answer_after_question(story: Story) -> None:
    story.said(10, "m1")
    story.ack(story.bob, story.send(story.bob, "m2", after="10"), 11)


def answer_before_question(story: Story) -> None:
    story.said(10, "m1")
    story.ack(story.bob, story.send(story.bob, "m2", after="10"), 9)


def fifo(story: Story, first: int = 10, second: int = 11, *, duplicate: bool = False, reconnect: bool = False) -> None:
    one = story.send(story.ada, "m1")
    if reconnect:
        story.ada.closed()
        story.ada.opened(resumed=True)
    two = story.send(story.ada, "m2")
    story.ack(story.ada, two, second)
    story.ack(story.ada, one, first, duplicate=duplicate)


def fifo_broken(story: Story) -> None:
    fifo(story, 11, 10)


def fifo_over_two_connections(story: Story) -> None:
    fifo(story, 11, 10, reconnect=True)


def all_got(story: Story) -> None:
    story.bob.joined("c", after="9", held=["10"])
    in_order(story)
    story.got(story.bob, 11, "m2", sender="bob")


def gap(story: Story) -> None:
    story.bob.joined("c")
    in_order(story)
    story.got(story.bob, 11, "m2", sender="bob")


def gap_over_a_reconnect(story: Story) -> None:
    story.bob.closed(1012)
    story.bob.opened(resumed=True)
    gap(story)


def gap_at_who_is_gone(story: Story) -> None:
    gap(story)
    story.bob.closed()


def withdrawn_though_there(story: Story) -> None:
    story.bob.joined("c")
    story.send(story.ada, "m1")
    story.got(story.bob, 10, "m1", live=True)
    story.withdraw(story.bob, 10)
    story.ada.final("c", [wire(10, "m1")])


def durable_after_a_withdrawal(story: Story) -> None:
    withdrawn_though_there(story)
    story.got(story.bob, 10, "m1")


def one_id_for_two(story: Story) -> None:
    story.said(10, "m1")
    story.said(10, "m2", who=story.bob)


def one_id_for_a_message_and_an_edit(story: Story) -> None:
    story.said(10, "m1")
    edit(story, 10, "new")


def reads(story: Story, *values: int, live: bool = False) -> None:
    acked(story)
    for value in values:
        if live:
            story.ada.got(Event("inbox", "77", "c", "read", True, user="ada", message_id=str(value)))
        else:
            story.ada.out(ReadUpTo("c", str(value), "read"))
            story.ada.got(Reply("read", read=str(value)))


def read_forward(story: Story) -> None:
    reads(story, 8, 8, 10)


def read_back(story: Story) -> None:
    reads(story, 9, 8)


def read_rumour_comes_late(story: Story) -> None:
    reads(story, 9)
    reads(story, 8, live=True)


def read_beyond_the_head(story: Story) -> None:
    reads(story, 11)


def edit(story: Story, event_id: int | None, body: str, code: str = "") -> None:
    story.rids += 1
    rid = f"r{story.rids}"
    story.ada.out(Edit(rid, "c", "10", f"e{story.rids}", body))
    if event_id is not None:
        story.ada.got(Ack(rid, "c", str(event_id), "", False))
    elif code:
        story.ada.got(ErrorFrame(code, "", False, rid))  # type: ignore[arg-type]


def edited(story: Story, shown: str) -> None:
    story.said(10, "m1")
    edit(story, 13, "second")
    edit(story, 12, "first")
    story.ada.final("c", [wire(10, "m1", shown, edited=True)])


def newest_edit_shows(story: Story) -> None:
    edited(story, "second")


def older_edit_shows(story: Story) -> None:
    edited(story, "first")


def edit_forgotten(story: Story) -> None:
    edited(story, "hi")


def edit_of_unknown_outcome_shows(story: Story) -> None:
    edit(story, None, "third")
    edited(story, "third")


def refused_edit_shows(story: Story) -> None:
    edit(story, None, "third", "forbidden")
    edited(story, "third")


def deleted(story: Story, *, shows: bool, asked: bool = True) -> None:
    story.said(10, "m1")
    if asked:
        story.ada.out(Delete("del", "c", "10", "d1"))
        story.ada.got(Ack("del", "c", "14", "", False))
    else:
        story.ada.out(Delete("del", "c", "10", "d1"))
        story.ada.got(ErrorFrame("forbidden", "", False, "del"))
    story.ada.final("c", [wire(10, "m1", deleted=not shows)])


def deleted_stays(story: Story) -> None:
    deleted(story, shows=False)


def deleted_comes_back(story: Story) -> None:
    deleted(story, shows=True)


def refused_delete_deletes(story: Story) -> None:
    deleted(story, shows=False, asked=False)


BREAKS: list[tuple[int, Scene]] = [
    (1, acked_and_lost),
    (1, acked_and_lost_for_one_reader),
    (2, live_and_neither),
    (2, withdrawn_at_one_of_two),
    (2, durable_and_not_there),
    (2, acked_and_withdrawn),
    (3, never_sent),
    (3, sent_by_another),
    (3, other_bytes),
    (3, other_tenant),
    (4, refused_and_present),
    (5, retried_twice_there),
    (5, twice_there_at_the_end_of_the_horizon),
    (5, twice_there_at_the_end_of_the_window),
    (5, two_acks_two_ids),
    (6, conflict_not_seen),
    (6, conflict_with_itself),
    (7, out_of_order),
    (7, read_twice),
    (7, readers_differ),
    (7, answer_before_question),
    (8, fifo_broken),
    (9, gap),
    (9, withdrawn_though_there),
    (11, gap_over_a_reconnect),
    (13, one_id_for_two),
    (13, one_id_for_a_message_and_an_edit),
    (15, read_back),
    (15, read_beyond_the_head),
    (16, older_edit_shows),
    (16, edit_forgotten),
    (16, refused_edit_shows),
    (16, deleted_comes_back),
    (16, refused_delete_deletes),
]
KEEPS: list[Scene] = [
    acked,
    live_then_there,
    live_then_withdrawn,
    live_and_gone_in_the_end,
    acked_and_withdrawn_from_a_former_member,
    refused_and_absent,
    unknown_and_present,
    refused_once_unanswered_once,
    retried_once,
    twice_there_beyond_the_horizon,
    twice_there_beyond_the_window_without_retry,
    conflict,
    in_order,
    answer_after_question,
    fifo,
    fifo_over_two_connections,
    all_got,
    gap_at_who_is_gone,
    durable_after_a_withdrawal,
    read_forward,
    read_rumour_comes_late,
    newest_edit_shows,
    edit_of_unknown_outcome_shows,
    deleted_stays,
]


@pytest.mark.parametrize(("promise", "scene"), BREAKS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_broken_promise_is_found_and_named(promise: int, scene: Scene) -> None:
    story = Story()
    scene(story)
    audit = story.audit()
    found = [violation for violation in audit.violations if violation.promise == promise]
    assert found, audit.violations
    assert found[0].name == PROMISES[promise]
    # A history that breaks one promise and no other names no other, but for what follows from it.
    follows = {1: {7}, 4: {3}, 5: {13}, 6: {13}, 3: {13}, 16: {3}}
    assert {violation.promise for violation in audit.violations} <= {promise} | follows.get(promise, set())


@pytest.mark.parametrize("scene", KEEPS, ids=lambda scene: scene.__name__)
def test_a_kept_promise_is_not_called_broken(scene: Scene) -> None:
    story = Story()
    scene(story)
    assert story.audit().violations == []


def test_every_promise_has_a_history_that_breaks_it() -> None:
    assert {promise for promise, _ in BREAKS} == set(PROMISES)


def test_counts_say_what_was_looked_at() -> None:
    story = Story()
    story.bob.joined("c")
    story.said(10, "m1")
    story.send(story.ada, "m2")
    rid = story.send(story.ada, "m3")
    story.ada.got(ErrorFrame("rate_limited", "", True, rid))
    for live in (True, False, False):
        story.got(story.bob, 10, "m1", live=live)
    story.bob.got(Mark([], "cursor"))
    story.now += 6_000
    story.got(story.ada, 10, "m1")
    story.ada.final("c", [wire(10, "m1")])
    counts = story.audit().counts
    expected = {
        "clients": 2,
        "channels": 1,
        "messages": 1,
        "attempts": 3,
        "acked": 1,
        "unknown": 1,
        "refused": 1,
        "delivered": 2,
        "duplicates": 1,
        "late": 1,
        "missing": 0,
        "cursor_gaps": 0,
    }
    assert {name: counts[name] for name in expected} == expected


def test_a_channel_without_a_complete_final_read_is_named() -> None:
    story = Story()
    story.said(10, "m1")
    story.ada.final("c", [], complete=False)
    audit = story.audit()
    assert audit.unchecked == ["t/c"]
    assert audit.violations == []
