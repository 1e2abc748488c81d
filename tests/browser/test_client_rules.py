"""The page's client keeps the client's rules: its own tests, run by Node where there is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="no Node here")
def test_the_client_keeps_the_rules() -> None:
    tests = Path(__file__).with_name("client.test.mjs")
    done = subprocess.run([str(NODE), "--test", str(tests)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout or "fail 0" in done.stdout
