"""``chatcluster channel``: channels through the server API."""

from __future__ import annotations

import json
import secrets
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatcluster.app.administration import ServerApi, in_path, options

COLUMNS = ("id", "kind", "name", "members", "route", "creator", "created")


@click.group()
def command() -> None:
    """Channels, through the server API."""


@command.command("list")
@click.option("--user", required=True, help="Whose channels.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@options
async def list_command(api: ServerApi, user: str, as_json: bool) -> None:
    """Channels of a user."""
    found: list[dict[str, Any]] = []
    query: dict[str, str] = {}
    while True:
        answer = await api.call("GET", f"/users/{in_path(user)}/channels", query=query)
        rows = answer.get("channels", [])
        if as_json:
            for row in rows:
                click.echo(json.dumps(row))
        else:
            found.extend(rows)
        if not answer.get("page"):
            break
        query["page"] = answer["page"]
    if not as_json:
        show(found)


@command.command("create")
@click.option("--name", help="Its name.")
@click.option("--creator", required=True, help="Its owner.")
@click.option("--member", "members", multiple=True, help="A first member; may be repeated.")
@click.option("--client-id", help="Repeating the command with the same one makes no second channel.")
@options
async def create_command(
    api: ServerApi, name: str | None, creator: str, members: tuple[str, ...], client_id: str | None
) -> None:
    """Make a group; prints its id, alone."""
    key = client_id or secrets.token_urlsafe(15)
    body = {"client_id": key, "kind": "group", "creator": creator, "name": name, "members": list(members)}
    answer = await api.call("POST", "/channels", body={k: v for k, v in body.items() if v not in (None, [])})
    click.echo(answer["channel"] if isinstance(answer["channel"], str) else answer["channel"]["id"])


@command.command("show")
@click.argument("channel")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@options
async def show_command(api: ServerApi, channel: str, as_json: bool) -> None:
    """One channel."""
    answer = await api.call("GET", f"/channels/{in_path(channel)}")
    row = answer.get("channel", answer) if isinstance(answer.get("channel"), dict) else answer
    if as_json:
        click.echo(json.dumps(row))
    else:
        show([row])


@command.command("rename")
@click.argument("channel")
@click.argument("name")
@options
async def rename_command(api: ServerApi, channel: str, name: str) -> None:
    """Give a group another name."""
    await api.call("PATCH", f"/channels/{in_path(channel)}", body={"name": name})


def show(rows: list[dict[str, Any]]) -> None:
    """A table with the columns that any row has. Names of strangers are shown, never obeyed."""
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name == "members" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if row.get(name) is None else str(row[name])) for name in columns))
    Console().print(table if rows else "none")
