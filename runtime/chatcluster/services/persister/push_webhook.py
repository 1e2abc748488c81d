"""From `notifications` to the webhook: a group of its own, which may lag behind the topic and catches up."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

import msgspec

from chatcluster.core.backoff import delay
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import Notification, decode_notification, digest
from chatcluster.ports import Clock, Consumer, Fenced, Webhook
from chatcluster.services.persister.push_settings import PushSettings
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.persister.writing import Patience

_log = logging.getLogger(__name__)


class WebhookService:
    """Posts in order, one post at a time. What is older than ``max_age`` is given up, so nothing blocks for ever."""

    def __init__(
        self,
        *,
        notifications: Consumer,
        webhook: Webhook,
        clock: Clock,
        metrics: Metrics,
        settings: PushSettings,
        persister: PersisterSettings,
    ) -> None:
        self._consumer = notifications
        self._webhook = webhook
        self._clock = clock
        self._settings = settings
        self._patience = Patience(metrics=metrics, settings=persister)
        self._failing_since: float | None = None
        self._alarmed = False
        self._paused_until = 0.0
        self._lag = 0.0
        self._posts = {
            outcome: metrics.counter("push_webhook_posts_total", "Posts, by what became of them.", outcome=outcome)
            for outcome in ("taken", "refused", "gone", "later")
        }
        self._given_up = metrics.counter("push_webhook_given_up_total", "Notifications that were not delivered.")
        metrics.gauge("push_webhook_lag_seconds", "Age of the newest notification done.", lambda: self._lag)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for batch in await self._patience.insist(self._consumer.fetch):
                for start in range(0, len(batch.entries), self._settings.webhook_batch):
                    entries = batch.entries[start : start + self._settings.webhook_batch]
                    found: list[Notification] = []
                    for entry in entries:
                        try:
                            found.append(decode_notification(entry.value))
                        except (msgspec.DecodeError, ValueError, RecursionError):
                            self._given_up.add()
                    await self._deliver(found)
                    await self._commit(batch.partition, entries[-1].offset + 1)

    async def _deliver(self, found: Sequence[Notification]) -> None:
        attempt = 0
        while True:
            oldest = self._clock.now() - self._settings.max_age * 1000
            fresh = [one for one in found if one.time >= oldest]
            self._given_up.add(len(found) - len(fresh))
            found = fresh
            if not found:
                return
            self._lag = max(0, self._clock.now() - found[-1].time) / 1000
            if self._clock.monotonic() < self._paused_until:
                self._given_up.add(len(found))
                return
            name = f"msg_{digest([one.id for one in found]):016x}"
            posted = await self._webhook.post(name, body(found))
            self._posts[posted.outcome].add()
            if posted.outcome == "taken":
                self._failing_since, self._alarmed = None, False
                return
            self._failed()
            if posted.outcome != "later":
                self._given_up.add(len(found))
                if posted.outcome == "gone":
                    self._paused_until = self._clock.monotonic() + self._settings.webhook_pause
                    _log.error("the push webhook answers 410: nothing is posted for a while, the topic goes on")
                return
            wait = max(min(posted.after, self._settings.max_age), delay(attempt, random.random))
            await asyncio.sleep(wait)
            attempt += 1

    def _failed(self) -> None:
        now = self._clock.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        elif not self._alarmed and now - self._failing_since >= self._settings.alarm_after:
            self._alarmed = True
            _log.error("the push webhook has failed for %d s; the topic keeps everything", now - self._failing_since)

    async def _commit(self, partition: int, offset: int) -> None:
        try:
            await self._patience.insist(lambda: self._consumer.commit({partition: offset}))
        except Fenced:
            return


def body(notifications: Sequence[Notification]) -> bytes:
    """The JSON of a post. Ids are strings: they do not fit a JavaScript number."""
    return msgspec.json.encode(
        {
            "notifications": [
                {
                    "id": one.id,
                    "tenant": one.tenant,
                    "channel": one.channel,
                    "message_id": str(one.message_id),
                    "sender": one.sender,
                    "users": one.users,
                    "preview": one.preview,
                    "collapse_key": one.collapse_key,
                    "time": one.time,
                }
                for one in notifications
            ]
        }
    )
