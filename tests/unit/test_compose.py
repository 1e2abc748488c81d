"""compose.yaml and the Dockerfile say nothing that the platform does not know. They are not run here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from chatcluster.app.cli import main
from chatcluster.app.roles.settings import cluster_settings
from chatcluster.app.settings import PREFIX, read_sections

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "chatcluster"}


def test_the_roles_are_all_there() -> None:
    assert sorted({service["command"][0] for service in OURS.values()}) == [
        *("gateway", "migrate", "persister", "presence", "router")
    ]


@pytest.mark.parametrize("name", OURS)
def test_settings_are_ours(name: str) -> None:
    environment = OURS[name]["environment"]
    assert all(key.startswith(PREFIX) and isinstance(value, str) for key, value in environment.items())
    settings = cluster_settings(read_sections(None, environment))
    links = {f"{other}:8090" for other, service in OURS.items() if service["command"][0] in {"router", "presence"}}
    assert {*settings.routers.addresses, *settings.presences.addresses} == links
    assert {shard.partition(":")[0] for shard in settings.redis.shards} <= SERVICES.keys()
    for file in (settings.auth.secret_file, settings.api.keys_file, settings.link.secret_file):
        assert file is not None
        assert file.removeprefix("/run/secrets/") in OURS[name]["secrets"]
    for address in (*settings.kafka.bootstrap_servers, *settings.cassandra.contact_points):
        assert address.partition(":")[0] in SERVICES
    named = OURS[name]["command"][0]
    assert named == "migrate" or settings.process.name == name
    assert int(OURS[name]["stop_grace_period"].rstrip("s")) > settings.process.grace


@pytest.mark.parametrize("name", OURS)
def test_commands_have_these_options(name: str) -> None:
    role, *options = OURS[name]["command"]
    command = main.get_command(click.Context(main), role)
    assert command is not None
    known = {option for one in command.params for option in one.opts}
    assert {option for option in options if option.startswith("--")} <= known


@pytest.mark.parametrize("name", SERVICES)
def test_needs_are_there_and_told(name: str) -> None:
    service = SERVICES[name]
    for needed, condition in service.get("depends_on", {}).items():
        assert needed in SERVICES
        assert condition["condition"] != "service_healthy" or "test" in SERVICES[needed]["healthcheck"]
    assert service["image"] == "chatcluster" or re.search(r":\d+\.\d+\.\d+$", service["image"])


def test_host_ports_are_distinct_and_on_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_secrets_are_files() -> None:
    assert {name for service in OURS.values() for name in service["secrets"]} == COMPOSE["secrets"].keys()
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())


def test_the_image_has_what_it_copies() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {one for line in lines if line.startswith("COPY ") and "--from" not in line for one in line.split()[1:-1]}
    assert copied == shown
    assert all((ROOT / one).exists() for one in copied)
    user = next(line for line in lines if line.startswith("USER ")).split()[1]
    assert user.partition(":")[0].isdecimal()
