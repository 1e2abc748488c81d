"""What each component is told: settings in TOML, by section, and the Secrets that it mounts. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from chatcluster_operator.dependencies import Cassandra, Kafka, Redis, Tls
from chatcluster_operator.fields import SecretKey
from chatcluster_operator.names import LINK, Cluster, Component, hash_of
from chatcluster_operator.spec import Spec

FOLDER = "/etc/chatcluster"
"""Where the settings are mounted, as ``config.toml``."""
SECRETS = "/etc/chatcluster-secrets"
"""Where Secrets are mounted, each in a folder of its name."""
LINK_SECRET = "link"  # noqa: S105 - its name

Sections = dict[str, dict[str, Any]]


@dataclass
class Told:
    """Settings of one component, and the Secrets that they point to."""

    sections: Sections = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)

    def file(self, ref: SecretKey) -> str:
        """The path of a Secret's entry, which is mounted for it."""
        self.secrets.add(ref.name)
        return f"{SECRETS}/{ref.name}/{ref.key}"

    def toml(self) -> str:
        """As a file."""
        lines: list[str] = []
        for section in sorted(self.sections):
            values = self.sections[section]
            if values:
                lines += [f"[{section}]", *(f"{key} = {_value(values[key])}" for key in sorted(values)), ""]
        return "\n".join(lines)


def _value(value: object) -> str:
    # JSON's numbers, booleans, strings and lists of them are TOML, too.
    return json.dumps(value, ensure_ascii=False)


def config(cluster: Cluster, spec: Spec, component: Component | str) -> Told:
    """Settings of a component, ``migrate`` or ``embedded``."""
    told = Told()
    needs = _NEEDS[component]
    sections = told.sections
    if "routing" in needs:
        sections["routing"] = {
            "inbox_fanout_limit": spec.routing.inbox_fanout_limit,
            "hysteresis": spec.routing.hysteresis,
        }
    given = spec.dependencies
    if "redis" in needs and given.redis is not None:
        sections["redis"] = _redis(told, cluster, given.redis)
    if "presence_redis" in needs and given.presence_redis is not None:
        sections["presence_redis"] = _redis(told, cluster, given.presence_redis)
    if "kafka" in needs and given.kafka is not None:
        sections["kafka"] = _kafka(told, given.kafka)
    if "cassandra" in needs and given.cassandra is not None:
        sections["cassandra"] = _cassandra(told, given.cassandra)
    if "auth" in needs:
        sections["auth"] = _auth(told, spec)
        if spec.auth.allowed_origins is not None:
            sections["gateway"] = {"origins": list(spec.auth.allowed_origins)}
    if "api" in needs and spec.api.keys_secret_ref is not None:
        sections["api"] = {"keys_file": told.file(spec.api.keys_secret_ref)}
    link = SecretKey(name=cluster.child(LINK_SECRET), key="secret")
    if "link" in needs:
        sections["link"] = {"listen": f"0.0.0.0:{LINK}", "secret_file": told.file(link)}
    if "routers" in needs:
        for section, of in (("routers", "router"), ("presences", "presence")):
            sections[section] = {
                "addresses": [f"dns:{cluster.child(of)}.{cluster.namespace}.svc:{LINK}"],
                "secret_file": told.file(link),
            }
    grace = GRACE
    if component in ("gateway", "embedded"):
        drain = spec.gateway.drain
        # What the spec says of a gateway is said of its pod; each of its processes takes a share.
        several = spec.gateway.processes if component == "gateway" else 1
        sections.setdefault("gateway", {}).update(
            max_sockets=ceil(spec.gateway.capacity.connections_per_pod / several),
            drain_propagation=float(drain.propagation_seconds),
            drain_rate=drain.connections_per_second / several,
            drain_deadline=float(drain.deadline_seconds),
        )
        grace = drain.deadline_seconds + 5
    if component != "embedded":
        sections["process"] = {"grace": float(grace)}
    for section in sorted(needs):
        values = getattr(spec.settings, section, None)
        if values and (section in sections or section != "presence_redis"):  # without an address it is none
            sections.setdefault(section, {}).update(values)
    return told


def config_name(cluster: Cluster, component: Component | str, told: Told) -> str:
    """Of the ConfigMap with these settings. It never changes: who is not rolled yet keeps what it was started with."""
    return cluster.child(f"{component}-config-{hash_of(told.toml())}")


