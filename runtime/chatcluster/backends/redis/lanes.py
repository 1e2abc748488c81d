"""The way to one node: commands by the batch through redis-py, each batch answered or given up in bounded time.

Knows no place and no key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha1
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisError

from chatcluster.backends.redis.settings import RedisSettings
from chatcluster.ports import Unavailable

Command = tuple[Any, ...]

AWAY = (RedisError, OSError, TimeoutError, AttributeError)
"""What redis-py raises in place of an answer. AttributeError: another task closed the connection between the look at it
and the write, as a cluster's client does to all of them when it reads its map anew."""


def said(error: BaseException) -> str:
    """An error in a word, without addresses and secrets."""
    return type(error).__name__


def settled(answer: Any) -> Any:
    """The answer, or what stands in its place raised as ``Unavailable``."""
    if isinstance(answer, Unavailable):
        raise answer
    return answer


async def ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel until each has ended: a driver may swallow a cancellation that meets a timeout of its own."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1.0)


@cache
def digest(script: str) -> str:
    """The name under which a server keeps a script."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


class Lane:
    """A client of redis-py, the gate before it, and what is written without anybody waiting."""

    def __init__(self, name: str, client: Redis | RedisCluster, settings: RedisSettings) -> None:
        self.name = name
        self.client = client
        self.posts: deque[tuple[str, Command]] = deque()
        self.wake = asyncio.Event()
        self._timeout = settings.timeout
        self._gate = asyncio.Semaphore(settings.connections)
        self._scripts: set[str] = set()  # sent here in full before

    async def pipe(self, commands: Sequence[Command]) -> list[Any]:
        """The answers in order, within two timeouts; see ``RedisShards.run`` for what stands for failures."""
        try:
            async with asyncio.timeout(self._timeout * 2):
                try:
                    async with asyncio.timeout(self._timeout):
                        await self._gate.acquire()
                except TimeoutError:
                    return self._away(commands, "too many wait for a connection")
                try:
                    return [self._judged(one) for one in await self._answers(commands)]
                finally:
                    self._gate.release()
        except AWAY as error:
            return self._away(commands, said(error))

    async def _answers(self, commands: Sequence[Command]) -> list[Any]:
        got = await self._send([self._short(command) for command in commands])
        # A server that was restarted or failed over has forgotten them: those once more, in full.
        forgotten = [index for index, answer in enumerate(got) if isinstance(answer, NoScriptError)]
        if forgotten:
            again = await self._send([commands[index] for index in forgotten])
            for index, answer in zip(forgotten, again, strict=True):
                got[index] = answer
        return got

    def _short(self, command: Command) -> Command:
        """A script that went this way before goes by its digest."""
        if command[0] != "EVAL":
            return command
        script = command[1]
        if script not in self._scripts:
            self._scripts.add(script)
            return command
        return ("EVALSHA", digest(script), *command[2:])

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        async with self.client.pipeline(transaction=False) as pipe:
            for command in commands:
                options = {"get": True} if command[0] == "SET" else {}
                pipe.execute_command(*command, **options)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            return answers

    def _away(self, commands: Sequence[Command], why: str) -> list[Any]:
        return [Unavailable(f"redis {self.name}: {why}")] * len(commands)

    def _judged(self, answer: Any) -> Any:
        """Whatever the server refused for, a full memory or a lost mastership, was not done: the caller is to know."""
        if isinstance(answer, Exception):
            return Unavailable(f"redis {self.name} refused: {said(answer)}")
        return answer
