"""``chatcluster bench``: load, open loop, with the physical limit measured in the same run."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import uvloop
from rich.console import Console

from chatcluster.app.bench import scenarios
from chatcluster.app.bench.report import Figure, Latencies, environment, show, write_json
from chatcluster.app.bench.subject import Subject, described, folder_of, pin_load, running, started

Scenario = Callable[[Subject, scenarios.Say], Awaitable[scenarios.Found]]

SCENARIOS: dict[str, list[Scenario]] = {
    "fanout": [
        lambda subject, say: scenarios.fanout(subject, say, sockets=500),
        lambda subject, say: scenarios.fanout(subject, say, sockets=2000),
    ],
    "direct": [scenarios.direct],
    "group": [scenarios.group],
    "huge": [scenarios.huge],
    "idle": [scenarios.idle],
    "reconnect": [scenarios.reconnect],
}


@click.command()
@click.argument("scenario", type=click.Choice([*SCENARIOS, "all"]))
@click.option("--url", help="A running platform (ws://…) instead of one of our own.")
@click.option("--management", default="http://127.0.0.1:8081", show_default=True, help="Its management address.")
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Its data folder."
)
@click.option(
    "--platform", type=click.Path(path_type=Path, exists=True), help="A running platform of many processes, as JSON."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures as JSON, too.")
def command(
    scenario: str, url: str | None, management: str, data: Path, platform: Path | None, json_file: Path | None
) -> None:
    """Measure SCENARIO.

    Our own platform runs on one core, the load on another. A running one must have its limits lifted.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if soft < hard else soft, hard))
    console = Console()
    where = environment()
    console.print(f"[dim]{where['processor']}, {where['cores']} cores, Python {where['python']}, {where['kernel']}[/]")
    figures: list[Figure] = []
    measured: list[Latencies] = []

    async def run() -> None:
        for name in SCENARIOS if scenario == "all" else [scenario]:
            for one in SCENARIOS[name]:
                console.print(f"[bold]{name}[/]")
                # each scenario meets a fresh platform: none inherits another's caches or memory
                if platform is not None:
                    subject = running(described(platform))
                else:
                    subject = started() if url is None else running(folder_of(url, management, data))
                async with contextlib.AsyncExitStack() as stack:
                    opened = await stack.enter_async_context(subject)
                    if url is None:  # a platform of many processes takes the first core, too
                        pin_load()
                    found, times = await one(opened, lambda text: console.print(f"[dim]{text}[/]", highlight=False))
                figures.extend(found)
                measured.extend(times)

    uvloop.run(run())
    show(console, figures, measured)
    if json_file is not None:
        write_json(json_file, figures, measured)
