"""Long tiers go on where they were cut off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent.parent / "support"
TEST = """
import os
def test_good(): assert True
def test_bad(): assert os.path.exists("mended")
def test_torn(torn): pass
"""
CONFTEST = """
import os, pytest
pytest_plugins = ["resuming"]
@pytest.fixture
def torn():
    yield
    assert os.path.exists("mended")
"""


@pytest.fixture
def run(tmp_path):
    tier = tmp_path / "tests" / "kubernetes"
    tier.mkdir(parents=True)
    (tmp_path / "operator").mkdir()
    (tmp_path / "operator" / "one.py").write_text("A = 1\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tier / "test_it.py").write_text(TEST)

    def outcome(resume="1"):
        environment = {
            **os.environ, "CHATCLUSTER_TEST_RESUME": resume, "CHATCLUSTER_CACHE": str(tmp_path / "cache"),
            "PYTHONPATH": str(SUPPORT), "PYTEST_ADDOPTS": "",
        }  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.stdout.splitlines()[-1]

    return outcome


def test_what_passed_is_not_run_again_and_what_failed_is(run, tmp_path):
    assert run().startswith("1 failed, 2 passed, 1 error")
    (tmp_path / "mended").write_text("")
    assert run().startswith("2 passed, 1 skipped")
    assert run().startswith("3 skipped")
    assert run(resume="0").startswith("3 passed")


def test_any_change_of_an_input_runs_all(run, tmp_path):
    (tmp_path / "mended").write_text("")
    assert run().startswith("3 passed")
    (tmp_path / "operator" / "one.py").write_text("A = 2\n")
    assert run().startswith("3 passed")
