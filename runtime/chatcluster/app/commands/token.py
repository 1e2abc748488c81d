"""``chatcluster token mint``: development tokens, signed with a data folder's key."""

from __future__ import annotations

import re
from pathlib import Path

import click

from chatcluster.app.tokens import MissingKey, load_key, mint, read_key
from chatcluster.core.session import valid_user

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """Seconds in ``90``, ``90s``, ``15m``, ``1h`` or ``30d``. Raises ``click.BadParameter``."""
    match = re.fullmatch(r"(\d+)([smhd]?)", text)
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"{text!r} is not a duration: a number over 0 with s, m, h or d, such as 15m")
    return int(match[1]) * _UNITS[match[2] or "s"]


@click.group()
def command() -> None:
    """Development tokens."""


@command.command("mint")
@click.option("--user", required=True, help="The user (claim sub).")
@click.option("--tenant", default="default", show_default=True, help="The tenant (claim tid).")
@click.option("--ttl", default="1h", show_default=True, help="How long it lives: 90s, 15m, 1h, 30d.")
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Data folder.")
@click.option("--key", type=click.Path(path_type=Path), help="A key file instead of the data folder's.")
def mint_command(user: str, tenant: str, ttl: str, data: Path, key: Path | None) -> None:
    """Print a token, alone."""
    seconds = duration(ttl)
    if not valid_user(user):
        raise click.BadParameter("--user has 1 to 128 characters, none of them a control character")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", tenant):
        raise click.BadParameter("--tenant has 1 to 64 of A-Z a-z 0-9 . _ -")
    try:
        signing = load_key(data) if key is None else read_key(key)
    except MissingKey as error:
        raise click.ClickException(str(error)) from None
    click.echo(mint(signing, user=user, tenant=tenant, ttl=seconds))
