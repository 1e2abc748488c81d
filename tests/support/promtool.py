"""Prometheus' own judge of rules, and what it says."""

from __future__ import annotations

import subprocess
from pathlib import Path

from prebuilt import tool


def promtool(*arguments: object, folder: Path) -> str:
    """What it said. Fails the test with that when it found something."""
    done = subprocess.run(
        [tool("promtool", quick=True), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
