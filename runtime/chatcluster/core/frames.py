"""The wire: every frame of protocol version 1 as a typed struct, and both codecs.

The public contract is ``docs/protocol.md``; its JSON Schema is generated from these types. Extend by
optional fields and new types; never rename, retype or reorder. All ids, cursors and versions are
strings of decimal digits (they exceed 2^53).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from chatcluster.core.codes import ErrorCode, Refused

JSON_PROTOCOL = "chatcluster.v1.json"
MSGPACK_PROTOCOL = "chatcluster.v1.msgpack"

Rid = Annotated[str, Meta(min_length=1, max_length=64, description="Request id, chosen by the client.")]
Id = Annotated[str, Meta(max_length=19, description="An id: decimal digits.")]
CursorText = Annotated[str, Meta(max_length=128, description="Opaque; compare with nothing.")]
ChannelId = Annotated[str, Meta(max_length=128)]
UserId = Annotated[str, Meta(max_length=128)]
Users = Annotated[list[UserId], Meta(max_length=1000)]
Data = dict[str, Any]


class Frame(msgspec.Struct, frozen=True, gc=False, tag_field="type"):
    """Base of all frames."""


# -- client to server ---------------------------------------------------------------------------------


class Resume(msgspec.Struct, frozen=True, gc=False):
    """What a client saved from its last ``mark``."""

    inbox: CursorText | None = None
    channels: Annotated[dict[ChannelId, CursorText], Meta(max_length=1000)] = {}
    pending: Annotated[list[Id], Meta(max_length=1000)] = []


class ClientInfo(msgspec.Struct, frozen=True, gc=False):
    """Who wrote the client; for metrics."""

    name: Annotated[str, Meta(max_length=64)] = ""
    version: Annotated[str, Meta(max_length=64)] = ""


class Hello(Frame, frozen=True, gc=False, tag="hello"):
    rid: Rid
    token: Annotated[str, Meta(max_length=65536)] | None = None
    device: Annotated[str, Meta(max_length=128, description="Stable per device.")] = ""
    resume: Resume | None = None
    client: ClientInfo | None = None


class Send(Frame, frozen=True, gc=False, tag="send"):
    rid: Rid
    channel: ChannelId
    client_id: str
    body: str
    data: Data | None = None
    reply_to: Id | None = None
    after: Id | None = None
    retry: bool = False


class Edit(Frame, frozen=True, gc=False, tag="edit"):
    rid: Rid
    channel: ChannelId
    id: Id
    client_id: str
    body: str
    data: Data | None = None
    retry: bool = False


class Delete(Frame, frozen=True, gc=False, tag="delete"):
    rid: Rid
    channel: ChannelId
    id: Id
    client_id: str
    retry: bool = False


class React(Frame, frozen=True, gc=False, tag="react"):
    rid: Rid
    channel: ChannelId
    id: Id
    client_id: str
    emoji: Annotated[str, Meta(min_length=1, max_length=64)]
    remove: bool = False
    retry: bool = False


class ReadUpTo(Frame, frozen=True, gc=False, tag="read"):
    channel: ChannelId
    id: Id
    rid: Rid | None = None


class Type(Frame, frozen=True, gc=False, tag="typing"):
    channel: ChannelId


class History(Frame, frozen=True, gc=False, tag="history"):
    rid: Rid
    channel: ChannelId
    before: Id | None = None
    after: Id | None = None
    limit: int | None = None


class Sync(Frame, frozen=True, gc=False, tag="sync"):
    rid: Rid
    inbox: CursorText | None = None
    channels: Annotated[dict[ChannelId, CursorText], Meta(max_length=1000)] = {}
    limit: int | None = None


class ListChannels(Frame, frozen=True, gc=False, tag="channels"):
    rid: Rid
    page: Annotated[str, Meta(max_length=256)] | None = None
    changed_since: str | None = None


class ChannelCreate(Frame, frozen=True, gc=False, tag="channel.create"):
    rid: Rid
    client_id: str
    kind: Literal["direct", "group"]
    members: Users
    name: Annotated[str, Meta(max_length=200)] | None = None


class ChannelUpdate(Frame, frozen=True, gc=False, tag="channel.update"):
    rid: Rid
    channel: ChannelId
    name: Annotated[str, Meta(max_length=200)] | None = None


class ChannelAdd(Frame, frozen=True, gc=False, tag="channel.add"):
    rid: Rid
    channel: ChannelId
    users: Users


class ChannelRemove(Frame, frozen=True, gc=False, tag="channel.remove"):
    rid: Rid
    channel: ChannelId
    users: Users


class ChannelJoin(Frame, frozen=True, gc=False, tag="channel.join"):
    rid: Rid
    channel: ChannelId


class ChannelLeave(Frame, frozen=True, gc=False, tag="channel.leave"):
    rid: Rid
    channel: ChannelId


class ChannelMembers(Frame, frozen=True, gc=False, tag="channel.members"):
    rid: Rid
    channel: ChannelId
    page: Annotated[str, Meta(max_length=256)] | None = None


class Follow(Frame, frozen=True, gc=False, tag="follow"):
    rid: Rid
    channel: ChannelId
    cursor: CursorText | None = None


class Unfollow(Frame, frozen=True, gc=False, tag="unfollow"):
    rid: Rid
    channel: ChannelId


class Watch(Frame, frozen=True, gc=False, tag="watch"):
    rid: Rid
    users: Users


class SetPresence(Frame, frozen=True, gc=False, tag="presence"):
    status: Literal["online", "away", "invisible"]


class RenewToken(Frame, frozen=True, gc=False, tag="token"):
    rid: Rid
    token: Annotated[str, Meta(max_length=65536)]


class Ping(Frame, frozen=True, gc=False, tag="ping"):
    pass


ClientFrame = (
    Hello
    | Send
    | Edit
    | Delete
    | React
    | ReadUpTo
    | Type
    | History
    | Sync
    | ListChannels
    | ChannelCreate
    | ChannelUpdate
    | ChannelAdd
    | ChannelRemove
    | ChannelJoin
    | ChannelLeave
    | ChannelMembers
    | Follow
    | Unfollow
    | Watch
    | SetPresence
    | RenewToken
    | Ping
)

Request = (
    Send
    | Edit
    | Delete
    | React
    | ReadUpTo
    | Type
    | History
    | Sync
    | ListChannels
    | ChannelCreate
    | ChannelUpdate
    | ChannelAdd
    | ChannelRemove
    | ChannelJoin
    | ChannelLeave
    | ChannelMembers
)
"""Client frames that a gateway hands to a router; the others it answers itself."""


# -- server to client ---------------------------------------------------------------------------------


class Limits(msgspec.Struct, frozen=True, gc=False):
    """``welcome.limits``. Bytes are UTF-8 bytes."""

    max_frame_bytes: int = 65536
    max_body_bytes: int = 16384
    sends_per_second: int = 20
    watch_users: int = 500
    follow: int = 20
    page: int = 100


class Welcome(Frame, frozen=True, gc=False, tag="welcome"):
    rid: str
    session: str
    user: str
    tenant: str
    server_time: str
    heartbeat_ms: int
    resumed: bool
    inbox: str
    follow: dict[str, str]
    limits: Limits


class Ack(Frame, frozen=True, gc=False, tag="ack"):
    """Means durable."""

    rid: str
    channel: str
    id: str
    time: str
    duplicate: bool


class WireMessage(msgspec.Struct, frozen=True, gc=False):
    """A message as clients see it. ``edited``: time of the edit in force. ``reactions``: emoji to users."""

    id: str
    channel: str
    sender: str
    client_id: str
    time: str
    body: str
    data: Data | UnsetType = UNSET
    reply_to: str | UnsetType = UNSET
    edited: str | UnsetType = UNSET
    deleted: bool | UnsetType = UNSET
    reactions: dict[str, list[str]] | UnsetType = UNSET


class ChannelSummary(msgspec.Struct, frozen=True, gc=False):
    """One row of the conversation list. ``head``: newest message id. ``read``: the caller's read cursor."""

    id: str
    kind: Literal["direct", "group"]
    name: str | None
    head: str | None
    read: str | None
    unread: int
    route: Literal["inbox", "channel"]
    role: Literal["owner", "admin", "member"]
    members: int
    peer: str | UnsetType = UNSET  # the other user of a direct channel


