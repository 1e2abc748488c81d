"""A wrong wall clock for one process, under uvloop; what is monotonic stays true."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatcluster_stack.faketime import WrongClock
from real_servers import needed

ASKED = """
import sys, time, uvloop
async def main():
    for _ in sys.stdin:
        boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        print(time.time(), time.monotonic(), boot, flush=True)
uvloop.run(main())
"""


def test_the_offset_moves_while_it_runs(tmp_path: Path) -> None:
    clock = WrongClock(tmp_path / "offset", 3600)
    with needed("faketime"):
        environment = {**os.environ, **clock.environment()}
    with subprocess.Popen(
        [sys.executable, "-c", ASKED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for offset in (3600, -120, 0):
            clock.set(offset)
            process.stdin.write("\n")
            process.stdin.flush()
            wall, monotonic, boot = map(float, process.stdout.readline().split())
            assert wall - time.time() == pytest.approx(offset, abs=30)
            assert monotonic == pytest.approx(time.monotonic(), abs=30)
            assert boot == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=30)
        process.stdin.close()
