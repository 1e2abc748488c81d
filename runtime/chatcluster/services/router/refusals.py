"""The router's refusals, made in one place so that equal cases get equal answers.

A channel that is unknown, malformed, another tenant's or forbidden is answered with the very same
``no_such_channel``, whatever was asked: nobody learns from an answer that a channel exists. For that reason
``not_a_member`` is never used by a router, not even towards former members: one text, one path.
"""

from __future__ import annotations

from chatcluster.core.codes import Refused


def no_such_channel() -> Refused:
    return Refused("no_such_channel", "there is no such channel here", field="channel")


def no_such_message(*, retryable: bool) -> Refused:
    """``retryable``: the message may be on its way to the store."""
    return Refused("no_such_message", "there is no such message here", field="id", retryable=retryable)


def overloaded(retry_after_ms: int, what: str = "too much is waiting") -> Refused:
    """Nothing was published, nothing was produced."""
    return Refused("overloaded", what, retry_after_ms=retry_after_ms)


def unavailable(what: str, retry_after_ms: int | None = None) -> Refused:
    """Nothing was produced."""
    return Refused("unavailable", what, retry_after_ms=retry_after_ms)


def unknown_outcome(what: str = "it may have been stored or not: repeat it with retry") -> Refused:
    return Refused("unknown_outcome", what)


def id_conflict() -> Refused:
    return Refused("id_conflict", "this client_id was used for something else", field="client_id", retryable=False)
