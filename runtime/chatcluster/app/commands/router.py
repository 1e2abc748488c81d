"""``chatcluster router``: one router of a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from chatcluster.app.roles import starting


@click.command()
@starting.config_option
@starting.management_option
@starting.one_line
def command(config: Path | None, management: str) -> None:
    """Run a router until SIGTERM. Gateways connect to its link ([link] listen); the server API is on --management."""
    from chatcluster.app.roles.router import router

    settings = starting.settings_of(config)
    starting.start("router", lambda process: router(process, settings), settings, starting.where(management))
