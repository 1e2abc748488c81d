"""Receives the push webhook and prints what a product would hand to a push provider.

    CHATCLUSTER_WEBHOOK_SECRETS="whsec_..." python examples/push_receiver.py

Then set `[push] enabled = true`, `webhook_url = "http://127.0.0.1:8099/push"` and `secret_file` to a file
with the same secret. Two secrets, parted by a space, are accepted while one replaces the other.
"""

from __future__ import annotations

import os
from collections import OrderedDict

from aiohttp import web

from chatcluster.client.webhook import BadSignature, verify

SECRETS = os.environ.get("CHATCLUSTER_WEBHOOK_SECRETS", "").split()
REMEMBERED = 100_000
pushed: OrderedDict[tuple[str, str, str, str], None] = OrderedDict()


async def receive(request: web.Request) -> web.Response:
    """Verify first, then drop repeats: delivery is at least once."""
    body = await request.read()
    try:
        verify(SECRETS, request.headers, body)
    except BadSignature:
        return web.Response(status=401)
    for one in (await request.json())["notifications"]:
        for user in one["users"]:
            key = (one["tenant"], one["channel"], one["message_id"], user)
            if key not in pushed:
                pushed[key] = None
                print(f"push to {user} [{one['collapse_key']}] {one['sender']}: {one['preview']}")
    while len(pushed) > REMEMBERED:
        pushed.popitem(last=False)
    return web.Response(status=204)


if __name__ == "__main__":
    if not SECRETS:
        raise SystemExit("set CHATCLUSTER_WEBHOOK_SECRETS to at least one secret")
    app = web.Application(client_max_size=16 * 2**20)
    app.router.add_post("/push", receive)
    web.run_app(app, host="127.0.0.1", port=8099)
