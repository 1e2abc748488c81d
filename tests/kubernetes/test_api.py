"""What the API server takes and refuses: every rule of the definition, on a real one."""

from __future__ import annotations

import pytest

from clusters import SPEC, changed, cluster, path_of
from control_plane import Refused

pytestmark = pytest.mark.slow
REDIS = SPEC["dependencies"]["redis"]
KEYSPACE = "dependencies.cassandra.keyspace"


def refused(plane, namespace, spec, words, name="bad"):
    with pytest.raises(Refused) as told:
        plane.apply(path_of(namespace, name), {**cluster(namespace, name), "spec": spec})
    assert told.value.code == 422
    assert words in told.value.words


CREATED = [
    ("version", None, "version or image says what runs"),
    ("auth.jwks", {"url": "https://id.example/keys"}, "exactly one of jwks and secretRef"),
    ("auth.secretRef", None, "exactly one of jwks and secretRef"),
    ("auth.jwks", {"url": "http://id.example/keys"}, "spec.auth.jwks.url"),
    ("routing", {"inboxFanoutLimit": 100, "hysteresis": 100}, "hysteresis must be below inboxFanoutLimit"),
    ("routing", {"inboxFanoutLimit": 5001}, "less than or equal to 5000"),
    ("dependencies.redis", None, "either embedded alone, or redis, kafka and cassandra together"),
    ("dependencies.embedded", {}, "either embedded alone, or redis, kafka and cassandra together"),
    ("dependencies.redis", {**REDIS, "mode": "cluster", "sentinels": ["s:26379"]}, "sentinels go with mode sharded"),
    ("dependencies.redis", {**REDIS, "mode": "both"}, "supported values"),
    ("dependencies.redis", {**REDIS, "endpoints": ["main"]}, "endpoints are host:port"),
    ("dependencies.redis", {**REDIS, "endpoints": []}, "at least 1 items"),
    ("dependencies.kafka.minInsyncReplicas", 4, "minInsyncReplicas must not exceed replicationFactor"),
    ("dependencies.kafka.tls", {}, "tls needs caSecretRef"),
    ("dependencies.cassandra.tls", {}, "tls needs caSecretRef"),
    (KEYSPACE, "Chat Rooms", "spec.dependencies.cassandra.keyspace"),
    ("gateway.autoscaling", {"min": 5, "max": 4}, "min must not exceed max"),
    ("persister.autoscaling", {"min": 5, "max": 4}, "min must not exceed max"),
    ("persister.autoscaling", {"max": 17}, "persister.autoscaling.max must not exceed the partitions of messages"),
    ("gateway.autoscaling", {"mode": "keda"}, "mode keda needs prometheusAddress"),
    ("gateway.drain", {"propagationSeconds": 30, "deadlineSeconds": 30}, "deadlineSeconds must be longer"),
    (
        "gateway.exposure",
        {"ingress": {"host": "a.example"}, "gatewayAPI": {"parentRefs": [{"name": "g"}]}},
        "ingress and gatewayAPI exclude each other",
    ),
    ("gateway.capacity", {"connectionsPerPod": 0}, "greater than or equal to 1"),
    (
        "observability.podMonitor",
        {"intervalSeconds": 10, "scrapeTimeoutSeconds": 11},
        "scrapeTimeoutSeconds must not exceed intervalSeconds",
    ),
    ("observability.podMonitor", {"intervalSeconds": 90}, "less than or equal to 60"),
    ("observability.podMonitor", {"labels": {"not a key": "x"}}, "labels must be valid"),
    ("observability.dashboards", {"labels": {"app.kubernetes.io/part-of": "x"}}, "are the operator's own"),
    ("observability.prometheusRules", {"labels": {"team": "a b"}}, "spec.observability.prometheusRules.labels.team"),
    ("observability.prometheusRules", {"alertLabels": {"severity": "page"}}, "other than severity and alertname"),
    ("observability.prometheusRules", {"alertLabels": {"te-am": "x"}}, "alertLabels are names of Prometheus"),
    ("observability.prometheusRules", {"without": ["ChatClusterPods"]}, "supported values"),
    (
        "observability.prometheusRules",
        {"runbookBase": "runbooks.md#"},
        "spec.observability.prometheusRules.runbookBase",
    ),
    ("observability.prometheusRules", {"objectives": {"ackMilliseconds": 300}}, "supported values"),
    (
        "observability.prometheusRules",
        {"objectives": {"availabilityPercent": 100}},
        "should be less than or equal to 99",
    ),
]


@pytest.mark.parametrize(("path", "value", "words"), CREATED, ids=lambda value: str(value)[:40])
def test_what_cannot_work_is_refused(plane, namespace, path, value, words):
    refused(plane, namespace, changed(SPEC, path, value), words)


