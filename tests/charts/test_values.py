"""How schemas and READMEs are made of ``values.yaml`` (``scripts/charts.py``)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import charts

ROOT = Path(__file__).resolve().parents[2]
TEXT = """# How many.
replicas: 2

# What runs.
image:
  # Its name,
  # whole.
  name: x

# The user's own.
# @schema {additionalProperties: {type: string}}
labels:
  any: thing
"""


def test_comments_are_meanings_and_defaults_are_types():
    schema = charts.schema_for("x", charts.values_of(TEXT))
    properties = schema["properties"]
    assert schema["additionalProperties"] is False
    assert properties["replicas"] == {"type": "integer", "description": "How many."}
    assert properties["image"]["properties"]["name"]["description"] == "Its name, whole."
    assert properties["image"]["additionalProperties"] is False
    assert properties["labels"]["additionalProperties"] == {"type": "string"}


@pytest.mark.parametrize("text", ["replicas: 2\n", "# A.\na:\n  b: 1\n", "# A.\n\na: 1\n"])
def test_a_key_without_a_comment_is_an_error(text):
    with pytest.raises(ValueError, match="has no comment above it"):
        charts.values_of(text)


@pytest.mark.parametrize("chart", charts.CHARTS)
def test_every_key_of_a_chart_is_in_its_schema_and_its_readme(chart):
    folder = ROOT / "helm" / chart
    values = yaml.safe_load((folder / "values.yaml").read_text())
    schema = json.loads((folder / "values.schema.json").read_text())
    readme = (folder / "README.md").read_text()
    known = {name for name in schema["properties"] if name not in ("global", "enabled")}
    assert known == set(values)
    for name in known:
        assert schema["properties"][name]["description"].endswith("."), name
        assert f"| `{name}" in readme
