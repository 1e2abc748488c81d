from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.core.cursor import START
from chatcluster.core.ids import Minter, first_id
from chatcluster.core.materialise import ChannelState, Item, Output, Thresholds, apply, fold
from chatcluster.core.records import (
    MAX_AGE,
    AliasRecord,
    ChannelRecord,
    DeleteRecord,
    EditRecord,
    EventRecord,
    MemberRecord,
    MessageRecord,
    ReactionRecord,
    Reference,
    RouteRecord,
    channel_timeline,
    decode_reference,
    encode,
)
from chatcluster.core.rows import (
    ChannelRow,
    DeleteRow,
    EditRow,
    EventRow,
    MemberRow,
    MessageRow,
    ReactionRow,
    RouteRow,
    UserChannelRow,
    VerdictRow,
)

NOW = 1_790_000_000_000
LIMITS = Thresholds(5, 3)
R = TypeVar("R")


class Channel:
    """A channel, record by record; offsets count by two, as if others shared the partition."""

    def __init__(self, members: tuple[str, ...] = ("ann", "bob")) -> None:
        self.state = ChannelState("t", "c")
        self.minter = Minter(1)
        self.offset = 8
        self.earlier: dict[tuple[str, str], list[VerdictRow]] = {}
        if members:
            self.apply(self.created(*members))

    def id(self) -> int:
        return self.minter.mint(NOW)

    def created(self, *members: str) -> ChannelRecord:
        return ChannelRecord(
            "t", "c", self.id(), "ann", "", 0, 0, "created", "group", "tea", [(m, "member") for m in members]
        )

    def message(self, key: str = "", actor: str = "ann", **fields: Any) -> MessageRecord:
        return MessageRecord("t", "c", fields.pop("id", self.id()), actor, key, 7, fields.pop("flag", 0), "hello")

    def member(self, user: str, change: Any, role: Any = "member") -> MemberRecord:
        return MemberRecord("t", "c", self.id(), "ann", "", 0, 0, user, change, role)

    def route(self, to: Any) -> RouteRecord:
        return RouteRecord("t", "c", self.id(), "", "", 0, 0, to)

    def apply(self, record: EventRecord, *, time: int = NOW, repeated: bool = False) -> Output:
        self.offset += 2
        out = Output()
        earlier = self.earlier.setdefault((record.actor, record.client_id), [])
        self.item = Item(self.offset, time, encode(record), record, earlier, repeated)
        self.counted = apply(self.state, self.item, LIMITS, out)
        return out


def of(out: Output, kind: type[R]) -> list[R]:
    return [row for row in out.rows if isinstance(row, kind)]


def references(out: Output) -> dict[str, Reference]:
    got = {}
    for key, value in out.references:
        reference = decode_reference(value)
        assert key == f"{reference.tenant}/{reference.user}"
        assert reference.user not in got, "two references to one user"
        got[reference.user] = reference
    return got


def nothing(out: Output) -> bool:
    return not (out.rows or out.timeline or out.references or out.changed)


# -- creation


def test_creation_carries_the_first_members_and_reaches_them() -> None:
    channel = Channel(members=())
    record = channel.created("ann", "bob", "ann")

    out = channel.apply(record)

    assert of(out, ChannelRow) == [ChannelRow("t", "c", 10, "group", "tea", "ann", NOW)]
    assert of(out, MemberRow) == [MemberRow("t", "c", user, 10, "member", 2) for user in ("ann", "bob")]
    assert of(out, UserChannelRow) == [UserChannelRow("t", user, "c", 10, "member") for user in ("ann", "bob")]
    assert of(out, EventRow) == [EventRow("t", "c", record.id, 10, record)]
    assert references(out) == {user: Reference("t", user, 10, record) for user in ("ann", "bob")}
    assert out.changed == {("t", "c"): 10}
    assert not out.timeline


def test_a_second_creation_and_one_without_members_are_void() -> None:
    channel = Channel()

    assert nothing(channel.apply(channel.created("cem", "dan")))
    assert channel.state.members == {"ann": "member", "bob": "member"}
    empty = Channel(members=())
    assert nothing(empty.apply(empty.created()))
    assert not empty.state.exists


def test_a_rename_keeps_kind_and_creator_and_is_void_before_creation() -> None:
    channel = Channel()
    record = ChannelRecord("t", "c", channel.id(), "bob", "", 0, 0, "renamed", "direct", "coffee")

    out = channel.apply(record)

    assert of(out, ChannelRow) == [ChannelRow("t", "c", 12, "group", "coffee", "ann", NOW)]
    assert set(references(out)) == {"ann", "bob"}
    assert out.changed == {("t", "c"): 12}
    assert nothing(Channel(members=()).apply(record))


