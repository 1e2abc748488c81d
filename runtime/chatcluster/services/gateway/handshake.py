"""The opening of a connection as text: an HTTP/1.1 request head in, an answer out. RFC 6455 section 4.2.

Pure: no sockets, no clock, no settings. Every refusal names its status (the table in ``docs/protocol.md``);
answers hold nothing that the client sent, so nothing can be reflected.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec

from chatcluster.core.frames import CODECS, JSON, Codec

MAX_LINE = 8192
MAX_HEADERS = 128
MAX_HEAD = 32 * 1024
"""Bytes of a whole head: what one socket that never finishes its handshake can make us hold."""

_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class HttpRefusal(Exception):
    """An HTTP answer that is no upgrade. ``headers``: extra ones."""

    def __init__(self, status: HTTPStatus, text: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


class Head(msgspec.Struct, frozen=True, gc=False):
    """A request head. ``path`` is without the query; ``headers``: lower-case names, repeated values joined."""

    path: str
    headers: Mapping[str, str]


def check_growth(head: bytes | bytearray) -> None:
    """A head still without its end: raises ``HttpRefusal`` as soon as it can only be refused."""
    line_end = head.find(b"\r\n")
    if line_end > MAX_LINE or (line_end < 0 and len(head) > MAX_LINE):
        raise HttpRefusal(HTTPStatus.REQUEST_URI_TOO_LONG, "request line too long")
    if len(head) > MAX_HEAD or len(head) - head.rfind(b"\r\n") > MAX_LINE + 2 or head.count(b"\r\n") > MAX_HEADERS + 1:
        raise HttpRefusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers too large")


def parse_head(head: bytes) -> Head:
    """A complete head without its empty line. Raises ``HttpRefusal``: 400, 405, 414, 431 or 505."""
    request_line, *lines = head.split(b"\r\n")
    if len(request_line) > MAX_LINE:
        raise HttpRefusal(HTTPStatus.REQUEST_URI_TOO_LONG, "request line too long")
    parts = request_line.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise HttpRefusal(HTTPStatus.BAD_REQUEST, "malformed request line")
    method, target, version = parts
    if version != b"HTTP/1.1":
        if version.startswith(b"HTTP/"):
            raise HttpRefusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 only")
        raise HttpRefusal(HTTPStatus.BAD_REQUEST, "malformed request line")
    if len(lines) > MAX_HEADERS or len(head) > MAX_HEAD:
        raise HttpRefusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers too large")
    headers: dict[str, str] = {}
    for line in lines:
        if len(line) > MAX_LINE:
            raise HttpRefusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers too large")
        raw_name, colon, raw_value = line.partition(b":")
        value = raw_value.strip(b" \t")
        if not colon or not _TOKEN.fullmatch(raw_name) or not _VALUE.fullmatch(value):
            raise HttpRefusal(HTTPStatus.BAD_REQUEST, "malformed header")
        name, text = raw_name.decode("ascii").lower(), value.decode("iso-8859-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    if method != b"GET":
        raise HttpRefusal(HTTPStatus.METHOD_NOT_ALLOWED, "GET only", [("Allow", "GET")])
    # A body would be read as WebSocket frames or as a second request: refuse what announces one.
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise HttpRefusal(HTTPStatus.BAD_REQUEST, "a GET without a body, please")
    if "host" not in headers:
        raise HttpRefusal(HTTPStatus.BAD_REQUEST, "missing Host")
    return Head(target.decode("ascii").partition("?")[0], headers)


def upgrade(head: Head) -> tuple[str, Codec, str | None]:
    """The accept key, the codec, and the subprotocol to confirm (None: none was offered, JSON).

    Raises ``HttpRefusal``: 426 for a request that is no upgrade, else 400.
    """
    headers = head.headers
    if "upgrade" not in _tokens(headers.get("connection")) or _tokens(headers.get("upgrade")) != ["websocket"]:
        raise HttpRefusal(
            HTTPStatus.UPGRADE_REQUIRED, "a WebSocket client, please", [("Upgrade", "websocket"), _VERSION]
        )
    key = headers.get("sec-websocket-key", "")
    try:
        nonce = base64.b64decode(key.encode("iso-8859-1"), validate=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16:
        raise HttpRefusal(HTTPStatus.BAD_REQUEST, "missing or malformed Sec-WebSocket-Key")
    if headers.get("sec-websocket-version") != "13":
        raise HttpRefusal(HTTPStatus.BAD_REQUEST, "WebSocket version 13 only", [_VERSION])
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    accept = base64.b64encode(digest).decode("ascii")
    offered = headers.get("sec-websocket-protocol")
    if offered is None:
        return accept, JSON, None
    for name in (name.strip(" \t") for name in offered.split(",")):  # the client's order of preference
        if name in CODECS:
            return accept, CODECS[name], name
    raise HttpRefusal(HTTPStatus.BAD_REQUEST, f"none of the subprotocols offered: {', '.join(CODECS)}")


def bearer(head: Head) -> str | None:
    """The token of an ``Authorization: Bearer`` header; None without one."""
    scheme, _, token = head.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def switching(accept: str, subprotocol: str | None) -> bytes:
    """The 101 answer."""
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{chosen}\r\n"
    ).encode("ascii")


def answer(
    status: HTTPStatus,
    body: bytes,
    *,
    content_type: str = "text/plain; charset=utf-8",
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """A plain HTTP answer that ends the connection."""
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Connection: close",
        f"Content-Length: {len(body)}",
        f"Content-Type: {content_type}",
        "X-Content-Type-Options: nosniff",
        *(f"{name}: {value}" for name, value in headers),
    ]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("iso-8859-1")
    return head if status is HTTPStatus.NOT_MODIFIED else head + body


def refuse(refusal: HttpRefusal) -> bytes:
    """The answer of a refusal."""
    return answer(refusal.status, f"{refusal.text}\n".encode(), headers=refusal.headers)


_VERSION = ("Sec-WebSocket-Version", "13")


def _tokens(value: str | None) -> list[str]:
    return [token.strip(" \t").lower() for token in value.split(",")] if value else []
