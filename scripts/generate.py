"""Generates what is derived from the code: the protocol's JSON Schema and the server API's OpenAPI description.

``python scripts/generate.py`` writes them into ``docs/``; with ``--check`` it writes nothing and fails on drift.
"""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from chatcluster.app.server_api import openapi
from chatcluster.core.codes import Close, ErrorCode
from chatcluster.core.frames import JSON_PROTOCOL, MSGPACK_PROTOCOL, ClientFrame, ServerFrame

DOCS = Path(__file__).resolve().parent.parent / "docs"


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


def main() -> int:
    check = "--check" in sys.argv[1:]
    drift = False
    for name, document in (("protocol.schema.json", protocol_schema()), ("openapi.json", openapi())):
        path = DOCS / name
        text = json.dumps(document, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
        before = path.read_text() if path.exists() else ""
        if before == text:
            continue
        if check:
            drift = True
            changes = difflib.unified_diff(before.splitlines(), text.splitlines(), path.name, "generated", lineterm="")
            print("\n".join(list(changes)[:40]))
        else:
            path.write_text(text)
            print(f"wrote docs/{name}")
    if drift:
        print("the files in docs/ are not what the code says: run `make docs`")
    return int(drift)


if __name__ == "__main__":
    sys.exit(main())
