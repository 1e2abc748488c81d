from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.core.codes import Refused
from chatcluster.core.cursor import decode_cursor
from chatcluster.core.frames import JSON
from chatcluster.core.ids import first_id
from chatcluster.core.records import (
    PLAIN,
    AliasRecord,
    ChannelRecord,
    DeleteRecord,
    EditRecord,
    EventRecord,
    MemberRecord,
    MessageRecord,
    ReactionRecord,
    RouteRecord,
    channel_timeline,
)
from chatcluster.core.rows import StoredMessage
from chatcluster.core.wire import INBOX_WIRE, channel_wire, parse_rfc3339, rfc3339, wire_event, wire_message

AT = 1_790_000_000_123
ID = first_id(AT)
BASE = ("t", "c", ID, "ada", "k", 1, PLAIN)


@given(st.integers(0, 4_000_000_000_000))
def test_times_come_back(at: int) -> None:
    assert parse_rfc3339(rfc3339(at), "x") == at


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-23T22:41:15", "2026-13-01T00:00:00Z"])
def test_what_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_rfc3339(text, "changed_since")
    assert refused.value.field == "changed_since"


def fields(record: EventRecord, *, live: bool = False, source: int = 41) -> dict[str, object]:
    event = wire_event(record, INBOX_WIRE, live=live, source=source, epoch="e")
    decoded = msgspec.json.decode(JSON.encode(event))
    assert isinstance(decoded, dict)
    return decoded


def test_a_message() -> None:
    event = fields(MessageRecord(*BASE, body="hi", data={"a": 1}, reply_to=7), live=True)

    assert event == {
        "type": "event",
        "timeline": "inbox",
        "id": str(ID),
        "channel": "c",
        "kind": "message",
        "live": True,
        "message": {
            "id": str(ID),
            "channel": "c",
            "sender": "ada",
            "client_id": "k",
            "time": rfc3339(AT),
            "body": "hi",
            "data": {"a": 1},
            "reply_to": "7",
        },
    }


def test_changes_of_messages_have_their_id_as_version() -> None:
    edit = fields(EditRecord(*BASE, message_id=ID - 5, body="new", author="bob", author_client_id="m"))
    delete = fields(DeleteRecord(*BASE, message_id=9))
    reaction = fields(ReactionRecord(*BASE, message_id=9, emoji="👍", removed=True))

    assert edit["version"] == delete["version"] == reaction["version"] == str(ID)
    message = edit["message"]
    assert isinstance(message, dict)
    assert (message["id"], message["sender"], message["edited"]) == (str(ID - 5), "bob", rfc3339(AT))
    assert (delete["kind"], delete["message_id"]) == ("deleted", "9")
    assert (reaction["user"], reaction["emoji"], reaction["removed"]) == ("ada", "👍", True)


def test_members_and_names_have_their_position_as_version() -> None:
    member = fields(MemberRecord(*BASE, user="bob", change="add", role="admin", route="inbox"))
    removed = fields(MemberRecord(*BASE, user="bob", change="remove"))
    created = fields(ChannelRecord(*BASE, change="created", kind="group", name=None, members=[("ada", "owner")]))

    assert member["version"] == removed["version"] == created["version"] == "41"
    assert (member["change"], member["role"], "cursor" in member) == ("add", "admin", False)
    assert "role" not in removed
    assert (created["name"], created["members"]) == (None, [{"user": "ada", "role": "owner"}])


def test_a_large_channels_own_add_and_a_switch_say_where_to_continue() -> None:
    member = fields(MemberRecord(*BASE, user="bob", change="add", route="channel"))
    route = fields(RouteRecord(*BASE, to="inbox", since=12))
    timeline = channel_timeline("t", "c")

    assert decode_cursor(str(member["cursor"]), timeline).offset == 41
    assert decode_cursor(str(route["cursor"]), timeline).offset == 41
    assert decode_cursor(str(route["since"]), timeline).offset == 12
    assert "since" not in fields(RouteRecord(*BASE, to="channel"))


def test_an_alias_is_a_retraction_that_names_the_first() -> None:
    event = fields(AliasRecord(*BASE, of=ID - 1))

    assert (event["kind"], event["message_id"], event["of"]) == ("retracted", str(ID), str(ID - 1))


def test_channel_timelines_are_named_on_the_wire() -> None:
    event = wire_event(MessageRecord(*BASE, body="x"), channel_wire("c"), live=False, source=1, epoch="e")

    assert event.timeline == "channel:c"


def test_a_deleted_message_shows_nothing_of_its_content() -> None:
    stored = StoredMessage(ID, "c", 1, "ada", "k", "secret", data={"s": 1}, deleted=True, reactions={"👍": ["bob"]})
    shown = JSON.encode(wire_message(stored))

    assert b"secret" not in shown
    assert b'"deleted":true' in shown
    assert b"reactions" not in shown
    assert b'"s":1' not in shown


def test_an_edited_message_shows_when() -> None:
    stored = StoredMessage(ID, "c", 1, "ada", "k", "new", edit_id=first_id(AT + 5000), reactions={"👍": ["bob", "eve"]})
    message = wire_message(stored)

    assert message.edited == rfc3339(AT + 5000)
    assert message.reactions == {"👍": ["bob", "eve"]}
