"""``chatcluster audit``: recorded histories against the promises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from chatcluster.core.history import BadHistory, Record, encode, read
from chatcluster.core.promises import PROMISES, Audit, check

SHOWN = 20
"""Violations shown one by one; all are counted, and all stand in the JSON."""


def records_of(files: Sequence[Path]) -> Iterator[Record]:
    """All records of the files. Raises ``BadHistory`` with the file's name."""
    for path in files:
        with path.open("rb") as lines:
            try:
                yield from read(lines)
            except BadHistory as error:
                raise BadHistory(f"{path}: {error}") from None


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
def command(files: tuple[Path, ...], as_json: bool) -> None:
    """Check recorded histories (JSON lines, all clients of one run together) against the promises.

    Exits with 1 when one is broken, with 2 when a file cannot be read.
    """
    try:
        audit = check(records_of(files))
    except (BadHistory, OSError) as error:
        click.echo(f"chatcluster audit: {error}", err=True)
        raise SystemExit(2) from None
    if as_json:
        click.echo(msgspec.json.encode(audit).decode())
    else:
        _print(audit)
    if audit.violations:
        raise SystemExit(1)


def _print(audit: Audit) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    table = Table(title="Promises", title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("promise")
    table.add_column("violations", justify="right")
    for number, name in PROMISES.items():
        broken = audit.broken.get(number, 0)
        table.add_row(str(number), name, f"[red]{broken}[/red]" if broken else "0")
    console.print(table)
    counts = Table(title="Counts", title_justify="left", show_header=False)
    for name, count in audit.counts.items():
        counts.add_row(name.replace("_", " "), str(count))
    console.print(counts)
    for channel in audit.unchecked:
        console.print(f"[yellow]not checked for loss[/yellow]: {escape(channel)} has no complete final read")
    if audit.truncated:
        console.print(f"[yellow]{audit.truncated} recordings were truncated[/yellow]: they prove less")
    for violation in audit.violations[:SHOWN]:
        console.print(f"[red]promise {violation.promise}, {violation.name}[/red]: {escape(violation.text)}")
        for witness in violation.witnesses:
            console.print(f"    {escape(encode(witness).decode()[:400])}")
    if len(audit.violations) > SHOWN:
        console.print(f"... and {len(audit.violations) - SHOWN} more (--json has all)")
    if not audit.violations:
        console.print("[green]every promise that this history can show was kept[/green]")