class MemberInfo(msgspec.Struct, frozen=True, gc=False):
    user: str
    role: Literal["owner", "admin", "member"]


class PresenceInfo(msgspec.Struct, frozen=True, gc=False):
    user: str
    status: Literal["online", "away", "offline"]
    since: str


class Cursors(msgspec.Struct, frozen=True, gc=False):
    inbox: str | UnsetType = UNSET
    channels: dict[str, str] | UnsetType = UNSET


class Event(Frame, frozen=True, gc=False, tag="event"):
    """An event of a timeline. Upsert by ``id``; for changes keep the highest ``version``."""

    timeline: str
    id: str
    channel: str
    kind: Literal["message", "edited", "deleted", "reaction", "member", "channel", "read", "route", "retracted"]
    live: bool
    version: str | UnsetType = UNSET
    message: WireMessage | UnsetType = UNSET
    message_id: str | UnsetType = UNSET
    user: str | UnsetType = UNSET
    emoji: str | UnsetType = UNSET
    removed: bool | UnsetType = UNSET
    change: Literal["add", "remove", "role", "created", "renamed"] | UnsetType = UNSET
    role: Literal["owner", "admin", "member"] | UnsetType = UNSET
    name: str | UnsetType | None = UNSET
    channel_kind: Literal["direct", "group"] | UnsetType = UNSET
    members: list[MemberInfo] | UnsetType = UNSET
    to: Literal["inbox", "channel"] | UnsetType = UNSET
    route: Literal["inbox", "channel"] | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    since: str | UnsetType = UNSET
    of: str | UnsetType = UNSET


