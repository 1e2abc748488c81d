"""``python -m chatcluster_stack``: the platform on real servers, on this machine."""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from rich.console import Console
from rich.live import Live

from chatcluster.app.tokens import API_KEY, SIGNING_KEY
from chatcluster_stack import fetch
from chatcluster_stack.named import STEP, Stack, Unknown
from chatcluster_stack.platform import Roles, unlimited
from chatcluster_stack.ports import Taken
from chatcluster_stack.processes import NotReady
from chatcluster_stack.servers import run_folder
from chatcluster_stack.status import Rates, table

ACTIONS = ("kill", "term", "pause", "resume", "start", "restart", "wipe")


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; an error is one line."""
    asked = _parser().parse_args(arguments)
    try:
        asked.run(asked)
    except (fetch.Missing, NotReady, Taken, Unknown) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _up(asked: argparse.Namespace) -> None:
    try:
        stack = Stack.recorded(asked.name)
    except Unknown:
        kinds = ["redis2" if asked.redis == 2 else "redis", "kafka3" if asked.kafka == 3 else "kafka"]
        kinds.append("cassandra3" if asked.cassandra == 3 else "cassandra")
        roles = None
        if not asked.no_platform:
            settings = dict(one.partition("=")[::2] for one in asked.set)
            roles = Roles(
                base=asked.port + STEP * len(kinds),
                routers=asked.routers,
                persisters=asked.persisters,
                presences=asked.presences,
                gateways=asked.gateways,
                settings=unlimited(settings) if asked.unlimited else settings,
            )
        stack = Stack.described(asked.name, kinds, first_port=asked.port, roles=roles)
    begun = time.monotonic()
    stack.start()
    Console().print(table(stack))
    for kind, servers in stack.servers.items():
        print(f"{kind:<11} {servers.address}")
    if stack.record.roles is not None:
        _say(stack)
    print(f"up in {time.monotonic() - begun:.1f} s; python -m chatcluster_stack --name {stack.name} down ends it")


def _say(stack: Stack) -> None:
    platform = stack.platform
    print(f"page        {platform.page}")
    print(f"sockets     {' '.join(stack.urls)}")
    for name in platform.nodes:
        print(f"management  {platform.management(name)}  {name}")
    print(f"server API  {platform.api}/api/v1  key in {platform.folder / API_KEY}")
    print(f"token       chatcluster token mint --user ada --key {platform.folder / SIGNING_KEY}")
    print(f"bench       chatcluster bench SCENARIO --platform {platform.bench}")
    print(f"logs        {platform.folder}/NAME/log")


def _down(asked: argparse.Namespace) -> None:
    stack = Stack.recorded(asked.name)
    stack.stop(wipe=asked.wipe)
    if asked.wipe:  # another description may come up under this name
        shutil.rmtree(run_folder(stack.name), ignore_errors=True)
    print(f"stack {stack.name} is down; its data is {'gone' if asked.wipe else 'kept (--wipe throws it away)'}")


def _status(asked: argparse.Namespace) -> None:
    stack = Stack.recorded(asked.name)
    if not asked.watch:
        Console().print(table(stack))
        return
    rates = Rates()
    with Live(table(stack, rates), auto_refresh=False) as live:
        while True:
            time.sleep(2)
            live.update(table(stack, rates), refresh=True)


def _fetch(asked: argparse.Namespace) -> None:
    fetch.redis()
    fetch.kafka()
    fetch.cassandra()


def _fault(asked: argparse.Namespace) -> None:
    getattr(Stack.recorded(asked.name).node(asked.process), asked.action)()


def _logs(asked: argparse.Namespace) -> None:
    log = Stack.recorded(asked.name).node(asked.process).log
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    print("\n".join(lines[-asked.lines :]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chatcluster_stack", description="The platform on real servers.")
    parser.add_argument("--name", default="stack", help="several stacks may run under different names")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="fetch what is missing, start, wait until all answer")
    up.add_argument("--redis", type=int, choices=(1, 2), default=2)
    up.add_argument("--kafka", type=int, choices=(1, 3), default=3)
    up.add_argument("--cassandra", type=int, choices=(1, 3), default=1)
    up.add_argument("--port", type=int, default=21_000, help="first port")
    up.add_argument("--no-platform", action="store_true", help="servers alone")
    for role, usual in (("routers", 2), ("persisters", 2), ("presences", 1), ("gateways", 2)):
        up.add_argument(f"--{role}", type=int, choices=range(1, 10), default=usual, metavar="1-9")
    up.add_argument("--unlimited", action="store_true", help="without limits of rate, for measuring")
    up.add_argument("--set", action="append", default=[], metavar="CHATCLUSTER_SECTION__KEY=VALUE", help="of all roles")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="end every process by its recorded pid")
    down.add_argument("--wipe", action="store_true", help="throw the data away, too")
    down.set_defaults(run=_down)
    status = commands.add_parser("status", help="a table of the processes")
    status.add_argument("--watch", action="store_true")
    status.set_defaults(run=_status)
    commands.add_parser("fetch", help="only fetch the servers").set_defaults(run=_fetch)
    fault = commands.add_parser("fault", help="break or mend one process")
    fault.add_argument("process")
    fault.add_argument("action", choices=ACTIONS)
    fault.set_defaults(run=_fault)
    logs = commands.add_parser("logs", help="the end of a process's log")
    logs.add_argument("process")
    logs.add_argument("--lines", type=int, default=50)
    logs.set_defaults(run=_logs)
    return parser


if __name__ == "__main__":
    main()