# -- messages


def test_a_message_is_a_row_a_verdict_and_a_reference_to_each_member() -> None:
    channel = Channel()
    record = channel.message("k1")

    out = channel.apply(record)

    assert of(out, MessageRow) == [MessageRow("t", "c", record.id, 12, "ann", "k1", "hello")]
    assert of(out, VerdictRow) == [VerdictRow("t", "c", "ann", "k1", 12, record.id, record.id, NOW, 7)]
    assert len(out.rows) == 2
    assert references(out) == {user: Reference("t", user, 12, record) for user in ("ann", "bob")}
    assert not out.changed


def test_the_age_of_a_record_decides_alone() -> None:
    channel = Channel()
    record = channel.message("k1")

    assert channel.apply(record, time=NOW + MAX_AGE).references
    late = channel.apply(channel.message("k2"), time=NOW + MAX_AGE + 1)

    assert not channel.counted
    assert [(row.winner, row.client_id) for row in of(late, VerdictRow)] == [(None, "k2")]
    assert len(late.rows) == 1
    assert not late.references
    assert late.void == 1


@pytest.mark.parametrize("kind", ["member", "route", "created", "renamed"])
def test_other_events_are_void_by_age_too_and_leave_nothing(kind: str) -> None:
    channel = Channel(members=() if kind == "created" else ("ann", "bob"))
    record: EventRecord = {
        "member": channel.member("cem", "add"),
        "route": channel.route("channel"),
        "created": channel.created("ann", "bob"),
        "renamed": ChannelRecord("t", "c", channel.id(), "bob", "", 0, 0, "renamed", "group", "x"),
    }[kind]

    assert nothing(channel.apply(record, time=NOW + MAX_AGE + 1))
    assert (channel.state.route, channel.state.count) == ("inbox", 0 if kind == "created" else 2)


def test_a_second_record_of_a_client_id_changes_nothing_and_tells_its_alias() -> None:
    channel = Channel()
    first, second = channel.message("k1"), channel.message("k1")
    channel.apply(first)

    out = channel.apply(second, time=NOW + 1)

    assert of(out, VerdictRow) == [VerdictRow("t", "c", "ann", "k1", 14, second.id, first.id, NOW + 1, 7)]
    assert len(out.rows) == 1
    alias = AliasRecord("t", "c", second.id, "ann", "k1", 7, 0, first.id)
    assert references(out) == {user: Reference("t", user, 14, alias) for user in ("ann", "bob")}
    assert out.aliases == 1


def test_a_void_first_does_not_win() -> None:
    channel = Channel()
    channel.apply(channel.message("k1"), time=NOW + MAX_AGE + 1)
    second = channel.message("k1", id=first_id(NOW + MAX_AGE))

    out = channel.apply(second, time=NOW + MAX_AGE + 2)

    assert [row.winner for row in of(out, VerdictRow)] == [second.id]
    assert of(out, MessageRow)


@pytest.mark.parametrize("key", ["k1", ""])
def test_the_same_id_again_leaves_at_most_a_verdict(key: str) -> None:
    channel = Channel()
    record = channel.message(key)
    channel.apply(record)

    out = channel.apply(record, repeated=not key)

    assert [type(row) for row in out.rows] == ([VerdictRow] if key else [])
    assert not out.references
    assert out.repeats == 1


def test_a_repeated_add_after_a_remove_does_not_bring_the_member_back() -> None:
    channel = Channel()
    add = channel.member("cem", "add")
    channel.apply(add)
    channel.apply(channel.member("cem", "remove"))

    assert nothing(channel.apply(add, repeated=True))
    assert channel.state.role("cem") is None


def test_edits_deletes_and_reactions_are_versions_by_event_id_and_travel_like_messages() -> None:
    channel = Channel()
    message = channel.message("k1")
    channel.apply(message)
    edit = EditRecord("t", "c", channel.id(), "ann", "k2", 1, 0, message.id, "new", {"a": 1}, "ann", "k1")
    delete = DeleteRecord("t", "c", channel.id(), "ann", "k3", 1, 0, message.id)
    reaction = ReactionRecord("t", "c", channel.id(), "bob", "k4", 1, 0, message.id, "+", True)

    outs = [channel.apply(record) for record in (edit, delete, reaction)]

    assert of(outs[0], EditRow) == [EditRow("t", "c", message.id, edit.id, "new", {"a": 1})]
    assert of(outs[1], DeleteRow) == [DeleteRow("t", "c", message.id, delete.id)]
    assert of(outs[2], ReactionRow) == [ReactionRow("t", "c", message.id, "bob", "+", reaction.id, True)]
    for out, record in zip(outs, (edit, delete, reaction), strict=True):
        assert of(out, EventRow)[0].record == record
        assert of(out, VerdictRow)[0].winner == record.id
        assert len(out.rows) == 3
        assert {user: reference.record for user, reference in references(out).items()} == {"ann": record, "bob": record}


