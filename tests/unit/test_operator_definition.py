"""The definition of ChatCluster: what ``kubectl explain`` tells of it, and that it can be applied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from chatcluster_operator.crd import crd, schema_of
from chatcluster_operator.fields import Model
from chatcluster_operator.spec import Spec
from chatcluster_operator.status import Status

ROOT = Path(__file__).resolve().parents[2]


def fields(node, path):
    """Path and schema of every field below, those of items and of values of maps among them."""
    for name, one in node.get("properties", {}).items():
        yield f"{path}.{name}", one
        yield from fields(one, f"{path}.{name}")
    if "items" in node:
        yield from fields(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from fields(node["additionalProperties"], f"{path}{{}}")


def whole():
    [version] = crd()["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]["properties"]


@pytest.mark.parametrize("part", ["spec", "status"])
def test_every_field_is_described(part):
    found = dict(fields({"properties": {part: whole()[part]}}, "chatcluster"))
    assert len(found) > (150 if part == "spec" else 30)
    texts = {path: one.get("description", "") for path, one in found.items()}
    assert not [path for path, text in texts.items() if not text]
    for path, text in texts.items():
        assert text.endswith("."), path
        assert "``" not in text, path
        assert text == " ".join(text.split()), path


def test_a_field_without_a_description_is_found():
    class Inner(Model):
        """Inside of a list."""

        said: int = 0
        """It is."""
        unsaid: int = 0

    class Outer(Model):
        """Outside."""

        inner: list[Inner] | None = None
        """What is inside."""

    found = dict(fields(schema_of(Outer), "x"))
    assert [path for path, one in found.items() if not one.get("description")] == ["x.inner[].unsaid"]


def test_defaults_are_told_where_they_are_not_seen_else():
    spec = whole()["spec"]["properties"]
    assert spec["routing"]["properties"]["inboxFanoutLimit"]["description"].endswith(" Default: 500.")
    assert "Default" not in spec["routing"]["description"], "its fields tell theirs"
    assert "Default" not in schema_of(Spec)["properties"]["paused"]["description"], "READMEs have a column for it"


def test_descriptions_change_nothing_else():
    """Defaults, rules and pruning are those of the models."""

    def bare(node, *, names=False):
        if isinstance(node, list):
            return [bare(one) for one in node]
        if not isinstance(node, dict):
            return node
        return {
            key: bare(value, names=key == "properties" and not names)
            for key, value in node.items()
            if names or key != "description"
        }

    for part, model in (("spec", Spec), ("status", Status)):
        assert bare(whole()[part]) == bare(schema_of(model))


def test_it_is_small_enough_for_kubectl_apply():
    """Which keeps what it applied in an annotation: 262,144 bytes of all annotations."""
    assert len(json.dumps(crd(), separators=(",", ":"))) < 200_000
    for file in ("crds/chatclusters.yaml", "deploy/olm/bundle/manifests/chatclusters.crd.yaml"):
        applied = yaml.safe_load((ROOT / file).read_text())
        assert len(json.dumps(applied, separators=(",", ":"))) < 200_000, file
