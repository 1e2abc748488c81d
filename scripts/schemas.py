"""JSON Schemas of Kubernetes' kinds for kubeconform, from the OpenAPI of a real API server of the version we test with.

kubeconform's own are downloaded one by one; these come from the API server that ``scripts/kubernetes.sh`` builds, with
the definitions of ChatCluster, the Gateway API, KEDA and the Prometheus operator applied to it. Made once per version,
into the cache.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/support"))

import control_plane  # noqa: E402 - it is the tests'
import prebuilt  # noqa: E402
from operating import until  # noqa: E402

Schema = dict[str, Any]
_OPEN = {
    # Said to be strings, and numbers as well.
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}


def cache_folder() -> Path:
    """Where ``scripts/kubernetes.sh`` puts what it builds."""
    return prebuilt.cache() / "kubernetes"


def folder_for() -> Path:
    """Where the schemas are; makes them the first time, and anew when a definition changed."""
    binaries = prebuilt.binaries("kwok")
    files = [ROOT / "crds/chatclusters.yaml", *(prebuilt.definitions() / f"{name}.yaml" for name in prebuilt.OTHERS)]
    mark = hashlib.sha256(b"".join(file.read_bytes() for file in [Path(__file__), *files])).hexdigest()[:16]
    folder = binaries.parent / "schemas" / mark
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, schema in schemas(_openapi(files)).items():
            (folder / name).write_text(json.dumps(schema))
        (folder / "done").touch()
    return folder


def _openapi(files: list[Path]) -> Schema:
    with tempfile.TemporaryDirectory() as scratch, control_plane.control_plane(Path(scratch) / "plane") as plane:
        kinds = set()
        for file in files:
            body = yaml.safe_load(file.read_text())
            kinds.add(body["spec"]["names"]["kind"])
            head = body["metadata"]
            plane.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{head['name']}", body)

        def published() -> Schema | None:
            found: Schema = plane.get("/openapi/v2")
            return found if kinds <= {kind["kind"] for kind in _kinds(found)} else None

        found = until(published, 60)
        assert isinstance(found, dict)
        return found


def _kinds(openapi: Schema) -> list[dict[str, str]]:
    return [
        kind for schema in openapi["definitions"].values() for kind in schema.get("x-kubernetes-group-version-kind", ())
    ]


def schemas(openapi: Schema) -> dict[str, Schema]:
    """File name (kubeconform's default pattern) to a schema that needs no other file and knows no other field."""
    definitions = {name: _OPEN.get(name) or _strict(one) for name, one in openapi["definitions"].items()}
    found = {}
    for name, schema in openapi["definitions"].items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            group = f"{kind['group'].partition('.')[0]}-" if kind["group"] else ""
            file = f"{kind['kind']}-{group}{kind['version']}.json".lower()
            needed = _needed(name, definitions, {})
            found[file] = {**definitions[name], "definitions": needed}
    return found


def _strict(node: Schema) -> Schema:
    found = {key: value for key, value in node.items() if not key.startswith("x-kubernetes-")}
    if "properties" in node:
        found["properties"] = {name: _strict(one) for name, one in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            found[key] = _strict(node[key])
    if node.get("x-kubernetes-int-or-string"):
        found["type"] = ["string", "integer"]
    found.pop("format", None)  # int32 and the like say nothing to JSON Schema
    return found


def _needed(name: str, definitions: dict[str, Schema], found: dict[str, Schema]) -> dict[str, Schema]:
    for ref in _refs(definitions[name]):
        if ref not in found:
            found[ref] = definitions[ref]
            _needed(ref, definitions, found)
    return found


def _refs(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {str(node["$ref"]).removeprefix("#/definitions/")} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(_refs(one) for one in node.values()))
    if isinstance(node, list):
        return set().union(*(_refs(one) for one in node))
    return set()


if __name__ == "__main__":
    print(folder_for())