# -- members


def test_an_add_reaches_the_members_and_the_new_one_with_the_route() -> None:
    channel = Channel()
    record = channel.member("cem", "add", "admin")

    out = channel.apply(record)

    durable = msgspec.structs.replace(record, route="inbox")
    assert of(out, MemberRow) == [MemberRow("t", "c", "cem", 12, "admin", 3)]
    assert of(out, UserChannelRow) == [UserChannelRow("t", "cem", "c", 12, "admin")]
    assert of(out, EventRow) == [EventRow("t", "c", record.id, 12, durable)]
    assert references(out) == {user: Reference("t", user, 12, durable) for user in ("ann", "bob", "cem")}
    assert out.changed == {("t", "c"): 12}


def test_after_its_own_remove_a_user_gets_nothing_of_the_channel() -> None:
    channel = Channel()

    removed = channel.apply(channel.member("bob", "remove"))
    said = channel.apply(channel.message())

    assert of(removed, MemberRow) == [MemberRow("t", "c", "bob", 12, None, 1)]
    assert of(removed, UserChannelRow) == [UserChannelRow("t", "bob", "c", 12, None)]
    assert set(references(removed)) == {"ann", "bob"}
    assert set(references(said)) == {"ann"}


@pytest.mark.parametrize(
    ("user", "change", "role"),
    [
        ("bob", "add", "member"),
        ("bob", "add", "admin"),
        ("cem", "remove", "member"),
        ("cem", "role", "admin"),
        ("bob", "role", "member"),
    ],
)
def test_an_event_that_changes_nothing_is_void(user: str, change: str, role: str) -> None:
    channel = Channel()

    out = channel.apply(channel.member(user, change, role))

    assert nothing(out)
    assert not channel.counted
    assert out.unchanged == 1
    assert channel.state.members == {"ann": "member", "bob": "member"}


def test_members_of_a_channel_that_was_never_created_are_void() -> None:
    channel = Channel(members=())

    assert nothing(channel.apply(channel.member("ann", "add")))
    assert nothing(channel.apply(channel.route("channel")))


def test_a_role_change_keeps_the_count() -> None:
    channel = Channel()

    out = channel.apply(channel.member("bob", "role", "admin"))

    assert of(out, MemberRow) == [MemberRow("t", "c", "bob", 12, "admin", 2)]


# -- routes


def test_the_route_switches_at_its_own_offset_and_the_event_goes_to_both_sides() -> None:
    channel = Channel()
    timeline = channel_timeline("t", "c")
    before = channel.apply(channel.message())
    up = channel.apply(channel.route("channel"))  # 14
    after = channel.apply(channel.message())  # 16
    down = channel.apply(channel.route("inbox"))  # 18
    back = channel.apply(channel.message())
    again = channel.apply(channel.route("channel"))  # 22

    assert (len(before.timeline), len(before.references)) == (0, 2)
    assert [(row.timeline, row.offset, row.prev, row.source) for row in up.timeline] == [(timeline, 14, START, 14)]
    assert of(up, RouteRow) == [RouteRow("t", "c", 14, "channel", None)]
    assert set(references(up)) == {"ann", "bob"}
    assert [(row.offset, row.prev) for row in after.timeline] == [(16, 14)]
    assert not after.references
    assert of(down, RouteRow) == [RouteRow("t", "c", 18, "inbox", 14)]
    for record in (down.timeline[0].record, of(down, EventRow)[0].record, references(down)["ann"].record):
        assert isinstance(record, RouteRecord)
        assert (record.to, record.since) == ("inbox", 14)
    assert set(references(down)) == {"ann", "bob"}
    assert (len(back.timeline), len(back.references)) == (0, 2)
    assert [(row.offset, row.prev) for row in again.timeline] == [(22, 18)]
    assert of(again, RouteRow)[0].since == 18
    assert up.changed == {("t", "c"): 14}


def test_a_route_that_is_the_route_is_void() -> None:
    channel = Channel()

    assert nothing(channel.apply(channel.route("inbox")))
    channel.apply(channel.route("channel"))
    assert nothing(channel.apply(channel.route("channel")))
    assert channel.state.switched == 14


