"""The client's rules, one by one, and against a model of a gateway that loses, repeats, withdraws and breaks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from chatcluster.client.cursors import Saved
from chatcluster.client.events import MessageReceived, Resynced, Retracted
from chatcluster.client.state import (
    AskAgain,
    CatchUp,
    Effect,
    FollowFrom,
    ReadAnew,
    ReadChannel,
    State,
    StopFollowing,
    Tell,
    Window,
)
from chatcluster.core.frames import Event, Limits, Mark, Resync, Welcome, WireMessage
from chatcluster.core.ids import CLOCK_BOUND, first_id, id_time

TIME = "2026-09-21T14:13:20.000Z"


def welcome(*, resumed: bool = False, inbox: str = "0", follow: dict[str, str] | None = None) -> Welcome:
    return Welcome("hello", "s", "ann", "default", TIME, 30_000, resumed, inbox, follow or {}, Limits())


def message(
    number: int, *, live: bool = True, key: str | None = None, channel: str = "c", sender: str = "bob"
) -> Event:
    wire = WireMessage(str(number), channel, sender, key or f"k{number}", TIME, "body")
    return Event("inbox", str(number), channel, "message", live, message=wire)


def retracted(number: int, of: int | None = None) -> Event:
    return Event(
        "inbox", str(number), "c", "retracted", False, message_id=str(number), of=UNSET if of is None else str(of)
    )


def edited(event_id: int, version: int, live: bool = False) -> Event:
    wire = WireMessage("1", "c", "bob", "k1", TIME, f"v{version}", edited=TIME)
    return Event("inbox", str(event_id), "c", "edited", live, version=str(version), message=wire)


def told(effects: list[Effect]) -> list[Any]:
    return [effect.event for effect in effects if isinstance(effect, Tell)]


def opened(saved: Saved | None = None) -> State:
    state = State(saved)
    state.welcome(welcome(resumed=saved is not None, inbox="0" if saved is None else saved.inbox or "0"))
    return state


def test_an_event_is_told_once_however_often_it_comes() -> None:
    state = opened()
    assert len(told(state.event(message(1)))) == 1
    assert told(state.event(message(1))) == []
    assert told(state.event(message(1, live=False))) == []


def test_a_live_event_is_pending_until_a_mark_does_not_list_it() -> None:
    state = opened()
    state.event(message(1))
    state.event(message(2))
    assert state.resume() is not None
    assert state.resume().pending == ["1", "2"]  # type: ignore[union-attr]
    saved = state.mark(Mark(["2"], inbox="5"))
    assert (saved.inbox, saved.pending) == ("5", ["2"])
    # Proven: a withdrawal of it would be false and is not applied.
    assert told(state.event(retracted(1))) == []
    assert told(state.event(retracted(2))) == [Retracted("c", "2", None)]


def test_a_durable_copy_ends_pending() -> None:
    state = opened()
    state.event(message(1))
    state.event(message(1, live=False))
    assert state.saved().pending == []
    assert told(state.event(retracted(1))) == []
    again = opened(Saved("i", {}, ["7"]))
    again.event(message(7, live=False))
    assert again.saved().pending == []
    # A mark made before the gateway knew that we hold the durable copy changes nothing.
    assert state.mark(Mark(["1"], inbox="5")).pending == []


def test_what_was_withdrawn_stays_so_against_rumours_and_comes_back_when_durable() -> None:
    state = opened()
    state.event(message(1))
    assert told(state.event(retracted(1))) == [Retracted("c", "1", None)]
    assert told(state.event(retracted(1))) == []
    assert told(state.event(message(1))) == []
    assert state.saved().pending == []
    again = told(state.event(message(1, live=False)))
    assert [type(event) for event in again] == [MessageReceived]


def test_an_alias_stays_withdrawn() -> None:
    state = opened()
    state.event(message(1, key="k"))
    assert told(state.event(retracted(1, of=2))) == [Retracted("c", "1", "2")]
    assert told(state.event(message(1, key="k", live=False))) == []
    assert len(told(state.event(message(2, key="k", live=False)))) == 1


def test_an_alias_that_was_never_told_is_not_told_later() -> None:
    state = opened()
    assert told(state.event(retracted(5, of=2))) == []
    assert told(state.event(message(5, key="k"))) == []


def test_a_second_message_of_one_client_id_is_hidden_until_the_first_is_withdrawn() -> None:
    state = opened()
    assert len(told(state.event(message(1, key="k")))) == 1
    assert told(state.event(message(2, key="k"))) == []
    assert told(state.event(message(3, key="k", sender="eve"))) != []  # another sender's key is another key
    withdrawn, again = told(state.event(retracted(1, of=2)))
    assert withdrawn == Retracted("c", "1", "2")
    assert (again.message.id, again.instead_of) == ("2", "1")


def test_a_hidden_copy_is_withdrawn_silently() -> None:
    state = opened()
    state.event(message(1, key="k"))
    state.event(message(2, key="k"))
    assert told(state.event(retracted(2, of=1))) == []
    assert told(state.event(retracted(1))) == [Retracted("c", "1", None)]


def test_the_highest_version_wins() -> None:
    state = opened()
    assert len(told(state.event(edited(10, 10)))) == 1
    assert told(state.event(edited(9, 9))) == []
    assert len(told(state.event(edited(11, 11)))) == 1
    renamed = Event("inbox", "20", "c", "channel", False, version="7", name="new", change="renamed")
    older = Event("inbox", "19", "c", "channel", False, version="6", name="old", change="renamed")
    assert len(told(state.event(renamed))) == 1
    assert told(state.event(older)) == []


def test_deletes_have_no_order_among_each_other() -> None:
    state = opened()
    for event_id, gone in ((12, "2"), (11, "1")):
        deleted = Event("inbox", str(event_id), "c", "deleted", False, version=str(event_id), message_id=gone)
        assert [event.message_id for event in told(state.event(deleted))] == [gone]


def test_read_cursors_only_move_forward_and_are_never_pending() -> None:
    state = opened()
    forward = Event("inbox", "30", "c", "read", True, message_id="9", user="bob")
    back = Event("inbox", "31", "c", "read", True, message_id="8", user="bob")
    assert len(told(state.event(forward))) == 1
    assert told(state.event(back)) == []
    assert state.saved().pending == []


def test_resume_names_cursors_and_pending() -> None:
    assert State().resume() is None
    state = State(Saved("i", {"big": "c"}, ["7"]))
    resume = state.resume()
    assert resume is not None
    assert (resume.inbox, resume.channels, resume.pending) == ("i", {"big": "c"}, ["7"])
    # What an earlier run was told live can still be withdrawn.
    state.welcome(welcome(resumed=True, inbox="i", follow={"big": "c"}))
    assert told(state.event(retracted(7))) == [Retracted("c", "7", None)]


def test_pending_of_a_resume_is_bounded_by_the_protocol() -> None:
    state = opened()
    for number in range(1, 1501):
        state.event(message(number))
    pending = state.resume().pending  # type: ignore[union-attr]
    assert len(pending) == 1000
    assert pending[-1] == "1500"


def test_a_channel_followed_before_is_asked_for_again() -> None:
    state = State(Saved("i", {"a": "ca", "b": "cb"}, []))
    effects = state.welcome(welcome(resumed=True, inbox="i", follow={"a": "ca"}))
    assert effects == [FollowFrom("b", "cb")]


def test_a_mark_of_a_channel_that_is_followed_no_more_is_not_kept() -> None:
    state = opened()
    state.following("big", "c1")
    assert state.mark(Mark([], channels={"big": "c2"})).channels == {"big": "c2"}
    state.unfollowed("big", declined=True)
    assert state.mark(Mark([], channels={"big": "c3"})).channels == {}
    assert state.synced("i", {"big": "c4"}) == Saved("i", {}, [], None)


def test_the_newest_is_the_greatest_whatever_came_last() -> None:
    state = opened()
    for number in (9, 10, 3):
        state.event(message(number))
    assert state.saved().newest == state.heads.get("c") == "10"


def route(to: Any, version: int, *, timeline: str = "inbox", since: str | None = None) -> Event:
    return Event(
        timeline, f"{version}00", "big", "route", False, version=str(version), to=to, cursor=f"c{version}",
        since=UNSET if since is None else since,
    )  # fmt: skip


def follows(effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if not isinstance(effect, Tell)]


def test_a_switch_to_the_channel_is_followed_from_its_position() -> None:
    state = opened()
    assert follows(state.event(route("channel", 5))) == [FollowFrom("big", "c5")]
    assert state.saved().channels == {"big": "c5"}
    assert follows(state.event(route("channel", 5))) == []


def test_a_switch_does_not_take_back_a_cursor_of_our_own() -> None:
    state = opened()
    state.following("big", "c9")
    assert follows(state.event(route("channel", 5))) == []
    assert state.saved().channels == {"big": "c9"}


def test_a_switch_to_the_inbox_told_on_the_channel_ends_it_there() -> None:
    state = opened()
    state.following("big", "c6")
    assert follows(state.event(route("inbox", 7, timeline="channel:big", since="c5"))) == [StopFollowing("big")]
    assert state.saved().channels == {}
    assert follows(state.event(route("inbox", 7, since="c5"))) == []  # the inbox's copy


def test_a_switch_to_the_inbox_told_there_first_reads_the_channel_up_to_it() -> None:
    state = opened()
    state.following("big", "c6")
    assert follows(state.event(route("inbox", 7, since="c5"))) == [ReadChannel("big", "c6", "700")]
    state = opened()
    assert follows(state.event(route("inbox", 7, since="c5"))) == [ReadChannel("big", "c5", "700")]


def test_a_channel_that_was_unfollowed_by_wish_is_not_read_at_a_switch() -> None:
    state = opened()
    state.following("big", "c6")
    state.unfollowed("big", declined=True)
    assert follows(state.event(route("inbox", 7, since="c5"))) == []


def test_a_channel_that_was_unfollowed_by_wish_is_not_followed_at_a_switch() -> None:
    state = opened()
    state.following("big", "c1")
    state.unfollowed("big", declined=True)
    assert follows(state.event(route("channel", 10))) == []
    assert state.saved().channels == {}


def test_an_older_switch_that_comes_late_changes_nothing() -> None:
    state = opened()
    state.event(route("inbox", 7, timeline="channel:big"))
    assert follows(state.event(route("channel", 5))) == []
    assert state.saved().channels == {}


def member(change: Any, version: int, *, user: str = "ann", large: bool = True) -> Event:
    return Event(
        "inbox", f"{version}01", "big", "member", False, version=str(version), user=user, change=change, role="member",
        route="channel" if large else "inbox", cursor=f"c{version}" if large else UNSET,
    )  # fmt: skip


def test_an_own_add_follows_from_there_and_asks_history_again() -> None:
    state = opened()
    assert follows(state.event(member("add", 3))) == [FollowFrom("big", "c3"), AskAgain("big")]
    assert follows(state.event(member("add", 4, user="bob"))) == []
    state = opened()
    assert follows(state.event(member("add", 3, large=False))) == [AskAgain("big")]


def test_after_an_own_remove_nothing_is_followed() -> None:
    state = opened()
    state.event(member("add", 3))
    assert follows(state.event(member("remove", 5))) == [StopFollowing("big")]
    assert state.saved().channels == {}
    assert follows(state.event(member("add", 3))) == []  # a repeat of the older add


def test_another_epoch_reads_history_anew_from_a_little_before_the_newest_told() -> None:
    state = opened()
    newest = first_id(1_790_000_000_000)
    state.event(message(newest))
    resynced, anew = state.resync(Resync("inbox", "epoch"))
    assert resynced == Tell(Resynced("inbox", "epoch"))
    assert isinstance(anew, ReadAnew)
    assert anew.channel is None
    assert id_time(int(anew.after)) == id_time(newest) - CLOCK_BOUND
    [_, one] = state.resync(Resync("channel:c", "epoch"))
    assert isinstance(one, ReadAnew)
    assert one.channel == "c"


def test_too_far_behind_reads_on_from_the_own_cursor() -> None:
    state = State(Saved("old", {"big": "c1"}, []))
    state.welcome(welcome(resumed=False, inbox="new", follow={"big": "c9"}))
    assert state.resync(Resync("inbox", "too_far_behind")) == [CatchUp()]
    assert state.saved().inbox == "old"
    assert state.resync(Resync("channel:big", "too_far_behind")) == [CatchUp()]
    assert state.saved().channels == {"big": "c1"}


def test_history_tells_what_was_missed_and_proves_what_was_told() -> None:
    state = opened()
    state.event(message(1))
    wires = [event.message for event in (message(1), message(2)) if event.message is not UNSET]
    assert [event.message.id for event in told(state.history(wires))] == ["2"]
    assert state.saved().pending == []
    assert told(state.event(message(2, live=False))) == []


def test_history_does_not_bring_back_what_was_withdrawn_or_deleted() -> None:
    state = opened()
    state.event(retracted(3, of=1))
    alias = WireMessage("3", "c", "bob", "k3", TIME, "body")
    deleted = WireMessage("4", "c", "bob", "k4", TIME, "", deleted=True)
    assert told(state.history([alias, deleted])) == []


def test_a_window_forgets_the_oldest() -> None:
    window: Window[int, str] = Window(2)
    for number in (1, 2, 1, 3):
        window.put(number, "x")
    assert window.keys() == [1, 3]


# -- a model of a gateway ---------------------------------------------------------------------------------


class Gateway:
    """The server as a client sees it: a log that decides, rumours that need not be true, connections that break."""

    def __init__(self, log: list[tuple[int, int | None]], phantoms: list[int], keys: dict[int, str]) -> None:
        self.log = log  # (id, None) a message; (id, of) an alias
        self.phantoms = phantoms
        self.keys = keys
        self.state = State()
        self.shown: dict[int, str] = {}
        self.at = 0
        self.live: set[int] = set()  # told live on this connection or claimed by resume, not decided
        self.saved: Saved | None = None
        self.state.welcome(welcome())

    def take(self, effects: list[Effect]) -> None:
        for event in told(effects):
            if isinstance(event, MessageReceived):
                number = int(event.message.id)
                assert number not in self.shown, "told twice"
                assert self.keys[number] not in self.shown.values(), "two of one client_id at once"
                self.shown[number] = self.keys[number]
            elif isinstance(event, Retracted):
                assert self.shown.pop(int(event.id), None) is not None, "withdrawn what was not shown"

    def rumour(self, number: int) -> None:
        decided = {entry for entry, _ in self.log[: self.at]}
        if number not in decided:
            self.live.add(number)
        self.take(self.state.event(message(number, key=self.keys[number])))

    def tell(self, entry: tuple[int, int | None], *, always: bool = False) -> None:
        number, of = entry
        heard = number in self.live
        self.live.discard(number)
        if of is not None:
            self.take(self.state.event(retracted(number, of=of)))
        elif always or not heard:
            self.take(self.state.event(message(number, live=False, key=self.keys[number])))

    def advance(self) -> None:
        if self.at < len(self.log):
            self.at += 1
            self.tell(self.log[self.at - 1])

    def mark(self) -> None:
        self.saved = self.state.mark(Mark([str(number) for number in sorted(self.live)], inbox=str(self.at)))

    def settle(self) -> None:
        for number in self.phantoms:
            if number in self.live:
                self.live.discard(number)
                self.take(self.state.event(retracted(number)))

    def reconnect(self) -> None:
        resume = self.state.resume()
        assert resume is not None
        assert resume.inbox is not None
        self.live = {int(number) for number in resume.pending}
        start = int(resume.inbox)
        self.take(self.state.welcome(welcome(resumed=True, inbox=resume.inbox)))
        for entry in self.log[start : self.at]:
            self.tell(entry, always=True)
        self.mark()


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Gateway, list[tuple[str, int]]]:
    size = draw(st.integers(2, 7))
    keys: dict[int, str] = {}
    log: list[tuple[int, int | None]] = []
    phantoms: list[int] = []
    for number in range(1, size + 1):
        fate = draw(st.sampled_from(["message", "message", "alias", "phantom", "phantom copy"]))
        winners = [entry for entry, of in log if of is None]
        if fate in ("alias", "phantom copy") and winners:
            of = draw(st.sampled_from(winners))
            keys[number] = keys[of]
            if fate == "alias":
                log.append((number, of))
            else:
                phantoms.append(number)
        else:
            keys[number] = f"k{number}"
            if fate.startswith("phantom"):
                phantoms.append(number)
            else:
                log.append((number, None))
    step = st.sampled_from(["rumour", "rumour", "advance", "advance", "mark", "settle", "reconnect"])
    steps = draw(st.lists(st.tuples(step, st.integers(1, size)), max_size=25))
    return Gateway(log, phantoms, keys), steps


@given(schedules())
@settings(max_examples=250, deadline=None)
def test_whatever_happens_exactly_the_durable_messages_stay(schedule: tuple[Gateway, list[tuple[str, int]]]) -> None:
    gateway, steps = schedule
    for step, number in steps:
        if step == "rumour":
            gateway.rumour(number)
        else:
            getattr(gateway, step)()
    for _ in gateway.log:
        gateway.advance()
    gateway.settle()
    gateway.mark()
    assert set(gateway.shown) == {number for number, of in gateway.log if of is None}
    assert gateway.saved is not None
    assert gateway.saved.pending == []


@pytest.mark.parametrize("window", [8192])
def test_a_copy_that_is_the_first_to_be_durable_for_us_gives_way(window: int) -> None:
    state = State(window=window)
    state.welcome(welcome())
    state.event(message(2, key="k"))
    state.mark(Mark(["2"], inbox="1"))
    assert told(state.event(message(1, key="k", live=False))) == []
    withdrawn, again = told(state.event(retracted(2, of=1)))
    assert withdrawn == Retracted("c", "2", "1")
    assert again.message.id == "1"


def test_a_retraction_without_a_channel_is_told_in_the_channel_of_its_message() -> None:
    """A gateway that knows the id from ``resume.pending`` alone cannot name the channel."""
    state = opened()
    state.event(message(1, channel="d"))
    nameless = Event("inbox", "1", "", "retracted", False, message_id="1")
    assert told(state.event(nameless)) == [Retracted("d", "1", None)]
