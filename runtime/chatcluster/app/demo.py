"""Demo users and conversations for ``chatcluster dev``. Seeding is idempotent: every step has its own client_id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping

from msgspec import UNSET

from chatcluster.app.asking import ask
from chatcluster.app.tokens import mint
from chatcluster.core.frames import ChannelAdd, ChannelCreate, ErrorFrame, Reply, Request, Send
from chatcluster.ports import Caller, Router
from chatcluster.services.gateway.pages import Page

USERS: Mapping[str, str] = {
    "ada": "Ada Lovelace",
    "grace": "Grace Hopper",
    "alan": "Alan Turing",
    "katherine": "Katherine Johnson",
    "edsger": "Edsger Dijkstra",
}
TENANT = "default"
CROWD = 10_000
"""Members of the demo's huge channel, the demo users among them."""
_CHUNK = 1000
_TTL = 12 * 3600.0
SEEDED = "demo.seeded"
"""File in a data folder that says that the demo was seeded."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that are this machine: the demo hands its tokens to nobody else."""

_TALK = (
    ("ada", "Welcome to ChatCluster. Open this page in a second window as somebody else, and say hello."),
    ("grace", "Everything you see here has been written to the log before its sender saw a tick."),
    ("alan", "Kill the server while you type. Nothing that was ticked will be gone."),
)


def listing() -> bytes:
    """The demo users as the page asks for them: JSON ``[{user, name}]``."""
    return json.dumps([{"user": user, "name": name} for user, name in USERS.items()]).encode()


def token(key: bytes, user: str) -> bytes | None:
    """A token for a demo user as JSON ``{token}``; None for anybody else."""
    return json.dumps({"token": mint(key, user=user, ttl=_TTL)}).encode() if user in USERS else None


def pages_with_demo(pages: Mapping[str, Page], key: bytes) -> Callable[[str, Mapping[str, str]], Page | None]:
    """The pages, and at ``/demo/users`` and ``/demo/token/<user>`` what signs a demo user in.

    For this machine only, by the Host header: a foreign name that was made to point here gets nothing.
    """
    private = [("Cache-Control", "no-store")]

    def find(path: str, headers: Mapping[str, str]) -> Page | None:
        host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        if path.startswith("/demo/") and host.strip("[]") not in LOOPBACK:
            return None
        if path == "/demo/users":
            return ("application/json", listing(), private)
        if path.startswith("/demo/token/"):
            found = token(key, path.removeprefix("/demo/token/"))
            return None if found is None else ("application/json", found, private)
        return pages.get(path)

    return find


async def seed(router: Router) -> None:
    """Make the demo's channels. May be cut off at any point and run again."""
    people = list(USERS)
    everybody = await _create("ada", ChannelCreate("1", "demo-lounge", "group", people[1:], "Lounge"), router)
    for number, (user, text) in enumerate(_TALK):
        await _reply(user, Send("1", everybody, f"demo-talk-{number}", text, retry=True), router)
    direct = await _create("ada", ChannelCreate("1", "demo-direct", "direct", ["grace"]), router)
    await _reply("grace", Send("1", direct, "demo-direct-1", "Ada, have you seen the engine?", retry=True), router)
    square = await _create("ada", ChannelCreate("1", "demo-square", "group", people[1:], "Town square"), router)
    crowd = [f"guest-{number:05d}" for number in range(CROWD - len(people))]
    for start in range(0, len(crowd), _CHUNK):
        await _reply("ada", ChannelAdd("1", square, crowd[start : start + _CHUNK]), router)
    text = f"This channel has {CROWD:,} members. It is read from its own timeline; nobody's inbox was written."
    await _reply("katherine", Send("1", square, "demo-square-1", text, retry=True), router)


async def _create(user: str, request: ChannelCreate, router: Router) -> str:
    reply = await _reply(user, request, router)
    assert isinstance(reply, Reply)
    assert reply.channel is not UNSET
    return reply.channel


async def _reply(user: str, request: Request, router: Router) -> object:
    """Asks until the answer is one: at the start a part may not be ready yet."""
    attempt = 0
    while True:
        answer = await ask(router, Caller(TENANT, user, "demo", system=isinstance(request, ChannelAdd)), request)
        if not isinstance(answer, ErrorFrame):
            return answer
        if not answer.retryable:
            raise RuntimeError(f"seeding the demo: {answer.code}: {answer.message}")
        attempt += 1
        await asyncio.sleep(min(5.0, 0.1 * 2**attempt))
