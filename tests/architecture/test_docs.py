"""Prose that names a file names one that is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")]
    if ".venv" not in path.parts
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())

    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_the_table_of_components_names_files_that_are_there() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("## Where things are")[2].partition("\n## ")[0]
    runtime = ROOT / "runtime" / "chatcluster"
    missing = []
    for cell in re.findall(r"`([^`]+\.py|[a-z_/]+/)`", table):
        folder, brace, names = cell.partition("{")
        if brace:
            inner, _, rest = names.partition("}")
            paths = [f"{folder}{name}{rest}" for name in inner.split(",")]
        else:
            paths = [cell if "/" in cell or cell in {"ports.py"} else f"core/{cell}"]
        missing += [path for path in paths if not (runtime / path).exists() and not (ROOT / path).exists()]
    assert not missing


def test_nothing_names_a_place_on_one_machine() -> None:
    found = subprocess.run(
        ["git", "grep", "-nIE", r"/(work|root|home)/[a-z]", "--", ".", ":!tests/architecture/test_docs.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert not found
