"""One send on its way: what the pump, the report and the verdict share about it."""

from __future__ import annotations

from collections.abc import Callable

from chatcluster.core.codes import Refused
from chatcluster.core.frames import Ack, Answer, Delete, Edit, React, Send, refusal
from chatcluster.core.ids import id_time
from chatcluster.core.records import PLAIN, Flag
from chatcluster.core.rows import StoredMessage
from chatcluster.core.wire import rfc3339
from chatcluster.ports import Caller, Claim
from chatcluster.services.router.channels import ChannelState

SendRequest = Send | Edit | Delete | React
"""Requests that take the send path: they carry a client_id and are answered with an ``Ack``."""

Lane = tuple[str, str]
"""Session and channel key: sends of one lane keep the order of their arrival."""


class Sending:
    """Answered exactly once: by ``ack`` or ``refuse``; what comes later does nothing."""

    __slots__ = (
        "after",
        "at",
        "caller",
        "claim",
        "done",
        "duplicate",
        "final",
        "flag",
        "id",
        "lane",
        "limited",
        "lookups",
        "offset",
        "produced",
        "ready",
        "request",
        "state",
        "target",
    )

    def __init__(self, caller: Caller, request: SendRequest, done: Callable[[Answer], None], at: float) -> None:
        self.caller = caller
        self.request = request
        self.done: Callable[[Answer], None] | None = done
        self.at = at  # monotonic seconds of the arrival
        self.after = 0  # the id minted for it is greater
        self.lane: Lane | None = None  # held while it waits: who comes after it on its session waits behind it
        self.lookups = 0  # how often it waited for its channel
        self.final = False  # take the channel as it is cached: the store was asked just now
        self.limited = False  # has passed the limits: they count once
        self.ready = False  # the reads that an edit or a retry needs are done
        self.target: StoredMessage | None = None  # of an edit, delete or reaction
        self.state: ChannelState | None = None
        self.claim: Claim | None = None  # its client_id, id and digest
        self.id = 0
        self.flag: Flag = PLAIN
        self.duplicate = False
        self.produced = 0.0  # monotonic seconds of the append; 0.0: nothing is in the log
        self.offset = -1

    @property
    def answered(self) -> bool:
        return self.done is None

    def ack(self, event_id: int, *, duplicate: bool) -> None:
        """Answer with an id that is durable."""
        done, self.done = self.done, None
        if done is not None:
            request = self.request
            done(Ack(request.rid, request.channel, str(event_id), rfc3339(id_time(event_id)), duplicate))

    def refuse(self, refused: Refused) -> None:
        """Answer no."""
        done, self.done = self.done, None
        if done is not None:
            done(refusal(refused, self.request.rid))
