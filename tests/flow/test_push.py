"""The push hook on the embedded log: who is pushed to, when, and under which ids."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from chatcluster.backends.memory import MemoryPresence
from chatcluster.backends.sqlite import SqliteLog, SqliteStore
from chatcluster.core.envelope import Status
from chatcluster.core.metrics import Metrics
from chatcluster.core.presence import SENTINEL
from chatcluster.core.records import (
    INBOX,
    NOTIFICATIONS,
    MessageRecord,
    Notification,
    Reference,
    decode_notification,
    encode,
    user_key,
)
from chatcluster.core.rows import DeleteRow, EditRow, MessageRow
from chatcluster.ports import Beat, Posted, Unavailable
from chatcluster.services.persister.push import PushService
from chatcluster.services.persister.push_settings import PushSettings
from chatcluster.services.persister.push_webhook import WebhookService
from chatcluster.services.persister.settings import PersisterSettings
from jumping import LoopClock

Jump = Callable[[Coroutine[Any, Any, None]], None]
LONG = 10_000_000


class Down(MemoryPresence):
    """Never answers."""

    async def sessions(self, users: Sequence[tuple[str, str]]) -> Sequence[Mapping[str, tuple[Status, int]]]:
        raise Unavailable("down")


class World:
    def __init__(self, log: SqliteLog, store: SqliteStore, clock: LoopClock, presence: MemoryPresence) -> None:
        self.log, self.store, self.clock, self.presence = log, store, clock, presence

    async def settle(self) -> None:
        """The presence store is old enough to be believed."""
        await self.presence.touch([Beat(*SENTINEL, "node", "online")], ttl=LONG)
        await asyncio.sleep(61)

    async def say(self, id: int, users: Sequence[str], body: str = "hello") -> None:  # noqa: A002
        for user in users:
            message = MessageRecord("t", "room", id, "ann", "c", 1, 0, body)
            self.log.append(INBOX, user_key("t", user), encode(Reference("t", user, id, message)), lambda _: None)
        await asyncio.sleep(0.1)

    @asynccontextmanager
    async def pushing(self, settings: PushSettings = PushSettings()) -> AsyncIterator[None]:  # noqa: B008
        service = PushService(
            log=self.log,
            inbox=self.log.consumer("push", INBOX),
            store=self.store,
            presence=self.presence,
            clock=self.clock,
            metrics=Metrics(),
            settings=settings,
            persister=PersisterSettings(),
        )
        task = asyncio.create_task(service.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def found(self) -> list[Notification]:
        return [decode_notification(entry.value) for entry in await self.log.read(NOTIFICATIONS, 0, 0, 1_000)]


@asynccontextmanager
async def world(data: Path, kind: type[MemoryPresence] = MemoryPresence) -> AsyncIterator[World]:
    clock = LoopClock()
    topics = {INBOX: 2, NOTIFICATIONS: 1}
    async with (
        SqliteLog.open(data, clock=clock, metrics=Metrics(), partitions=topics) as log,
        SqliteStore.open(data, clock=clock, metrics=Metrics()) as store,
    ):
        yield World(log, store, clock, kind(clock=clock))


def test_those_without_a_session_are_pushed_to_once_per_message(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            await here.settle()
            await here.presence.touch([Beat("t", "bob", "s", "away")], ttl=LONG)
            await here.say(7, ["ann", "bob", "cid", "dan"], "x" * 500)
            await here.say(8, ["cid"])
            async with here.pushing(PushSettings(preview=10)):
                await asyncio.sleep(30)
            first, second = await here.found()
            assert (first.message_id, first.users, first.preview) == (7, ["cid", "dan"], "x" * 10)
            assert second.users == ["cid"]
            assert first.collapse_key == second.collapse_key
            assert first.id != second.id

    jump(run())


def test_who_comes_back_within_the_delay_is_left_alone(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            await here.settle()
            async with here.pushing():
                await here.say(7, ["bob"])
                await asyncio.sleep(2)
                await here.presence.touch([Beat("t", "bob", "s", "online")], ttl=LONG)
                await asyncio.sleep(30)
            assert await here.found() == []

    jump(run())


def test_what_was_deleted_within_the_delay_is_not_pushed_and_what_was_edited_says_so(
    jump: Jump, tmp_path: Path
) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            await here.settle()
            async with here.pushing():
                for number in (7, 8, 9):
                    await here.store.write([MessageRow("t", "room", number, number, "ann", "c", "hello")])
                    await here.say(number, ["bob", "cid"])
                await here.store.write([DeleteRow("t", "room", 7, 20), EditRow("t", "room", 8, 21, "mended", None)])
                await asyncio.sleep(30)
            found = [(one.message_id, one.users, one.preview) for one in await here.found()]
            assert found == [(8, ["bob", "cid"], "mended"), (9, ["bob", "cid"], "hello")]

    jump(run())


def test_a_replay_gives_the_same_notification(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            await here.settle()
            await here.say(7, ["bob", "cid"])
            async with here.pushing():
                await asyncio.sleep(30)
            here.log.move("push", INBOX, {0: 0, 1: 0})
            async with here.pushing():
                await asyncio.sleep(30)
            first, second = await here.found()
            assert first == second

    jump(run())


def test_a_wiped_presence_pushes_to_nobody_before_sessions_had_time_to_beat(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            await here.presence.touch([Beat(*SENTINEL, "node", "online")], ttl=LONG)
            async with here.pushing():
                await here.say(7, ["bob", "cid"])
                await asyncio.sleep(20)
                await here.presence.touch([Beat("t", "bob", "s", "online")], ttl=LONG)
                assert await here.found() == []
                await asyncio.sleep(100)
            (one,) = await here.found()
            assert one.users == ["cid"]

    jump(run())


def test_presence_that_never_answers_means_a_push(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path, Down) as here:
            async with here.pushing():
                await here.say(7, ["bob"])
                await asyncio.sleep(60)
                assert await here.found() == []
                await asyncio.sleep(120)
            assert len(await here.found()) == 1

    jump(run())


def test_an_old_backlog_is_not_pushed(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            await here.settle()
            await here.say(7, ["bob"])
            await asyncio.sleep(4_000)
            async with here.pushing():
                await asyncio.sleep(30)
            assert await here.found() == []

    jump(run())


def test_who_died_before_it_was_written_is_pushed_to_by_the_next_and_nobody_twice(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            await here.settle()
            append = here.log.append
            await here.say(7, ["bob"])
            here.log.append = lambda *args: None  # type: ignore[method-assign]  # no report ever comes
            async with here.pushing():
                await asyncio.sleep(30)
            here.log.append = append  # type: ignore[method-assign]
            for _ in range(2):
                async with here.pushing():
                    await asyncio.sleep(30)
            assert [one.users for one in await here.found()] == [["bob"]]

    jump(run())


def test_what_cannot_be_read_and_a_lost_partition_stop_nobody(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            await here.settle()
            here.log.append(INBOX, user_key("t", "bob"), b"nonsense", lambda _: None)
            async with here.pushing():
                await here.say(7, ["bob"])
                here.log.consumer("push", INBOX)  # another takes the group over before the commit
                await asyncio.sleep(30)
            assert [one.users for one in await here.found()] == [["bob"]]

    jump(run())


def test_each_doubt_about_presence_has_its_own_patience(jump: Jump, tmp_path: Path) -> None:
    class Silent(MemoryPresence):
        """Does not answer, or refuses, while it is told so."""

        silent = away = False

        async def sessions(self, users: Sequence[tuple[str, str]]) -> Sequence[Mapping[str, tuple[Status, int]]]:
            if self.silent:
                await asyncio.Event().wait()
            if self.away:
                raise Unavailable("away")
            return await super().sessions(users)

    async def run() -> None:
        async with world(tmp_path, Silent) as here:
            assert isinstance(here.presence, Silent)
            await here.settle()
            async with here.pushing(PushSettings(presence_patience=120.0)):
                here.presence.silent = True
                await here.say(7, ["bob"])
                await asyncio.sleep(60)
                here.presence.silent = False
                await asyncio.sleep(120)
                assert len(await here.found()) == 1
                here.presence.away = True
                await here.say(8, ["bob"])
                await asyncio.sleep(115)
                assert len(await here.found()) == 1
                here.presence.away, here.presence.silent = False, True
                await asyncio.sleep(200)
                assert len(await here.found()) == 2  # one too many is better than one too few

    jump(run())


def test_many_users_are_several_notifications(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            await here.settle()
            await here.say(7, [f"u{number}" for number in range(5)])
            async with here.pushing(PushSettings(slice=2)):
                await asyncio.sleep(30)
            found = await here.found()
            assert max(len(one.users) for one in found) == 2
            assert sorted(user for one in found for user in one.users) == [f"u{number}" for number in range(5)]
            assert len({one.id for one in found}) == len(found)

    jump(run())


def test_a_log_whose_clock_is_ahead_delays_a_push_by_its_delay_only(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            here.clock.skew = 3_600_000
            await here.say(7, ["bob"])
            here.clock.skew = 0
            await here.settle()
            async with here.pushing():
                await asyncio.sleep(30)
                assert len(await here.found()) == 1

    jump(run())


class Scripted:
    """A receiver with the given answers, the last one for ever."""

    def __init__(self, *answers: Posted) -> None:
        self.answers = list(answers)
        self.posts: list[str] = []
        self.times: list[float] = []
        self.messages: list[list[str]] = []

    async def post(self, id: str, body: bytes) -> Posted:  # noqa: A002
        self.posts.append(id)
        self.times.append(asyncio.get_running_loop().time())
        self.messages.append([one["message_id"] for one in json.loads(body)["notifications"]])
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def notify(here: World, number: int = 7) -> None:
    notification = Notification("t", "room", number, "ann", ["bob"], "", "key", f"{number}-1", here.clock.now())
    here.log.append(NOTIFICATIONS, "t/room", encode(notification), lambda _: None)


async def deliver(
    here: World, hook: Scripted, seconds: float, settings: PushSettings, numbers: Sequence[int] = (7,)
) -> None:
    for number in numbers:
        notify(here, number)
    await asyncio.sleep(0.1)
    service = WebhookService(
        notifications=here.log.consumer("webhook", NOTIFICATIONS),
        webhook=hook,
        clock=here.clock,
        metrics=Metrics(),
        settings=settings,
        persister=PersisterSettings(),
    )
    task = asyncio.create_task(service.run())
    await asyncio.sleep(seconds)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_a_post_is_tried_again_under_the_same_id(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            hook = Scripted(Posted("later"), Posted("later", 20.0), Posted("taken"))
            await deliver(here, hook, 100, PushSettings())
            assert len(hook.posts) == 3
            assert len(set(hook.posts)) == 1
            assert hook.times[2] - hook.times[1] >= 20.0

    jump(run())


def test_a_dead_webhook_does_not_block_for_ever(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            hook = Scripted(Posted("later"))
            await deliver(here, hook, 700, PushSettings(max_age=300))
            tries = len(hook.posts)
            hook.answers = [Posted("taken")]
            await deliver(here, hook, 30, PushSettings(max_age=300), [8])
            assert len(hook.posts) == tries + 1  # the new one alone: the first was given up and committed
            assert hook.messages[-1] == ["8"]

    jump(run())


def test_what_a_receiver_asks_to_wait_for_is_bounded_by_the_age(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            hook = Scripted(Posted("later", 1e6), Posted("taken"))
            asyncio.get_running_loop().call_later(400, notify, here, 8)
            await deliver(here, hook, 500, PushSettings(max_age=300))
            assert hook.messages == [["7"], ["8"]]

    jump(run())


def test_what_a_receiver_refuses_holds_up_nothing_behind_it(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            hook = Scripted(Posted("refused"), Posted("taken"))
            here.log.append(NOTIFICATIONS, "t/room", b"nonsense", lambda _: None)
            await deliver(here, hook, 30, PushSettings(webhook_batch=2), [7, 8, 9, 10])
            assert hook.messages == [["7"], ["8", "9"], ["10"]]

    jump(run())


def test_after_gone_nothing_is_posted_for_a_while(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:
            hook = Scripted(Posted("gone"), Posted("taken"))

            async def others() -> None:
                for number in (8, 9):
                    await asyncio.sleep(600)
                    notify(here, number)

            later = asyncio.create_task(others())
            await deliver(here, hook, 1_300, PushSettings(webhook_pause=1_000.0))
            await later
            assert hook.messages == [["7"], ["9"]]

    jump(run())


def test_a_post_that_was_not_answered_is_made_again_by_the_next_process(jump: Jump, tmp_path: Path) -> None:
    class Endless(Scripted):
        """Never answers."""

        async def post(self, id: str, body: bytes) -> Posted:  # noqa: A002
            await super().post(id, body)
            await asyncio.Event().wait()
            raise AssertionError

    async def run() -> None:
        async with world(tmp_path) as here:
            first, second = Endless(Posted("taken")), Scripted(Posted("taken"))
            await deliver(here, first, 30, PushSettings())
            await deliver(here, second, 30, PushSettings(), [])
            assert second.posts == first.posts

    jump(run())


def test_a_webhook_whose_partition_is_taken_over_goes_on(jump: Jump, tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path) as here:

            class Stolen(Scripted):
                """Another process takes the group over while it answers."""

                async def post(self, id: str, body: bytes) -> Posted:  # noqa: A002
                    here.log.consumer("webhook", NOTIFICATIONS)
                    return await super().post(id, body)

            hook = Stolen(Posted("taken"))
            await deliver(here, hook, 30, PushSettings())
            assert len(hook.posts) == 1

    jump(run())