GRACE = 60
"""Seconds that a component other than the gateway may take to leave."""

_EACH = frozenset({"logging"})
_NEEDS: Mapping[str, frozenset[str]] = {
    "gateway": frozenset(
        # what clients are told of limits is the router's
        {"gateway", "sessions", "router", "routers", "presences", "redis", "presence_redis", "cassandra", "auth"}
    )
    | _EACH,
    "router": frozenset({"router", "routing", "redis", "presence_redis", "kafka", "cassandra", "api", "link"}) | _EACH,
    "persister": frozenset(
        {"persister", "push", "presence", "routing", "redis", "presence_redis", "kafka", "cassandra"}
    )
    | _EACH,
    "presence": frozenset({"presence", "redis", "presence_redis", "link"}) | _EACH,
    # It tells Redis that a log is new: else the first routers wait for a lease that nobody holds.
    "migrate": frozenset({"redis", "kafka", "cassandra"}) | _EACH,
    # The key of its server API is made in its data folder.
    "embedded": frozenset({"gateway", "sessions", "router", "persister", "presence", "push", "routing", "auth"}),
}
"""Sections that a component reads. What it does not read does not roll it."""


def _redis(told: Told, cluster: Cluster, redis: Redis) -> dict[str, Any]:
    where = "cluster" if redis.mode == "cluster" else "shards"
    found: dict[str, Any] = {
        "mode": redis.mode,
        where: list(redis.endpoints),
        "prefix": redis.prefix or f"cc:{cluster.namespace}:{cluster.name}:",
    }
    if redis.sentinels:
        found["sentinels"] = list(redis.sentinels)
    if redis.username:
        found["username"] = redis.username
    if redis.password_secret_ref is not None:
        found["password_file"] = told.file(redis.password_secret_ref)
    if redis.sentinel_password_secret_ref is not None:
        found["sentinel_password_file"] = told.file(redis.sentinel_password_secret_ref)
    if redis.tls is not None:
        found["tls"] = True
    return found | _tls(told, redis.tls)


def _kafka(told: Told, kafka: Kafka) -> dict[str, Any]:
    found: dict[str, Any] = {
        "bootstrap_servers": list(kafka.bootstrap_servers),
        "topic_prefix": kafka.topic_prefix,
        "message_partitions": kafka.topics.messages.partitions,
        "inbox_partitions": kafka.topics.inbox.partitions,
        "replication_factor": kafka.replication_factor,
        "min_insync_replicas": kafka.min_insync_replicas,
    }
    if kafka.sasl is not None:
        found["sasl_mechanism"] = kafka.sasl.mechanism
        found["username"] = kafka.sasl.username
        found["password_file"] = told.file(kafka.sasl.password_secret_ref)
    return found | _tls(told, kafka.tls)


def _cassandra(told: Told, cassandra: Cassandra) -> dict[str, Any]:
    found: dict[str, Any] = {
        "contact_points": list(cassandra.contact_points),
        "port": cassandra.port,
        "local_datacenter": cassandra.local_datacenter,
        "keyspace": cassandra.keyspace,
        "replication_factor": cassandra.replication_factor,
    }
    if cassandra.username:
        found["username"] = cassandra.username
    if cassandra.password_secret_ref is not None:
        found["password_file"] = told.file(cassandra.password_secret_ref)
    return found | _tls(told, cassandra.tls)


def _tls(told: Told, tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    found: dict[str, Any] = {"verify_names": tls.verify_names}
    if tls.ca_secret_ref is not None:
        found["ca_file"] = told.file(tls.ca_secret_ref)
    if tls.cert_secret_ref is not None:
        name = tls.cert_secret_ref.name
        found["cert_file"] = told.file(SecretKey(name=name, key="tls.crt"))
        found["key_file"] = told.file(SecretKey(name=name, key="tls.key"))
    return found


def _auth(told: Told, spec: Spec) -> dict[str, Any]:
    auth = spec.auth
    found: dict[str, Any] = {}
    if auth.jwks is not None:
        found["jwks_url"] = auth.jwks.url
    if auth.secret_ref is not None:
        found["secret_file"] = told.file(auth.secret_ref)
    if auth.audience is not None:
        found["audience"] = auth.audience
    if auth.issuer is not None:
        found["issuer"] = auth.issuer
    return found
