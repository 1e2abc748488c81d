"""The table of bad input against a real server, row by row: one named error each, and nothing else happens.

After every test the process is alive and serves, its memory is flat, and neither a reply nor its output holds a
stack trace or a secret.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import statistics
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
OPEN_TIMEOUT = 1.0
GROWTH = 24 * 1024
"""KiB that the process may grow by over the whole module: caches fill, connections' pages stay."""
WITHDRAWN = {"GATEWAY__DRAIN_PROPAGATION": "0", "GATEWAY__DRAIN_NOTICE": "0"}


@pytest.fixture(scope="module")
def server(serve: Any) -> Any:
    """One server for all rows that need no settings of their own. Ten members make a channel large."""
    server = serve(
        env={
            "ROUTING__INBOX_FANOUT_LIMIT": "10",
            "ROUTING__HYSTERESIS": "2",
            "GATEWAY__ORIGINS": "https://app.example",
            "GATEWAY__OPEN_TIMEOUT": str(OPEN_TIMEOUT),
            "SESSIONS__SESSIONS_PER_USER": "100",
            **WITHDRAWN,
        }
    )
    for number in range(3):  # what is loaded late is loaded now
        ann = server.sign_in("ann")
        group(ann, f"warm-{number}", ["bob"])
    server.hang_up()
    server.base = server.rss()
    return server


@pytest.fixture(autouse=True)
def unharmed(server: Any) -> Iterator[None]:
    """What every row promises besides its error."""
    yield
    heard = b"".join(bytes(wire.heard) for wire in server.wires)
    server.hang_up()
    assert server.alive
    witness = server.sign_in("witness")
    channel = group(witness, "witness", ["bob"])
    client_id = os.urandom(8).hex()
    # A disk that stands still for a second is answered with `overloaded`: then the witness asks again, as clients do.
    again = {"channel": channel, "client_id": client_id, "body": "still here", "retry": True}
    assert eventually(lambda: witness.ask("send", **again)["type"] == "ack")
    assert eventually(lambda: client_id in {m["client_id"] for m in history(witness, channel)})
    assert server.rss() < server.base + GROWTH
    server.hang_up()
    secrets_ = [server.key.hex(), (server.data / "api.key").read_text().strip(), "eyJ"]
    for said in (heard.decode(errors="replace"), server.output()):
        for never in ("Traceback", 'File "', ".py", "never retrieved", *secrets_):
            assert never not in said, (never, said[-2000:])


def eventually(holds: Callable[[], bool], patience: float = 10.0) -> bool:
    """Whether it comes to hold."""
    deadline = time.monotonic() + patience
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return held


def group(wire: Any, client_id: str, members: list[str]) -> str:
    return str(wire.ask("channel.create", client_id=client_id, kind="group", members=members)["channel"])


def large(wire: Any, client_id: str) -> str:
    return group(wire, client_id, [f"member-{number}" for number in range(12)])


def history(wire: Any, channel: str) -> list[dict[str, Any]]:
    return list(wire.ask("history", channel=channel)["messages"])


