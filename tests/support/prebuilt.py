"""What ``scripts/kubernetes.sh`` builds and fetches into the cache: Kubernetes, tools, definitions of others' kinds."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
OTHERS = (
    "gateway.networking.k8s.io_httproutes",
    "keda.sh_scaledobjects",
    "monitoring.coreos.com_podmonitors",
    "monitoring.coreos.com_prometheusrules",
)
KUBERNETES = os.environ.get("CHATCLUSTER_TEST_KUBERNETES_VERSION", "1.34.10")


def cache() -> Path:
    """``CHATCLUSTER_CACHE``, or ``chatcluster`` where the user's caches are."""
    given = os.environ.get("CHATCLUSTER_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(home) / "chatcluster"


def folder() -> Path:
    """Where Kubernetes' own binaries are, built or not."""
    return cache() / "kubernetes" / KUBERNETES / "bin"


def built() -> bool:
    """Whether the control plane was built on this machine before."""
    return (folder() / "kubectl").exists()


def binaries(*tools: str) -> Path:
    """The folder of the binaries; builds them, and tools by name, the first time, which takes minutes."""
    subprocess.run([ROOT / "scripts/kubernetes.sh", *tools], stdout=subprocess.DEVNULL, check=True)
    return folder()


def tool(name: str, *, quick: bool = False) -> Path:
    """A program by name. Where it was not built the test is skipped, unless all is to be built

    (``CHATCLUSTER_TEST_KUBERNETES``), or it is ``quick`` to build and Go is there.
    """
    path = cache() / "kubernetes/tools" / name
    if not path.exists():
        if not os.environ.get("CHATCLUSTER_TEST_KUBERNETES") and not (quick and shutil.which("go")):
            pytest.skip(f"build it first: `scripts/kubernetes.sh --only {name}` (needs Go)")
        subprocess.run([ROOT / "scripts/kubernetes.sh", "--only", name], stdout=subprocess.DEVNULL, check=True)
    return path


def definitions() -> Path:
    """The folder with definitions of others' kinds, as their projects ship them, by ``<group>_<plural>.yaml``."""
    path = cache() / "kubernetes/crds"
    if any(not (path / f"{name}.yaml").exists() for name in OTHERS):
        if shutil.which("go") is None:
            pytest.skip("definitions of others are not here, and there is no Go to fetch them with")
        subprocess.run([ROOT / "scripts/kubernetes.sh", "--only", "crds"], stdout=subprocess.DEVNULL, check=True)
    return path


def definition(name: str) -> dict[str, Any]:
    """One of them, of ``OTHERS``."""
    return dict(yaml.safe_load((definitions() / f"{name}.yaml").read_text()))
