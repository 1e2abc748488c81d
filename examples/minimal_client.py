"""Reads a user's messages with nothing but ``websockets`` and docs/protocol.md: no SDK.

    python examples/minimal_client.py ws://127.0.0.1:8080/v1/connect "$(chatcluster token mint --user ada)"

Each message once, through cut connections. What it saved lives in memory: a real client writes it to disk.
"""

import asyncio
import json
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def listen(url: str, token: str) -> None:
    saved: dict = {}  # the last mark: where to resume
    seen: set[str] = set()
    attempt = 0
    while True:
        wait = random.uniform(0, min(60, 0.5 * 2**attempt))  # rule 4
        try:
            async with connect(url, subprotocols=["chatcluster.v1.json"], compression=None) as socket:
                hello = {"type": "hello", "rid": "1", "token": token, "resume": saved or None}
                await socket.send(json.dumps(hello))
                async for text in socket:
                    frame = json.loads(text)
                    match frame["type"]:
                        case "welcome":
                            attempt = 0
                            saved = {"inbox": frame["inbox"], "channels": frame["follow"], **saved}
                        case "event" if frame["id"] not in seen:  # rule 1
                            seen.add(frame["id"])
                            if frame["kind"] == "message":
                                print(f"{frame['channel']} {frame['message']['sender']}: {frame['message']['body']!r}")
                            elif frame["kind"] == "retracted":
                                print(f"{frame['channel']} withdrawn: {frame['message_id']}")
                        case "mark":  # rule 2
                            channels = {**saved["channels"], **frame.get("channels", {})}
                            inbox = frame.get("inbox", saved["inbox"])
                            saved = {"inbox": inbox, "channels": channels, "pending": frame["pending"]}
                        case "reconnect":
                            wait = (frame["after_ms"] + random.uniform(0, frame["spread_ms"])) / 1000
                            break
                        case "error":
                            print(f"{frame['code']}: {frame['message']}", file=sys.stderr)
                            if frame["code"] == "unauthorized":
                                return  # not again with this token
        except (OSError, ConnectionClosed, InvalidStatus) as error:
            print(f"cut: {error}", file=sys.stderr)
        attempt += 1
        await asyncio.sleep(wait)


asyncio.run(listen(sys.argv[1], sys.argv[2]))
