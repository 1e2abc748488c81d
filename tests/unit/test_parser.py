"""The frame parser: RFC 6455 section 5 by table, and held to the parser of ``websockets`` by property."""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from chatcluster.core.outbound import frame_bytes
from chatcluster.services.gateway.parser import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    Parser,
    Violation,
    close_code,
    close_frame,
)

LIMIT = 1000


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\x01\x02\x03\x04"
):
    """A client's frame; ``mask`` None: unmasked."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0 if mask is None else 0x80
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 65536:
        head += bytes([bit | 126]) + len(payload).to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + len(payload).to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def parse(stream: bytes, cuts: list[int] | None = None, *, fragments: int = 100) -> tuple[list[tuple[int, bytes]], int]:
    """The messages of a stream fed in pieces, and the code of the violation that ended it (0: none)."""
    parser = Parser(LIMIT, fragments)
    found: list[tuple[int, bytes]] = []
    edges = sorted({0, len(stream), *(cuts or [])})
    try:
        for start, end in itertools.pairwise(edges):
            parser.feed(stream[start:end])
            while (message := parser.next()) is not None:
                found.append(message)
    except Violation as violation:
        return found, int(violation.code)
    return found, 0


@pytest.mark.parametrize(
    ("stream", "messages", "code"),
    [
        (frame(TEXT, b"hi"), [(TEXT, b"hi")], 0),
        (frame(TEXT, b"x" * 126), [(TEXT, b"x" * 126)], 0),
        (frame(BINARY, b"x" * LIMIT), [(BINARY, b"x" * LIMIT)], 0),
        (
            frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"b"),
            [(PING, b"p"), (TEXT, b"ab")],
            0,
        ),
        (frame(PONG, b"x" * 125), [(PONG, b"x" * 125)], 0),
        (frame(TEXT, b"x" * (LIMIT + 1)), [], 1009),
        (frame(TEXT, b"x" * LIMIT, fin=False) + frame(CONTINUATION, b"y"), [], 1009),
        (frame(TEXT, mask=None), [], 1002),
        (frame(TEXT, rsv=4), [], 1002),
        (frame(TEXT, rsv=1), [], 1002),
        (frame(3), [], 1002),
        (frame(11), [], 1002),
        (frame(CONTINUATION, b"x"), [], 1002),
        (frame(TEXT, fin=False) + frame(TEXT), [], 1002),
        (frame(PING, fin=False), [], 1002),
        (frame(PING, b"x" * 126), [], 1002),
        (frame(TEXT, b"\xff"), [], 1007),
        (frame(TEXT, b"\xed\xa0\x80"), [], 1007),
        (frame(TEXT, b"\xc3"), [], 1007),
        (frame(TEXT, "€".encode()[:1], fin=False) + frame(CONTINUATION, "€".encode()[1:]), [(TEXT, "€".encode())], 0),
        (frame(TEXT, b"\xff", fin=False), [], 1007),
        (frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"\xc3"), [], 1007),
        (frame(BINARY, b"\xff"), [(BINARY, b"\xff")], 0),
    ],
)
def test_frames_by_the_book(stream: bytes, messages: list[tuple[int, bytes]], code: int) -> None:
    assert parse(stream) == (messages, code)
    assert parse(stream, list(range(len(stream)))) == (messages, code)


@pytest.mark.parametrize("size", [2**62, 2**63, 2**64 - 1])
def test_announced_giant_is_refused_from_its_header(size: int) -> None:
    assert parse(b"\x82\xff" + size.to_bytes(8, "big")) == ([], 1009)


def test_fragments_are_bounded_even_when_empty() -> None:
    stream = frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 99
    assert parse(stream, fragments=100) == ([], 0)
    assert parse(stream + frame(CONTINUATION, fin=False), fragments=100) == ([], 1009)


def test_nothing_is_held_of_what_was_read() -> None:
    parser, stream = Parser(LIMIT, 100), frame(TEXT, b"x" * 900)
    held = sys.getrefcount(stream)
    parser.feed(stream)
    assert parser.next() is not None
    assert parser.next() is None
    assert sys.getrefcount(stream) == held


def test_next_takes_one_message_at_a_time() -> None:
    parser = Parser(LIMIT, 10)
    parser.feed(frame(TEXT, b"1") + frame(TEXT, b"2"))
    assert parser.next() == (TEXT, b"1")
    parser.feed(frame(TEXT, b"3"))
    assert [parser.next(), parser.next(), parser.next()] == [(TEXT, b"2"), (TEXT, b"3"), None]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", NO_CODE),
        (b"\x03\xe8", 1000),
        (b"\x03\xe8bye", 1000),
        (b"\x0b\xb8", 3000),
        (b"\x13\x87", 4999),
        (b"\x03", 1002),
        (b"\x03\xed", 1002),
        (b"\x03\xee", 1002),
        (b"\x03\xec", 1002),
        (b"\x13\x88", 1002),
        (b"\x00\x00", 1002),
        (b"\x03\xe8\xff", 1007),
    ],
)
def test_close_codes(payload: bytes, expected: int) -> None:
    try:
        found = close_code(payload)
    except Violation as violation:
        found = int(violation.code)
    assert found == expected


def test_close_frame_cuts_a_long_reason_at_a_character() -> None:
    wire = close_frame(1008, "é" * 100)
    assert wire[0] == 0x88
    assert wire[1] == len(wire) - 2 <= 125
    assert wire[4:].decode() == "é" * 61


Sent = tuple[int, bytes, bool, int, bool]

sent = st.tuples(
    st.sampled_from([CONTINUATION, TEXT, BINARY, PING, PONG, CONTINUATION, 3, 12]),
    st.one_of(st.text(max_size=40).map(str.encode), st.binary(max_size=130), st.just(b"x" * 600)),
    st.booleans(),
    st.sampled_from([0] * 12 + [1, 2, 4]),
    st.sampled_from([True] * 12 + [False]),
)


def oracle(stream: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """What ``websockets`` makes of it: whole messages, and the close code it failed with (0: none)."""
    protocol = ServerProtocol(state=OPEN, max_size=LIMIT)
    protocol.receive_data(stream)
    found: list[tuple[int, bytes]] = []
    parts: list[Frame] = []
    code = int(protocol.close_sent.code) if protocol.close_sent else 0
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        if event.opcode in (Opcode.PING, Opcode.PONG):
            found.append((int(event.opcode), bytes(event.data)))
            continue
        parts.append(event)
        if event.fin:
            payload = b"".join(bytes(part.data) for part in parts)
            found.append((int(parts[0].opcode), payload))
            parts = []
    return found, code


def is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.lists(sent, max_size=8), st.lists(st.integers(0, 400), max_size=6))
@example([(TEXT, b"a", False, 0, True), (PING, b"", True, 0, True), (CONTINUATION, b"b", True, 0, True)], [3])
@example([(TEXT, b"x" * 600, False, 0, True)] * 2, [])
def test_agrees_with_websockets(frames: list[Sent], cuts: list[int]) -> None:
    stream = b"".join(
        frame(opcode, payload, fin=fin, rsv=rsv, mask=b"\xaa\x55\x00\x01" if masked else None)
        for opcode, payload, fin, rsv, masked in frames
    )
    found, code = parse(stream, [cut for cut in cuts if cut < len(stream)])
    expected, expected_code = oracle(stream)
    if code == 1007:
        # ``websockets`` leaves UTF-8 to its callers: ours must be right, and as far as that the same.
        assert found == expected[: len(found)]
        assert not all(is_text(payload) for _, payload, *_ in frames)
    elif (code, expected_code) == (1002, 1009):
        # Out of turn, and too much together with what stands: either says so.
        assert found == expected
        assert sum(len(payload) for _, payload, *_ in frames) > LIMIT
    else:
        assert (found, code) == (expected, expected_code)
        assert all(is_text(payload) for opcode, payload in found if opcode == TEXT)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_noise_never_does_more_than_a_violation(stream: bytes, cuts: list[int]) -> None:
    assert parse(stream, [cut for cut in cuts if cut < len(stream)]) == parse(stream)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
@pytest.mark.parametrize("text", [True, False])
def test_server_frames_are_what_websockets_would_send(size: int, text: bool) -> None:
    payload = b"x" * size
    expected = Frame(Opcode.TEXT if text else Opcode.BINARY, payload).serialize(mask=False)
    assert frame_bytes(payload, text) == expected


def test_a_closing_frame_is_handed_out_as_it_is() -> None:
    assert parse(frame(CLOSE, b"\x03\xe8")) == ([(CLOSE, b"\x03\xe8")], 0)
