"""What the operator renders, and that the runtime takes it: the two know each other by data alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from chatcluster.app.authentication import AuthSection
from chatcluster.app.embedded import Settings
from chatcluster.app.platform_settings import settings_from
from chatcluster.app.roles.settings import cluster_settings
from chatcluster.app.settings import convert
from chatcluster_operator.kinds import CHILDREN
from chatcluster_operator.names import COMPONENTS, Cluster
from chatcluster_operator.rbac import TABLE
from chatcluster_operator.render import around
from chatcluster_operator.render.config import config
from chatcluster_operator.render.workloads import embedded, migration, pods_of
from chatcluster_operator.spec import Spec
from clusters import SPEC, changed

CLUSTER = Cluster("team", "main", "uid-1")


def parsed(spec):
    return Spec.model_validate(spec)


def everything():
    """A spec with everything that can be said of dependencies."""
    tls = {"caSecretRef": {"name": "ca", "key": "ca.crt"}, "certSecretRef": {"name": "client"}}
    login = {"name": "login", "key": "password"}
    spec = changed(SPEC, "dependencies.redis.passwordSecretRef", login)
    spec = changed(spec, "dependencies.redis.tls", tls)
    spec = changed(spec, "dependencies.presenceRedis", {"mode": "cluster", "endpoints": ["p:6379"], "username": "u"})
    spec = changed(spec, "dependencies.kafka.sasl", {"username": "chat", "passwordSecretRef": login})
    spec = changed(spec, "dependencies.kafka.tls", tls)
    spec = changed(spec, "dependencies.cassandra.username", "chat")
    spec = changed(spec, "dependencies.cassandra.passwordSecretRef", login)
    spec = changed(spec, "dependencies.cassandra.tls", tls)
    spec = changed(spec, "api.keysSecretRef", {"name": "api", "key": "keys.toml"})
    spec = changed(spec, "auth", {"jwks": {"url": "https://id.example/k"}, "audience": "chat", "issuer": "https://id"})
    spec = changed(spec, "auth.allowedOrigins", ["https://app.example"])
    return changed(spec, "settings", {"router": {"sends_per_second": 50.0}})


@pytest.mark.parametrize("component", [*COMPONENTS, "migrate"])
def test_the_runtime_takes_what_is_rendered(component):
    told = config(CLUSTER, parsed(everything()), component)
    settings = cluster_settings(tomllib.loads(told.toml()))
    if component in ("gateway", "router"):
        assert settings.router.sends_per_second == 50.0
    if component in ("router", "persister", "migrate"):
        assert settings.kafka.message_partitions == 16
        assert settings.kafka.password_file == "/etc/chatcluster-secrets/login/password"
    if component != "presence":
        assert settings.cassandra.keyspace == "chat"
        assert settings.cassandra.cert_file == "/etc/chatcluster-secrets/client/tls.crt"
    if component == "gateway":
        assert settings.gateway.drain_deadline == 900
        assert settings.gateway.max_sockets == 20_000
        assert settings.routers.addresses == ("dns:main-router.team.svc:8090",)
        assert settings.auth.jwks_url == "https://id.example/k"
        assert settings.gateway.origins == {"https://app.example"}


def test_the_embedded_platform_takes_what_is_rendered():
    spec = changed(everything(), "dependencies", {"embedded": {}})
    spec = changed(spec, "settings.logging", {"level": "debug"})
    sections = tomllib.loads(config(CLUSTER, parsed(spec), "embedded").toml())
    auth = convert("auth", sections.pop("auth"), AuthSection)
    settings = settings_from(sections, Settings)
    assert (auth.audience, settings.router.sends_per_second) == ("chat", 50.0)
    assert (settings.gateway.drain_deadline, settings.gateway.max_sockets) == (900, 20_000), "it is the gateway, too"
    pod = embedded(CLUSTER, parsed(spec), {})["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 930
    [container] = pod["containers"]
    assert "env" not in container, "it has no section [process]"


def test_a_build_of_a_version_is_a_tag():
    spec = changed(SPEC, "version", "1.2.3-rc.1+build.5")
    [container] = pods_of(CLUSTER, parsed(spec), "router", {})["spec"]["containers"]
    assert container["image"].endswith(":1.2.3-rc.1_build.5")


def test_the_processes_of_a_gateway_share_what_a_pod_may():
    spec = changed(changed(SPEC, "gateway.processes", 3), "gateway.capacity.connectionsPerPod", 1000)
    told = tomllib.loads(config(CLUSTER, parsed(spec), "gateway").toml())["gateway"]
    assert (told["max_sockets"], told["drain_rate"]) == (334, pytest.approx(200 / 3))
    alone = changed(spec, "dependencies", {"embedded": {}})
    told = tomllib.loads(config(CLUSTER, parsed(alone), "embedded").toml())["gateway"]
    assert (told["max_sockets"], told["drain_rate"]) == (1000, 200.0), "it is one process"


def test_a_setting_rolls_only_who_reads_it():
    before = {part: config(CLUSTER, parsed(SPEC), part).toml() for part in (*COMPONENTS, "migrate")}

    def rolled(section, values):
        spec = parsed(changed(SPEC, "settings", {section: values}))
        return {part for part, text in before.items() if config(CLUSTER, spec, part).toml() != text}

    assert rolled("persister", {"loads": 32}) == {"persister"}
    assert rolled("sessions", {"in_flight": 32}) == {"gateway"}
    assert rolled("kafka", {"linger_ms": 2.0}) == {"router", "persister", "migrate"}
    assert rolled("redis", {"lease": 30.0}) == {*COMPONENTS, "migrate"}, "it tells Redis that a log is new"
    assert rolled("logging", {"level": "debug"}) == set(before)
    routing = parsed(changed(SPEC, "routing", {"inboxFanoutLimit": 600}))
    assert {part for part, text in before.items() if config(CLUSTER, routing, part).toml() != text} == {
        "router",
        "persister",
    }


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_is_told_what_it_needs_and_mounts_what_it_is_told(component):
    spec = parsed(everything())
    told = config(CLUSTER, spec, component)
    sections = tomllib.loads(told.toml())
    assert ("kafka" in sections) == (component in ("router", "persister"))
    assert ("cassandra" in sections) == (component != "presence")
    assert ("auth" in sections) == (component == "gateway")
    pods = pods_of(CLUSTER, spec, component, {})
    mounted = {one["secret"]["secretName"] for one in pods["spec"]["volumes"] if "secret" in one}
    assert mounted == told.secrets
    files = {value for section in sections.values() for key, value in section.items() if key.endswith("_file")}
    assert {path.split("/")[3] for path in files} == mounted


def everywhere():
    spec = parsed(everything())
    yield from (pods_of(CLUSTER, spec, component, {}) for component in COMPONENTS)
    yield migration(CLUSTER, spec, {})["spec"]["template"]
    alone = parsed(changed(SPEC, "dependencies", {"embedded": {}}))
    yield embedded(CLUSTER, alone, {})["spec"]["template"]


def test_pods_keep_the_restricted_standard():
    for pods in everywhere():
        spec = pods["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["requests"]
            assert "memory" in container["resources"]["limits"]


def test_the_grace_is_longer_than_the_drain():
    spec = parsed(changed(SPEC, "gateway.drain", {"deadlineSeconds": 100, "propagationSeconds": 5}))
    grace = pods_of(CLUSTER, spec, "gateway", {})["spec"]["terminationGracePeriodSeconds"]
    settings = cluster_settings(tomllib.loads(config(CLUSTER, spec, "gateway").toml()))
    assert settings.gateway.drain_deadline < settings.process.grace < grace


def test_another_namespace_or_name_shares_no_key_of_redis():
    prefixes = {
        config(Cluster(namespace, name), parsed(SPEC), "router").sections["redis"]["prefix"]
        for namespace, name in (("a", "b"), ("a", "c"), ("b", "b"))
    }
    assert len(prefixes) == 3


def test_every_kind_that_is_written_is_allowed_by_the_table():
    plurals = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}
    may = {(group, resource) for group, resource, verbs, _ in TABLE if "patch" in verbs}
    for kind, api in CHILDREN.items():
        group = api.rpartition("/")[0]
        assert (group, plurals.get(kind, kind.lower() + "s")) in may
    assert not any("*" in (group, resource, *verbs) for group, resource, verbs, _ in TABLE)


def test_rendering_is_a_function_of_the_spec():
    assert around(CLUSTER, parsed(everything())) == around(CLUSTER, parsed(everything()))
    names = [(one["kind"], one["metadata"]["name"]) for one in around(CLUSTER, parsed(everything()))]
    assert len(names) == len(set(names))


def test_the_example_is_one():
    file = Path(__file__).parent.parent.parent / "examples/chatcluster.yaml"
    spec = parsed(yaml.safe_load(file.read_text())["spec"])
    assert spec.gateway.replicas == 3
    assert spec.dependencies.kafka is not None


def out_of(component, spec):
    """Ports to which the component's policy lets it speak."""
    [policy] = [
        one
        for one in around(CLUSTER, parsed(spec))
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == f"main-{component}"
    ]
    return {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}


