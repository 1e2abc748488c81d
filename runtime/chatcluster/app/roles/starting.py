"""What the commands of all roles have in common: options, settings, and errors in one line."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from chatcluster.app.address import Address
from chatcluster.app.logs import write_logs
from chatcluster.app.roles.process import Role, run_role
from chatcluster.app.roles.settings import ClusterSettings, cluster_settings
from chatcluster.app.settings import BadSettings, read_sections
from chatcluster.ports import Misconfigured, Unavailable

_FILE = click.Path(path_type=Path)

config_option = click.option(
    "--config", type=_FILE, help="Settings in TOML. The environment (CHATCLUSTER_SECTION__KEY) goes before it."
)
management_option = click.option(
    "--management",
    default="127.0.0.1:8081",
    show_default=True,
    help="Probes and metrics: host:port, or the path of a Unix socket.",
)


def address(option: str, text: str) -> Address:
    """An address of the command line. Raises ``BadSettings``."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise BadSettings(f"{option}: {error}") from None


def where(text: str) -> Address | Path:
    """The management address, or a path if there is a slash in it. Raises ``BadSettings``."""
    return Path(text) if "/" in text else address("--management", text)


def one_line(run: Callable[..., None]) -> Callable[..., None]:
    """Faults of settings, servers and addresses end the command with their one line, without a trace."""

    @functools.wraps(run)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            run(*args, **kwargs)
        except* (BadSettings, Misconfigured, Unavailable, OSError) as group:
            cause: BaseException = group
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            raise click.ClickException(str(cause)) from None

    return wrapper


def settings_of(config: Path | None) -> ClusterSettings:
    """The whole settings. Raises ``BadSettings``."""
    return cluster_settings(read_sections(config))


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """On uvloop, until it ends."""
    import uvloop

    uvloop.run(coroutine)


def start(kind: str, role: Role, settings: ClusterSettings, management: Address | Path) -> None:
    """Run a role until it is told to leave."""
    write_logs(settings.logging, role=kind, name=settings.process.named())
    run(run_role(role, kind=kind, settings=settings.process, management=management, ready=_say))


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)