def cpu(server: Any) -> float:
    """Seconds of CPU that the process has used."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- the handshake ------------------------------------------------------------------------------------------

HEAD = {
    "Host": "x",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def head(line: str = "GET /v1/connect HTTP/1.1", more: dict[str, str | None] | None = None) -> bytes:
    fields = {**HEAD, **(more or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"{line}\r\n{lines}\r\n".encode("iso-8859-1")


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


# -- fields -------------------------------------------------------------------------------------------------

FIELDS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "unknown type": ({"type": "sent"}, "unknown_type", "type"),
    "no type": ({"rid": "r"}, "bad_request", "type"),
    "a type that is no string": ({"type": 3, "rid": "r"}, "bad_request", "type"),
    "missing field": ({"type": "send", "rid": "r", "channel": "c", "client_id": "i"}, "bad_request", "body"),
    "missing rid": ({"type": "send", "channel": "c", "client_id": "i", "body": "b"}, "bad_request", "rid"),
    "rid a number": ({"type": "history", "rid": 7, "channel": "c"}, "bad_request", "rid"),
    "rid empty": ({"type": "history", "rid": "", "channel": "c"}, "bad_request", "rid"),
    "rid too long": ({"type": "history", "rid": "r" * 65, "channel": "c"}, "bad_request", "rid"),
    "id a number": ({"type": "read", "rid": "r", "channel": "$small", "id": 5}, "bad_request", "id"),
    "id no number": ({"type": "read", "rid": "r", "channel": "$small", "id": "x"}, "bad_request", "id"),
    "id over 63 bits": ({"type": "read", "rid": "r", "channel": "$small", "id": "9" * 19}, "bad_request", "id"),
    "id too long": ({"type": "read", "rid": "r", "channel": "$small", "id": "1" * 20}, "bad_request", "id"),
    "id with a sign": ({"type": "history", "rid": "r", "channel": "$small", "before": "-5"}, "bad_request", "before"),
    "id in other digits": ({"type": "history", "rid": "r", "channel": "$small", "after": "٣"}, "bad_request", "after"),
    "both ways": (
        {"type": "history", "rid": "r", "channel": "$small", "after": "3", "before": "4"},
        "bad_request",
        "after",
    ),
    "body a number": ({"type": "send", "rid": "r", "channel": "c", "client_id": "i", "body": 3}, "bad_request", "body"),
    "data an array": (
        {"type": "send", "rid": "r", "channel": "c", "client_id": "i", "body": "b", "data": []},
        "bad_request",
        "data",
    ),
    "data too deep": (
        {
            "type": "send",
            "rid": "r",
            "channel": "c",
            "client_id": "i",
            "body": "b",
            "data": json.loads('{"a":' * 40 + "1" + "}" * 40),
        },
        "bad_request",
        "data",
    ),
    "data beyond 64 bits": (
        {"type": "send", "rid": "r", "channel": "c", "client_id": "i", "body": "b", "data": {"n": 1 << 64}},
        "bad_request",
        "data",
    ),
    "a path inside": ({"type": "hello", "rid": "r", "resume": {"inbox": 5}}, "bad_request", "resume.inbox"),
    "a place in a list": ({"type": "watch", "rid": "r", "users": ["a", 5]}, "bad_request", "users[1]"),
    "limit 0": ({"type": "history", "rid": "r", "channel": "$small", "limit": 0}, "bad_limit", "limit"),
    "limit negative": ({"type": "history", "rid": "r", "channel": "$small", "limit": -1}, "bad_limit", "limit"),
    "limit over the page": ({"type": "sync", "rid": "r", "limit": 101}, "bad_limit", "limit"),
    "kind of no channel": (
        {"type": "channel.create", "rid": "r", "client_id": "i", "kind": "secret", "members": []},
        "bad_request",
        "kind",
    ),
    "a member without a name": (
        {"type": "channel.create", "rid": "r", "client_id": "i", "kind": "group", "members": [""]},
        "bad_request",
        "members",
    ),
    "a member with a control character": (
        {"type": "channel.create", "rid": "r", "client_id": "i", "kind": "group", "members": ["a\nb"]},
        "bad_request",
        "members",
    ),
    "emoji empty": (
        {"type": "react", "rid": "r", "channel": "c", "id": "1", "client_id": "i", "emoji": ""},
        "bad_request",
        "emoji",
    ),
    "a page of nobody's": ({"type": "channels", "rid": "r", "page": "\u00fc"}, "bad_request", "page"),
    "a time without a zone": (
        {"type": "channels", "rid": "r", "changed_since": "2026-01-01T00:00:00"},
        "bad_request",
        "changed_since",
    ),
    "a status of nobody's": ({"type": "presence", "rid": "r", "status": "dead"}, "bad_request", "status"),
    "client_id empty": (
        {"type": "send", "rid": "r", "channel": "$small", "client_id": "", "body": "b"},
        "bad_client_id",
        "client_id",
    ),
    "client_id too long": (
        {"type": "send", "rid": "r", "channel": "$small", "client_id": "i" * 65, "body": "b"},
        "bad_client_id",
        "client_id",
    ),
    "client_id with a newline": (
        {"type": "send", "rid": "r", "channel": "$small", "client_id": "a\nb", "body": "b"},
        "bad_client_id",
        "client_id",
    ),
    "an answer to what is none": (
        {"type": "send", "rid": "r", "channel": "$small", "client_id": "i", "body": "b", "reply_to": "x"},
        "bad_request",
        "reply_to",
    ),
    "after what is no id": (
        {"type": "send", "rid": "r", "channel": "$small", "client_id": "i", "body": "b", "after": "x"},
        "bad_request",
        "after",
    ),
    "body empty": (
        {"type": "send", "rid": "r", "channel": "$small", "client_id": "i", "body": ""},
        "body_empty",
        "body",
    ),
    "body too long in bytes, not in characters": (
        {"type": "send", "rid": "r", "channel": "$small", "client_id": "i", "body": "\u00e9" * 8193},
        "body_too_long",
        "body",
    ),
}


@pytest.mark.parametrize("row", FIELDS)
def test_fields_and_bodies(server: Any, row: str) -> None:
    message, code, field = FIELDS[row]
    ann = server.sign_in("ann")
    small = group(ann, "fields", ["bob"])
    before = history(ann, small)
    if message.get("channel") == "$small":
        message = {**message, "channel": small}

    ann.say(**message)
    error = ann.until(lambda answer: answer["type"] == "error")

    assert (error["code"], error.get("field")) == (code, field)
    assert error["retryable"] is False
    rid = message.get("rid")
    legible = isinstance(rid, str) and 1 <= len(rid) <= 64
    assert error.get("rid") == (rid if legible else None)
    ann.pong()
    assert history(ann, small) == before


BODIES = {
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85",
    "NUL": "a\0b",
    "only NUL": "\0",
    "bidi": "\u202eevil\u202c \u2066x\u2069 \u200f",
    "no characters": "\ufffe\uffff\U0010ffff",
    "as long as allowed in bytes": "\u00e9" * 8192,
    "white space": " \n\t",
    "something like a frame": '{"type":"error"}\r\n\r\n',
    "combining": "e\u0301 \u00e9 \ufeff",
}


@pytest.mark.parametrize("row", BODIES)
def test_bodies_that_are_data(server: Any, row: str) -> None:
    """Accepted, and returned byte-equal: live, and from history."""
    body = BODIES[row]
    ann, bob = server.sign_in("ann"), server.sign_in("bob")
    channel = group(ann, "bodies", ["bob"])
    client_id = f"body {row}"

    ack = ann.ask("send", channel=channel, client_id=client_id, body=body, data={body[:50]: [body[:50], 0.5, None]})

    assert ack["type"] == "ack"
    told = bob.until(lambda message: message.get("id") == ack["id"] and message.get("kind") == "message")
    assert told["message"]["body"].encode() == body.encode()
    assert eventually(lambda: any(message["id"] == ack["id"] for message in history(bob, channel)))
    (kept,) = [message for message in history(bob, channel) if message["id"] == ack["id"]]
    assert kept["body"].encode() == body.encode()
    assert kept["data"] == {body[:50]: [body[:50], 0.5, None]}


# -- channel ids --------------------------------------------------------------------------------------------

WANTED: dict[str, dict[str, Any]] = {
    "send": {"client_id": "i", "body": "b"},
    "send retried": {"type": "send", "client_id": "i", "body": "b", "retry": True},
    "edit": {"id": "1574577064676163584", "client_id": "i", "body": "b"},
    "delete": {"id": "1574577064676163584", "client_id": "i"},
    "react": {"id": "1574577064676163584", "client_id": "i", "emoji": "x"},
    "read": {"id": "1"},
    "history": {},
    "channel.update": {"name": "mine"},
    "channel.add": {"users": ["mallory"]},
    "channel.remove": {"users": ["ann"]},
    "channel.join": {},
    "channel.leave": {},
    "channel.members": {},
    "follow": {},
}


@pytest.mark.parametrize("operation", [*WANTED, "sync"])
def test_channels_that_are_not_yours(server: Any, operation: str) -> None:
    """Unknown, forbidden, another tenant's and impossible: the identical answer."""
    ann, other = server.sign_in("ann"), server.sign_in("ann", "other")
    name = f"mallory {operation}"  # one each: sends have a rate per user
    mallory = server.sign_in(name)
    names = {
        "unknown": "glz4fxkq5oiswj2bpmw4ktzoguz",
        "not a member": group(ann, "closed", ["bob"]),
        "not a member, large": large(ann, "closed large"),
        "another tenant's": group(other, f"foreign {operation}", [name]),
        "another tenant's, large": group(other, f"foreign large {operation}", [name, *(f"m{n}" for n in range(12))]),
        "empty": "",
        "braces": "{x}",
        "a colon": "c:default",
        "a star": "*",
        "a newline": "a\nb",
        "a slash": "other/x",
        "NUL": "\0",
        "long": "x" * 128,
        "not ASCII": "\u00fc\u202e",
    }
    answers: dict[str, str] = {}

    for what, channel in names.items():
        if operation == "sync":
            answer = mallory.ask("sync", channels={channel: "lKwxNGVlMjQxYWU3ZTbOO5rKAADOnUXhcw"})
        else:
            fields = dict(WANTED[operation])
            answer = mallory.ask(fields.pop("type", operation), channel=channel, **fields)
        del answer["rid"]
        answers[what] = json.dumps(answer, sort_keys=True)

    assert len(set(answers.values())) == 1, answers
    assert json.loads(answers["unknown"])["code"] == "no_such_channel"
    assert other.ask("channel.members", channel=names["another tenant's"])["members"]


