"""``chatcluster chat`` in a pipe: lines in, lines out, nothing drawn. For scripts and tests."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TextIO

from chatcluster.app.terminal.orders import Quit, order
from chatcluster.app.terminal.talk import Conversation, Talk
from chatcluster.app.terminal.text import clean
from chatcluster.client import ChatError, Message

LINES = 1000
"""Lines read ahead of what is being done."""


async def talk_in_lines(talk: Talk, start: str | None, source: TextIO, target: TextIO) -> None:
    """Do each line in turn; returns at the end of input, when everything sent is acknowledged.

    Raises ``ChatError`` when the client ended for good.
    """

    def say(line: str) -> None:
        print(line, file=target, flush=True)

    def received(conversation: Conversation, message: Message) -> None:
        number = talk.number(conversation, message.id)
        say(f"[{clean(conversation.title)}] #{number} {clean(message.sender)}: {clean(message.body)}")

    talk.told = lambda line: say(f"* {clean(line)}")
    talk.received = received
    running = asyncio.create_task(talk.run())
    reading = asyncio.create_task(_read(talk, start, source))
    try:
        await asyncio.wait([running, reading], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        else:
            reading.result()
    finally:
        for task in (running, reading):
            task.cancel()
        await asyncio.gather(running, reading, return_exceptions=True)


async def _read(talk: Talk, start: str | None, source: TextIO) -> None:
    await talk.ready()
    talk.told(f"live as {talk.chat.user}")
    if start is not None:
        await talk.open(talk.find(start))
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    room = threading.Semaphore(LINES)

    def pump() -> None:
        # A thread of its own: a blocked read of standard input can be neither awaited nor cancelled.
        with suppress(RuntimeError):  # the loop has ended before the input
            for line in source:
                room.acquire()
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=pump, daemon=True, name="stdin").start()
    while (line := await lines.get()) is not None:
        room.release()
        try:
            wanted = order(talk, line)
            if wanted is not None:
                await wanted
        except Quit:
            return
        except (ChatError, LookupError) as error:
            talk.told(str(error.args[0]) if error.args else str(error))
    await talk.settled()
