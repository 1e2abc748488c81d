"""``chatcluster dev``: the whole platform in one process."""

from __future__ import annotations

import logging
from pathlib import Path

import click

_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--listen", default="127.0.0.1:8080", show_default=True, help="Where clients connect.")
@click.option("--management", default="127.0.0.1:8081", show_default=True, help="Probes, metrics, server API.")
@click.option("--data", type=_FILE, default=Path("data"), show_default=True, help="Folder of log, store and keys.")
@click.option(
    "--config", type=_FILE, help="Settings in TOML. The environment (CHATCLUSTER_SECTION__KEY) goes before it."
)
@click.option("--no-demo", is_flag=True, help="No demo users, channels and tokens.")
@click.option("--bus-loss", type=click.FloatRange(0, 1), default=0.0, help="Lose this share of the bus: an experiment.")
@click.option(
    "--log-level", default="warning", type=click.Choice(["debug", "info", "warning", "error"]), show_default=True
)
def command(
    listen: str, management: str, data: Path, config: Path | None, no_demo: bool, bus_loss: float, log_level: str
) -> None:
    """Run gateway, router, persister and presence in one process, on SQLite.

    Everything is kept in the data folder. Stop it with Ctrl-C: clients are told and closed in order; kill it at
    any instant and nothing acknowledged is gone.
    """
    import uvloop

    from chatcluster.app.address import Address
    from chatcluster.app.dev import Options, run
    from chatcluster.app.settings import BadSettings, read_sections
    from chatcluster.app.tokens import MissingKey
    from chatcluster.backends.sqlite.files import BadDataFolder

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        options = Options(Address.parse(listen), Address.parse(management), data, not no_demo, bus_loss)
        uvloop.run(run(options, read_sections(config)))
    except* (BadSettings, BadDataFolder, MissingKey, ValueError, OSError) as group:
        causes: list[BaseException] = [group]
        while isinstance(causes[0], BaseExceptionGroup):
            causes = list(causes[0].exceptions)
        raise click.ClickException(str(causes[0])) from None