TAKEN = [
    ("image", "registry.example/chat@sha256:" + "0" * 64),
    ("routing", {"inboxFanoutLimit": 100, "hysteresis": 99}),
    ("dependencies.redis", {"mode": "cluster", "endpoints": ["a:6379"]}),
    ("dependencies.redis", {"mode": "sharded", "endpoints": ["main"], "sentinels": ["s:26379"]}),
    ("dependencies.kafka.minInsyncReplicas", 3),
    ("dependencies.kafka.tls", {"caSecretRef": {"name": "kafka-ca", "key": "ca.crt"}}),
    ("gateway.autoscaling", {"mode": "builtin", "min": 4, "max": 4}),
    ("persister.autoscaling", {"max": 16}),
    ("persister.autoscaling", {"mode": "keda", "prometheusAddress": "http://prometheus:9090"}),
    ("gateway.drain", {"propagationSeconds": 29, "deadlineSeconds": 30}),
    ("gateway.exposure", {"ingress": {"host": "a.example"}}),
    ("observability", {"podMonitor": {}, "prometheusRules": {}, "dashboards": {}}),
    ("observability.podMonitor", {"intervalSeconds": 10, "scrapeTimeoutSeconds": 10}),
    ("observability.podMonitor", {"labels": {"release": "kube-prometheus-stack", "example.com/team": "chat_1"}}),
    ("observability.dashboards", {"labels": {"grafana_dashboard": ""}, "annotations": {"grafana_folder": "Chat"}}),
    (
        "observability.prometheusRules",
        {
            "alertLabels": {"team": "chat"},
            "without": ["ChatClusterPushLate"],
            "runbookBase": "https://wiki.example/chat",
            "objectives": {"ackMilliseconds": 500, "availabilityPercent": 99.95},
            "thresholds": {"persisterLagSeconds": 300, "slowConsumersPercent": 0.5},
        },
    ),
    ("settings", {"router": {"sends_per_second": 50.0}, "push": {"enabled": True}}),
]


@pytest.mark.parametrize(("path", "value"), TAKEN, ids=lambda value: str(value)[:40])
def test_what_works_is_taken(plane, namespace, path, value):
    plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(SPEC, path, value)})


def test_embedded_stands_alone(plane, namespace):
    spec = changed(SPEC, "dependencies", {"embedded": {"storage": "5Gi"}})
    plane.apply(path_of(namespace), {**cluster(namespace), "spec": spec})
    refused(plane, namespace, SPEC, "embedded cannot be turned on or off", "main")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"storage": "6Gi"}, "enlarge its claim itself"),
        ({"storageClassName": "slow"}, "storageClassName is that of the volume"),
        ({"storageClassName": None}, "storageClassName is that of the volume"),
    ],
    ids=str,
)
def test_the_volume_of_the_embedded_platform_stays(plane, namespace, changes, words):
    volume = {"storage": "5Gi", "storageClassName": "fast"}
    spec = changed(SPEC, "dependencies", {"embedded": volume})
    plane.apply(path_of(namespace), {**cluster(namespace), "spec": spec})
    other = {key: value for key, value in {**volume, **changes}.items() if value is not None}
    refused(plane, namespace, changed(SPEC, "dependencies", {"embedded": other}), words, "main")
    plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(spec, "router.replicas", 3)})


CHANGED = [
    (KEYSPACE, "other", "keyspace names the store and cannot be changed"),
    ("dependencies.kafka.topicPrefix", "other.", "topicPrefix names the log and cannot be changed"),
    ("dependencies.kafka.topics.messages.partitions", 32, "partitions are fixed for the life of the topic"),
    ("dependencies.kafka.topics.inbox.partitions", 8, "partitions are fixed for the life of the topic"),
]


@pytest.mark.parametrize(("path", "value", "words"), CHANGED, ids=lambda value: str(value)[:40])
def test_what_names_the_data_cannot_be_changed(plane, namespace, path, value, words):
    plane.apply(path_of(namespace), cluster(namespace))
    refused(plane, namespace, changed(SPEC, path, value), words, "main")


def test_a_field_that_nobody_knows_is_refused_when_asked_strictly(plane, namespace):
    path = path_of(namespace).rpartition("/")[0]
    for more, words in (
        ({"gatway": {}}, 'unknown field "spec.gatway"'),
        ({"settings": {"ruter": {}}}, 'unknown field "spec.settings.ruter"'),
    ):
        with pytest.raises(Refused) as told:
            plane.ask("POST", f"{path}?fieldValidation=Strict", {**cluster(namespace), "spec": {**SPEC, **more}})
        assert words in told.value.words


def test_defaults_are_filled_in_and_the_scale_subresource_scales_gateways(plane, namespace):
    plane.apply(path_of(namespace), cluster(namespace))
    spec = plane.get(path_of(namespace))["spec"]
    assert spec["gateway"]["drain"] == {
        "propagationSeconds": 15,
        "connectionsPerSecond": 200,
        "deadlineSeconds": 900,
        "maxConcurrent": 1,
    }
    assert spec["persister"]["replicas"] == 2
    scale = {"spec": {"replicas": 7}}
    plane.ask("PATCH", f"{path_of(namespace)}/scale", scale, "application/merge-patch+json")
    assert plane.get(path_of(namespace))["spec"]["gateway"]["replicas"] == 7