# -- cursors ------------------------------------------------------------------------------------------------


def epoch_of(wire: Any) -> str:
    text = wire.others[0]["inbox"]
    return str(msgspec.msgpack.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))[0])


def cursor(epoch: str, offset: int, timeline: str, last: int = 0) -> str:
    """One that this server could have given out, by its check sum."""
    check = zlib.crc32(f"{timeline}|{epoch}|{offset}|{last}".encode())
    return base64.urlsafe_b64encode(msgspec.msgpack.encode([epoch, offset, last, check])).rstrip(b"=").decode()


CURSORS: dict[str, Callable[[str, str], str]] = {
    "from the future": lambda epoch, timeline: cursor(epoch, 1 << 40, timeline),
    "at the end of all numbers": lambda epoch, timeline: cursor(epoch, (1 << 63) - 1, timeline),
    "over 63 bits": lambda epoch, timeline: cursor(epoch, 1 << 63, timeline),
    "64 bits": lambda epoch, timeline: cursor(epoch, (1 << 64) - 1, timeline, (1 << 64) - 1),
    "of another timeline": lambda epoch, timeline: cursor(epoch, 0, "u:default/somebody"),
    "of another tenant": lambda epoch, timeline: cursor(epoch, 0, timeline.replace("default", "other")),
    "of another epoch": lambda epoch, timeline: cursor("0123456789ab", 0, timeline),
    "negative": lambda epoch, timeline: cursor(epoch, -2, timeline),
    "not a number": lambda epoch, timeline: base64.urlsafe_b64encode(
        msgspec.msgpack.encode([epoch, "x", 0, 0])
    ).decode(),
    "rubbish": lambda epoch, timeline: "not a cursor",
    "not ASCII": lambda epoch, timeline: "\u00fc",
    "empty": lambda epoch, timeline: "",
}


