"""What a channel shows: the same for every order of the same events."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from chatcluster.client.events import Message
from chatcluster.client.view import ChannelView
from chatcluster.core.frames import Event, WireMessage
from chatcluster.core.ids import first_id, id_time
from chatcluster.core.wire import rfc3339

BASE = 1_790_000_000_000
TIME = rfc3339(BASE)


def at(ms: int) -> str:
    return str(first_id(BASE + ms))


def wire(message_id: str, body: str = "body", *, key: str = "", sender: str = "bob", **more: Any) -> WireMessage:
    return WireMessage(message_id, "c", sender, key or f"k{message_id}", TIME, body, **more)


def message(message_id: str, body: str = "body", *, live: bool = True, **more: Any) -> Event:
    return Event("inbox", message_id, "c", "message", live, message=wire(message_id, body, **more))


def edited(event_id: str, message_id: str, body: str, *, live: bool = False) -> Event:
    new = wire(message_id, body, edited=rfc3339(id_time(int(event_id))))
    return Event("inbox", event_id, "c", "edited", live, version=event_id, message=new)


def deleted(event_id: str, message_id: str, *, live: bool = False) -> Event:
    return Event("inbox", event_id, "c", "deleted", live, version=event_id, message_id=message_id)


def reaction(event_id: str, message_id: str, emoji: str, *, user: str = "eve", removed: bool = False) -> Event:
    return Event(
        "inbox", event_id, "c", "reaction", False, version=event_id, message_id=message_id, user=user, emoji=emoji,
        removed=removed,
    )  # fmt: skip


def retracted(event_id: str, of: str | None = None) -> Event:
    return Event(
        "inbox", event_id, "c", "retracted", False, message_id=event_id, of=UNSET if of is None else of
    )  # fmt: skip


def shown(view: ChannelView) -> list[tuple[str, str]]:
    return [(row.message.body, row.mark) for row in view.messages()]


def test_messages_stand_in_the_order_of_their_ids() -> None:
    view = ChannelView("c")
    for number in (3, 1, 2):
        view.apply(message(at(number), f"m{number}"))
    view.apply(Event("inbox", at(9), "elsewhere", "message", True, message=wire(at(9))))
    assert [body for body, _ in shown(view)] == ["m1", "m2", "m3"]


def test_changes_give_the_same_in_every_order() -> None:
    events = [
        message(at(1), "first", live=False),
        edited(at(2), at(1), "second"),
        edited(at(3), at(1), "third"),
        reaction(at(4), at(1), "+1"),
        reaction(at(5), at(1), "+1", removed=True),
        reaction(at(6), at(1), "x", user="ann"),
    ]
    for order in itertools.permutations(events):
        view = ChannelView("c")
        for event in order:
            view.apply(event)
        [row] = view.messages()
        assert (row.message.body, row.message.reactions) == ("third", {"x": ["ann"]})


def test_a_deleted_message_never_returns() -> None:
    view = ChannelView("c")
    view.apply(deleted(at(2), at(1)))
    view.apply(message(at(1), "secret", live=False))
    view.apply(edited(at(3), at(1), "more secret"))
    [row] = view.messages()
    assert (row.message.deleted, row.message.body) == (True, "")
    view = ChannelView("c")
    view.history([wire(at(1), "", deleted=True)])
    view.apply(message(at(1), "secret", live=False))
    assert view.messages()[0].message.body == ""


def test_a_replayed_first_body_does_not_undo_an_edit_that_history_showed() -> None:
    view = ChannelView("c")
    view.history([wire(at(1), "edited", edited=rfc3339(BASE + 5))])
    view.apply(message(at(1), "first", live=False))
    assert shown(view) == [("edited", "durable")]
    view.apply(edited(at(4), at(1), "older"))
    assert shown(view) == [("edited", "durable")]
    view.apply(edited(at(6), at(1), "newer"))
    assert shown(view) == [("newer", "durable")]


def test_what_is_live_is_proven_by_a_mark_or_a_durable_copy_and_else_withdrawn() -> None:
    view = ChannelView("c")
    for number in (1, 2, 3):
        view.apply(message(at(number), f"m{number}"))
    view.apply(message(at(1), "m1", live=False))
    view.proven([at(3)])
    assert shown(view) == [("m1", "durable"), ("m2", "durable"), ("m3", "live")]
    for number in (1, 2, 3):
        view.apply(retracted(at(number)))
    assert shown(view) == [("m1", "durable"), ("m2", "durable"), ("m3", "withdrawn")]
    view.apply(message(at(3), "m3"))
    assert shown(view)[2] == ("m3", "withdrawn")
    view.apply(message(at(3), "m3", live=False))
    assert shown(view)[2] == ("m3", "durable")


def test_an_edit_that_never_became_true_is_taken_back() -> None:
    view = ChannelView("c")
    view.apply(message(at(1), "first", live=False))
    view.apply(edited(at(2), at(1), "never", live=True))
    assert shown(view) == [("never", "durable")]
    view.apply(retracted(at(2)))
    assert shown(view) == [("first", "durable")]
    view.apply(edited(at(3), at(1), "true", live=False))
    view.apply(retracted(at(3)))
    assert shown(view) == [("true", "durable")]


def test_a_delete_that_never_became_true_is_taken_back() -> None:
    view = ChannelView("c")
    view.apply(message(at(1), "first", live=False))
    view.apply(deleted(at(2), at(1), live=True))
    assert view.messages()[0].message.deleted
    view.apply(retracted(at(2)))
    assert shown(view) == [("first", "durable")]


def test_of_two_copies_one_is_shown_and_an_alias_never() -> None:
    view = ChannelView("c")
    view.apply(message(at(1), key="k"))
    view.apply(message(at(2), key="k"))
    assert [row.message.id for row in view.messages()] == [at(1)]
    view.apply(retracted(at(1), of=at(2)))
    assert [row.message.id for row in view.messages()] == [at(2)]
    view.apply(message(at(1), key="k", live=False))
    assert [row.message.id for row in view.messages()] == [at(2)]
    assert view.get(at(1)) is None


def draft(key: str, body: str = "mine") -> Message:
    return Message("", "c", "ann", key, datetime.now(UTC), body)


def test_a_draft_becomes_the_message_with_its_client_id() -> None:
    view = ChannelView("c")
    view.draft(draft("a"))
    view.draft(draft("b", "other"))
    view.apply(message(at(5), "theirs"))
    assert shown(view) == [("theirs", "live"), ("mine", "sending"), ("other", "sending")]
    view.acked("ann", "a", at(4), datetime.now(UTC))
    assert shown(view) == [("mine", "durable"), ("theirs", "live"), ("other", "sending")]
    view.apply(message(at(4), "mine", key="a", sender="ann"))
    assert [body for body, _ in shown(view)] == ["mine", "theirs", "other"]
    view.failed("ann", "b")
    assert shown(view)[2] == ("other", "failed")
    view.apply(message(at(6), "other", key="b", sender="ann", live=False))
    assert shown(view)[2] == ("other", "durable")


def test_an_ack_proves_what_came_live() -> None:
    view = ChannelView("c")
    view.draft(draft("a"))
    view.apply(message(at(1), "mine", key="a", sender="ann"))
    view.acked("ann", "a", at(1), datetime.now(UTC))
    view.apply(retracted(at(1)))
    assert shown(view) == [("mine", "durable")]


def test_a_view_is_bounded_and_knows_where_it_ends() -> None:
    view = ChannelView("c", limit=3)
    assert view.oldest is None
    view.history([wire(at(number)) for number in range(1, 4)], oldest=True)
    assert (view.oldest, view.complete) == (at(1), True)
    view.apply(message(at(9)))
    assert (view.oldest, view.complete, len(view.messages())) == (at(2), False, 3)
    for number in range(10, 200):
        view.apply(edited(at(number), at(9), f"e{number}"))
    assert view.messages()[-1].message.body == "e199"
    assert len(view._entries[int(at(9))].changes) < 64
    for number in range(200, 210):
        view.draft(Message("", "c", "ann", f"d{number}", datetime.now(UTC), "draft", None, None))
        view.apply(retracted(at(number), of=at(9)))
    assert len(view.messages()) == 3 + 3
    assert len(view._aliases) == 3


def test_read_marks_only_move_forward() -> None:
    view = ChannelView("c")
    for to in (at(2), at(5), at(3)):
        view.apply(Event("inbox", at(90), "c", "read", True, user="bob", message_id=to))
    assert view.reads == {"bob": at(5)}


CHANGES = [
    message(at(1), "one", live=False),
    message(at(2), "two", live=False),
    edited(at(3), at(1), "one!"),
    deleted(at(4), at(2)),
    reaction(at(5), at(1), "+1"),
    edited(at(6), at(1), "one!!"),
]


@given(st.permutations(CHANGES), st.lists(st.sampled_from(CHANGES), max_size=6))
@settings(max_examples=100, deadline=None)
def test_repeats_change_nothing(order: list[Event], repeats: list[Event]) -> None:
    view = ChannelView("c")
    for event in [*order, *repeats]:
        view.apply(event)
    assert [(row.message.body, row.message.deleted, row.message.reactions) for row in view.messages()] == [
        ("one!!", False, {"+1": ["eve"]}),
        ("", True, {}),
    ]


def test_a_retraction_without_a_channel_withdraws_what_has_its_id() -> None:
    view = ChannelView("c")
    view.apply(message(at(1)))
    view.apply(message(at(2)))
    view.apply(Event("inbox", at(1), "", "retracted", False, message_id=at(1)))
    assert [row.mark for row in view.messages()] == ["withdrawn", "live"]
