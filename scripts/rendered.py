"""Everything that reaches an API server, as files: what the charts render, the manifests, and what the operator makes.

``python scripts/rendered.py FOLDER`` writes them, for the linters of ``make lint-manifests``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import manifests
from charts import CHARTS
from chatcluster_operator.names import COMPONENTS, Cluster
from chatcluster_operator.render import around
from chatcluster_operator.render.workloads import deployment, embedded, gateway, migration, pods_of
from chatcluster_operator.spec import Spec

ROOT = Path(__file__).resolve().parent.parent
KUBERNETES = "1.34.10"

_KEYS = {"name": "login", "key": "password"}
_OUTSIDE: dict[str, Any] = {
    "version": "0.1.0",
    "auth": {"jwks": {"url": "https://id.example/keys"}},
    "api": {"keysSecretRef": _KEYS},
    "dependencies": {
        "redis": {"endpoints": ["redis-0.redis:6379", "redis-1.redis:6379"], "passwordSecretRef": _KEYS},
        "kafka": {"bootstrapServers": ["kafka:9092"], "sasl": {"username": "chat", "passwordSecretRef": _KEYS}},
        "cassandra": {"contactPoints": ["cassandra"], "tls": {"caSecretRef": _KEYS}},
    },
}
SPECS: dict[str, dict[str, Any]] = {
    "hpa": {
        **_OUTSIDE,
        "gateway": {"autoscaling": {"mode": "hpa"}, "exposure": {"ingress": {"host": "chat.example"}}},
        "persister": {"autoscaling": {"mode": "hpa"}},
    },
    "keda": {
        **_OUTSIDE,
        "gateway": {
            "autoscaling": {"mode": "keda", "prometheusAddress": "http://prometheus:9090"},
            "exposure": {"service": {"type": "LoadBalancer"}, "gatewayAPI": {"parentRefs": [{"name": "main"}]}},
        },
    },
    "embedded": {**_OUTSIDE, "dependencies": {"embedded": {}}},
}


def operands(name: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    """The children of a ChatCluster, workloads among them."""
    cluster, spec = Cluster("team", name, "00000000-0000-0000-0000-000000000000"), Spec.model_validate(given)
    found = around(cluster, spec)
    if spec.dependencies.embedded is not None:
        return [*found, embedded(cluster, spec, {})]
    for component in COMPONENTS:
        pods = pods_of(cluster, spec, component, {})
        made = gateway(cluster, pods, 3) if component == "gateway" else deployment(cluster, component, pods, 2)
        if component == "persister" and spec.persister.autoscaling.mode in ("hpa", "keda"):
            del made["spec"]["replicas"]  # as the plan does: somebody else says how many
        found.append(made)
    return [*found, migration(cluster, spec, {})]


def write(folder: Path, helm: Path | None) -> None:
    """Without Helm: all but what the charts render."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, given in {
        **SPECS,
        "example": yaml.safe_load((ROOT / "examples/chatcluster.yaml").read_text())["spec"],
    }.items():
        (folder / f"operands-{name}.yaml").write_text(manifests.written(*operands(name, given)))
    for file in [*sorted((ROOT / "deploy").glob("*.yaml")), ROOT / "examples/chatcluster.yaml"]:
        (folder / f"plain-{file.name}").write_text(file.read_text())
    if helm is None:
        return
    for chart in CHARTS:
        source = ROOT / "helm" / chart
        for values in sorted((source / "ci").glob("*-values.yaml")) or [source / "values.yaml"]:
            text = subprocess.run(
                [helm, "template", chart, source, "--namespace", manifests.NAMESPACE, "--values", values,
                 "--kube-version", KUBERNETES],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            (folder / f"chart-{chart}-{values.stem}.yaml").write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