@pytest.mark.parametrize("row", CURSORS)
@pytest.mark.parametrize("way", ["sync", "sync a channel", "hello", "hello with a channel", "follow"])
def test_cursor(server: Any, row: str, way: str) -> None:
    """``bad_cursor``, or ``resync`` where the stream goes on; nothing is taken for complete."""
    ann = server.sign_in("ann")
    channel = large(ann, "cursors")
    inbox, timeline = "u:default/ann", f"c:default/{channel}"
    make = CURSORS[row]
    epoch = epoch_of(ann)

    if way == "sync":
        answer = ann.ask("sync", inbox=make(epoch, inbox))
        assert (answer["type"], answer.get("code"), answer.get("field")) == ("error", "bad_cursor", "inbox")
    elif way == "sync a channel":
        answer = ann.ask("sync", channels={channel: make(epoch, timeline)})
        expected = ("error", "bad_cursor", f"channels.{channel}")
        assert (answer["type"], answer.get("code"), answer.get("field")) == expected
    elif way == "follow":
        ann.ask("unfollow", channel=channel)
        answer = ann.ask("follow", channel=channel, cursor=make(epoch, timeline))
        if answer["type"] == "reply":
            ann.until(lambda message: message["type"] == "resync" and message["timeline"] == f"channel:{channel}")
        else:
            assert (answer["code"], answer["field"]) == ("bad_cursor", "cursor")
    else:
        again = server.open()
        resume = {"inbox": make(epoch, inbox)} if way == "hello" else {"channels": {channel: make(epoch, timeline)}}
        welcome = again.ask("hello", token=server.token("ann"), resume=resume)
        assert (welcome["type"], welcome["resumed"]) == ("welcome", False)
        expected_timeline = "inbox" if way == "hello" else f"channel:{channel}"
        again.until(lambda message: message["type"] == "resync" and message["timeline"] == expected_timeline)


def test_read_cursors_go_forward_and_not_beyond_the_head(server: Any) -> None:
    ann = server.sign_in("ann")
    channel = group(ann, "read", ["bob"])
    first, second = (ann.ask("send", channel=channel, client_id=f"r{n}", body="b")["id"] for n in range(2))
    assert eventually(lambda: len(history(ann, channel)) == 2)

    assert ann.ask("read", channel=channel, id=second)["read"] == second
    assert ann.ask("read", channel=channel, id=first)["read"] == second  # back: the value in force
    ahead = ann.ask("read", channel=channel, id=str((1 << 63) - 1))

    assert (ahead["code"], ahead["field"]) == ("cursor_ahead", "id")
    listed = {row["id"]: row["read"] for row in ann.ask("channels")["channels"]}
    assert listed[channel] == second


# -- tokens -------------------------------------------------------------------------------------------------

AUDIENCE, ISSUER = "chat.example", "https://id.example"


