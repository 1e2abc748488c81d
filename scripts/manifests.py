"""The operator's installation as plain objects: ``deploy/*.yaml``, and what the OLM bundle holds of it.

They say what the chart says with its defaults; ``tests/charts`` holds the two against each other.
"""

from __future__ import annotations

from typing import Any

import yaml

from chatcluster import __version__
from chatcluster_operator.crd import crd
from chatcluster_operator.rbac import LEASE, rules
from chatcluster_operator.render.pods import REGISTRY, USER
from chatcluster_operator.spec import GROUP, PLURAL

Object = dict[str, Any]
NAME = "chatcluster-operator"
NAMESPACE = "chatcluster-system"
IMAGE = f"{REGISTRY}-operator:{__version__}"
PORT = 8082
RBAC = "rbac.authorization.k8s.io"
_SELECTOR = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": NAME}
_PARTS = {"app.kubernetes.io/component": "operator", "app.kubernetes.io/part-of": "chatcluster"}

API_SERVER = (443, 6443, 8443, 16443)
"""Ports that API servers listen on: as most, of minikube, of MicroK8s. What the chart allows, too."""


def _object(api: str, kind: str, name: str, namespace: str | None = NAMESPACE, **body: Any) -> Object:
    metadata: Object = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    metadata["labels"] = {**_SELECTOR, **_PARTS, "app.kubernetes.io/version": __version__}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **body}


def pod(namespaces: list[str], environment: list[Object]) -> Object:
    """The operator's pod template. Keeps the restricted Pod Security standard; its root is read-only."""

    def field(name: str, path: str) -> Object:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    def probe(path: str, period: int, failures: int) -> Object:
        return {
            "httpGet": {"path": path, "port": "management"},
            "periodSeconds": period,
            "timeoutSeconds": 3,
            "failureThreshold": failures,
        }

    near = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": dict(_SELECTOR)}}
    container: Object = {
        "name": "operator",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            f"--listen=0.0.0.0:{PORT}",
            f"--lease-name={NAME}",
            "--log-level=info",
            *(f"--namespace={one}" for one in namespaces),
        ],
        "env": [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"), *environment],
        "ports": [{"name": "management", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": probe("/healthz", 2, 30),
        "livenessProbe": probe("/healthz", 10, 3),
        "readinessProbe": probe("/readyz", 5, 2),
        # No limit of CPU: an operator that is throttled may lose its Lease.
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "32Mi"},
            "limits": {"memory": "512Mi", "ephemeral-storage": "128Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - an empty folder of the pod's own
    }
    return {
        "metadata": {"labels": {**_SELECTOR, **_PARTS}},
        "spec": {
            "serviceAccountName": NAME,
            "automountServiceAccountToken": True,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 20,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "affinity": {
                "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": near}]
                }
            },
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": key,
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": dict(_SELECTOR)},
                }
                for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
            ],
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}],
        },
    }


def deployment_spec(namespaces: list[str], environment: list[Object] | None = None) -> Object:
    """Of two replicas: one leads."""
    return {
        "replicas": 2,
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": dict(_SELECTOR)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": pod(namespaces, environment or []),
    }


