"""``chatcluster channel``: channels through the server API, or as a user where it has no call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatcluster.app.administration import AdminApi, in_path, options
from chatcluster.app.commands.chat import credentials
from chatcluster.client import ChatError, Client

COLUMNS = ("id", "kind", "name", "members", "route", "creator", "created")


def as_user(run: Callable[..., None]) -> Callable[..., None]:
    """Adds where to connect and whose key to sign with: what the server API has no call for."""
    run = click.option("--url", default="ws://127.0.0.1:8080", show_default=True, help="The gateway.")(run)
    run = click.option("--tenant", default="default", show_default=True, help="The tenant.")(run)
    folder = click.Path(path_type=Path)
    return click.option("--data", type=folder, default=Path("data"), show_default=True, help="The data folder.")(run)


@click.group()
def command() -> None:
    """Channels: through the server API, or as a user."""


@command.command("list")
@click.option("--user", required=True, help="Whose channels.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@as_user
def list_command(data: Path, url: str, tenant: str, user: str, as_json: bool) -> None:
    """Channels of a user, as that user sees them."""

    async def run() -> None:
        found: list[dict[str, Any]] = []
        async with acting(data, url, tenant, user) as chat:
            async for summary in chat.channels():
                row = msgspec.to_builtins(summary)
                if as_json:
                    click.echo(json.dumps(row))
                else:
                    found.append(row)
        if not as_json:
            show(found)

    asyncio.run(run())


@command.command("create")
@click.option("--name", help="Its name.")
@click.option("--creator", required=True, help="Its owner.")
@click.option("--member", "members", multiple=True, help="A first member; may be repeated.")
@click.option("--client-id", help="Repeating the command with the same one makes no second channel.")
@options
async def create_command(
    api: AdminApi, name: str | None, creator: str, members: tuple[str, ...], client_id: str | None
) -> None:
    """Make a group; prints its id, alone."""
    key = client_id or secrets.token_urlsafe(15)
    body = {"client_id": key, "kind": "group", "creator": creator, "name": name, "members": list(members)}
    answer = await api.call("POST", "/channels", body={k: v for k, v in body.items() if v not in (None, [])})
    click.echo(answer["channel"])


@command.command("show")
@click.argument("channel")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@options
async def show_command(api: AdminApi, channel: str, as_json: bool) -> None:
    """One channel."""
    answer = await api.call("GET", f"/channels/{in_path(channel)}")
    if as_json:
        click.echo(json.dumps(answer))
    else:
        show([answer])


@command.command("rename")
@click.argument("channel")
@click.argument("name")
@click.option("--user", required=True, help="Who renames: an owner or admin of the group.")
@as_user
def rename_command(data: Path, url: str, tenant: str, user: str, channel: str, name: str) -> None:
    """Give a group another name, as one of its members."""

    async def run() -> None:
        async with acting(data, url, tenant, user) as chat:
            await chat.rename(channel, name)

    asyncio.run(run())


@contextlib.asynccontextmanager
async def acting(data: Path, url: str, tenant: str, user: str) -> AsyncIterator[Client]:
    """A client of ``user``, with a token minted from the data folder's key; its refusals in words."""
    token = credentials(user, None, tenant, data)
    try:
        async with Client(url, token=token, device="administration", connect_timeout=10, name="chatcluster") as chat:
            yield chat
    except ChatError as error:
        raise click.ClickException(str(error)) from None


def show(rows: list[dict[str, Any]]) -> None:
    """A table with the columns that any row has. Names of strangers are shown, never obeyed."""
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name == "members" else "left", overflow="fold", no_wrap=name == "id")
    for row in rows:
        table.add_row(*(Text("" if row.get(name) is None else str(row[name])) for name in columns))
    Console().print(table if rows else "none")