class Issuer:
    """An identity provider with one RSA key, published."""

    def __init__(self, folder: Path) -> None:
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key()))
        self.jwk = {**jwk, "kid": "k1", "alg": "RS256", "use": "sig"}
        self.file = folder / "jwks.json"
        self.file.write_text(json.dumps({"keys": [self.jwk]}))
        self.config = folder / "config.toml"
        self.config.write_text(
            f'[auth]\njwks_file = "{self.file}"\naudience = "{AUDIENCE}"\nissuer = "{ISSUER}"\n'
            "[gateway]\ndrain_propagation = 0\ndrain_notice = 0\n"
        )

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"sub": "ann", "aud": AUDIENCE, "iss": ISSUER, "iat": now, "exp": now + 600, **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, *, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        return jwt.encode(
            self.claims(**claims), key or self.private, algorithm="RS256", headers={"kid": "k1", **(header or {})}
        )

    def unsigned(self, algorithm: str, signature: bytes = b"", **header: Any) -> str:
        parts = [{"alg": algorithm, "kid": "k1", "typ": "JWT", **header}, self.claims()]
        encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
        return b".".join([*encoded, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()

    def confused(self) -> str:
        """HS256, signed with the published RSA key as the secret."""
        import hashlib
        import hmac

        head_, body, _ = self.unsigned("HS256").split(".")
        made = hmac.new(self.public_pem(), f"{head_}.{body}".encode(), hashlib.sha256).digest()
        return f"{head_}.{body}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


TOKENS: dict[str, Callable[[Issuer], str | None]] = {
    "none": lambda issuer: None,
    "empty": lambda issuer: "",
    "rubbish": lambda issuer: "rubbish",
    "dots": lambda issuer: "..",
    "alg none": lambda issuer: issuer.unsigned("none"),
    "alg None": lambda issuer: issuer.unsigned("None"),
    "HS256 with the RSA public key": lambda issuer: issuer.confused(),
    "another's signature": lambda issuer: issuer.token(key=issuer.other),
    "an unknown kid": lambda issuer: issuer.token(header={"kid": "k2"}),
    "wrong aud": lambda issuer: issuer.token(aud="chat.example.evil"),
    "no aud": lambda issuer: issuer.token(aud=None),
    "wrong iss": lambda issuer: issuer.token(iss="https://id.example/"),
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 1),
    "no exp": lambda issuer: issuer.token(exp=None),
    "exp a string": lambda issuer: issuer.token(exp=None, nbf=None) + "x",
    "nbf ahead": lambda issuer: issuer.token(nbf=int(time.time()) + 60),
    "crit": lambda issuer: issuer.token(header={"crit": ["x"], "x": 1}),
    "jku": lambda issuer: issuer.token(header={"jku": "https://evil.example/jwks.json"}),
    "jwk": lambda issuer: issuer.token(
        key=issuer.other,
        header={"jwk": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(issuer.other.public_key()))},
    ),
    "no sub": lambda issuer: issuer.token(sub=None),
    "a sub with a newline": lambda issuer: issuer.token(sub="a\nb"),
    "a tid with a slash": lambda issuer: issuer.token(tid="a/b"),
    "20 KB": lambda issuer: issuer.token(pad="x" * 20_000),
    "60 KB of nothing": lambda issuer: "x" * 60_000,
    "not ASCII": lambda issuer: issuer.token() + "\u00fc",
}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def strict(serve: Any, issuer: Issuer) -> Any:
    """A server that believes one issuer."""
    return serve("--config", str(issuer.config))


def refused_hello(server: Any, token: str | None) -> tuple[dict[str, Any], int, float]:
    """The error, the close code, and the seconds from the hello to the error."""
    wire = server.open()
    began = time.perf_counter()
    wire.say(type="hello", rid="r", **({} if token is None else {"token": token}))
    error = wire.next()
    took = time.perf_counter() - began
    code = wire.close_code()
    wire.stop()
    return error, code, took


UNAUTHORIZED = {
    "type": "error",
    "rid": "r",
    "code": "unauthorized",
    "message": "the token is not valid",
    "retryable": False,
}


@pytest.mark.parametrize("row", TOKENS)
def test_token(strict: Any, issuer: Issuer, row: str) -> None:
    token = TOKENS[row](issuer)

    error, code, _ = refused_hello(strict, token)

    assert error == UNAUTHORIZED
    assert code == 4401
    assert strict.metric("sessions") == 0
    assert token in {None, ""} or token not in strict.output()
    assert "Traceback" not in strict.output()


def test_token_that_is_right_is_taken(strict: Any, issuer: Issuer) -> None:
    """Else every row above would prove nothing."""
    wire = strict.open()

    assert wire.ask("hello", token=issuer.token())["type"] == "welcome"
    assert wire.ask("token", token=issuer.token(sub="bob"))["code"] == "unauthorized"
    assert wire.ask("token", token=issuer.token(exp=int(time.time()) - 1))["code"] == "unauthorized"
    assert wire.ask("token", token=issuer.token(tid="other"))["message"] == UNAUTHORIZED["message"]
    strict.hang_up()


def test_token_of_the_handshake_is_judged_alike(strict: Any, issuer: Issuer) -> None:
    for token in (issuer.unsigned("none"), issuer.token(aud="x"), "rubbish"):
        wire = strict.open({"Authorization": f"Bearer {token}"})
        wire.say(type="hello", rid="r")
        assert wire.next() == UNAUTHORIZED
        assert wire.close_code() == 4401
    strict.hang_up()


def test_token_of_a_megabyte_is_a_frame_over_the_limit(strict: Any) -> None:
    wire = strict.open()
    with suppress(ConnectionError):
        wire.say(type="hello", rid="r", token="x" * (1 << 20))
    assert wire.close_code() == 1009
    assert strict.wire().request(head(more={"Authorization": "Bearer " + "x" * (1 << 20)}))[0] == 431
    strict.hang_up()


def test_tokens_are_refused_in_one_class_of_time(strict: Any, issuer: Issuer) -> None:
    """Whoever measures learns nothing of a claim: medians of interleaved rounds lie within a factor.

    What its own header already condemns is refused before a signature is reckoned; its writer knows the header.
    """
    signed = ["another's signature", "wrong aud", "wrong iss", "expired", "nbf ahead"]
    headers = ["alg none", "HS256 with the RSA public key", "crit", "jku"]
    taken: dict[str, list[float]] = {row: [] for row in signed + headers}

    for _ in range(21):
        for row, times in taken.items():
            times.append(refused_hello(strict, TOKENS[row](issuer))[2])

    medians = {row: statistics.median(times) for row, times in taken.items()}
    print({row: f"{median * 1e3:.2f} ms" for row, median in medians.items()})
    for rows in (signed, headers):
        times = [medians[row] for row in rows]
        assert max(times) < 2 * min(times), medians


