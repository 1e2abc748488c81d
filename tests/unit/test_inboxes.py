from __future__ import annotations

from chatcluster.core.cursor import START
from chatcluster.core.inboxes import Inboxes
from chatcluster.core.records import MessageRecord, Reference, inbox_timeline

ANN = inbox_timeline("t", "ann")


def reference(number: int, source: int, user: str = "ann") -> Reference:
    return Reference("t", user, source, MessageRecord("t", "c", number, "bob", "", 0, 0, "hello"))


def started(window: int = 100, users: int = 10) -> Inboxes:
    inboxes = Inboxes(users=users, window=window)
    inboxes.start(ANN, START)
    return inboxes


def test_each_row_names_the_one_before_it_in_its_timeline() -> None:
    inboxes = started()
    inboxes.start(inbox_timeline("t", "bob"), 4)

    first, other, second = (
        inboxes.apply(7, 0, reference(1, 3)),
        inboxes.apply(8, 0, reference(1, 3, "bob")),
        inboxes.apply(9, 0, reference(2, 5)),
    )

    assert first is not None
    assert (first.timeline, first.prev, first.offset, first.source) == (ANN, START, 7, 3)
    assert other is not None
    assert (other.timeline, other.prev, other.offset) == (inbox_timeline("t", "bob"), 4, 8)
    assert second is not None
    assert (second.prev, second.offset, second.record.id) == (7, 9, 2)


def test_a_reference_appended_again_is_left_out_and_no_other() -> None:
    inboxes = started()
    inboxes.apply(1, 0, reference(2, 6))

    assert inboxes.apply(2, 0, reference(1, 5)) is not None  # an earlier source is no repeat
    assert inboxes.apply(3, 0, reference(2, 6)) is None
    assert inboxes.apply(4, 0, reference(2, 7)) is not None
    assert inboxes.newest[ANN] == 4


def test_repeats_are_a_function_of_the_window_whoever_reads() -> None:
    old, new = started(window=10), started(window=10)
    for offset in (0, 8, 15):
        old.note(offset, reference(1, 1))
    for offset in (8, 15):  # started later, read back the window alone
        new.note(offset, reference(1, 1))

    assert old.note(25, reference(1, 1)) is new.note(25, reference(1, 1)) is True
    assert old.note(36, reference(1, 1)) is new.note(36, reference(1, 1)) is False
    assert len(old._recent) == 1


def test_the_least_lately_used_timelines_are_forgotten_over_the_bound() -> None:
    inboxes = started(users=2)
    for offset, user in enumerate(["bob", "cem", "ann"]):
        timeline = inbox_timeline("t", user)
        if timeline not in inboxes.newest:
            inboxes.start(timeline, START)
        inboxes.apply(offset, 0, reference(offset, offset, user))

    inboxes.trim()

    assert list(inboxes.newest) == [inbox_timeline("t", "cem"), ANN]
