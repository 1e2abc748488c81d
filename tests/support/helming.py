"""Helm 3 and 4, built from their sources, and what they make of our charts."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from prebuilt import KUBERNETES, ROOT, tool

CHARTS = ROOT / "helm"
VERSIONS = ("helm", "helm4")
"""Programs, of both majors."""


class Refused(Exception):
    """What Helm said."""


def run(helm: str, *arguments: str | Path, kubeconfig: Path | None = None) -> str:
    """Its output. Raises ``Refused``."""
    with tempfile.TemporaryDirectory() as home:  # nothing of the user's own Helm
        environment = {"PATH": os.environ["PATH"], "HOME": home}
        if kubeconfig is not None:
            environment["KUBECONFIG"] = str(kubeconfig)
        done = subprocess.run(
            [tool(helm), *arguments], capture_output=True, text=True, env=environment, check=False, timeout=180
        )
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def templated(
    chart: str,
    values: dict[str, Any] | None = None,
    *,
    helm: str = "helm",
    release: str | None = None,
    namespace: str = "chatcluster-system",
) -> list[dict[str, Any]]:
    """The objects of a chart. Raises ``Refused``."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values or {}, file)
        file.flush()
        text = run(
            helm,
            *("template", release or chart, CHARTS / chart, "--namespace", namespace, "--values", file.name),
            *("--kube-version", KUBERNETES),
        )
    return [one for one in yaml.safe_load_all(text) if one is not None]


__all__ = ["CHARTS", "KUBERNETES", "VERSIONS", "Refused", "run", "templated"]
