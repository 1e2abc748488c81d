"""The command line ``chatcluster``. Commands are loaded when they are called: ``dev`` answers within a second."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType

from chatcluster import __version__


def _end(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


if os.getpid() == 1:
    # The kernel drops what the first process of a container has no handler for: told to leave while it still
    # imports, it would stay until it is killed. Each command puts its own in place.
    signal.signal(signal.SIGTERM, _end)

try:
    import click
except ModuleNotFoundError:  # the base install is the client alone
    sys.exit("chatcluster: the command line needs the platform: pip install 'chatcluster[platform]'")

COMMANDS = {
    "audit": "Check recorded histories against the promises.",
    "bench": "Measure a running platform, or one of its own.",
    "channel": "Administer channels through the server API.",
    "chat": "Chat in the terminal.",
    "dev": "The whole platform in one process.",
    "gateway": "A gateway of a cluster.",
    "members": "Administer members through the server API.",
    "migrate": "Topics and schema as the roles of a cluster need them.",
    "persister": "A persister of a cluster.",
    "presence": "A presence node of a cluster.",
    "router": "A router of a cluster.",
    "token": "Development tokens.",
}


class Lazy(click.Group):
    """Finds a command's module by the command's name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"chatcluster.app.commands.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="chatcluster")
def main() -> None:
    """ChatCluster: a chat platform that proves it missed nothing."""
