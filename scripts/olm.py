"""The OLM bundle in ``deploy/olm``: the operator as the Operator Lifecycle Manager installs it.

Made of the same tables as charts and manifests. OLM turns ``permissions`` into Roles in the namespaces that an
OperatorGroup names, or into a ClusterRole when it names none: both profiles by one bundle.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import yaml

import manifests
from chatcluster import __version__
from chatcluster_operator.crd import crd
from chatcluster_operator.rbac import LEASE, rules
from chatcluster_operator.spec import GROUP, KIND, PLURAL, VERSION

PACKAGE = "chatcluster-operator"
CHANNEL = "alpha"
FOLDER = "deploy/olm"
_LABELS = {
    "operators.operatorframework.io.bundle.mediatype.v1": "registry+v1",
    "operators.operatorframework.io.bundle.manifests.v1": "manifests/",
    "operators.operatorframework.io.bundle.metadata.v1": "metadata/",
    "operators.operatorframework.io.bundle.package.v1": PACKAGE,
    "operators.operatorframework.io.bundle.channels.v1": CHANNEL,
    "operators.operatorframework.io.bundle.channel.default.v1": CHANNEL,
}
_ABOUT = """ChatCluster is a chat platform: gateways that hold WebSockets, routers, persisters and presence, on Redis,
Kafka and Cassandra that you bring. This operator runs it from one resource, `ChatCluster`: it brings the components up,
upgrades them in order, drains gateways at a pace before they end, and scales them.

Redis, Kafka and Cassandra are not part of it (`dependencies.embedded` runs without them, for trying it out).
"""


def csv(root: Path) -> dict[str, Any]:
    """The ClusterServiceVersion."""
    example = yaml.safe_load((root / "examples/chatcluster.yaml").read_text())
    targets = {"fieldRef": {"fieldPath": "metadata.annotations['olm.targetNamespaces']"}}
    watched = [{"name": "CHATCLUSTER_OPERATOR_NAMESPACES", "valueFrom": targets}]
    return {
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": {
            "name": f"{PACKAGE}.v{__version__}",
            "namespace": "placeholder",
            "annotations": {
                "alm-examples": json.dumps([example], indent=2),
                "capabilities": "Seamless Upgrades",
                "categories": "Networking, Streaming & Messaging",
                "containerImage": manifests.IMAGE,
                "description": "Runs chat clusters: ordered upgrades, paced drains, autoscaling.",
                "support": "The ChatCluster authors",
                "operatorframework.io/suggested-namespace": manifests.NAMESPACE,
            },
        },
        "spec": {
            "displayName": "ChatCluster",
            "description": _ABOUT,
            "version": __version__,
            "minKubeVersion": "1.29.0",
            "maturity": "alpha",
            "provider": {"name": "The ChatCluster authors"},
            "keywords": ["chat", "websocket", "messaging"],
            "icon": [{"base64data": _icon(root), "mediatype": "image/svg+xml"}],
            "installModes": [
                {"type": mode, "supported": True}
                for mode in ("OwnNamespace", "SingleNamespace", "MultiNamespace", "AllNamespaces")
            ],
            "customresourcedefinitions": {
                "owned": [
                    {
                        "name": f"{PLURAL}.{GROUP}",
                        "kind": KIND,
                        "version": VERSION,
                        "displayName": "Chat cluster",
                        "description": "A chat platform: gateways, routers, persisters and presence.",
                    }
                ]
            },
            "install": {
                "strategy": "deployment",
                "spec": {
                    "permissions": [{"serviceAccountName": manifests.NAME, "rules": rules() + rules(LEASE)}],
                    "deployments": [{"name": manifests.NAME, "spec": manifests.deployment_spec([], watched)}],
                },
            },
        },
    }


def _icon(root: Path) -> str:
    return base64.b64encode((root / FOLDER / "icon.svg").read_bytes()).decode()


def documents(root: Path) -> dict[str, str]:
    """Path to text of the bundle."""
    bundle = f"{FOLDER}/bundle"
    lines = [f"LABEL {name}={value}" for name, value in _LABELS.items()]
    return {
        f"{bundle}/manifests/{PACKAGE}.clusterserviceversion.yaml": manifests.written(csv(root)),
        f"{bundle}/manifests/{PLURAL}.crd.yaml": manifests.written(crd()),
        f"{bundle}/manifests/{PACKAGE}.networkpolicy.yaml": manifests.written(_bare(manifests.network_policy([]))),
        f"{bundle}/manifests/{PACKAGE}.poddisruptionbudget.yaml": manifests.written(
            _bare(manifests.disruption_budget())
        ),
        f"{bundle}/metadata/annotations.yaml": manifests.written({"annotations": dict(_LABELS)}),
        f"{FOLDER}/bundle.Dockerfile": "\n".join(
            [
                "# Generated by `make docs`: do not edit. Built in this folder: docker build -f bundle.Dockerfile .",
                "FROM scratch",
                *lines,
                "COPY bundle/manifests /manifests/",
                "COPY bundle/metadata /metadata/",
                "",
            ]
        ),
    }


def _bare(thing: dict[str, Any]) -> dict[str, Any]:
    """Without a namespace: OLM says which."""
    head = {key: value for key, value in thing["metadata"].items() if key != "namespace"}
    return {**thing, "metadata": head}
