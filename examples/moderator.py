"""A moderator: deletes messages with words that are not wanted, and misses none while it is away.

    chatcluster token mint --user ada > /tmp/ada.token     # an owner or admin of the groups it looks after
    python examples/moderator.py "$(cat /tmp/ada.token)" gadzooks zounds

Its cursors live in a file: started again it reads on where it stopped, so what was said meanwhile is seen too.
Deleting twice changes nothing, so it need not remember what it has done.
"""

import asyncio
import contextlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from chatcluster.client import Client, FileCursors, Message, MessageEdited, MessageReceived, RequestRefused


async def main(token: str, words: Sequence[str], url: str = "ws://127.0.0.1:8080") -> None:
    unwanted = re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)
    # Kept per user and device: another user's cursors mean nothing here.
    cursors = FileCursors(Path.home() / ".cache" / "chatcluster" / "moderator.json")
    async with Client(url, token=token, device="moderator", cursors=cursors) as chat:

        async def look_at(message: Message) -> None:
            if unwanted.search(message.body) is None:
                return
            try:
                await chat.delete(message.channel, message.id)
                print(f"deleted {message.id} of {message.sender} in {message.channel}")
            except RequestRefused as refused:
                print(f"left {message.id} of {message.sender}: {refused}")

        print(f"watching as {chat.user}")
        async for event in chat.events():
            # Edits too: words may come in later.
            if isinstance(event, MessageReceived | MessageEdited):
                await look_at(event.message)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], sys.argv[2:]))
