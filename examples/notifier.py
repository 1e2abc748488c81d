"""Posts what a program has to say: reads lines and sends each exactly once, also over restarts of this script.

    chatcluster token mint --user builds > /tmp/builds.token
    make test 2>&1 | tail -1 | python examples/notifier.py "$(cat /tmp/builds.token)" --to ada --key "build-42"

`--key` names the job. A script that is run again with the same key and the same lines posts nothing twice: each
line's client_id is made of the key and its number, and the server remembers client_ids (24 hours with a retry).
"""

import argparse
import asyncio
import sys

from chatcluster.client import Client


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("token")
    parser.add_argument("--to", required=True, help="the user to tell")
    parser.add_argument("--key", required=True, help="names this job: run it again and nothing is posted twice")
    parser.add_argument("--url", default="ws://127.0.0.1:8080")
    asked = parser.parse_args()

    async with Client(asked.url, token=asked.token, device="notifier") as chat:
        channel = await chat.create_direct(asked.to)
        for number, line in enumerate(sys.stdin):
            if line.strip():
                # Returns when the line is durable; repeats by itself while the platform is restarted.
                sent = await chat.send(channel, line.rstrip("\n"), client_id=f"{asked.key}-{number}", timeout=600)
                print(sent.id, "was there already" if sent.duplicate else "posted")


if __name__ == "__main__":
    asyncio.run(main())
