"""``chatcluster gateway``: one gateway of a cluster, or several processes of it on one port."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from chatcluster.app.roles import starting


@click.command()
@click.option("--listen", default="0.0.0.0:8080", show_default=True, help="Where clients connect.")
@starting.config_option
@starting.management_option
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the port."
)
@click.option("--demo", is_flag=True, help="Demo users and channels; their tokens for anybody on this machine.")
@starting.one_line
def command(listen: str, config: Path | None, management: str, processes: int, demo: bool) -> None:
    """Run a gateway until SIGTERM, then drain it."""
    from chatcluster.app.demo import LOOPBACK
    from chatcluster.app.roles.gateway import gateway
    from chatcluster.app.settings import BadSettings

    settings = starting.settings_of(config)
    address, probes = starting.address("--listen", listen), starting.where(management)
    if demo and (address.host not in LOOPBACK or settings.auth.secret_file is None):
        raise BadSettings("--demo: allowed: with --listen on this machine (127.0.0.1) and auth.secret_file")
    if processes == 1:
        starting.start("gateway", lambda process: gateway(process, settings, address, with_demo=demo), settings, probes)
        return
    if isinstance(probes, Path) or address.port == 0:
        raise BadSettings("--processes: allowed: an address with a port for --listen and for --management")
    from chatcluster.app.logs import write_logs
    from chatcluster.app.roles.pool import Pool

    name = settings.process.named()
    write_logs(settings.logging, role="gateway", name=name)
    child = [sys.executable, "-m", "chatcluster", "gateway", "--listen", listen]
    if config is not None:
        child += ["--config", str(config)]
    starting.run(Pool(child, processes=processes, name=name).run(probes, settings.process.grace))
