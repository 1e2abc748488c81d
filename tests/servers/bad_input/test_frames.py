"""Handshakes, frames and JSON that are none."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from wires import BINARY, CLOSE, CONTINUATION, OPEN_TIMEOUT, PING, TEXT, cpu, eventually, group, head

# -- the handshake ------------------------------------------------------------------------------------------

HANDSHAKES = {
    "POST": (head("POST /v1/connect HTTP/1.1"), 405),
    "HTTP/1.0": (head("GET /v1/connect HTTP/1.0"), 505),
    "path over 8 KiB": (head("GET /" + "x" * 8192 + " HTTP/1.1"), 414),
    "header over 8 KiB": (head(more={"X-Long": "x" * 8192}), 431),
    "over 128 headers": (head(more={f"X-{number}": "1" for number in range(130)}), 431),
    "missing key": (head(more={"Sec-WebSocket-Key": None}), 400),
    "key of the wrong size": (head(more={"Sec-WebSocket-Key": "YWJj"}), 400),
    "version 12": (head(more={"Sec-WebSocket-Version": "12"}), 400),
    "no subprotocol of ours": (head(more={"Sec-WebSocket-Protocol": "chat"}), 400),
    "no upgrade": (head(more={"Upgrade": None}), 426),
    "another path": (head("GET /v1/connected HTTP/1.1"), 404),
    "a body announced": (head(more={"Content-Length": "5"}), 400),
    "a bare line feed": (head(more={"X-Split": "a\nSet-Cookie: b"}), 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "origin not listed": (head(more={"Origin": "https://evil.example"}), 403),
    "origin that begins like ours": (head(more={"Origin": "https://app.example.evil"}), 403),
    "origin that ends like ours": (head(more={"Origin": "https://evil-app.example"}), 403),
    "origin null": (head(more={"Origin": "null"}), 403),
}


@pytest.mark.parametrize("row", HANDSHAKES)
def test_handshake(server: Any, row: str) -> None:
    raw, status = HANDSHAKES[row]
    wire = server.wire()

    answered, headers = wire.request(raw)

    assert answered == status
    assert headers["connection"] == "close"
    with suppress(ConnectionError):  # and then the end
        while True:
            wire._more()


def test_handshake_of_a_listed_origin_is_taken(server: Any) -> None:
    assert server.wire().upgrade({"Origin": "https://app.example"})[0] == 101


@pytest.mark.parametrize("sent", [b"", b"GET /v1/connect HTTP/1.1\r\nHost: x\r\n"])
def test_handshake_that_never_finishes(server: Any, sent: bytes) -> None:
    before = server.metric("gateway_open_timeouts_total")
    wire = server.wire()
    wire.socket.sendall(sent)
    began = time.monotonic()

    with pytest.raises(ConnectionError):
        wire._more()

    assert OPEN_TIMEOUT - 0.1 < time.monotonic() - began < OPEN_TIMEOUT + 3.0
    assert server.metric("gateway_open_timeouts_total") == before + 1
    assert eventually(lambda: server.metric("gateway_sockets_preauth") == 0)


# -- frames -------------------------------------------------------------------------------------------------


def fragments(wire: Any, count: int) -> None:
    wire.put(TEXT, b"x", fin=False)
    for _ in range(count):
        wire.put(CONTINUATION, b"x", fin=False)


def bomb() -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(bytes(16 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)


FRAMES: dict[str, tuple[Callable[[Any], object], int]] = {
    "over the limit": (lambda wire: wire.put(TEXT, b"x" * 65537), 1009),
    "2^62 bytes announced": (lambda wire: wire.put(TEXT, size=1 << 62), 1009),
    "2^63 bytes announced": (lambda wire: wire.put(TEXT, size=1 << 63), 1009),
    "10,000 tiny fragments": (lambda wire: fragments(wire, 10_000), 1009),
    "fragments over the limit": (
        lambda wire: (wire.put(TEXT, b"x" * 40_000, fin=False), wire.put(CONTINUATION, b"x" * 40_000)),
        1009,
    ),
    "deflate bomb": (lambda wire: wire.put(TEXT, bomb(), reserved=0x40), 1002),
    "invalid UTF-8": (lambda wire: wire.put(TEXT, b'{"type":"ping","x":"\xff"}'), 1007),
    "a surrogate in UTF-8": (lambda wire: wire.put(TEXT, b"\xed\xa0\x80"), 1007),
    "unmasked": (lambda wire: wire.socket.sendall(b'\x81\x0f{"type":"ping"}'), 1002),
    "reserved bits": (lambda wire: wire.put(TEXT, b"{}", reserved=0x20), 1002),
    "unknown opcode": (lambda wire: wire.put(3, b"{}"), 1002),
    "unknown control opcode": (lambda wire: wire.put(11), 1002),
    "stray continuation": (lambda wire: wire.put(CONTINUATION, b"{}"), 1002),
    "text inside a fragmented message": (
        lambda wire: (wire.put(TEXT, b"{", fin=False), wire.put(TEXT, b"}")),
        1002,
    ),
    "fragmented ping": (lambda wire: wire.put(PING, fin=False), 1002),
    "ping over 125 bytes": (lambda wire: wire.put(PING, b"x" * 126), 1002),
    "close code 1005": (lambda wire: wire.put(CLOSE, (1005).to_bytes(2, "big")), 1002),
    "binary where text is spoken": (lambda wire: wire.put(BINARY, b'{"type":"ping"}'), 1003),
}


@pytest.mark.parametrize("signed_in", [False, True], ids=["before hello", "signed in"])
@pytest.mark.parametrize("row", FRAMES)
def test_frame(server: Any, row: str, signed_in: bool) -> None:
    send, code = FRAMES[row]
    wire = server.sign_in("ann") if signed_in else server.open()

    with suppress(ConnectionError):  # cut before all of it was sent: the close frame is there nevertheless
        send(wire)

    assert wire.close_code() == code


def test_text_where_binary_is_spoken(server: Any) -> None:
    wire = server.open({"Sec-WebSocket-Protocol": "chatcluster.v1.msgpack"})

    wire.put(TEXT, b'{"type":"ping"}')

    assert wire.close_code() == 1003


def test_deflate_is_offered_and_not_taken(server: Any) -> None:
    wire = server.wire()

    status, headers = wire.upgrade({"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"})

    assert status == 101
    assert "sec-websocket-extensions" not in headers


# -- JSON ---------------------------------------------------------------------------------------------------

DEEP = 10_000
NO_JSON = {
    "nothing": b"",
    "cut off": b'{"type":"send"',
    "two objects": b'{"type":"ping"}{"type":"ping"}',
    "an array": b'[{"type":"ping"}]',
    "a number": b"3",
    "null": b"null",
    "NaN": b'{"type":"send","rid":"r","channel":"c","client_id":"i","body":"b","data":{"x":NaN}}',
    "Infinity": b'{"type":"send","rid":"r","channel":"c","client_id":"i","body":"b","data":{"x":-Infinity}}',
    "arrays 10,000 deep": b'{"type":"send","rid":"r","channel":"c","client_id":"i","body":"b","data":{"x":'
    + b"[" * DEEP
    + b"]" * DEEP
    + b"}}",
    "objects 10,000 deep": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a lone surrogate": b'{"type":"send","rid":"r","channel":"c","client_id":"i","body":"\\ud800"}',
    "a surrogate backwards": b'{"type":"send","rid":"r","channel":"c","client_id":"i","body":"\\udc00\\ud800"}',
    "a control character in a string": b'{"type":"send","rid":"r","channel":"c","client_id":"i","body":"\x01"}',
    "a trailing comma": b'{"type":"ping",}',
    "single quotes": b"{'type':'ping'}",
    "a byte order mark": b'\xef\xbb\xbf{"type":"ping"}',
}


@pytest.mark.parametrize("row", NO_JSON)
def test_what_is_no_json(server: Any, row: str) -> None:
    ann = server.sign_in("ann")

    ann.put(TEXT, NO_JSON[row])
    error = ann.until(lambda message: message["type"] == "error")

    assert (error["code"], error["retryable"]) == ("bad_json", False)
    ann.pong()


@pytest.mark.parametrize("where", ['"limit":%s', '"limit":-%s', '"limit":1e%s', '"before":%s'])
def test_a_number_of_very_many_digits(server: Any, where: str) -> None:
    """Quadratic decimal conversion would hold the loop: the CPU time is looked at too."""
    ann = server.sign_in("ann")
    channel = group(ann, "digits", ["bob"])
    raw = f'{{"type":"history","rid":"r","channel":"{channel}",{where % ("9" * 60_000)}}}'.encode()
    before = cpu(server)

    for _ in range(20):
        ann.put(TEXT, raw)
    errors = [ann.until(lambda message: message["type"] == "error") for _ in range(20)]

    assert {error["code"] for error in errors} <= {"bad_json", "bad_request", "bad_limit"}
    assert cpu(server) - before < 1.0
    ann.pong()


def test_a_client_that_sends_only_rubbish_is_closed(server: Any) -> None:
    ann = server.sign_in("ann")

    for _ in range(60):
        ann.put(TEXT, b"{")

    assert ann.close_code() == 1008
