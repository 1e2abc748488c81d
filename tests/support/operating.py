"""The operator as a process, and waiting for what it does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager

from control_plane import free_port


def until(holds, seconds=60.0, pause=0.1):
    """What ``holds`` gave, as soon as it is something."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"never came: {found!r}"
        time.sleep(pause)


@contextmanager
def operating(plane, folder, *options):
    """An operator's process."""
    conf = plane.config_for("operator", folder / "operator.conf")
    log = folder / "operator.log"
    port = free_port()
    with log.open("ab") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "chatcluster_operator", "--kubeconfig", str(conf)),
                *("--listen", f"127.0.0.1:{port}", "--lease-namespace", "default", *options),
            ],
            stdout=out,
            stderr=out,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    process.log, process.port = log, port  # type: ignore[attr-defined]
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
