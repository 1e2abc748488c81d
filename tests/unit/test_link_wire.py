"""Frames of the internal links: however a stream is cut, whoever wrote it."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcluster.backends.links.stream import Fence, Stream
from chatcluster.backends.links.wire import (
    GOOD_FRAME,
    HANDSHAKE_FRAME,
    MAX_FRAME,
    Answers,
    Beats,
    Calls,
    Challenge,
    Cutter,
    Facts,
    Forget,
    Goodbye,
    Hello,
    Malformed,
    Ping,
    Strange,
    Watch,
    Watched,
    Welcome,
    decode_from_client,
    decode_from_server,
    encode,
    frames,
    proof,
    proven,
)
from chatcluster.core.envelope import PresenceChange
from chatcluster.core.frames import Answer, Reply, Request, Send
from chatcluster.ports import Beat, Caller

ME = Caller("t", "ada", "s1")
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def _any(info: Any) -> st.SearchStrategy[Any]:
    kind = type(info).__name__
    match kind:
        case "Metadata":
            return _any(info.type)
        case "StrType":
            return st.text(min_size=info.min_length or 0, max_size=min(info.max_length or 12, 12))
        case "IntType":
            return st.integers(-(2**63), 2**63 - 1)
        case "BoolType":
            return st.booleans()
        case "NoneType":
            return st.none()
        case "LiteralType":
            return st.sampled_from(info.values)
        case "UnionType":
            return st.one_of([_any(one) for one in info.types])
        case "ListType":
            return st.lists(_any(info.item_type), max_size=3)
        case "DictType" if type(info.value_type).__name__ == "AnyType":
            return st.dictionaries(st.text(max_size=4), DATA, max_size=3)
        case "DictType":
            return st.dictionaries(_any(info.key_type), _any(info.value_type), max_size=3)
        case "StructType":
            return struct_of(info.cls)
        case _:
            raise AssertionError(kind)


def struct_of(cls: Any) -> st.SearchStrategy[Any]:
    """A struct with any values; optional fields may be left as they are (``UNSET``, None, empty)."""
    fields = msgspec.inspect.type_info(cls).fields  # type: ignore[attr-defined]
    needed = {one.name: _any(one.type) for one in fields if one.required}
    free = {one.name: _any(_without_unset(one.type)) for one in fields if not one.required}
    return st.fixed_dictionaries(needed, optional=free).map(lambda values: cls(**values))


def _without_unset(info: Any) -> Any:
    if type(info).__name__ == "Metadata":
        return _without_unset(info.type)
    if type(info).__name__ != "UnionType":
        return info
    return msgspec.structs.replace(info, types=tuple(one for one in info.types if type(one).__name__ != "UnsetType"))


MESSAGES = st.one_of(
    st.just(Ping()),
    st.builds(lambda body: Calls([(1, ME, Send("r", "c", "k", body))]), st.text(max_size=300)),
    st.builds(lambda users: Watch(3, "g", "s", "t", users), st.lists(st.text(max_size=9), max_size=9)),
    st.builds(lambda sessions: Forget("g", sessions), st.lists(st.text(max_size=9), max_size=9)),
)


@given(st.lists(MESSAGES, max_size=12), st.data())
def test_frames_come_out_however_they_were_cut(messages: list[Any], data: st.DataObject) -> None:
    stream = b"".join(encode(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    cutter = Cutter()

    got = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += [decode_from_client(body) for body in cutter.feed(stream[start:end])]

    assert got == messages


@given(st.integers(0, MAX_FRAME), st.integers(1, 2**32 - 1 - MAX_FRAME), st.integers(1, 3))
def test_a_frame_over_the_limit_ends_it_before_it_comes(limit: int, over: int, first: int) -> None:
    announced = (limit + over).to_bytes(4, "big")
    for parts in ([announced], [announced[:first], announced[first:]]):
        cutter = Cutter(limit)
        assert [list(cutter.feed(part)) for part in parts[:-1]] in ([], [[]])
        with pytest.raises(Malformed):
            list(cutter.feed(parts[-1]))


@given(st.binary(max_size=200))
def test_garbage_is_a_known_error(garbage: bytes) -> None:
    for decode in (decode_from_client, decode_from_server):
        try:
            for body in Cutter(HANDSHAKE_FRAME).feed(garbage):
                decode(body)
            decode(garbage)
        except (Malformed, msgspec.MsgspecError, ValueError, RecursionError):
            pass


@pytest.mark.parametrize("cls", get_args(Request), ids=lambda cls: cls.__name__)
def test_each_request_arrives_as_it_was(cls: Any) -> None:
    @settings(max_examples=20)
    @given(st.lists(struct_of(cls), min_size=1, max_size=2))
    def check(requests: list[Any]) -> None:
        calls = Calls([(number, ME, request) for number, request in enumerate(requests)])
        assert decode_from_client(encode(calls)[4:]) == calls

    check()


@pytest.mark.parametrize("cls", get_args(Answer), ids=lambda cls: cls.__name__)
def test_each_answer_arrives_as_it_was(cls: Any) -> None:
    @settings(max_examples=20)
    @given(st.lists(struct_of(cls), min_size=1, max_size=2))
    def check(answers: list[Any]) -> None:
        said = Answers(list(enumerate(answers)))
        heard = decode_from_server(encode(said)[4:])
        assert heard == said
        assert isinstance(heard, Answers)
        for (_, before), (_, after) in zip(said.answers, heard.answers, strict=True):
            unset = [name for name in before.__struct_fields__ if getattr(before, name) is msgspec.UNSET]
            assert all(getattr(after, name) is msgspec.UNSET for name in unset)

    check()


@pytest.mark.parametrize(
    "message",
    [
        Hello(1, "router", "g", b"n" * 16, b"p" * 32),
        Beats("g", [Beat("t", "ada", "s", "away")]),
        Watch(1, "g", "s", "t", ["ada"]),
        Forget("g", ["s"]),
        Ping(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_gateways_say(message: Any) -> None:
    assert decode_from_client(encode(message)[4:]) == message


@pytest.mark.parametrize(
    "message",
    [
        Challenge(1, "presence", "p", b"n" * 16, True, b"i" * 16),
        Welcome(b"p" * 32, Facts("e", {"messages": 12})),
        Watched(1, [PresenceChange("ada", "online", 7)]),
        Goodbye(),
        Ping(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_servers_say(message: Any) -> None:
    assert decode_from_server(encode(message)[4:]) == message


def test_one_request_of_a_later_version_does_not_cost_the_others() -> None:
    good = Send("r1", "c", "k", "hi")
    later = {"type": "poll", "rid": "r2", "options": [1, 2]}
    body = msgspec.msgpack.encode(["calls", [(1, ME, good), (2, ME, later), (3, ME, {"type": "send"}), (4, ME, good)]])

    calls = decode_from_client(body)

    assert isinstance(calls, Calls)
    assert calls.calls == [(1, ME, good), (2, ME, Strange("r2")), (3, ME, Strange(None)), (4, ME, good)]


def test_one_answer_of_a_later_version_does_not_cost_the_others() -> None:
    body = msgspec.msgpack.encode(["answers", [(1, Reply("r1")), (2, {"type": "receipt", "rid": "r2"})]])

    assert decode_from_server(body) == Answers([(1, Reply("r1")), (2, Strange("r2"))])


@settings(max_examples=25)
@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=12), st.sets(st.integers(0, 11)))
def test_batches_are_cut_in_order_and_lose_only_what_cannot_be_said(sizes: list[int], unsayable: set[int]) -> None:
    items: list[tuple[int, Caller, Any]] = [
        (number, ME, Send("r", "c", "k", "x" * size, data={"n": 2**70} if number in unsayable else None))
        for number, size in enumerate(sizes)
    ]
    unfit: list[int] = []

    made = list(frames(Calls, items, lambda item: unfit.append(item[0])))

    arrived: list[Any] = []
    for frame in made:
        calls = decode_from_client(frame[4:])
        assert isinstance(calls, Calls)
        assert len(frame) <= GOOD_FRAME or len(calls.calls) == 1
        arrived += calls.calls
    assert arrived == [item for item in items if item[0] not in unsayable]
    assert unfit == [number for number in range(len(sizes)) if number in unsayable]


def test_a_proof_is_of_one_side_one_name_one_conversation() -> None:
    mine = proof(b"secret" * 4, "client", b"a" * 16, b"b" * 16, "g")

    assert proven(mine, proof(b"secret" * 4, "client", b"a" * 16, b"b" * 16, "g"))
    for other in (
        proof(b"Secret" * 4, "client", b"a" * 16, b"b" * 16, "g"),
        proof(b"secret" * 4, "server", b"a" * 16, b"b" * 16, "g"),
        proof(b"secret" * 4, "client", b"b" * 16, b"a" * 16, "g"),
        proof(b"secret" * 4, "client", b"a" * 16, b"b" * 16, "h"),
        b"",
    ):
        assert not proven(mine, other)


class Heard(Stream):
    """A stream that keeps what it heard. ``now``: its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.messages: list[Any] = []
        fence = Fence(lambda: self.now, asleep=10.0, act=lambda: self.end("this process slept"))
        super().__init__(decode_from_client, heartbeat=1.0, silence=3.5, fence=fence)

    def heard(self, message: Any) -> None:
        self.messages.append(message)

    def ended(self, why: str) -> None:
        pass


def test_what_came_while_the_process_slept_is_not_heard() -> None:
    async def main() -> None:
        stream = Heard()
        stream.data_received(encode(Ping()))
        stream.now += 10.5  # what the sockets brought comes before every timer, also before the fence's own
        stream.data_received(encode(Ping()) * 3)
        assert len(stream.messages) == 1
        assert stream.gone

    asyncio.run(main())


def test_a_stranger_gets_no_memory_and_who_shook_hands_does() -> None:
    async def main() -> None:
        announced = (HANDSHAKE_FRAME + 1).to_bytes(4, "big")
        stranger, friend = Heard(), Heard()
        stranger.data_received(announced)
        assert stranger.gone
        friend.believed(1)
        friend.data_received(announced)
        assert not friend.gone
        friend.data_received(b"x" * HANDSHAKE_FRAME)
        assert not friend.gone
        friend.end("done")

    asyncio.run(main())
