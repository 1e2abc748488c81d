"""Settings of the roles as processes. One file serves all of them: each reads its sections and checks every one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatcluster.app.authentication import AuthSection, secret_in
from chatcluster.app.logs import LoggingSettings
from chatcluster.app.platform_settings import PlatformSettings, settings_from
from chatcluster.app.roles.process import ProcessSettings
from chatcluster.app.server_api import ApiSettings
from chatcluster.app.settings import BadSettings
from chatcluster.backends.cassandra.settings import CassandraSettings
from chatcluster.backends.kafka.settings import KafkaSettings
from chatcluster.backends.links.settings import LinkServerSettings, LinkSettings
from chatcluster.backends.redis.settings import RedisSettings


class ClusterSettings(PlatformSettings, frozen=True, kw_only=True):
    """All sections of a cluster's settings."""

    process: ProcessSettings = ProcessSettings()
    logging: LoggingSettings = LoggingSettings()
    auth: AuthSection = AuthSection()
    api: ApiSettings = ApiSettings()
    redis: RedisSettings
    presence_redis: RedisSettings | None = None
    kafka: KafkaSettings
    cassandra: CassandraSettings
    routers: LinkSettings = LinkSettings()
    presences: LinkSettings = LinkSettings()
    link: LinkServerSettings = LinkServerSettings()


def cluster_settings(sections: Mapping[str, Mapping[str, Any]]) -> ClusterSettings:
    """Typed settings of raw sections. Raises ``BadSettings`` by name of what is wrong."""
    given = {"redis": {}, "kafka": {}, "cassandra": {}, **sections}
    return settings_from(given, ClusterSettings)


def secret_of(auth: AuthSection) -> bytes:
    """The secret of HS256 tokens; empty where a key set verifies them. Raises ``BadSettings``."""
    if auth.jwks_file is not None or auth.jwks_url is not None:
        return b""
    if auth.secret_file is None:
        raise BadSettings(
            "auth.jwks_url is missing: a gateway verifies tokens; allowed: auth.jwks_url, auth.jwks_file (a key set) "
            "or auth.secret_file (HS256)"
        )
    return secret_in(auth.secret_file)
