"""Settings, addresses and folders with which nothing starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wires import WITHDRAWN

ENVIRONMENT: dict[str, tuple[dict[str, str], list[str]]] = {
    "unknown section": ({"GATEWAYS__SWEEP": "1"}, ["gateways", "no such section", "gateway, "]),
    "unknown key": ({"GATEWAY__SWEPT": "1"}, ["gateway.swept", "'1'", "no such setting", "sweep"]),
    "no section": ({"SWEEP": "1"}, ["CHATCLUSTER_SWEEP", "SECTION__KEY"]),
    "no number": ({"GATEWAY__BACKLOG": "many"}, ["gateway.backlog", "'many'", "int"]),
    "bad duration": ({"GATEWAY__OPEN_TIMEOUT": "10s"}, ["gateway.open_timeout", "'10s'", "float"]),
    "negative duration": ({"GATEWAY__OPEN_TIMEOUT": "-1"}, ["gateway.open_timeout", "'-1'", "from 0 on"]),
    "nan": ({"GATEWAY__OPEN_TIMEOUT": "nan"}, ["gateway.open_timeout", "'nan'", "from 0 on"]),
    "no boolean": ({"GATEWAY__ALLOW_NO_ORIGIN": "perhaps"}, ["gateway.allow_no_origin", "'perhaps'", "bool"]),
    "over the hard cap": ({"ROUTING__INBOX_FANOUT_LIMIT": "5001"}, ["routing.inbox_fanout_limit", "5001", "2 to 5000"]),
    "hysteresis over the limit": ({"ROUTING__HYSTERESIS": "500"}, ["routing.hysteresis", "500", "limit - 1"]),
    "no partitions": ({"LOG__PARTITIONS": "0"}, ["0 partitions", "1 to 256"]),
    "a key set that is not there": (
        {"AUTH__JWKS_FILE": "/nowhere/jwks.json"},
        ["auth.jwks_file", "/nowhere/jwks.json"],
    ),
    "a key set over plain HTTP": ({"AUTH__JWKS_URL": "http://id.example/jwks"}, ["auth.jwks_url", "https://"]),
    "two key sets": (
        {"AUTH__JWKS_URL": "https://id.example/jwks", "AUTH__JWKS_FILE": "/nowhere"},
        ["auth.jwks_url", "auth.jwks_file", "one of them"],
    ),
}


@pytest.mark.parametrize("row", ENVIRONMENT)
def test_settings_that_are_refused(refused_start: Any, row: str) -> None:
    env, wanted = ENVIRONMENT[row]

    said = refused_start(env=env)

    for part in wanted:
        assert part in said


CONFIGS: dict[str, tuple[str | bytes | None, list[str]]] = {
    "missing": (None, ["config.toml", "does not exist"]),
    "no TOML": ("[gateway\n", ["config.toml", "not TOML"]),
    "no text": (b"\xff\xfe", ["config.toml", "not TOML"]),
    "flat": ("sweep = 1\n", ["sweep = 1", "sections"]),
    "unknown key": ("[router]\nacks = 1\n", ["router.acks", "no such setting"]),
    "wrong type": ('[gateway]\norigins = "https://a"\nsweep = []\n', ["gateway.sweep", "[]", "float"]),
}


@pytest.mark.parametrize("row", CONFIGS)
def test_configs_that_are_refused(refused_start: Any, tmp_path: Path, row: str) -> None:
    content, wanted = CONFIGS[row]
    config = tmp_path / "config.toml"
    if content is not None:
        config.write_bytes(content.encode() if isinstance(content, str) else content)

    said = refused_start("--config", str(config))

    for part in wanted:
        assert part in said


def test_an_unreadable_config_is_refused(refused_start: Any, tmp_path: Path) -> None:
    assert str(tmp_path) in refused_start("--config", str(tmp_path))  # a folder: unreadable for root, too


def test_addresses_that_are_refused(refused_start: Any, server: Any) -> None:
    assert "'nowhere' is not an address" in refused_start("--listen", "nowhere")
    taken = f"127.0.0.1:{server.port}"
    assert str(server.port) in refused_start("--listen", taken)
    port = server.management.rpartition(":")[2]
    assert port in refused_start("--management", f"127.0.0.1:{port}")


def test_a_second_process_on_a_data_folder_is_refused(refused_start: Any, server: Any) -> None:
    said = refused_start(data=server.data)

    assert str(server.data) in said
    assert "another process" in said


def test_what_a_folder_was_made_with_is_kept(serve: Any, refused_start: Any) -> None:
    first = serve(env={"LOG__PARTITIONS": "2", **WITHDRAWN})
    assert first.stop() == 0

    said = refused_start(data=first.data, env={"LOG__PARTITIONS": "3"})
    assert "2 partitions" in said
    assert "set it back to 2" in said

    (first.data / "signing.key").write_text("no key\n")
    assert "signing.key" in refused_start(data=first.data)
