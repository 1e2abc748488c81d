"""A bot that answers everything it hears.

    make run                                                # in one terminal
    chatcluster token mint --user echo > /tmp/echo.token    # in another, in the same folder
    python examples/echo_bot.py "$(cat /tmp/echo.token)"

Then, as somebody else: `chatcluster chat --user ada`, `/direct echo`, and say something.
"""

import asyncio
import contextlib
import sys

from chatcluster.client import Client


async def main(token: str, url: str = "ws://127.0.0.1:8080") -> None:
    async with Client(url, token=token, device="bot") as chat:
        print(f"listening as {chat.user}")
        async for message in chat.messages():
            if message.sender != chat.user:
                await chat.send(message.channel, "echo: " + message.body, reply_to=message.id)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
