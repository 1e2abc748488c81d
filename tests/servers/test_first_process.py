"""The command line as the first process of a container, where a signal without a handler does nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a process namespace needs root")
def test_told_to_leave_while_it_starts_it_leaves():
    starting = "import chatcluster.app.cli, time; print('imported', flush=True); time.sleep(60)"
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", starting]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "imported\n"
            first = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
            begun = time.monotonic()
            os.kill(first, signal.SIGTERM)
            assert process.wait(10) == 128 + signal.SIGTERM
            assert time.monotonic() - begun < 5
        finally:
            process.kill()
