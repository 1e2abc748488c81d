"""From an applied ChatCluster to its children, on a real API server."""

from __future__ import annotations

import time

import pytest

from clusters import SPEC, changed, cluster, conditions, path_of, ready, secret
from operating import until

pytestmark = pytest.mark.slow
EVERY = "/apis/chatcluster.dev/v1/chatclusters"


def deployments(plane, namespace):
    return {
        one["metadata"]["name"]: one for one in plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
    }


def others(plane, namespace):
    """Where else there are ChatClusters, and which."""
    found = [(one["metadata"]["namespace"], one["metadata"]["name"]) for one in plane.get(EVERY)["items"]]
    return [one for one in found if one[0] != namespace]


def test_a_cluster_comes_up_and_a_second_pass_writes_nothing(plane, namespace, operator):
    secret(plane, namespace)
    plane.apply(path_of(namespace), cluster(namespace))
    until(lambda: ready(plane, namespace), 90)
    found = deployments(plane, namespace)
    assert sorted(name.rpartition("-")[0] if "gateway" in name else name for name in found) == [
        "main-gateway", "main-persister", "main-presence", "main-router",
    ]  # fmt: skip
    # What earlier tests left behind ends: each of these gets at most one try (test_endings.py).
    try:
        until(lambda: not others(plane, namespace), 120)
    except AssertionError:
        raise AssertionError(f"these do not end: {others(plane, namespace)}") from None
    # As a webhook does it: our apply leaves there what it puts into such a list.
    router = f"/apis/apps/v1/namespaces/{namespace}/deployments/main-router"
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    mesh = {"name": "mesh", "image": "mesh:1", "securityContext": restricted}
    both = [{"name": "router", "env": [{"name": "MESH", "value": "on"}]}, mesh]
    injected = {"spec": {"template": {"spec": {"containers": both}}}}
    plane.ask("PATCH", router, injected, "application/strategic-merge-patch+json")
    generation = plane.get(router)["metadata"]["generation"]
    until(lambda: plane.get(router)["status"].get("observedGeneration") == generation, 60)
    until(lambda: ready(plane, namespace), 90)
    time.sleep(10)  # whatever follows from the last change
    since = time.time()
    time.sleep(40)  # longer than the time between two looks
    assert plane.writes("operator", since, namespace) == []
    containers = {one["name"]: one for one in plane.get(router)["spec"]["template"]["spec"]["containers"]}
    assert set(containers) == {"router", "mesh"}
    assert {"name": "MESH", "value": "on"} in containers["router"]["env"]


def up(plane, namespace, **spec):
    secret(plane, namespace)
    plane.apply(path_of(namespace), cluster(namespace, **spec))
    until(lambda: ready(plane, namespace), 90)


def order_of(plane, namespace, since):
    """Components in the order in which the operator first wrote their Deployments."""
    written = plane.writes("operator", since, namespace)
    names = [path.rpartition("/")[2] for _, path in written if "/deployments/" in path]
    return list(dict.fromkeys(name.split("-")[1] for name in names))


def edit(plane, namespace, path, value):
    plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(SPEC, path, value)})


