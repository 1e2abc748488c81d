"""``chatcluster chat``: talk in the terminal."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from chatcluster.app.tokens import MissingKey, load_key, mint


def credentials(user: str | None, token: str | None, tenant: str, data: Path) -> str | Callable[[], Awaitable[str]]:
    """The token given, or a function that mints with the data folder's key. Raises ``click.UsageError``."""
    if token is not None:
        return token
    if user is None:
        raise click.UsageError("say who you are: --user U (development) or --token T")
    try:
        key = load_key(data)
    except MissingKey as error:
        raise click.UsageError(str(error)) from None

    async def fresh() -> str:
        return mint(key, user=user, tenant=tenant)

    return fresh


@click.command()
@click.option("--user", help="Who you are; a token is minted with the data folder's key.")
@click.option("--token", envvar="CHATCLUSTER_TOKEN", help="A token instead.")
@click.option("--tenant", default="default", show_default=True, help="The tenant of a minted token.")
@click.option("--url", default="ws://127.0.0.1:8080", show_default=True, help="The gateway.")
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Data folder.")
@click.option("--open", "start", help="The conversation to begin with.")
@click.option("--plain", is_flag=True, help="Lines in and out, as in a pipe.")
def command(
    user: str | None, token: str | None, tenant: str, url: str, data: Path, start: str | None, plain: bool
) -> None:
    """Chat in the terminal. /help lists what can be typed."""
    from chatcluster.app.terminal.talk import Talk
    from chatcluster.client import ChatError, Client

    fresh = credentials(user, token, tenant, data)
    drawn = not plain and sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    async def run() -> None:
        # Every terminal is a device of its own: the same one twice would replace itself.
        device = f"terminal-{secrets.token_hex(4)}"
        async with Client(url, token=fresh, device=device, connect_timeout=0, name="chatcluster chat") as chat:
            talk = Talk(chat)
            if drawn:
                from chatcluster.app.terminal.screen import Screen

                await Screen(talk, start).run()
            else:
                from chatcluster.app.terminal.plain import talk_in_lines

                await talk_in_lines(talk, start, sys.stdin, sys.stdout)

    try:
        asyncio.run(run())
    except (ChatError, LookupError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        pass
