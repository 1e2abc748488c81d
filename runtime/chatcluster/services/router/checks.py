"""The reads that some sends need before they may go: repeats that say so, and the targets of edits.

Each runs as a task beside the pump, so that nobody but the sender's own lane waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from chatcluster.core.codes import Refused
from chatcluster.core.frames import Delete, Edit, React, Send
from chatcluster.core.ids import id_time, parse_id
from chatcluster.core.permissions import may_delete, may_edit
from chatcluster.core.records import MAX_AGE, MESSAGES, RETRY_HORIZON, Role, channel_key
from chatcluster.core.rows import VerdictRow
from chatcluster.ports import Clock, Log, StoreReader, Tails, Unavailable
from chatcluster.services.router.drafts import content_digest
from chatcluster.services.router.refusals import id_conflict, no_such_message, unavailable
from chatcluster.services.router.sending import Sending
from chatcluster.services.router.settings import RouterSettings
from chatcluster.services.router.worker import Worker


def winner_of(rows: Sequence[VerdictRow], digest: int, *, now: int) -> int | None:
    """The id that stands for a client_id within the horizon; None: none does.

    Raises ``Refused(id_conflict)`` when it stands for other content.
    """
    for row in rows:
        if row.winner is None or now - row.time > RETRY_HORIZON + MAX_AGE:
            continue
        first = next((other for other in rows if other.id == row.winner), row)
        if first.digest != digest:
            raise id_conflict()
        return row.winner
    return None


class Checks:
    """Answers, refuses or makes ready."""

    def __init__(
        self,
        *,
        store: StoreReader,
        tails: Tails,
        log: Log,
        worker: Worker,
        clock: Clock,
        settings: RouterSettings,
    ) -> None:
        self._store = store
        self._worker = worker
        self._tails = tails
        self._log = log
        self._clock = clock
        self._settings = settings

    async def check(self, sending: Sending, role: Role | None) -> None:
        """On return it is answered or ready. Raises ``Refused``. ``role``: the sender's (None: a system caller)."""
        request = sending.request
        # "With retry: true Redis is not asked: the store's verdict rows of the key answer" (section 3 step 2).
        # Also before a target is looked at: the first attempt may be the very delete that the target shows.
        if request.retry and await self._repeated(sending):
            return
        if not isinstance(request, Send):
            await self._find_target(sending, request, role)
        sending.ready = True

    async def _repeated(self, sending: Sending) -> bool:
        """Acked from the verdict rows?"""
        caller, request = sending.caller, sending.request
        try:
            rows = await self._store.verdicts(caller.tenant, request.channel, caller.user, request.client_id)
        except Unavailable:
            return False  # produced flagged ``retry``: the persister's verdict decides
        winner = winner_of(rows, content_digest(request), now=self._clock.now())
        if winner is None:
            return False
        self._worker.observe(winner)  # what this sender sends next sorts behind it
        sending.ack(winner, duplicate=True)
        return True

    async def _find_target(self, sending: Sending, request: Edit | Delete | React, role: Role | None) -> None:
        """ "Accepted only for a message that the store or tail shows durable at a smaller offset" (section 3 step 1).

        The persister writes a message's row before its tail entry, so the store alone is asked.
        """
        caller = sending.caller
        message_id = parse_id(request.id, "id")
        try:
            found = await self._store.messages(caller.tenant, request.channel, [message_id])
        except Unavailable:
            raise unavailable("the store does not answer", self._settings.retry_after_ms) from None
        target = found.get(message_id)
        if target is None:
            raise no_such_message(
                retryable=await self._may_come(channel_key(caller.tenant, request.channel), message_id)
            )
        if target.deleted:
            if not request.retry and await self._repeated(sending):
                return
            raise no_such_message(retryable=False)
        assert sending.state is not None
        if not caller.system:
            kind = sending.state.kind
            if type(request) is Edit and not may_edit(caller.user, target.sender):
                raise Refused("forbidden", "only its author edits a message", field="id")
            if type(request) is Delete and (role is None or not may_delete(kind, role, caller.user, target.sender)):
                raise Refused("forbidden", "only its author, an admin or the owner deletes a message", field="id")
        sending.target = target
        sending.after = target.id  # an edit sorts after what it edits

    async def _may_come(self, key: str, message_id: int) -> bool:
        """May a message of this id still be on its way to the store?"""
        young = int(self._settings.young * 1_000)
        at = id_time(message_id)
        now = self._clock.now()
        if at > now + young:
            return False  # made up
        if now - at < young:
            return True
        try:
            committed = (await self._tails.committed("messages")).get(self._log.partition_of(MESSAGES, key))
        except Unavailable:
            return True
        return committed is None or committed.log_time < at + young
