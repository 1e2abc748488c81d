"""From a request to the record that goes into the log. Pure."""

from __future__ import annotations

from chatcluster.core.codes import Refused
from chatcluster.core.frames import Edit, React, Send
from chatcluster.core.ids import parse_id
from chatcluster.core.records import (
    DeleteRecord,
    EditRecord,
    MessageRecord,
    ReactionRecord,
    SendRecord,
    digest,
)
from chatcluster.core.session import valid_text
from chatcluster.services.router.sending import Sending, SendRequest

MAX_CLIENT_ID = 64


def check_client_id(client_id: str) -> None:
    """Raises ``Refused(bad_client_id)``: 1 to 64 characters, none of them a control character."""
    if not valid_text(client_id, MAX_CLIENT_ID):
        text = "client_id has 1 to 64 characters, none of them a control character"
        raise Refused("bad_client_id", text, field="client_id")


def check_body(body: str, limit: int) -> None:
    """Raises ``Refused``: a body has 1 to ``limit`` UTF-8 bytes. What they say is the users' business."""
    if not body:
        raise Refused("body_empty", "a message has a body", field="body")
    size = len(body)
    if size > limit or (size * 4 > limit and len(body.encode()) > limit):
        raise Refused("body_too_long", f"a body has at most {limit} bytes", field="body")


def content_digest(request: SendRequest) -> int:
    """What must be equal in a repeat: same client_id, other digest is ``id_conflict``."""
    if isinstance(request, Send):
        return digest("send", request.body, request.data, request.reply_to)
    if isinstance(request, Edit):
        return digest("edit", request.id, request.body, request.data)
    if isinstance(request, React):
        return digest("react", request.id, request.emoji, request.remove)
    return digest("delete", request.id)


def draft(sending: Sending, tenant: str, digest_: int) -> SendRecord:
    """The record. ``sending`` has its final id and flag, and its target where it has one."""
    request = sending.request
    head = (tenant, request.channel, sending.id, sending.caller.user, request.client_id, digest_, sending.flag)
    if type(request) is Send:
        reply_to = None if request.reply_to is None else parse_id(request.reply_to, "reply_to")
        return MessageRecord(*head, request.body, request.data, reply_to)
    target = sending.target
    assert target is not None
    if type(request) is Edit:
        # Carries what the full message needs, so that no reader has to look it up.
        author, original = target.sender, target.client_id
        return EditRecord(*head, target.id, request.body, request.data, author, original, target.reply_to)
    if type(request) is React:
        return ReactionRecord(*head, target.id, request.emoji, request.remove)
    return DeleteRecord(*head, target.id)
