"""The CustomResourceDefinition of ChatCluster, generated from ``spec`` and ``status``: structural schema and CEL.

Descriptions are the docstrings of models and of their fields, for ``kubectl explain``.

Pure. ``scripts/generate.py`` writes it to ``crds/``; the checks fail when the file and the models differ.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from chatcluster_operator.spec import GROUP, KIND, PLURAL, VERSION, Spec
from chatcluster_operator.status import Status

_NOT_STRUCTURAL = ("title", "additionalProperties", "const", "$defs", "propertyNames")


def crd() -> dict[str, Any]:
    """The object, as it is applied."""
    columns = [
        ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
        ("Version", "string", ".status.version", 0),
        ("Gateways", "string", ".status.gateways", 0),
        ("Connections", "integer", ".status.components.gateway.connections", 0),
        ("Draining", "integer", ".status.draining", 0),
        ("Phase", "string", ".status.phase", 1),
        ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "chatcluster"}},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["cc"],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _whole()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.gateway.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path} | ({"priority": priority} if priority else {})
                        for name, kind, path, priority in columns
                    ],
                }
            ],
        },
    }


def _whole() -> dict[str, Any]:
    return {
        "description": "A chat platform: gateways, routers, persisters and presence on Redis, Kafka and Cassandra.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            # Children are named after it, and their names are labels: 63 characters in all.
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 40}}},
            "spec": _with_defaults(schema_of(Spec)),
            "status": schema_of(Status),
        },
    }


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The structural schema of a model: no references, no unions, defaults as the API server fills them in."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(raw, raw.get("$defs", {}))


def _with_defaults(node: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of single values in their descriptions, as ``kubectl explain`` does not show them."""
    found = dict(node)
    if not isinstance(node.get("default", {}), dict):
        found["description"] = f"{node['description']} Default: {json.dumps(node['default'])}."
    if "properties" in node:
        found["properties"] = {name: _with_defaults(one) for name, one in node["properties"].items()}
    if "items" in node:
        found["items"] = _with_defaults(node["items"])
    return found


def _structural(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        found = defs[node["$ref"].rpartition("/")[2]]
        node = {**found, **{key: value for key, value in node.items() if key != "$ref"}}
    if "description" in node:  # a docstring: of several lines, in the house's markup
        node = {**node, "description": " ".join(node["description"].replace("``", "").split())}
    if "anyOf" in node:  # X or nothing: a field that may be left out
        [real] = [one for one in node["anyOf"] if one.get("type") != "null"]
        rest = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
        return _structural({**real, **rest}, defs)
    if not node.get("type") and "enum" not in node:
        return {"x-kubernetes-preserve-unknown-fields": True, **_described(node)}
    found = {key: value for key, value in node.items() if key not in _NOT_STRUCTURAL}
    if "const" in node:
        found["enum"] = [node["const"]]
    if "properties" in node:
        found["properties"] = {name: _structural(one, defs) for name, one in node["properties"].items()}
    elif node.get("type") == "object":
        inner = node.get("additionalProperties")
        if isinstance(inner, dict) and inner:
            found["additionalProperties"] = _structural(inner, defs)
        else:
            found["x-kubernetes-preserve-unknown-fields"] = True
    if "items" in node:
        found["items"] = _structural(node["items"], defs)
    if node.get("type") == "integer":
        found["format"] = "int64"
    if "default" in found:
        # Whole: rules are checked against a default before those inside of it are filled in.
        found["default"] = _without_nothing(found["default"])
        if found["default"] is None:
            del found["default"]
    return found


def _described(node: dict[str, Any]) -> dict[str, Any]:
    return {"description": node["description"]} if "description" in node else {}


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nothing(one) for key, one in value.items() if one is not None}
    return value