def test_nothing_goes_before_hello(server: Any) -> None:
    wire = server.open()

    for type_ in ("channels", "sync"):
        assert wire.ask(type_)["code"] == "not_authenticated"
    assert wire.ask("send", channel="c", client_id="i", body="b")["code"] == "not_authenticated"
    wire.pong()


# -- too much ------------------------------------------------------------------------------------------------


def test_second_hello(server: Any) -> None:
    ann = server.sign_in("ann")

    again = ann.ask("hello", token=server.token("bob"))

    assert (again["type"], again["code"]) == ("error", "already_authenticated")
    assert ann.ask("channels")["type"] == "reply"


def test_follows_have_an_end(server: Any) -> None:
    """The twenty-first is ``too_many``, and 10^5 more change nothing: they are read slowly, then cut off by us."""
    ann = server.sign_in("ann")
    channels = [group(ann, f"follow-{n}", [f"f{m}" for m in range(10)]) for n in range(21)]
    # Told in her inbox, not only stored: a session that hears of a route follows by itself.
    while {event["channel"] for event in ann.others if event.get("kind") == "route"} < set(channels):
        ann.others.append(ann.next())
    fresh = server.sign_in("ann", resume={})  # names none: follows none by itself
    for channel in channels:
        fresh.ask("unfollow", channel=channel)
    answers = [fresh.ask("follow", channel=channel) for channel in channels]
    assert [answer.get("code") for answer in answers] == [None] * 20 + ["too_many"]

    flood = b"".join(
        masked(json.dumps({"type": "follow", "rid": f"f{n}", "channel": channels[20]}).encode()) for n in range(100_000)
    )
    fresh.socket.settimeout(2.0)
    sent = 0
    with suppress(TimeoutError):
        while sent < len(flood):
            sent += fresh.socket.send(flood[sent : sent + 65536])
    assert sent < len(flood)  # it is not read as fast as it comes: TCP pushes back
    fresh.socket.settimeout(10.0)
    for _ in range(200):
        answer = fresh.until(lambda message: message.get("rid", "").startswith("f"))
        assert answer["code"] == "too_many"


