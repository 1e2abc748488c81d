"""Request heads and upgrades, row by row of the bad-input table."""

from __future__ import annotations

import pytest

from chatcluster.services.gateway.handshake import HttpRefusal, bearer, check_growth, parse_head, switching, upgrade

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    "Host": "chat.example",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def head(line: str = "GET /v1/connect HTTP/1.1", **changes: str | None) -> bytes:
    """A head; keyword names with underscores; None takes a header away."""
    fields: dict[str, str | None] = dict(GOOD)
    fields.update({name.replace("_", "-"): value for name, value in changes.items()})
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in fields.items() if value is not None)]).encode()


def status(raw: bytes) -> int:
    try:
        upgrade(parse_head(raw))
    except HttpRefusal as refusal:
        return int(refusal.status)
    return 101


def test_the_example_of_the_rfc() -> None:
    accept, codec, subprotocol = upgrade(parse_head(head()))
    assert accept == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (codec.name, subprotocol) == ("chatcluster.v1.json", None)
    assert b"Sec-WebSocket-Protocol" not in switching(accept, None)
    assert switching(accept, "a").endswith(b"Sec-WebSocket-Protocol: a\r\n\r\n")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (head(), 101),
        (head("GET /v1/connect?x=1 HTTP/1.1"), 101),
        (head(Upgrade="WebSocket", Connection="UPGRADE"), 101),
        (head("POST /v1/connect HTTP/1.1"), 405),
        (head("POST /v1/connect HTTP/1.1", Content_Length="10"), 405),
        (head("GET /v1/connect HTTP/1.0"), 505),
        (head("GET /v1/connect HTTP/2.0"), 505),
        (head("GET /" + "x" * 8200 + " HTTP/1.1"), 414),
        (head(X="x" * 8200), 431),
        (head(**{f"X{at}": "" for at in range(130)}), 431),
        (head(Sec_WebSocket_Key=None), 400),
        (head(Sec_WebSocket_Key="short"), 400),
        (head(Sec_WebSocket_Key="c2hvcnQ="), 400),
        (head(Sec_WebSocket_Key="é" * 8), 400),
        (head(Sec_WebSocket_Version="12"), 400),
        (head(Sec_WebSocket_Version=None), 400),
        (head(Host=None), 400),
        (head(Content_Length="5"), 400),
        (head(Transfer_Encoding="chunked"), 400),
        (head(Upgrade=None), 426),
        (head(Connection="close"), 426),
        (head(Upgrade="h2c"), 426),
        (head(Sec_WebSocket_Protocol="graphql-ws"), 400),
        (head(Sec_WebSocket_Protocol=""), 400),
        (b"", 400),
        (b"GET / HTTP/1.1 x", 400),
        (b"G\x00T / HTTP/1.1", 400),
        (b"GET /\xc3\xa9 HTTP/1.1", 400),
        (head("GET /é HTTP/1.1"), 400),
        (head() + b"\r\n continued", 400),
        (head() + b"\r\nno colon", 400),
        (head() + b"\r\nX : a", 400),
        (head() + b"\r\nX\xc3: a", 400),
        (head() + b"\r\nX: a\rb", 400),
        (head() + b"\r\nX: a\nb", 400),
        (head() + b"\r\nSec-WebSocket-Key: " + KEY.encode(), 400),
    ],
)
def test_refusals(raw: bytes, expected: int) -> None:
    assert status(raw) == expected


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("chatcluster.v1.msgpack", "chatcluster.v1.msgpack"),
        ("other, chatcluster.v1.json", "chatcluster.v1.json"),
        ("chatcluster.v1.msgpack, chatcluster.v1.json", "chatcluster.v1.msgpack"),
    ],
)
def test_subprotocols(offered: str, chosen: str) -> None:
    _, codec, subprotocol = upgrade(parse_head(head(Sec_WebSocket_Protocol=offered)))
    assert codec.name == subprotocol == chosen


def test_version_refusal_names_ours() -> None:
    with pytest.raises(HttpRefusal) as caught:
        upgrade(parse_head(head(Sec_WebSocket_Version="12")))
    assert ("Sec-WebSocket-Version", "13") in caught.value.headers


@pytest.mark.parametrize(
    ("growing", "expected"),
    [
        (b"GET /" + b"x" * 8200, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 8200, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 200, 431),
        (b"GET / HTTP/1.1\r\n" + (b"X: " + b"x" * 8000 + b"\r\n") * 5, 431),
    ],
)
def test_a_head_that_never_ends_is_refused_while_it_grows(growing: bytes, expected: int) -> None:
    with pytest.raises(HttpRefusal) as caught:
        check_growth(growing)
    assert caught.value.status == expected


def test_a_head_within_bounds_may_grow() -> None:
    check_growth(b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 100)


@pytest.mark.parametrize(
    ("value", "token"), [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", None), (None, None)]
)
def test_bearer(value: str | None, token: str | None) -> None:
    assert bearer(parse_head(head(Authorization=value))) == token
