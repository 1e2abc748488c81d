"""What a session may do when: the rules of the protocol that need no I/O.

Knows frames, names and phases; nothing of sockets, topics or tokens.
"""

from __future__ import annotations

import unicodedata
from enum import IntEnum
from typing import TypeGuard

from chatcluster.core.codes import Refused
from chatcluster.core.frames import ClientFrame, Hello, Ping

MAX_NAME = 128


class Phase(IntEnum):
    """Where a session stands. A hello that is being answered is ``GREETING``."""

    NEW = 0
    GREETING = 1
    OPEN = 2
    CLOSED = 3


def admit(phase: Phase, frame: ClientFrame) -> None:
    """Raises ``Refused`` for a frame that does not belong to this phase.

    Nothing but hello and ping before a hello, and one hello only.
    """
    if isinstance(frame, Hello):
        if phase is not Phase.NEW:
            raise Refused("already_authenticated", "this connection has said hello")
    elif phase is Phase.NEW and not isinstance(frame, Ping):
        raise Refused("not_authenticated", "say hello first")


def check_identity(tenant: str, user: str) -> None:
    """Names that are part of keys: a tenant holds no ``/``; neither is empty or over 128 characters.

    Raises ``Refused(unauthorized)``: they come from a token.
    """
    if not 0 < len(tenant) <= MAX_NAME or "/" in tenant or not 0 < len(user) <= MAX_NAME:
        raise Refused("unauthorized", "the token is not valid")


def valid_user(user: object) -> TypeGuard[str]:
    """1 to 128 characters that can be written as UTF-8, none of them a control character.

    One rule for all who take a user's name: whoever can sign in can be added to channels, and revoked.
    """
    return isinstance(user, str) and valid_text(user, MAX_NAME)


def valid_text(text: str, most: int) -> bool:
    """1 to ``most`` characters that can be written as UTF-8, none of them a control character."""
    return 1 <= len(text) <= most and (
        text.isprintable() or all(unicodedata.category(character) not in {"Cc", "Cs"} for character in text)
    )


def check_channel(channel: str) -> None:
    """A channel's name as clients may write it. Raises ``Refused(no_such_channel)``, as for an unknown one."""
    if not 0 < len(channel) <= MAX_NAME or not channel.isprintable() or any(sign in channel for sign in "{}:*/ "):
        raise Refused("no_such_channel", "no such channel")
