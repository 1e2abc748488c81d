"""Settings of a cluster's roles: one file for all, unknown ones refused, what several must say alike said once."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatcluster.app.authentication import AuthSection
from chatcluster.app.roles.settings import cluster_settings, secret_of
from chatcluster.app.settings import BadSettings


def test_defaults_are_a_whole_cluster() -> None:
    settings = cluster_settings({})
    assert settings.redis.shards
    assert settings.presence_redis is None
    assert settings.kafka.acks == "all"
    assert settings.persister.inbox_fanout_limit == settings.router.inbox_fanout_limit == 500


def test_text_of_the_environment_becomes_lists() -> None:
    settings = cluster_settings(
        {"routers": {"addresses": "dns:router:8090, 10.0.0.7:8090"}, "kafka": {"bootstrap_servers": "a:9092,b:9092"}}
    )
    assert settings.routers.addresses == ("dns:router:8090", "10.0.0.7:8090")
    assert settings.kafka.bootstrap_servers == ("a:9092", "b:9092")


def test_a_presence_redis_of_its_own() -> None:
    settings = cluster_settings({"presence_redis": {"shards": ["p:6379"]}})
    assert settings.presence_redis is not None
    assert settings.presence_redis.shards == ("p:6379",)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"kafkas": {}}, "[kafkas]: no such section"),
        ({"kafka": {"brokers": "x"}}, "kafka.brokers = 'x': no such setting"),
        ({"cassandra": {"port": "many"}}, "cassandra.port = 'many'"),
        ({"redis": {"mode": "star"}}, "redis.mode = 'star'"),
        ({"routing": {"inbox_fanout_limit": 9_000}}, "routing.inbox_fanout_limit = 9000: allowed: 2 to 5000"),
    ],
)
def test_what_is_wrong_is_named(sections: dict[str, dict[str, object]], said: str) -> None:
    with pytest.raises(BadSettings) as refused:
        cluster_settings(sections)
    assert said in str(refused.value)


def test_a_gateway_knows_what_tokens_are_verified_with(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"auth\.jwks_url is missing"):
        secret_of(AuthSection())
    short = tmp_path / "short"
    short.write_text("abcd")
    with pytest.raises(BadSettings) as refused:
        secret_of(AuthSection(secret_file=str(short)))
    assert "abcd" not in str(refused.value)
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    assert secret_of(AuthSection(secret_file=str(key))) == b"\xab" * 32
    assert secret_of(AuthSection(jwks_url="https://keys.example")) == b""
