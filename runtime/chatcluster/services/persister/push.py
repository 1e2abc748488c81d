"""The push hook: references of `inbox` whose user has no live session become records of `notifications`.

A consumer of its own, so neither presence nor a receiver delays the stages (law 9). At least once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from chatcluster.core.metrics import Metrics
from chatcluster.core.presence import SENTINEL
from chatcluster.core.records import (
    NOTIFICATIONS,
    MessageRecord,
    Notification,
    channel_key,
    decode_reference,
    digest,
    encode,
)
from chatcluster.core.rows import StoredMessage
from chatcluster.ports import Batch, Clock, Consumer, Fenced, Log, PresenceStore, StoreReader, Unavailable
from chatcluster.services.persister.push_settings import PushSettings
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.persister.writing import Appender, Patience

READS = 64
"""Channels whose messages are read at the same time."""

Key = tuple[str, str]


class _Group:
    """Users whom one message may be pushed to."""

    __slots__ = ("message", "time", "users")

    def __init__(self, message: MessageRecord, time: int) -> None:
        self.message = message
        self.time = time
        self.users: dict[str, None] = {}


class PushService:
    """Judges references once they are ``delay`` old. Holds one fetched round, nothing else.

    Pushed is what the message says by then: edited it shows the new body, deleted it is not pushed.
    """

    def __init__(
        self,
        *,
        log: Log,
        inbox: Consumer,
        store: StoreReader,
        presence: PresenceStore,
        clock: Clock,
        metrics: Metrics,
        settings: PushSettings,
        persister: PersisterSettings,
    ) -> None:
        self._inbox = inbox
        self._store = store
        self._presence = presence
        self._clock = clock
        self._settings = settings
        self._patience = Patience(metrics=metrics, settings=persister)
        self._appender = Appender(log=log, patience=self._patience, chunk=persister.append_chunk)
        self._unsure_since: float | None = None
        self._pushed = metrics.counter("push_users_total", "Users pushed to, one per message.")
        text = "References that are not pushed."
        self._skipped = {
            reason: metrics.counter("push_skipped_total", text, reason=reason)
            for reason in ("deleted", "event", "own", "old", "online", "unreadable")
        }
        self._blind = metrics.counter("push_blind_rounds_total", "Rounds judged without a sure presence.")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            batches = await self._patience.insist(self._inbox.fetch)
            await self._ripen(batches)
            await self._judge(batches)
            for batch in batches:
                if batch.entries:
                    await self._commit(batch.partition, batch.entries[-1].offset + 1)

    async def _ripen(self, batches: Sequence[Batch]) -> None:
        newest = max((entry.time for batch in batches for entry in batch.entries), default=0)
        wait = newest / 1000 + self._settings.delay - self._clock.now() / 1000
        if wait > 0:  # bounded, whatever the two clocks say
            await asyncio.sleep(min(wait, self._settings.delay))

    async def _judge(self, batches: Sequence[Batch]) -> None:
        groups = self._gather(batches)
        users = list({(group.message.tenant, user): None for group in groups for user in group.users})
        online = await self._online(users) if users else set()
        pushed: list[tuple[_Group, list[str]]] = []
        for group in groups:
            absent = sorted(user for user in group.users if (group.message.tenant, user) not in online)
            self._skipped["online"].add(len(group.users) - len(absent))
            if absent:
                pushed.append((group, absent))
        now = await self._stored([group.message for group, _ in pushed])
        records: list[tuple[str, bytes]] = []
        size = self._settings.slice
        for group, absent in pushed:
            message = group.message
            stored = now.get((message.tenant, message.channel, message.id))
            if stored is not None and stored.deleted:
                self._skipped["deleted"].add(len(absent))
                continue
            body = message.body if stored is None else stored.body
            for start in range(0, len(absent), size):
                notification = self._notification(message, body, absent[start : start + size], group.time)
                records.append((channel_key(message.tenant, message.channel), encode(notification)))
            self._pushed.add(len(absent))
        await self._appender.append(NOTIFICATIONS, records)

    def _gather(self, batches: Sequence[Batch]) -> list[_Group]:
        groups: dict[tuple[str, str, int], _Group] = {}
        oldest = self._clock.now() - self._settings.max_age * 1000
        for batch in batches:
            for entry in batch.entries:
                try:
                    reference = decode_reference(entry.value)
                except (msgspec.DecodeError, ValueError, RecursionError):
                    self._skipped["unreadable"].add()  # stage 2 dead-letters it
                    continue
                message = reference.record
                if not isinstance(message, MessageRecord):
                    self._skipped["event"].add()
                elif message.actor == reference.user:
                    self._skipped["own"].add()
                elif entry.time < oldest:
                    self._skipped["old"].add()
                else:
                    key = (message.tenant, message.channel, message.id)
                    group = groups.setdefault(key, _Group(message, entry.time))
                    group.users[reference.user] = None
        return list(groups.values())

    async def _stored(self, messages: Sequence[MessageRecord]) -> dict[tuple[str, str, int], StoredMessage]:
        """The messages as they are now. Stage 1 stores before it appends references, so all are there."""
        ids: dict[Key, list[int]] = {}
        for message in messages:
            ids.setdefault((message.tenant, message.channel), []).append(message.id)
        channels = list(ids.items())
        found: dict[tuple[str, str, int], StoredMessage] = {}
        for start in range(0, len(channels), READS):
            part = channels[start : start + READS]
            insist, read = self._patience.insist, self._store.messages
            pages = await asyncio.gather(*(insist(partial(read, *channel, wanted)) for channel, wanted in part))
            for (channel, _), page in zip(part, pages, strict=True):
                found.update(((*channel, id), one) for id, one in page.items())  # noqa: A001
        return found

    def _notification(self, message: MessageRecord, body: str, users: list[str], time: int) -> Notification:
        return Notification(
            message.tenant,
            message.channel,
            message.id,
            message.actor,
            users,
            body[: self._settings.preview],
            format(digest(message.tenant, message.channel), "016x"),
            f"{message.id}-{digest(message.tenant, message.channel, message.id, users):016x}",
            time,
        )

    async def _online(self, users: Sequence[Key]) -> set[Key]:
        """Those with a live session, of whatever status: an away or invisible client still gets its events."""
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(self._settings.presence_patience):
                    online, sure = await self._ask(users)
            except (Unavailable, TimeoutError):
                online, sure = set(), False
            if sure:
                self._unsure_since = None
                return online
            now = self._clock.monotonic()
            if self._unsure_since is None:
                self._unsure_since = now
            if now - self._unsure_since >= self._settings.presence_patience:
                self._blind.add()
                return online
            await self._patience.wait(attempt)
            attempt += 1

    async def _ask(self, users: Sequence[Key]) -> tuple[set[Key], bool]:
        online: set[Key] = set()
        for start in range(0, len(users), self._settings.slice):
            part = users[start : start + self._settings.slice]
            found = await self._presence.sessions(part)
            online.update(user for user, live in zip(part, found, strict=True) if live)
        # Asked last: a wipe in the midst of it is noticed.
        (nodes,) = await self._presence.sessions([SENTINEL])
        return online, self._full(nodes)

    def _full(self, nodes: Mapping[str, tuple[object, int]]) -> bool:
        """Whether every live session has had time to beat since the store was empty."""
        before = self._clock.now() - self._settings.presence_ttl * 1000
        return any(since <= before for _, since in nodes.values())

    async def _commit(self, partition: int, offset: int) -> None:
        try:
            await self._patience.insist(lambda: self._inbox.commit({partition: offset}))
        except Fenced:
            return  # whoever has it now judges it again: at least once
