"""A talk as styled text for prompt_toolkit: (style, text) pairs. Plain functions of the model."""

from __future__ import annotations

from textwrap import wrap

from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.utils import get_cwidth

from chatcluster.app.terminal.talk import Conversation, Talk
from chatcluster.app.terminal.text import clean, clock
from chatcluster.client import Shown

Fragments = StyleAndTextTuples

STYLE = {
    "unread": "bold ansiyellow",
    "current": "reverse",
    "quiet": "ansibrightblack",
    "own": "ansicyan",
    "other": "ansigreen",
    "withdrawn": "strike ansibrightblack",
    "failed": "ansired",
    "bad": "bold ansired",
    "good": "ansigreen",
    "wait": "ansiyellow",
    "bar": "reverse",
}
INDENT = 11
"""Columns before the second line of a message."""
WINDOW = 200
"""Messages drawn at once."""

_DOT = {"online": ("class:good", "● "), "away": ("class:wait", "◐ ")}


def conversations(talk: Talk, width: int) -> Fragments:
    """The list, the newest first."""
    out: Fragments = []
    for place, row in enumerate(talk.sorted()[:WINDOW], 1):
        dot = _DOT.get(talk.presence.get(row.peer or "", ""), ("class:quiet", "○ ")) if row.peer else ("", "# ")
        unread = f" {min(row.unread, 999)}" if row.unread else ""
        title = clean(row.title)
        space = max(1, width - 6 - len(unread))
        title = title if len(title) <= space else title[: space - 1] + "…"
        style = "class:current" if row is talk.current else "class:unread" if row.unread else ""
        out += [(f"class:quiet {style}", f"{place:>2} "), (f"{style} {dot[0]}", dot[1]), (style, f"{title:<{space}}")]
        out += [("class:unread " + style, unread), ("", "\n")]
    if not out:
        out.append(("class:quiet", " nobody yet:\n /direct USER"))
    return out


def messages(talk: Talk, scrolled: int, width: int) -> Fragments:
    """The current conversation, ``scrolled`` messages back from its end."""
    conversation = talk.current
    if conversation is None:
        return [("class:quiet", "\n  Ctrl-N and Ctrl-P walk the conversations, /help lists what can be typed.")]
    view = talk.view(conversation)
    rows = view.messages()
    end = max(0, len(rows) - scrolled)
    shown = rows[max(0, end - WINDOW) : end]
    out: Fragments = []
    if view.complete and len(shown) == end:
        out.append(("class:quiet", "  the beginning\n"))
    others = [int(read) for user, read in view.reads.items() if user != talk.chat.user]
    for row in shown:
        out += _message(talk, conversation, row, max(others, default=0), width)
    out.append(("[SetCursorPosition]", ""))
    return out


def _message(talk: Talk, conversation: Conversation, row: Shown, read: int, width: int) -> Fragments:
    message = row.message
    own = message.sender == talk.chat.user
    number = f"{talk.number(conversation, message.id):>4} " if message.id else "     "
    style = "class:withdrawn" if row.mark == "withdrawn" else "class:failed" if row.mark == "failed" else ""
    out: Fragments = [("class:quiet", f"{number}{clock(message.time)} ")]
    out.append(("class:own" if own else "class:other", clean(message.sender)))
    if message.reply_to is not None:
        answered = talk.view(conversation).get(message.reply_to)
        said = clean(answered.message.body)[:30] if answered is not None else "an older message"
        who = clean(answered.message.sender) + ": " if answered is not None else ""
        out.append(("class:quiet", f" ↪ {who}{said}"))
    out.append(("class:quiet", "  "))
    if message.deleted:
        out.append(("class:quiet italic", "deleted"))
    else:
        at = sum(get_cwidth(fragment[1]) for fragment in out)
        out.append((style, _wrap(clean(message.body, lines=True), at, width)))
    if message.edited is not None and not message.deleted:
        out.append(("class:quiet", " (edited)"))
    for emoji, users in message.reactions.items():
        out.append(("class:quiet", f"  {clean(emoji)}{len(users) if len(users) > 1 else ''}"))
    out += _mark(row, own, read)
    out.append(("", "\n"))
    return out


def _wrap(text: str, at: int, width: int) -> str:
    """``text`` broken between words, beginning at column ``at``; its other lines stand under each other."""
    lines: list[str] = []
    for line in text.split("\n"):
        room = " " * (at if not lines else INDENT)
        wrapped = wrap(line, max(10, width - 4), initial_indent=room, subsequent_indent=" " * INDENT)
        lines.extend(wrapped or [room])
    return "\n".join(lines)[at:]


def _mark(row: Shown, own: bool, read: int) -> Fragments:
    """How far an own message is; of others only what was withdrawn."""
    match row.mark:
        case "withdrawn":
            return [("class:quiet", " withdrawn: it never became durable")]
        case "failed":
            return [("class:failed", " ✗ not acknowledged")]
        case "sending" if own:
            return [("class:wait", " …")]
        case "live" if own:
            return [("class:quiet", " ·")]
        case "durable" if own:
            return [("class:good", " ✓✓" if int(row.message.id) <= read else " ✓")]
    return []


def state(talk: Talk, now: float) -> Fragments:
    """The connection, as it is."""
    status = talk.chat.status
    match status.name:
        case "live":
            return [("class:good", "● live")]
        case "waiting":
            left = max(0.0, status.until - now)
            return [("class:wait", f"◌ reconnecting in {left:.0f} s ({clean(status.reason)[:60]})")]
        case "stopped":
            return [("class:bad", f"✗ {clean(status.reason)[:80]}")]
    return [("class:wait", "◌ connecting" + (f" ({clean(status.reason)[:60]})" if status.reason else ""))]


def header(talk: Talk) -> Fragments:
    """Title and presence of the current conversation."""
    row = talk.current
    if row is None:
        return [("class:bar", f" {clean(talk.chat.user)}")]
    about = f"{row.members:,} members" if row.peer is None else talk.presence.get(row.peer, "offline")
    return [("class:bar bold", f" {clean(row.title)} "), ("class:bar", f"· {about}")]


def typing(talk: Talk) -> Fragments:
    """Who types here."""
    users = [clean(user) for user in talk.typists()]
    if not users:
        return [("", "")]
    if len(users) > 3:
        return [("class:quiet italic", f" {len(users)} people are typing …")]
    return [("class:quiet italic", f" {', '.join(users)} {'is' if len(users) == 1 else 'are'} typing …")]