class Reply(Frame, frozen=True, gc=False, tag="reply"):
    """The answer to a request; which fields it has depends on the request (see the protocol's table)."""

    rid: str
    messages: list[WireMessage] | UnsetType = UNSET
    events: list[Event] | UnsetType = UNSET
    cursors: Cursors | UnsetType = UNSET
    more: bool | UnsetType = UNSET
    complete: bool | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    read: str | UnsetType | None = UNSET
    channel: str | UnsetType = UNSET
    channels: list[ChannelSummary] | UnsetType = UNSET
    members: list[MemberInfo] | UnsetType = UNSET
    page: str | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    route: Literal["inbox", "channel"] | UnsetType = UNSET
    presence: list[PresenceInfo] | UnsetType = UNSET
    expires: str | UnsetType = UNSET


class ErrorFrame(Frame, frozen=True, gc=False, tag="error"):
    """A refusal; the connection lives."""

    code: ErrorCode
    message: str
    retryable: bool
    rid: str | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET
    field: str | UnsetType = UNSET


class Mark(Frame, frozen=True, gc=False, tag="mark"):
    """Proven cursors: save them. Live events of this connection not in ``pending`` are durable."""

    pending: list[str]
    inbox: str | UnsetType = UNSET
    channels: dict[str, str] | UnsetType = UNSET


class Resync(Frame, frozen=True, gc=False, tag="resync"):
    """The server cannot continue from the cursor: read history anew."""

    timeline: str
    reason: str


class PresenceFrame(Frame, frozen=True, gc=False, tag="presence"):
    changes: list[PresenceInfo]


class TypingFrame(Frame, frozen=True, gc=False, tag="typing"):
    channel: str
    user: str


class Reconnect(Frame, frozen=True, gc=False, tag="reconnect"):
    """Go elsewhere at ``after + random(spread)``."""

    after_ms: int
    spread_ms: int
    reason: str


class Pong(Frame, frozen=True, gc=False, tag="pong"):
    pass


ServerFrame = (
    Welcome | Ack | Reply | ErrorFrame | Event | Mark | Resync | PresenceFrame | TypingFrame | Reconnect | Pong
)
Answer = Ack | Reply | ErrorFrame


def refusal(refused: Refused, rid: str | None) -> ErrorFrame:
    """The error frame of a refusal."""
    return ErrorFrame(
        rid=UNSET if rid is None else rid,
        code=refused.code,
        message=refused.message,
        retryable=refused.retryable,
        retry_after_ms=UNSET if refused.retry_after_ms is None else refused.retry_after_ms,
        field=UNSET if refused.field is None else refused.field,
    )


# -- codecs -------------------------------------------------------------------------------------------


class Codec(msgspec.Struct, frozen=True):
    """One subprotocol. ``text``: frames are WebSocket text messages (else binary).

    ``encode``: any server frame to bytes. ``decode_server``: for clients.
    """

    name: str
    text: bool
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], ClientFrame]
    decode_server: Callable[[bytes], ServerFrame]
    loose: Callable[[bytes], Any]


