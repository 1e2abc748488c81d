"""A process for the time of a block."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def running(command: Sequence[Any], log: Path, *, patience: float = 20.0, **options: Any) -> Iterator[subprocess.Popen]:
    """Its output is added to ``log``. In the end it is told to end, and killed when it does not in ``patience`` s."""
    with log.open("ab") as out:
        process = subprocess.Popen([*map(str, command)], stdout=out, stderr=out, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
