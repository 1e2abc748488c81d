"""What is typed: messages and /commands, the same on the screen and in a pipe."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from chatcluster.app.terminal.talk import Talk

HELP = {
    "/open NAME": "show a conversation, by name, user or place in the list",
    "/direct USER": "talk to somebody",
    "/group NAME USER...": "make a group",
    "/reply N TEXT": "answer message N",
    "/react N EMOJI": "react to message N (again with a minus before the emoji takes it back)",
    "/edit [N] TEXT": "change your message N, or your last one",
    "/delete [N]": "delete your message N, or your last one",
    "/more": "older messages",
    "/list": "conversations",
    "/members": "who is here",
    "/add USER...": "add members",
    "/remove USER...": "remove members",
    "/rename NAME": "rename the group",
    "/leave": "leave the group",
    "/away, /online, /invisible": "how you show",
    "/quit": "leave",
}


class Quit(Exception):
    """The user wants to go."""


def order(talk: Talk, line: str) -> Coroutine[Any, Any, object] | None:
    """What a line asks for; None for nothing. Raises ``LookupError`` with what to say, or ``Quit``."""
    text = line.strip()
    if not text:
        return None
    if not text.startswith("/") or text.startswith("//"):
        talk.here()
        return talk.send(text[1:] if text.startswith("//") else line.rstrip("\n"))
    name, _, rest = text.partition(" ")
    rest = rest.strip()
    match name:
        case "/quit" | "/exit" | "/q":
            raise Quit
        case "/open" | "/o":
            return talk.open(talk.find(_need(rest, "/open NAME")))
        case "/direct" | "/d":
            return talk.direct(_need(rest, "/direct USER").removeprefix("@"))
        case "/group" | "/g":
            title, *users = _need(rest, "/group NAME USER...").split()
            return talk.group(title, [user.removeprefix("@") for user in users])
        case "/reply" | "/r":
            number, body = _two(rest, "/reply N TEXT")
            return talk.send(body, reply_to=talk.message(number).message.id)
        case "/react":
            number, emoji = _two(rest, "/react N EMOJI")
            target = talk.message(number).message
            remove = emoji.startswith("-") and len(emoji) > 1
            return talk.chat.react(target.channel, target.id, emoji[1:] if remove else emoji, remove=remove)
        case "/edit" | "/e":
            number, _, body = _need(rest, "/edit [N] TEXT").partition(" ")
            if number.removeprefix("#").isdecimal() and body.strip():
                target = talk.message(number).message
            else:
                target, body = talk.last_own().message, rest
            return talk.chat.edit(target.channel, target.id, body.strip())
        case "/delete":
            target = (talk.message(rest) if rest else talk.last_own()).message
            return talk.chat.delete(target.channel, target.id)
        case "/more" | "/m":
            return _more(talk)
        case "/list" | "/l":
            return _list(talk)
        case "/members":
            return _members(talk)
        case "/add":
            return talk.chat.add(talk.here().id, _need(rest, "/add USER...").split())
        case "/remove":
            return talk.chat.remove(talk.here().id, _need(rest, "/remove USER...").split())
        case "/rename":
            return talk.chat.rename(talk.here().id, _need(rest, "/rename NAME"))
        case "/leave":
            talk.here()
            return talk.leave()
        case "/away":
            return talk.chat.set_presence("away")
        case "/online":
            return talk.chat.set_presence("online")
        case "/invisible":
            return talk.chat.set_presence("invisible")
        case "/help" | "/h" | "/?":
            return _help(talk)
    raise LookupError(f"{name} is no command: /help lists them")


def _need(rest: str, usage: str) -> str:
    if not rest:
        raise LookupError(usage)
    return rest


def _two(rest: str, usage: str) -> tuple[str, str]:
    first, _, second = rest.partition(" ")
    if not first or not second.strip():
        raise LookupError(usage)
    return first, second.strip()


async def _more(talk: Talk) -> None:
    if not await talk.chat.older(talk.here().id):
        talk.told("that is where it began")


async def _list(talk: Talk) -> None:
    for place, row in enumerate(talk.sorted(), 1):
        unread = f", {row.unread} unread" if row.unread else ""
        talk.told(f"{place}. {row.title} ({row.kind}, {row.members} members{unread})")


async def _members(talk: Talk) -> None:
    shown = 0
    async for member in talk.chat.members(talk.here().id):
        talk.told(f"{member.user} ({member.role})" if member.role != "member" else member.user)
        shown += 1
        if shown == 100:
            talk.told(f"... {talk.here().members:,} in all")
            return


async def _help(talk: Talk) -> None:
    for usage, meaning in HELP.items():
        talk.told(f"{usage:<28} {meaning}")