def test_the_migration_may_reach_all_that_it_speaks_to():
    assert out_of("migrate", SPEC) == {53, 5353, 6379, 9042, 9092}


def test_masters_behind_sentinels_are_reached_beside_the_sentinels():
    redis = {"mode": "sharded", "endpoints": ["main"], "sentinels": ["sentinel:26379"]}
    spec = changed(SPEC, "dependencies.redis", redis)
    assert out_of("presence", spec) == {53, 5353, 6379, 26379}
    endpoints = {"mode": "sharded", "endpoints": ["a:7001", "b:7002"]}
    assert out_of("presence", changed(SPEC, "dependencies.redis", endpoints)) == {53, 5353, 7001, 7002}


@pytest.mark.parametrize(
    ("url", "port"),
    [("https://id.example/keys", 443), ("https://id.example:8443/keys", 8443), ("https://id.example:999999/keys", 443)],
)
def test_keys_are_fetched_wherever_they_are(url, port):
    auth = {"jwks": {"url": url}, "audience": "chat", "issuer": "https://id.example"}
    spec = changed(changed(SPEC, "auth", auth), "dependencies.redis.endpoints", ["a:7001"])
    assert port in out_of("gateway", spec)
    assert out_of("embedded", changed(spec, "dependencies", {"embedded": {}})) == {53, 5353, port}
    assert out_of("embedded", changed(SPEC, "dependencies", {"embedded": {}})) == {53, 5353}


@pytest.mark.parametrize(
    ("url", "port"), [("https://hook.example/p", 443), ("http://hook:8080/p", 8080), ("http://h/", 80)]
)
def test_the_webhook_is_reached_by_persisters_and_by_nobody_else(url, port):
    spec = changed(SPEC, "settings.push", {"webhook_url": url})
    assert out_of("persister", spec) - out_of("persister", SPEC) == {port}
    assert out_of("router", spec) == out_of("router", SPEC)
    assert port in out_of("embedded", changed(spec, "dependencies", {"embedded": {}}))
