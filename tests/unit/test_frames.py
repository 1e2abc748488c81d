from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.core.codes import RETRYABLE, Refused
from chatcluster.core.frames import (
    JSON,
    MSGPACK,
    BadFrame,
    Codec,
    ErrorFrame,
    Event,
    Mark,
    Reply,
    Send,
    WireMessage,
    decode_request,
    refusal,
)

SEND = {"type": "send", "rid": "r1", "channel": "c", "client_id": "k", "body": "hi"}


def refused(raw: bytes, codec: Codec = JSON) -> ErrorFrame:
    with pytest.raises(BadFrame) as bad:
        decode_request(codec, raw)
    return bad.value.error


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda codec: codec.name)
def test_a_frame_means_the_same_in_both_codecs(codec: Codec) -> None:
    raw = msgspec.json.encode(SEND) if codec.text else msgspec.msgpack.encode(SEND)

    assert decode_request(codec, raw) == Send(rid="r1", channel="c", client_id="k", body="hi")


def test_unknown_fields_are_ignored() -> None:
    assert decode_request(JSON, msgspec.json.encode(SEND | {"new": [1]})) == decode_request(
        JSON, msgspec.json.encode(SEND)
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"NaN",
        b"[]",
        b'"text"',
        b"7",
        b'{"type":"ping"}{"type":"ping"}',
        b"[" * 10_000 + b"]" * 10_000,
        b'{"type":"send","rid":"1","channel":"c","client_id":"k","body":"b","data":'
        + b'{"a":' * 10_000
        + b"1"
        + b"}" * 10_001,
        b'{"type":"ping","n":' + b"9" * 100_000 + b"}x",
        b'{"type":"send","rid":"1","channel":"c","client_id":"k","body":"b","data":{"n":' + b"9" * 100_000 + b"}}",
        b'{"type":"send","rid":"1","channel":"c","client_id":"k","body":"\\ud800"}',
        b'{"type":"send","rid":"1","channel":"c","client_id":"k","body":"\xff"}',
        b'{"type":"send","rid":"1","channel":"c","client_id":"k","body":"b","data":{"n":NaN}}',
    ],
    ids=range(14),
)
def test_what_is_not_json_is_bad_json(raw: bytes) -> None:
    error = refused(raw)

    assert error.code == "bad_json"
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"channel": 5}, "channel"),
        ({"body": None}, "body"),
        ({"rid": ""}, "rid"),
        ({"rid": "x" * 65}, "rid"),
        ({"after": 12345678901234567890}, "after"),
        ({"retry": "yes"}, "retry"),
        ({"data": []}, "data"),
        ({"channel": "c" * 129}, "channel"),
        ({"data": {"n": 2**63}}, "data"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_field_is_named(change: dict[str, object], field: str) -> None:
    error = refused(msgspec.json.encode(SEND | change))

    assert (error.code, error.field, error.retryable) == ("bad_request", field, False)


def _channels(count: int) -> dict[str, str]:
    return {str(at): "c" for at in range(count)}


@pytest.mark.parametrize(
    ("frame", "most"),
    [
        (lambda size: {"type": "hello", "rid": "1", "device": "d" * size}, 128),
        (lambda size: {"type": "hello", "rid": "1", "resume": {"pending": [str(at) for at in range(size)]}}, 1000),
        (lambda size: {"type": "hello", "rid": "1", "resume": {"channels": _channels(size)}}, 1000),
        (lambda size: {"type": "sync", "rid": "1", "channels": _channels(size)}, 1000),
        (lambda size: {**SEND, "type": "react", "id": "1", "emoji": "e" * size}, 64),
    ],
    ids=["device", "pending", "resumed", "synced", "emoji"],
)
def test_what_a_frame_may_hold_is_bounded(frame: Callable[[int], dict[str, Any]], most: int) -> None:
    decode_request(JSON, msgspec.json.encode(frame(most)))

    assert refused(msgspec.json.encode(frame(most + 1))).code == "bad_request"


def test_an_unknown_type_is_not_echoed_at_length() -> None:
    assert len(refused(msgspec.json.encode(SEND | {"type": "x" * 10_000})).message) < 200


@pytest.mark.parametrize("missing", ["rid", "channel", "client_id", "body"])
def test_a_missing_field_is_named(missing: str) -> None:
    error = refused(msgspec.json.encode({key: value for key, value in SEND.items() if key != missing}))

    assert (error.code, error.field) == ("bad_request", missing)
    assert error.rid == ("r1" if missing != "rid" else msgspec.UNSET)


def test_unknown_and_missing_types_have_their_own_errors() -> None:
    assert refused(b'{"type":"sned","rid":"7"}').code == "unknown_type"
    assert refused(b'{"type":"sned","rid":"7"}').rid == "7"
    assert refused(b'{"rid":"7"}').code == "bad_request"
    assert refused(b'{"type":7}').code == "bad_request"
    # what servers say is nothing that clients may say
    assert refused(b'{"type":"welcome","rid":"7"}').code == "unknown_type"


@pytest.mark.parametrize("data", [{"b": b"raw"}, {"t": msgspec.msgpack.Ext(5, b"x")}, {"deep": {1: 2}}])
def test_msgpack_data_that_json_cannot_say_is_refused(data: dict[str, object]) -> None:
    assert refused(msgspec.msgpack.encode(SEND | {"data": data}), MSGPACK).code == "bad_request"


def test_data_of_33_levels_is_refused_and_of_32_is_taken() -> None:
    def nested(levels: int) -> dict[str, object]:
        value: dict[str, object] = {}
        for _ in range(levels - 1):
            value = {"a": value}
        return value

    assert decode_request(JSON, msgspec.json.encode(SEND | {"data": nested(32)}))
    assert refused(msgspec.json.encode(SEND | {"data": nested(33)})).field == "data"


@given(st.binary(max_size=200))
def test_no_bytes_bring_another_exception(raw: bytes) -> None:
    for codec in (JSON, MSGPACK):
        with suppress(BadFrame):
            decode_request(codec, raw)


def test_absent_fields_are_left_out_and_null_and_false_are_not() -> None:
    assert JSON.encode(Mark(pending=[])) == b'{"type":"mark","pending":[]}'
    assert JSON.encode(Reply(rid="1", read=None)) == b'{"type":"reply","rid":"1","read":null}'
    event = Event("inbox", "5", "c", "reaction", False, removed=False)
    assert b'"removed":false' in JSON.encode(event)
    assert b'"live":false' in JSON.encode(event)


def test_clients_decode_what_servers_encode() -> None:
    event = Event("inbox", "5", "c", "message", True, message=WireMessage("5", "c", "ada", "k", "t", "hé\x00\u202e"))

    for codec in (JSON, MSGPACK):
        assert codec.decode_server(codec.encode(event)) == event


def test_refusals_carry_what_the_client_needs_to_act() -> None:
    error = refusal(Refused("rate_limited", "slow down", retry_after_ms=250), "r9")

    assert (error.rid, error.retryable, error.retry_after_ms) == ("r9", True, 250)
    assert set(RETRYABLE) == {"rate_limited", "overloaded", "unavailable", "unknown_outcome"}


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
def test_null_is_an_optional_field_left_out(codec: Codec) -> None:
    encode = msgspec.json.encode if codec is JSON else msgspec.msgpack.encode
    resume = {"inbox": None, "channels": None, "pending": None}
    hello = decode_request(codec, encode({"type": "hello", "rid": "1", "device": None, "resume": resume}))
    assert hello == decode_request(codec, encode({"type": "hello", "rid": "1", "resume": {}}))
    send = {"type": "send", "rid": "1", "channel": "c", "client_id": "i", "body": "x", "data": {"kept": None}}
    assert decode_request(codec, encode({**send, "retry": None})) == decode_request(codec, encode(send))
    with pytest.raises(BadFrame) as bad:
        decode_request(codec, encode({**send, "retry": None, "body": None}))
    assert (bad.value.error.code, bad.value.error.field) == ("bad_request", "body")