def test_in_a_large_channel_the_subject_gets_its_own_member_event_in_its_inbox() -> None:
    channel = Channel()
    channel.apply(channel.route("channel"))  # 12
    channel.state.shrink()
    channel.state.known = {"cem": None, "bob": "member"}

    added = channel.apply(channel.member("cem", "add"))
    removed = channel.apply(channel.member("bob", "remove"))

    for out, user, count in ((added, "cem", 3), (removed, "bob", 2)):
        assert set(references(out)) == {user}
        record = references(out)[user].record
        assert isinstance(record, MemberRecord)
        assert (record.route, record.since) == ("channel", 12)
        assert [row.record for row in out.timeline] == [record]
        assert of(out, MemberRow)[0].count == count


def test_what_is_not_loaded_is_never_guessed() -> None:
    channel = Channel()
    channel.apply(channel.route("channel"))
    channel.state.shrink()

    with pytest.raises(ValueError, match="not loaded"):
        channel.apply(channel.route("inbox"))
    with pytest.raises(KeyError):
        channel.apply(channel.member("cem", "add"))


def test_an_alias_in_a_large_channel_stands_in_its_timeline() -> None:
    channel = Channel()
    channel.apply(channel.route("channel"))
    channel.apply(channel.message("k1"))

    out = channel.apply(channel.message("k1"))

    assert [type(row.record) for row in out.timeline] == [AliasRecord]
    assert not out.references


def test_the_route_is_proposed_by_every_event_while_count_and_route_disagree() -> None:
    channel = Channel(members=("a", "b", "c", "d"))
    crossing = channel.member("e", "add")

    crossed = channel.apply(crossing)
    said = channel.apply(channel.message())
    proposal = crossed.proposals["t/c"]
    assert proposal.to == "channel"
    assert said.proposals["t/c"].to == "channel"
    assert channel.apply(channel.member("x", "remove")).proposals  # changes nothing, heals all the same
    assert not channel.apply(proposal).proposals
    for user in ("e", "d"):
        assert not channel.apply(channel.member(user, "remove")).proposals
    assert channel.apply(channel.member("c", "remove")).proposals["t/c"].to == "inbox"


def test_a_channel_that_was_switched_before_many_are_added_goes_back_only_when_somebody_leaves() -> None:
    channel = Channel(members=("a", "b"))
    assert not channel.apply(channel.route("channel")).proposals  # by a router that is about to add many
    for record in (channel.message(), channel.member("c", "add"), channel.member("c", "role", "admin")):
        assert not channel.apply(record).proposals
    assert channel.apply(channel.member("c", "remove")).proposals["t/c"].to == "inbox"


def test_within_one_run_a_proposal_is_withdrawn_when_the_count_came_back() -> None:
    channel = Channel(members=("a", "b", "c", "d"))
    out = Output()
    for record in (channel.member("e", "add"), channel.member("e", "remove")):
        channel.offset += 2
        apply(channel.state, Item(channel.offset, NOW, encode(record), record), LIMITS, out)

    assert not out.proposals


# -- any history


CHANGES = ["add", "remove", "role"]
USERS = ("a", "b", "c", "d")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from(USERS), st.sampled_from(["k1", "k2", ""])),
        st.tuples(
            st.sampled_from(["add", "remove", "role"]), st.sampled_from(USERS), st.sampled_from(["member", "admin"])
        ),
        st.tuples(st.just("route"), st.sampled_from(["inbox", "channel"]), st.just("")),
    ),
    max_size=40,
)


@given(steps)
def test_every_message_goes_to_exactly_the_members_of_its_position_or_to_the_channel(
    history: list[tuple[str, str, str]],
) -> None:
    channel = Channel(members=("a", "b"))
    members = {"a", "b"}
    route = "inbox"
    rows: list[MemberRow] = []
    last = START
    for change, what, extra in history:
        if change == "say":
            out = channel.apply(channel.message("", actor=what))
            assert bool(out.timeline) is (route == "channel")
            assert set(references(out)) == (set() if route == "channel" else members)
        elif change == "route":
            out = channel.apply(channel.route(what))
            assert set(references(out)) == (members if what != route else set())
            route = what
        else:
            out = channel.apply(channel.member(what, change, extra))
            before = set(members)
            if change == "add":
                members.add(what)
            elif change == "remove":
                members.discard(what)
            if channel.counted:
                assert set(references(out)) == ({what} if route == "channel" else members | before)
        rows += of(out, MemberRow)
        for row in out.timeline:
            assert row.prev == last < row.offset
            last = row.offset
        assert channel.state.count == len(members)
        if rows:
            assert rows[-1].count == len(members)
    fresh = ChannelState("t", "c")
    first = [MemberRow("t", "c", user, 10, "member", 2) for user in ("a", "b")]
    fold(fresh, list({row.user: row for row in first + rows}.values()))
    assert fresh.exists
    assert set(fresh.members or ()) == members
