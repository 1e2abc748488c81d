"""Prometheus' own tools and definitions, built or fetched from Go's modules on first use, and what runs on them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane import ROOT

DEFINITIONS = "github.com/prometheus-operator/prometheus-operator@v0.85.0/example/prometheus-operator-crd"


def _cache() -> Path:
    cache = (
        os.environ.get("CHATCLUSTER_CACHE") or f"{os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')}/chatcluster"
    )
    return Path(cache) / "kubernetes"


def tool(name: str) -> Path:
    """The path of ``promtool`` or ``prometheus``. Skips the test only where it is not built and Go is not there."""
    path = _cache() / "tools" / name
    if not path.exists():
        if shutil.which("go") is None:
            pytest.skip(f"{name} is not built, and there is no Go to build it with")
        subprocess.run([ROOT / "scripts/kubernetes.sh", "--only", name], check=True, stdout=subprocess.DEVNULL)
    return path


def definitions() -> list[dict[str, Any]]:
    """PodMonitor's and PrometheusRule's, as the Prometheus operator ships them."""
    folder = _cache() / "go/mod" / DEFINITIONS
    if not folder.exists():
        if shutil.which("go") is None:
            pytest.skip("the Prometheus operator's definitions are not here, and there is no Go to fetch them with")
        subprocess.run([ROOT / "scripts/kubernetes.sh", "--only", "monitoring"], check=True, stdout=subprocess.DEVNULL)
    names = ("podmonitors", "prometheusrules")
    return [yaml.safe_load((folder / f"monitoring.coreos.com_{name}.yaml").read_text()) for name in names]


def promtool(*arguments: object, folder: Path) -> str:
    """What it said. Fails the test with that when it found something."""
    done = subprocess.run(
        [tool("promtool"), *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
