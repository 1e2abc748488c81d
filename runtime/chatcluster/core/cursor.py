"""Cursors: opaque to clients; inside ``epoch : offset : last id``, bound to their timeline.

A cursor says what a reader has got: everything of its timeline up to and including ``offset``.
Nothing is ever added behind a position (law 4), which makes cursors safe to save.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from zlib import crc32

import msgspec

from chatcluster.core.codes import Refused
from chatcluster.core.ids import MAX_ID

START = -1
"""The offset before the first record."""

MAX_CURSOR = 128
"""Characters a cursor may have on the wire."""

MAX_OFFSET = (1 << 62) - 1
"""No log comes so far. The check sum is no signature: anybody can write a cursor, and stores take 63 bits."""


class Cursor(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A position in one timeline."""

    epoch: str
    offset: int
    last_id: int


class _Wire(msgspec.Struct, frozen=True, array_like=True, gc=False):
    epoch: str
    offset: int
    last_id: int
    check: int


_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(_Wire).decode


def encode_cursor(cursor: Cursor, timeline: str) -> str:
    """The cursor's text for clients. ``timeline`` is the key of ``records.inbox_timeline`` and its sister."""
    check = crc32(f"{timeline}|{cursor.epoch}|{cursor.offset}|{cursor.last_id}".encode())
    raw = _encode(_Wire(cursor.epoch, cursor.offset, cursor.last_id, check))
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_cursor(text: str, timeline: str, field: str = "cursor") -> Cursor:
    """The cursor in ``text``. Raises ``Refused(bad_cursor)`` when it is damaged or another timeline's.

    The epoch is the caller's to compare: a cursor of another epoch is answered with ``resync``.
    """
    try:
        if len(text) > MAX_CURSOR:
            raise ValueError(text)
        wire = _decode(urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)))
        if not (START <= wire.offset <= MAX_OFFSET and 0 <= wire.last_id <= MAX_ID):
            raise ValueError(wire.offset)
    except (ValueError, msgspec.DecodeError) as error:
        raise Refused("bad_cursor", f"{field} is not a cursor of this server", field=field) from error
    cursor = Cursor(wire.epoch, wire.offset, wire.last_id)
    if wire.check != crc32(f"{timeline}|{wire.epoch}|{wire.offset}|{wire.last_id}".encode()):
        raise Refused("bad_cursor", f"{field} belongs to another timeline or is damaged", field=field)
    return cursor
