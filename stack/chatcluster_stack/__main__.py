"""``python -m chatcluster_stack``: real servers on this machine; the platform's roles do not join yet."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from chatcluster_stack import fetch
from chatcluster_stack.named import Stack, Unknown
from chatcluster_stack.ports import Taken
from chatcluster_stack.processes import Node, NotReady, started_at

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


def table(stack: Stack) -> Table:
    """What runs: one row per process."""
    rows = Table(title=f"stack {stack.name}")
    for title in ("process", "pid", "up", "CPU", "memory", "state"):
        rows.add_column(title, justify="left" if title in {"process", "state"} else "right")
    for name, node in stack.nodes.items():
        rows.add_row(name, *_row(node))
    return rows


def _row(node: Node) -> list[str]:
    pid = node.pid
    began = None if pid is None else started_at(pid)
    if pid is None or began is None:
        return ["", "", "", "", "[red]down[/]"]
    ticks = os.sysconf("SC_CLK_TCK")
    try:
        up = float(Path("/proc/uptime").read_text().split()[0]) - began / ticks
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # gone since
        return ["", "", "", "", "[red]down[/]"]
    cpu = (int(fields[11]) + int(fields[12])) / ticks / max(up, 0.01)
    memory = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1024 / 1024
    if fields[0] == "T":
        state = "[yellow]paused[/]"
    else:
        state = "[green]ready[/]" if node.answers() else "[yellow]does not answer[/]"
    return [str(pid), f"{up:.0f} s", f"{cpu:.1%}", f"{memory:.0f} MB", state]


def _up(asked: argparse.Namespace) -> None:
    try:
        stack = Stack.recorded(asked.name)
    except Unknown:
        kinds = ["redis2" if asked.redis == 2 else "redis", "kafka3" if asked.kafka == 3 else "kafka"]
        kinds.append("cassandra3" if asked.cassandra == 3 else "cassandra")
        stack = Stack.described(asked.name, kinds, first_port=asked.port)
    begun = time.monotonic()
    stack.start()
    Console().print(table(stack))
    for kind, servers in stack.groups.items():
        print(f"{kind:<11} {servers.address}")
    print(f"up in {time.monotonic() - begun:.1f} s; python -m chatcluster_stack down ends it")


def _down(asked: argparse.Namespace) -> None:
    stack = Stack.recorded(asked.name)
    stack.stop(wipe=asked.wipe)
    if asked.wipe:  # another description may come up under this name
        (fetch.cache() / "run" / stack.name / "stack.json").unlink()
    print(f"stack {stack.name} is down; its data is {'gone' if asked.wipe else 'kept (--wipe throws it away)'}")


def _status(asked: argparse.Namespace) -> None:
    stack = Stack.recorded(asked.name)
    if not asked.watch:
        Console().print(table(stack))
        return
    with Live(table(stack), auto_refresh=False) as live:
        while True:
            time.sleep(2)
            live.update(table(stack), refresh=True)


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
    parser = argparse.ArgumentParser(prog="chatcluster_stack", description="Real servers on this machine.")
    parser.add_argument("--name", default="stack", help="several stacks may run under different names")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="fetch what is missing, start, wait until all answer")
    up.add_argument("--redis", type=int, choices=(1, 2), default=2)
    up.add_argument("--kafka", type=int, choices=(1, 3), default=3)
    up.add_argument("--cassandra", type=int, choices=(1, 3), default=1)
    up.add_argument("--port", type=int, default=21_000, help="first port")
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
