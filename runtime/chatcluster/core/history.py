"""The format of a recorded history: JSON lines, one record each. What clients did and saw, nothing else.

Written by ``client.recorder``, read by ``core.promises``. Knows no file and no clock. Evolution: append
optional fields and new types; never rename or retype.

Thinking of Jepsen's kafka test: each send attempt ends as *ok* (``Acked``), *fail* (``Failed`` with a code
that means nothing happened) or *info* (no answer, or a code that leaves it open).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Literal

import msgspec

Op = Literal["send", "edit", "delete", "react"]

MAX_LINE = 64 * 1024 * 1024
"""Bytes of one line; a final read of a large channel is the longest."""


class BadHistory(Exception):
    """A line that is no record. The message has its number and the reason."""


class Recorded(msgspec.Struct, frozen=True, gc=False, tag_field="t", omit_defaults=True):
    """Base of all records. ``client``: unique over all files of an audit. ``at``: ms since 1970, its own clock."""

    client: str
    at: int


class Started(Recorded, frozen=True, gc=False, tag="started", omit_defaults=True):
    """Who the client is; before all its other records."""

    tenant: str
    user: str


class Opened(Recorded, frozen=True, gc=False, tag="opened", omit_defaults=True):
    """A connection was welcomed. ``conn`` counts this client's connections from 1."""

    conn: int
    resumed: bool = False


class Closed(Recorded, frozen=True, gc=False, tag="closed", omit_defaults=True):
    """A connection ended, for whatever reason. ``code`` 0: no close frame came."""

    conn: int
    code: int = 0
    reason: str = ""


class Joined(Recorded, frozen=True, gc=False, tag="joined", omit_defaults=True):
    """From here on every message of the channel with an id above ``after`` must reach this client.

    Give the newest id that was there once the membership (or the follow) was answered; "0" for a channel
    created with this member. ``held``: ids it has from reading history.
    """

    channel: str
    after: str = "0"
    held: list[str] = []


class Left(Recorded, frozen=True, gc=False, tag="left", omit_defaults=True):
    """No longer a member (or follower): nothing is owed from here on."""

    channel: str


class Sent(Recorded, frozen=True, gc=False, tag="sent", omit_defaults=True):
    """One attempt. ``digest``: ``body_digest`` of its content. ``target``: of edits, deletes and reactions."""

    conn: int
    op: Op
    channel: str
    client_id: str
    rid: str
    digest: str = ""
    after: str = ""
    target: str = ""
    retry: bool = False


class Acked(Recorded, frozen=True, gc=False, tag="acked", omit_defaults=True):
    """ok: the attempt ``rid`` is durable as ``id``."""

    rid: str
    channel: str
    id: str
    duplicate: bool = False


class Failed(Recorded, frozen=True, gc=False, tag="failed", omit_defaults=True):
    """The attempt ``rid`` was answered with an error: fail or info, by its code (``promises.LEAVES_OPEN``)."""

    rid: str
    code: str


class Got(Recorded, frozen=True, gc=False, tag="got", omit_defaults=True):
    """A ``message`` event was received. ``live``: told early, not yet proven."""

    conn: int
    channel: str
    id: str
    sender: str
    message_id: str  # the client_id that its sender gave it
    digest: str
    live: bool = False


class Withdrawn(Recorded, frozen=True, gc=False, tag="withdrawn", omit_defaults=True):
    """``retracted`` was received. ``of``: the message that this one was a second copy of."""

    channel: str
    id: str
    of: str = ""


class Marked(Recorded, frozen=True, gc=False, tag="marked", omit_defaults=True):
    """A ``mark``: what was live and is not in ``pending`` is durable."""

    conn: int
    pending: list[str] = []


class ReadAt(Recorded, frozen=True, gc=False, tag="read", omit_defaults=True):
    """A read cursor of this client's own user. ``live``: told as an event (a rumour, may come late), not answered."""

    channel: str
    id: str
    live: bool = False


class FinalMessage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A message as history shows it in the end."""

    id: str
    sender: str
    client_id: str
    digest: str
    deleted: bool = False


class Final(Recorded, frozen=True, gc=False, tag="final", omit_defaults=True):
    """History read after all faults healed, in the order it came. ``complete``: from the first message on."""

    channel: str
    messages: list[FinalMessage]
    complete: bool = True


class Finished(Recorded, frozen=True, gc=False, tag="finished", omit_defaults=True):
    """The recording of this client ended in order; one without it was killed."""


class Truncated(Recorded, frozen=True, gc=False, tag="truncated", omit_defaults=True):
    """The file's bound was reached: ``dropped`` records are missing after this one (0: unknown)."""

    dropped: int = 0


Record = (
    Started
    | Opened
    | Closed
    | Joined
    | Left
    | Sent
    | Acked
    | Failed
    | Got
    | Withdrawn
    | Marked
    | ReadAt
    | Final
    | Finished
    | Truncated
)

encode = msgspec.json.Encoder().encode
"""A record to its line, without the newline."""
_decode = msgspec.json.Decoder(Record).decode
_pack = msgspec.msgpack.Encoder(order="deterministic").encode


def body_digest(body: str, data: dict[str, Any] | None = None, reply_to: str | None = None) -> str:
    """16 hexadecimal digits of a message's content, the same for equal content."""
    return blake2b(_pack((body, data or None, reply_to or None)), digest_size=8).hexdigest()


def read(lines: Iterable[bytes]) -> Iterator[Record]:
    """Records of a file's lines. Raises ``BadHistory``; a half last line (a killed recorder's) is no error."""
    number = 0
    for line in lines:
        number += 1
        if not line.strip():
            continue
        try:
            if len(line) > MAX_LINE:
                raise BadHistory(f"line {number}: over {MAX_LINE} bytes")
            yield _decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            if not line.endswith(b"\n"):
                return
            raise BadHistory(f"line {number}: {error}") from None
