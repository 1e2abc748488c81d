"""Generates what is derived from the code: the protocol's JSON Schema, the server API's OpenAPI description, the

reference of all settings, the definition of ChatCluster, what of charts and manifests is derived, and rules and
dashboards for whoever has no operator (the operator's own rules for its chart, too).

``python scripts/generate.py`` writes them into ``docs/``, ``crds/``, ``helm/``, ``deploy/`` and ``monitoring/``; with
``--check`` it writes nothing and fails on drift.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import yaml

import charts
import manifests
import olm
from chatcluster.app.platform_settings import section_type
from chatcluster.app.roles.settings import ClusterSettings
from chatcluster.app.server_api import openapi
from chatcluster.core.codes import Close, ErrorCode
from chatcluster.core.frames import JSON_PROTOCOL, MSGPACK_PROTOCOL, ClientFrame, ServerFrame
from chatcluster_operator.crd import crd
from chatcluster_operator.render.observability import monitoring

ROOT = Path(__file__).resolve().parent.parent


def protocol_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of every frame: ``ClientFrame`` and ``ServerFrame`` are the two unions."""
    (client, server), components = msgspec.json.schema_components(
        [ClientFrame, ServerFrame], ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:chatcluster:protocol:v1",
        "title": "ChatCluster wire protocol, version 1",
        "description": f"Frames of the subprotocols {JSON_PROTOCOL} and {MSGPACK_PROTOCOL}. Prose: docs/protocol.md.",
        "oneOf": [{"$ref": "#/$defs/ClientFrame"}, {"$ref": "#/$defs/ServerFrame"}],
        "$defs": {
            "ClientFrame": client,
            "ServerFrame": server,
            **components,
            "CloseCode": {"enum": [int(code) for code in Close], "description": "WebSocket close codes."},
            "ErrorCode": msgspec.json.schema(ErrorCode),
        },
    }


SETTINGS_HEAD = """# Settings of the roles

Generated from the code by `make docs`. One TOML file serves all roles (`--config FILE`); the environment goes before
it: `[gateway] max_sockets = 5000` is `CHATCLUSTER_GATEWAY__MAX_SOCKETS=5000`. A role does not start with a section, a
key or a value that it does not know. Seconds and bytes unless the text says otherwise.
"""


def settings_reference() -> str:
    """Every section and key of ``ClusterSettings``, with its default and the docstring under its field."""
    parts = [SETTINGS_HEAD]
    for section in msgspec.structs.fields(ClusterSettings):
        kind = section_type(section.type)
        meanings = _meanings(kind)
        parts.append(f"\n## [{section.name}]\n\n| key | default | meaning |\n|---|---|---|\n")
        for field in msgspec.structs.fields(kind):
            value = None if field.default is msgspec.NODEFAULT else field.default
            if field.default_factory is not msgspec.NODEFAULT:
                value = field.default_factory()
            shown = "" if value is None else f"`{_shown(value)}`"
            parts.append(f"| `{field.name}` | {shown} | {meanings.get(field.name, '')} |\n")
    return "".join(parts)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(list(value) if isinstance(value, tuple) else value)


def _meanings(kind: type) -> dict[str, str]:
    """Field to the docstring under it, over the class and its bases, on one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        if base.__module__.startswith("msgspec"):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                assert isinstance(text.value, ast.Constant)
                found[field.target.id] = re.sub(r"\s+", " ", str(text.value.value)).strip().replace("|", "\\|")
    return found


def _rules(groups: list[dict[str, Any]]) -> str:
    head = "# Generated from operator/chatcluster_operator/render/observability/ by `make docs`.\n"
    return head + yaml.safe_dump({"groups": groups}, sort_keys=False, width=120)


def main() -> int:
    check = "--check" in sys.argv[1:]
    drift = False
    operator_rules = _rules(monitoring.operator_rules())
    documents = {
        "docs/protocol.schema.json": json.dumps(protocol_schema(), indent=2, ensure_ascii=False) + "\n",
        "docs/openapi.json": json.dumps(openapi(), indent=2, ensure_ascii=False) + "\n",
        "docs/settings.md": settings_reference(),
        "crds/chatclusters.yaml": "# Generated from operator/chatcluster_operator/spec.py by `make docs`.\n"
        + yaml.safe_dump(crd(), sort_keys=False, width=120),
        "monitoring/platform-rules.yaml": _rules(monitoring.platform_rules()),
        "monitoring/operator-rules.yaml": operator_rules,
        "helm/chatcluster-operator/files/operator-rules.yaml": operator_rules,
        **{
            f"monitoring/{name}-dashboard.json": json.dumps(board, indent=1, ensure_ascii=False) + "\n"
            for name, board in monitoring.dashboards().items()
        },
        **charts.documents(ROOT),
        **manifests.documents(),
        **olm.documents(ROOT),
    }
    for name, text in documents.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.exists() else ""
        if before == text:
            continue
        if check:
            drift = True
            changes = difflib.unified_diff(before.splitlines(), text.splitlines(), path.name, "generated", lineterm="")
            print("\n".join(list(changes)[:40]))
        else:
            path.write_text(text)
            print(f"wrote {name}")
    if drift:
        print("generated files are not what the code says: run `make docs`")
    return int(drift)


if __name__ == "__main__":
    sys.exit(main())