def events(plane, namespace):
    found = plane.get(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
    return [(one["reason"], one["note"]) for one in found if one["regarding"]["kind"] == "ChatCluster"]


def test_an_upgrade_goes_in_order_and_backward_the_other_way(plane, namespace, operator):
    up(plane, namespace)
    old = set(deployments(plane, namespace))
    since = time.time()
    edit(plane, namespace, "version", "1.1.0")
    until(lambda: ready(plane, namespace), 120)
    assert order_of(plane, namespace, since) == ["persister", "router", "presence", "gateway"]
    found = deployments(plane, namespace)
    assert {one["metadata"]["annotations"]["chatcluster.dev/version"] for one in found.values()} == {"1.1.0"}
    assert len(found) == 4
    assert set(found) != old, "another revision of the gateways has a Deployment of its own"
    assert ("RollingOut", "router: version 1.0.0 to 1.1.0") in events(plane, namespace)
    jobs = plane.get(f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    assert [job["metadata"]["annotations"]["chatcluster.dev/version"] for job in jobs] == ["1.1.0"]
    since = time.time()
    edit(plane, namespace, "version", "1.0.0")
    until(lambda: ready(plane, namespace), 120)
    assert order_of(plane, namespace, since) == ["gateway", "presence", "router", "persister"]


def test_what_others_change_comes_back_and_what_others_own_stays(plane, namespace, operator):
    up(plane, namespace)
    service = f"/api/v1/namespaces/{namespace}/services/main-gateway"
    merge = "application/merge-patch+json"
    mine = {"metadata": {"annotations": {"team": "chat"}}, "spec": {"selector": {"app.kubernetes.io/instance": "not"}}}
    plane.ask("PATCH", service, mine, merge)
    until(lambda: plane.get(service)["spec"]["selector"]["app.kubernetes.io/instance"] == "main", 30)
    assert plane.get(service)["metadata"]["annotations"]["team"] == "chat"
    plane.ask("DELETE", f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/main-router")
    until(lambda: plane.get(f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/main-router"), 30)


def test_what_is_not_wanted_any_more_goes(plane, namespace, operator):
    ingress = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/main-gateway"
    up(plane, namespace, gateway={"replicas": 1, "exposure": {"ingress": {"host": "chat.example"}}})
    assert plane.get(ingress)["spec"]["rules"][0]["host"] == "chat.example"
    edit(plane, namespace, "networkPolicy", {"enabled": False})
    until(lambda: plane.get(ingress) is None, 30)
    policies = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    until(lambda: plane.get(policies)["items"] == [], 30)


def test_settings_and_secrets_roll_who_uses_them_and_nobody_else(plane, namespace, operator):
    up(plane, namespace)

    def templates():
        return {
            name.rpartition("-")[0] if "gateway" in name else name: one["spec"]["template"]["metadata"]["annotations"]
            for name, one in deployments(plane, namespace).items()
        }

    before = templates()
    edit(plane, namespace, "dependencies.kafka.bootstrapServers", ["kafka:9092", "kafka-2:9092"])
    until(lambda: templates()["main-router"] != before["main-router"] and ready(plane, namespace), 60)
    assert {name for name, one in templates().items() if one != before[name]} == {"main-router", "main-persister"}
    assert ("RollingOut", "router: its settings changed") in events(plane, namespace)
    before = templates()
    secret(plane, namespace, value="11" * 32)
    until(lambda: templates() != before, 60)
    until(lambda: ready(plane, namespace), 60)
    assert {name for name, one in templates().items() if one != before[name]} == {"main-gateway"}
    assert ("RollingOut", "gateway: a Secret that it mounts changed") in events(plane, namespace)


def test_paused_nothing_is_written_but_the_status(plane, namespace, operator):
    up(plane, namespace)
    edit(plane, namespace, "paused", True)
    until(lambda: conditions(plane, namespace)["ReconciliationPaused"]["status"] == "True", 30)
    since = time.time()
    plane.apply(
        path_of(namespace), {**cluster(namespace), "spec": {**changed(SPEC, "version", "2.0.0"), "paused": True}}
    )
    time.sleep(10)
    assert {path for _, path in plane.writes("operator", since, namespace)} <= {f"{path_of(namespace)}/status"}
    edit(plane, namespace, "version", "2.0.0")
    until(lambda: ready(plane, namespace), 120)
    assert plane.get(path_of(namespace))["status"]["version"] == "2.0.0"


def test_a_secret_that_is_not_there_is_named(plane, namespace, operator):
    plane.apply(path_of(namespace), cluster(namespace))
    until(lambda: conditions(plane, namespace).get("Degraded", {}).get("reason") == "SecretMissing", 30)
    assert "tokens" in conditions(plane, namespace)["Degraded"]["message"]
    assert deployments(plane, namespace) == {}
    secret(plane, namespace)
    until(lambda: ready(plane, namespace), 90)
