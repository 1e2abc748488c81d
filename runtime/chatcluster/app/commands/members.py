"""``chatcluster members``: members through the server API, up to hundreds of thousands from a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from chatcluster.app.administration import AdminApi, in_path, options
from chatcluster.core.session import valid_user

BATCH = 5_000
"""Users per call of an import: half of what the API takes, so that a call stays short."""
MAX_LINE = 1024
"""Bytes of a line of an import file: a user's name has at most 128 characters."""


@click.group()
def command() -> None:
    """Members, through the server API."""


@command.command("list")
@click.option("--channel", required=True)
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@options
async def list_command(api: AdminApi, channel: str, limit: int | None) -> None:
    """Members with their roles, one per line, in the order of names."""
    shown = 0
    query: dict[str, str] = {}
    while True:
        answer = await api.call("GET", f"/channels/{in_path(channel)}/members", query=query)
        for member in answer.get("members", []):
            click.echo(f"{member['user']}\t{member['role']}")
            shown += 1
            if shown == limit:
                return
        if not answer.get("page"):
            return
        query["page"] = answer["page"]


@command.command("add")
@click.option("--channel", required=True)
@click.argument("users", nargs=-1, required=True)
@options
async def add_command(api: AdminApi, channel: str, users: tuple[str, ...]) -> None:
    """Add users; those who are members already stay so."""
    await api.call("POST", f"/channels/{in_path(channel)}/members", body={"users": list(users)})


@command.command("remove")
@click.option("--channel", required=True)
@click.argument("users", nargs=-1, required=True)
@options
async def remove_command(api: AdminApi, channel: str, users: tuple[str, ...]) -> None:
    """Remove users; those who are no members stay so."""
    await api.call("DELETE", f"/channels/{in_path(channel)}/members", body={"users": list(users)})


@command.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--channel", required=True)
@click.option("--batch", type=click.IntRange(1, 10_000), default=BATCH, show_default=True, help="Users per call.")
@click.option("--restart", is_flag=True, help="Begin at the file's start, whatever an earlier run had done.")
@options
async def import_command(api: AdminApi, file: Path, channel: str, batch: int, restart: bool) -> None:
    """Add every user of FILE, one per line (blank lines and lines with # are skipped).

    Where a run was broken off the next one goes on: how far it came stands beside FILE until it is done.
    Adding twice changes nothing.
    """
    state = _Progress(file, channel)
    at, done = (0, 0) if restart else state.load()
    size = state.size
    console = Console(stderr=True)
    if at:
        console.print(f"going on after {done:,} users (--restart begins anew)", highlight=False)
    bar = Progress(
        TextColumn("{task.fields[users]:,} users"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    path = f"/channels/{in_path(channel)}/members"
    with bar, file.open("rb") as source:
        task = bar.add_task("import", total=max(1, size), completed=at, users=done)
        for users, position in batches(source, at, batch):
            if users:
                await api.call("POST", path, body={"users": users})
            done += len(users)
            # Only now: a crash before this line repeats the batch, which changes nothing.
            state.save(position, done)
            bar.update(task, completed=position, users=done)
        bar.update(task, completed=max(1, size))
    state.clear()
    console.print(f"{done:,} users are members", highlight=False)


def batches(source: BinaryIO, at: int, size: int) -> Iterator[tuple[list[str], int]]:
    """Users of a file from byte ``at``, ``size`` at a time (each once per batch), with the position after them.

    Raises ``click.ClickException`` with the line's place for what is no user.
    """
    source.seek(at)
    users: dict[str, None] = {}
    position = at
    while line := source.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise click.ClickException(f"byte {position}: a line of more than {MAX_LINE} bytes is no user")
        try:
            user = line.decode().strip().removeprefix("\ufeff")
        except UnicodeDecodeError:
            raise click.ClickException(f"byte {position}: not UTF-8") from None
        if user and not user.startswith("#"):
            if not valid_user(user):
                raise click.ClickException(
                    f"byte {position}: a user has at most 128 characters, none a control character"
                )
            users[user] = None
        position += len(line)
        if len(users) >= size:
            yield list(users), position
            users.clear()
    if users or position > at:
        yield list(users), position


class _Progress:
    """How far an import came: a small file beside the imported one, replaced atomically."""

    def __init__(self, file: Path, channel: str) -> None:
        self._path = file.with_name(f".{file.name}.import")
        stat = file.stat()
        self.size = stat.st_size
        # Of another file or channel it says nothing: then the import begins at the start, which harms nobody.
        self._of = {"channel": channel, "size": stat.st_size, "modified": stat.st_mtime_ns}

    def load(self) -> tuple[int, int]:
        """Byte position and users done."""
        try:
            saved = json.loads(self._path.read_text())
            if isinstance(saved, dict) and saved.get("of") == self._of:
                return int(saved["position"]), int(saved["done"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, 0

    def save(self, position: int, done: int) -> None:
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text(json.dumps({"of": self._of, "position": position, "done": done}))
        os.replace(partial, self._path)

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)