JSON = Codec(
    name=JSON_PROTOCOL,
    text=True,
    encode=msgspec.json.Encoder().encode,
    decode=msgspec.json.Decoder(ClientFrame).decode,
    decode_server=msgspec.json.Decoder(ServerFrame).decode,
    loose=msgspec.json.Decoder().decode,
)
MSGPACK = Codec(
    name=MSGPACK_PROTOCOL,
    text=False,
    encode=msgspec.msgpack.Encoder().encode,
    decode=msgspec.msgpack.Decoder(ClientFrame).decode,
    decode_server=msgspec.msgpack.Decoder(ServerFrame).decode,
    loose=msgspec.msgpack.Decoder().decode,
)
CODECS = {JSON.name: JSON, MSGPACK.name: MSGPACK}


class BadFrame(Exception):
    """A frame that is refused before it is a request: the error to answer, with its rid where one was legible."""

    def __init__(self, error: ErrorFrame) -> None:
        super().__init__(error.message)
        self.error = error


def decode_request(codec: Codec, raw: bytes) -> ClientFrame:
    """A client's frame. Raises ``BadFrame`` with ``bad_json``, ``unknown_type`` or ``bad_request``."""
    try:
        frame = codec.decode(raw)
    except msgspec.ValidationError as error:
        bare = _without_nulls(codec, raw)
        if bare is None:
            raise _explain(codec, raw, str(error)) from None
        try:
            frame = msgspec.convert(bare, ClientFrame)
        except msgspec.ValidationError as again:
            raise _explain(codec, raw, str(again)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError, OverflowError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise BadFrame(refusal(Refused("bad_json", f"not a frame: {reason}"), None)) from None
    if isinstance(frame, Send | Edit) and frame.data is not None:
        _check_data(frame.data, frame.rid)
    return frame


def _without_nulls(codec: Codec, raw: bytes) -> dict[str, Any] | None:
    """The frame without its null fields: ``null`` means left out. None if it has none, or is no object.

    Only for what did not decode: a null that its type takes costs nothing.
    """
    try:
        loose = codec.loose(raw)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
        return None
    if not isinstance(loose, dict):
        return None
    bare = {name: value for name, value in loose.items() if value is not None}
    for name in ("resume", "client"):
        if isinstance(inner := bare.get(name), dict):
            bare[name] = {key: value for key, value in inner.items() if value is not None}
    return bare if bare != loose else None


def _explain(codec: Codec, raw: bytes, reason: str) -> BadFrame:
    try:
        loose = codec.loose(raw)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
        loose = None
    if not isinstance(loose, dict):
        return BadFrame(refusal(Refused("bad_json", "a frame is one object"), None))
    rid = loose.get("rid")
    if not (isinstance(rid, str) and 1 <= len(rid) <= 64):
        rid = None
    head, _, path = reason.partition(" - at `$")
    field = path.rstrip("`").lstrip(".") or None
    if "type" not in loose or not isinstance(loose["type"], str):
        refused = Refused("bad_request", "a frame has a `type`, a string", field="type")
    elif field == "type":
        refused = Refused("unknown_type", f"unknown type {loose['type'][:64]!r}", field="type")
    else:
        if field is None and "missing required field" in head:
            field = head.rpartition("`")[0].rpartition("`")[2]
        refused = Refused("bad_request", head, field=field)
    return BadFrame(refusal(refused, rid))


_MAX_DATA_DEPTH = 32


def _check_data(data: Data, rid: str) -> None:
    """``data`` must mean the same in both codecs: JSON's types, integers of 64 bits, bounded depth."""
    stack: list[tuple[Any, int]] = [(data, 1)]
    while stack:
        value, depth = stack.pop()
        if depth > _MAX_DATA_DEPTH:
            raise BadFrame(
                refusal(Refused("bad_request", f"data is nested over {_MAX_DATA_DEPTH} deep", field="data"), rid)
            )
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise BadFrame(
                    refusal(Refused("bad_request", "data has a key that is not a string", field="data"), rid)
                )
            stack.extend((inner, depth + 1) for inner in value.values())
        elif isinstance(value, list):
            stack.extend((inner, depth + 1) for inner in value)
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise BadFrame(refusal(Refused("bad_request", "data has an integer beyond 64 bits", field="data"), rid))
        elif value is not None and not isinstance(value, str | int | float | bool):
            raise BadFrame(
                refusal(Refused("bad_request", "data has a value that JSON does not know", field="data"), rid)
            )
