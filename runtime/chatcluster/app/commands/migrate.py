"""``chatcluster migrate``: Kafka's topics and Cassandra's schema as this version needs them."""

from __future__ import annotations

from pathlib import Path

import click

from chatcluster.app.roles import starting


@click.command()
@starting.config_option
@click.option("--wait", type=click.FloatRange(min=0), default=120.0, show_default=True, help="Seconds to keep trying.")
@starting.one_line
def command(config: Path | None, wait: float) -> None:
    """Create or bring up to date what the roles need. Repeatable, and safe to run by two at once.

    Nothing is ever dropped. Ends with a failure and one line when the servers are not to be had in time, or are
    not what the settings say.
    """
    from chatcluster.app.logs import write_logs
    from chatcluster.app.roles.migrate import migrate

    settings = starting.settings_of(config)
    write_logs(settings.logging, role="migrate", name=settings.process.named())
    starting.run(migrate(settings, wait))