def masked(payload: bytes) -> bytes:
    """A short text frame, its mask zero."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + payload


def test_ten_thousand_messages_in_a_second(server: Any) -> None:
    """``rate_limited`` says when to come back; what was acked is there once, what was refused is not."""
    flooder = server.sign_in("flooder")
    channel = group(flooder, "flood", ["bob"])

    def message(number: int) -> bytes:
        return masked(
            json.dumps(
                {"type": "send", "rid": f"s{number}", "channel": channel, "client_id": f"s{number}", "body": "b"}
            ).encode()
        )

    flooder.socket.sendall(b"".join(message(number) for number in range(200)))
    answers = {}
    while len(answers) < 200:
        answer = flooder.until(lambda frame: frame.get("rid", "").startswith("s"))
        assert answer["rid"] not in answers, "one answer each"
        answers[answer["rid"]] = answer
    acked = {rid for rid, answer in answers.items() if answer["type"] == "ack"}
    refused = {rid: answer for rid, answer in answers.items() if answer["type"] == "error"}
    assert 40 <= len(acked) < 120
    assert {(answer["code"], answer["retryable"]) for answer in refused.values()} == {("rate_limited", True)}
    assert all(answer["retry_after_ms"] > 0 for answer in refused.values())
    assert eventually(lambda: {m["client_id"] for m in history_all(server, channel)} == acked)

    flood = b"".join(message(number) for number in range(200, 10_200))
    flooder.socket.settimeout(1.0)
    sent = 0
    before = cpu(server)
    with suppress(TimeoutError):
        while sent < len(flood):
            sent += flooder.socket.send(flood[sent : sent + 65536])
    time.sleep(1.0)
    assert cpu(server) - before < 1.5  # read at its rate, whatever is sent
    bystander = server.sign_in("bystander")
    began = time.monotonic()
    bystander.pong()
    assert time.monotonic() - began < 1.0


def history_all(server: Any, channel: str) -> list[dict[str, Any]]:
    """By the server API, above rates."""
    found: list[dict[str, Any]] = []
    before = ""
    key = (server.data / "api.key").read_text().strip()
    while True:
        url = f"{server.management}/api/v1/channels/{channel}/messages?limit=100{before}"
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"}), timeout=10
        ) as answer:
            page = json.loads(answer.read())
        found = page["messages"] + found
        if not page["more"]:
            return found
        before = f"&before={page['messages'][0]['id']}"


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_ping_flood_is_cut(server: Any, opcode: int) -> None:
    ann = server.sign_in("ann")

    with suppress(ConnectionError):
        ann.socket.sendall((bytes([0x80 | opcode, 0x80]) + b"\0\0\0\0") * 10_000)

    assert ann.close_code() == 1008


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "watch", "users": [f"u{n}" for n in range(501)]}, "too_many"),
        ({"type": "watch", "users": [f"u{n}" for n in range(1001)]}, "bad_request"),
        (
            {"type": "channel.create", "client_id": "i", "kind": "group", "members": [f"u{n}" for n in range(1001)]},
            "bad_request",
        ),
        ({"type": "sync", "channels": {f"c{n}": "x" for n in range(1001)}}, "bad_request"),
    ],
)
def test_lists_have_an_end(server: Any, message: dict[str, Any], code: str) -> None:
    ann = server.sign_in("ann")

    assert (
        ann.ask(message["type"], **{name: value for name, value in message.items() if name != "type"})["code"] == code
    )


# -- settings -------------------------------------------------------------------------------------------------

ENVIRONMENT: dict[str, tuple[dict[str, str], list[str]]] = {
    "unknown section": ({"GATEWAYS__SWEEP": "1"}, ["gateways", "no such section", "gateway, "]),
    "unknown key": ({"GATEWAY__SWEPT": "1"}, ["gateway.swept", "'1'", "no such setting", "sweep"]),
    "no section": ({"SWEEP": "1"}, ["CHATCLUSTER_SWEEP", "SECTION__KEY"]),
    "no number": ({"GATEWAY__BACKLOG": "many"}, ["gateway.backlog", "'many'", "int"]),
    "bad duration": ({"GATEWAY__OPEN_TIMEOUT": "10s"}, ["gateway.open_timeout", "'10s'", "float"]),
    "negative duration": ({"GATEWAY__OPEN_TIMEOUT": "-1"}, ["gateway.open_timeout", "'-1'", "from 0 on"]),
    "nan": ({"GATEWAY__OPEN_TIMEOUT": "nan"}, ["gateway.open_timeout", "'nan'", "from 0 on"]),
    "no boolean": ({"GATEWAY__ALLOW_NO_ORIGIN": "perhaps"}, ["gateway.allow_no_origin", "'perhaps'", "bool"]),
    "over the hard cap": ({"ROUTING__INBOX_FANOUT_LIMIT": "5001"}, ["routing.inbox_fanout_limit", "5001", "2 to 5000"]),
    "hysteresis over the limit": ({"ROUTING__HYSTERESIS": "500"}, ["routing.hysteresis", "500", "limit - 1"]),
    "no partitions": ({"LOG__PARTITIONS": "0"}, ["0 partitions", "1 to 256"]),
    "a key set that is not there": (
        {"AUTH__JWKS_FILE": "/nowhere/jwks.json"},
        ["auth.jwks_file", "/nowhere/jwks.json"],
    ),
    "a key set over plain HTTP": ({"AUTH__JWKS_URL": "http://id.example/jwks"}, ["auth.jwks_url", "https://"]),
    "two key sets": (
        {"AUTH__JWKS_URL": "https://id.example/jwks", "AUTH__JWKS_FILE": "/nowhere"},
        ["auth.jwks_url", "auth.jwks_file", "one of them"],
    ),
}


@pytest.mark.parametrize("row", ENVIRONMENT)
def test_settings_that_are_refused(refused_start: Any, row: str) -> None:
    env, wanted = ENVIRONMENT[row]

    said = refused_start(env=env)

    for part in wanted:
        assert part in said


CONFIGS: dict[str, tuple[str | bytes | None, list[str]]] = {
    "missing": (None, ["config.toml", "does not exist"]),
    "no TOML": ("[gateway\n", ["config.toml", "not TOML"]),
    "no text": (b"\xff\xfe", ["config.toml", "not TOML"]),
    "flat": ("sweep = 1\n", ["sweep = 1", "sections"]),
    "unknown key": ("[router]\nacks = 1\n", ["router.acks", "no such setting"]),
    "wrong type": ('[gateway]\norigins = "https://a"\nsweep = []\n', ["gateway.sweep", "[]", "float"]),
}


@pytest.mark.parametrize("row", CONFIGS)
def test_configs_that_are_refused(refused_start: Any, tmp_path: Path, row: str) -> None:
    content, wanted = CONFIGS[row]
    config = tmp_path / "config.toml"
    if content is not None:
        config.write_bytes(content.encode() if isinstance(content, str) else content)

    said = refused_start("--config", str(config))

    for part in wanted:
        assert part in said


def test_an_unreadable_config_is_refused(refused_start: Any, tmp_path: Path) -> None:
    assert str(tmp_path) in refused_start("--config", str(tmp_path))  # a folder: unreadable for root, too


def test_addresses_that_are_refused(refused_start: Any, server: Any) -> None:
    assert "'nowhere' is not an address" in refused_start("--listen", "nowhere")
    taken = f"127.0.0.1:{server.port}"
    assert str(server.port) in refused_start("--listen", taken)
    port = server.management.rpartition(":")[2]
    assert port in refused_start("--management", f"127.0.0.1:{port}")


def test_a_second_process_on_a_data_folder_is_refused(refused_start: Any, server: Any) -> None:
    said = refused_start(data=server.data)

    assert str(server.data) in said
    assert "another process" in said


def test_what_a_folder_was_made_with_is_kept(serve: Any, refused_start: Any) -> None:
    first = serve(env={"LOG__PARTITIONS": "2", **WITHDRAWN})
    assert first.stop() == 0

    said = refused_start(data=first.data, env={"LOG__PARTITIONS": "3"})
    assert "2 partitions" in said
    assert "set it back to 2" in said

    (first.data / "signing.key").write_text("no key\n")
    assert "signing.key" in refused_start(data=first.data)


# -- records that cannot be read --------------------------------------------------------------------------------


def record(*fields: Any) -> bytes:
    return msgspec.msgpack.encode(list(fields))


def aliens(tenant_channel: str) -> list[tuple[str, bytes]]:
    """Keys and values of records that must not stand in ``messages``."""
    tenant, _, channel = tenant_channel.partition("/")
    message = ["message", tenant, channel, 1574577064676163584, "ann", "x", 0, 0, "body"]
    return [
        (tenant_channel, b""),  # null
        (tenant_channel, b"\xff\xfe\xfd rubbish"),
        (tenant_channel, record(*message)[:-3]),  # cut off
        (tenant_channel, record("post", *message[1:])),  # another schema's tag
        (tenant_channel, record(*message[:4])),  # an old schema without what is needed
        (tenant_channel, record(*message[:3], (1 << 64) - 1, *message[4:])),  # an id of 64 bits
        (tenant_channel, record(*message[:-1], "body").replace(b"body", b"b\xffdy")),  # no UTF-8
        (tenant_channel, b"\x91" * 10_000 + b"\x01"),  # 10,000 deep
        ("default/another", record(*message)),  # another channel's key
    ]


def append(data: Path, topic: str, partition: int, records: list[tuple[str, bytes]]) -> None:
    """Append to the log behind the back of a process that is stopped."""
    with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as log:
        number = log.execute("SELECT number FROM topics WHERE name = ?", (topic,)).fetchone()[0]
        base = (number * 256 + partition) << 48
        found = log.execute(
            "SELECT id + count, time FROM batches WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1",
            (base, base | (1 << 48) - 1),
        ).fetchone()
        at, written = found or (base, 0)
        now = max(written, int(time.time() * 1000))
        log.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (at, len(records), now, msgspec.msgpack.encode(records)))


def dead_letters(data: Path) -> list[Any]:
    with closing(sqlite3.connect(data / "log.db")) as log:
        number = log.execute("SELECT number FROM topics WHERE name = 'dead-letters'").fetchone()[0]
        rows = log.execute(
            "SELECT payload FROM batches WHERE id BETWEEN ? AND ? ORDER BY id",
            (number * 256 << 48, (number * 256 + 256 << 48) - 1),
        ).fetchall()
    return [msgspec.msgpack.decode(value) for (payload,) in rows for _, value in msgspec.msgpack.decode(payload)]


def test_records_that_cannot_be_read(serve: Any) -> None:
    """To the dead letters, with a metric; the partition goes on, before and after another start."""
    env = {"LOG__PARTITIONS": "1", **WITHDRAWN}
    first = serve(env=env)
    ann = first.sign_in("ann")
    channel = group(ann, "c", ["bob"])
    before = ann.ask("send", channel=channel, client_id="before", body="before")["id"]
    assert eventually(lambda: len(history(ann, channel)) == 1)
    first.kill()
    wrong = aliens(f"default/{channel}")
    append(first.data, "messages", 0, wrong)
    append(first.data, "inbox", 0, wrong[:4])

    second = serve(data=first.data, env=env)
    bob = second.sign_in("bob")
    ann = second.sign_in("ann")
    ack = ann.ask("send", channel=channel, client_id="after", body="after")

    assert ack["type"] == "ack", "one alien id must not push the clock of ids"
    assert before < ack["id"]
    assert bob.until(lambda message: message.get("id") == ack["id"])["message"]["body"] == "after"
    assert eventually(lambda: [m["id"] for m in history(bob, channel)] == [before, ack["id"]])
    assert second.metric("persister_dead_letters_total", topic="messages") == len(wrong)
    assert second.metric("persister_dead_letters_total", topic="inbox") == 4
    letters = dead_letters(second.data)
    assert [(key, value) for topic, _, _, key, value, _ in letters if topic == "messages"] == wrong
    assert [value for topic, _, _, _, value, _ in letters if topic == "inbox"] == [value for _, value in wrong[:4]]
    assert all(reason for *_, reason in letters)
    assert second.alive
    assert "Traceback" not in second.output()
    assert second.stop() == 0

    third = serve(data=first.data, env=env)
    bob = third.sign_in("bob")
    assert [m["id"] for m in history(bob, channel)] == [before, ack["id"]]
    assert len(dead_letters(third.data)) == len(wrong) + 4, "told once"
    third.hang_up()
