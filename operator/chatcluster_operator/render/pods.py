"""Pod templates: what all components' pods have in common, and what each has of its own. Pure.

Every pod keeps the restricted Pod Security standard: no root, no privileges, a read-only root, no token of the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatcluster_operator.names import (
    CONFIG_HASH,
    LINK,
    MANAGEMENT,
    SECRETS_HASH,
    SOCKETS,
    VERSION,
    Cluster,
    Component,
    hash_of,
)
from chatcluster_operator.render.config import FOLDER, GRACE, SECRETS, Told, config_name
from chatcluster_operator.spec import Component as Shape
from chatcluster_operator.spec import Resources, Spec

REGISTRY = "ghcr.io/chatcluster/chatcluster"
USER = 10001

_AMOUNTS: Mapping[str, tuple[str, str, str]] = {  # cpu request, memory request, memory limit
    "gateway": ("500m", "512Mi", "1Gi"),
    "router": ("500m", "384Mi", "768Mi"),
    "persister": ("500m", "512Mi", "1Gi"),
    "presence": ("250m", "256Mi", "512Mi"),
    "migrate": ("100m", "128Mi", "256Mi"),
    "embedded": ("500m", "512Mi", "1Gi"),
}


def image_of(spec: Spec) -> str:
    """What runs."""
    # A tag has no +, which version may have before its build: _ stands for it, as in Helm's registries.
    return spec.image or f"{REGISTRY}:{(spec.version or '').replace('+', '_')}"


def version_of(spec: Spec) -> str:
    """A name of what runs, for order and for labels."""
    return spec.version or hash_of(spec.image)


def grace_of(spec: Spec, component: str) -> int:
    """Seconds from SIGTERM until the kubelet kills: what leaving may take, and room to end."""
    if component in ("gateway", "embedded"):
        return spec.gateway.drain.deadline_seconds + 30
    return GRACE + 15


def memory_limit(spec: Spec, component: str) -> float | None:
    """In bytes; None: no limit."""
    shape: Shape = spec.gateway if component == "embedded" else getattr(spec, component)
    text = (_resources(component, shape.resources).get("limits") or {}).get("memory")
    return None if text is None else bytes_of(text)


_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def bytes_of(quantity: str) -> float:
    """Of a quantity as ``spec.Quantity`` allows it."""
    for unit, factor in _UNITS.items():
        if quantity.endswith(unit):
            return float(quantity.removesuffix(unit)) * factor
    return float(quantity)


def template(
    cluster: Cluster,
    spec: Spec,
    component: Component | str,
    told: Told,
    secrets: Mapping[str, str],
    *,
    shape: Shape | None = None,
    volumes: tuple[dict[str, Any], ...] = (),
    mounts: tuple[dict[str, Any], ...] = (),
    probed: bool = True,
) -> dict[str, Any]:
    """The pod template of a component. ``secrets``: revision by name of a Secret, of those that are there."""
    shape = shape or Shape()
    used = sorted(told.secrets)
    annotations = {
        **(shape.pod_annotations or {}),
        CONFIG_HASH: hash_of(told.toml()),
        SECRETS_HASH: hash_of({name: secrets.get(name, "") for name in used}),
        VERSION: version_of(spec),
    }
    container: dict[str, Any] = {
        "name": component,
        "image": image_of(spec),
        "imagePullPolicy": spec.image_pull_policy,
        "args": _arguments(spec, component),
        "resources": _resources(component, shape.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "privileged": False,
        },
        "volumeMounts": [
            {"name": "config", "mountPath": FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an empty folder of the pod's own
            *(
                {"name": f"secret-{i}", "mountPath": f"{SECRETS}/{name}", "readOnly": True}
                for i, name in enumerate(used)
            ),
            *mounts,
        ],
    }
    if component != "embedded":
        named = {"fieldRef": {"fieldPath": "metadata.name"}}
        container["env"] = [{"name": "CHATCLUSTER_PROCESS__NAME", "valueFrom": named}]
    if probed:
        container["ports"] = _ports(component)
        container |= _probes()
    pod: dict[str, Any] = {
        "serviceAccountName": cluster.child("runtime"),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_of(spec, component),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": config_name(cluster, component, told)}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            *({"name": f"secret-{i}", "secret": {"secretName": name}} for i, name in enumerate(used)),
            *volumes,
        ],
    }
    if spec.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": one.name} for one in spec.image_pull_secrets]
    if shape.node_selector:
        pod["nodeSelector"] = dict(shape.node_selector)
    if shape.tolerations:
        pod["tolerations"] = list(shape.tolerations)
    if shape.affinity:
        pod["affinity"] = dict(shape.affinity)
    if shape.priority_class_name:
        pod["priorityClassName"] = shape.priority_class_name
    if probed:
        pod["topologySpreadConstraints"] = _spread(cluster, component, shape)
    labels = {**(shape.pod_labels or {}), **cluster.labels(component)}
    return {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod}


def _arguments(spec: Spec, component: str) -> list[str]:
    options = ["--config", f"{FOLDER}/config.toml"]
    management = ["--management", f"0.0.0.0:{MANAGEMENT}"]
    if component == "migrate":
        return ["migrate", *options]
    if component == "embedded":
        return ["dev", *options, *management, "--listen", f"0.0.0.0:{SOCKETS}", "--data", "/data", "--no-demo"]
    if component == "gateway":
        several = ["--processes", str(spec.gateway.processes)] if spec.gateway.processes > 1 else []
        return ["gateway", *options, *management, "--listen", f"0.0.0.0:{SOCKETS}", *several]
    return [component, *options, *management]


def _ports(component: str) -> list[dict[str, Any]]:
    found = [{"name": "management", "containerPort": MANAGEMENT, "protocol": "TCP"}]
    if component in ("gateway", "embedded"):
        found.append({"name": "sockets", "containerPort": SOCKETS, "protocol": "TCP"})
    if component in ("router", "presence"):
        found.append({"name": "link", "containerPort": LINK, "protocol": "TCP"})
    return found


def _probes() -> dict[str, Any]:
    def get(path: str, period: int, failures: int) -> dict[str, Any]:
        return {
            "httpGet": {"path": path, "port": "management", "scheme": "HTTP"},
            "periodSeconds": period,
            "timeoutSeconds": 3,
            "failureThreshold": failures,
            "successThreshold": 1,
        }

    return {
        "startupProbe": get("/healthz", 1, 60),
        "livenessProbe": get("/healthz", 10, 3),
        "readinessProbe": get("/readyz", 3, 2),
    }


def _resources(component: str, given: Resources | None) -> dict[str, Any]:
    if given is not None:
        return given.model_dump(by_alias=True, exclude_none=True)
    cpu, memory, most = _AMOUNTS[component]
    # No limit of CPU: throttling one process stalls every socket that it holds.
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": most}}


def _spread(cluster: Cluster, component: str, shape: Shape) -> list[dict[str, Any]]:
    if shape.topology_spread_constraints is not None:
        return list(shape.topology_spread_constraints)
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": cluster.selector(component)},
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]