def _bound(kind: str, name: str, namespace: str | None, granted: list[Object]) -> list[Object]:
    """A role, and its binding to the operator's account."""
    api = f"{RBAC}/v1"
    return [
        _object(api, kind, name, namespace, rules=granted),
        _object(
            api,
            f"{kind}Binding",
            name,
            namespace,
            roleRef={"apiGroup": RBAC, "kind": kind, "name": name},
            subjects=[{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
        ),
    ]


def disruption_budget() -> Object:
    """One operator at a time."""
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": dict(_SELECTOR)}}
    return _object("policy/v1", "PodDisruptionBudget", NAME, spec={**spec, "unhealthyPodEvictionPolicy": "AlwaysAllow"})


def network_policy(namespaces: list[str]) -> Object:
    """Metrics in; DNS, API server, and the pods of ChatClusters out."""

    def ports(*numbers: int | str, protocols: tuple[str, ...] = ("TCP",)) -> list[Object]:
        return [{"protocol": protocol, "port": number} for number in numbers for protocol in protocols]

    where: Object = {}
    if namespaces:
        one = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(namespaces)}
        where = {"matchExpressions": [one]}
    theirs = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "chatcluster"}}, "namespaceSelector": where}
    spec = {
        "podSelector": {"matchLabels": dict(_SELECTOR)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": ports("management")}],
        "egress": [
            {"ports": ports(53, 5353, protocols=("UDP", "TCP"))},
            {"ports": ports(*API_SERVER)},
            {"to": [theirs], "ports": ports(8081)},
        ],
    }
    return _object("networking.k8s.io/v1", "NetworkPolicy", NAME, spec=spec)


def installation(*, namespaced: bool) -> list[Object]:
    """Everything but the definition. ``namespaced``: for the ChatClusters of its own namespace alone."""
    watched = [NAMESPACE] if namespaced else []
    roles = ("Role", NAME, NAMESPACE) if namespaced else ("ClusterRole", NAME, None)
    return [
        _object("v1", "ServiceAccount", NAME, automountServiceAccountToken=False),
        *_bound(*roles, rules()),
        *_bound("Role", f"{NAME}-lease", NAMESPACE, rules(LEASE)),
        disruption_budget(),
        network_policy(watched),
        _object("apps/v1", "Deployment", NAME, spec=deployment_spec(watched)),
    ]


def aggregated() -> list[Object]:
    """Who may view, edit or administer a namespace may do so with its ChatClusters."""
    found = []
    for role, verbs, part, more in (
        ("view", ["get", "list", "watch"], "status", ["get"]),
        ("edit", ["create", "delete", "deletecollection", "patch", "update"], "scale", ["get", "patch", "update"]),
    ):
        granted = [
            {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": verbs},
            {"apiGroups": [GROUP], "resources": [f"{PLURAL}/{part}"], "verbs": more},
        ]
        made = _object(f"{RBAC}/v1", "ClusterRole", f"{PLURAL}-{role}", None, rules=granted)
        made["metadata"]["labels"] = {
            "app.kubernetes.io/name": "chatcluster-crds",
            "app.kubernetes.io/instance": "chatcluster-crds",
            "app.kubernetes.io/part-of": "chatcluster",
            f"{RBAC}/aggregate-to-{role}": "true",
        }
        if role == "edit":
            made["metadata"]["labels"][f"{RBAC}/aggregate-to-admin"] = "true"
        found.append(made)
    return found


def namespace() -> Object:
    """The operator's namespace, in which no pod may be more than restricted."""
    found = _object("v1", "Namespace", NAMESPACE, None)
    found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "restricted"
    return found


_HEAD = "# Generated by `make docs`: do not edit. How to use it: docs/install.md.\n"
_WHOLE = "# The definition of ChatCluster, and an operator for the ChatClusters of all namespaces.\n"
_NAMESPACED = f"""# An operator for the ChatClusters of namespace {NAMESPACE} alone, with no right outside of it.
# The definition must be there before, from somebody who may: crds/chatclusters.yaml.
"""


class _Dumper(yaml.SafeDumper):
    """Lists are indented, and nothing is said by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def written(*objects: Object) -> str:
    """As YAML documents."""
    return "---\n".join(yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=120) for one in objects)


def documents() -> dict[str, str]:
    """Path to text of the plain manifests."""
    return {
        "deploy/chatcluster-operator.yaml": _HEAD
        + _WHOLE
        + written(crd(), *aggregated(), namespace(), *installation(namespaced=False)),
        "deploy/chatcluster-operator-namespaced.yaml": _HEAD
        + _NAMESPACED
        + written(namespace(), *installation(namespaced=True)),
    }
