"""``chatcluster presence``: one presence of a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from chatcluster.app.roles import starting


@click.command()
@starting.config_option
@starting.management_option
@starting.one_line
def command(config: Path | None, management: str) -> None:
    """Run a presence until SIGTERM."""
    from chatcluster.app.roles.presence import presence

    settings = starting.settings_of(config)
    starting.start("presence", lambda process: presence(process, settings), settings, starting.where(management))
