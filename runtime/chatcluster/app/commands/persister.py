"""``chatcluster persister``: one persister of a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from chatcluster.app.roles import starting


@click.command()
@starting.config_option
@starting.management_option
@starting.one_line
def command(config: Path | None, management: str) -> None:
    """Run a persister until SIGTERM."""
    from chatcluster.app.roles.persister import persister

    settings = starting.settings_of(config)
    starting.start("persister", lambda process: persister(process, settings), settings, starting.where(management))
