"""Fields, bodies, channel ids and cursors that are wrong."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from wires import eventually, group, history, large

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
