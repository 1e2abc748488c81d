"""What the watches told last: whoever tells it, in whatever order."""

from __future__ import annotations

import json

import pytest

from chatcluster_operator.cache import Cache
from chatcluster_operator.kube import _ending
from chatcluster_operator.observed import Child, Workload, trimmed

KEY = ("chat", "main")


def cluster(version, uid="u1", **spec):
    fields = [{"manager": "kubectl"}]
    head = {"name": "main", "namespace": "chat", "uid": uid, "resourceVersion": str(version), "managedFields": fields}
    return {"metadata": head, "spec": spec}


def service(version, name="main-router", **spec):
    head = {"name": name, "namespace": "chat", "uid": name, "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "Service", "metadata": head, "spec": spec, "status": {"loadBalancer": {}}}


def test_what_is_told_late_does_not_overwrite_what_is_newer():
    cache = Cache()
    cache.tell(KEY, cluster(10, replicas=1))
    cache.tell(KEY, cluster(9, replicas=0))
    assert cache.clusters[KEY]["spec"] == {"replicas": 1}
    assert "managedFields" not in cache.clusters[KEY]["metadata"]
    cache.tell(KEY, cluster(5, uid="u2", replicas=2))
    assert cache.clusters[KEY]["spec"] == {"replicas": 2}, "another one of the same name"
    cache.forget(KEY, "u1")
    assert KEY in cache.clusters, "it is of the first one that the end is told"
    cache.forget(KEY, "u2")
    assert KEY not in cache.clusters


def test_a_child_counts_as_changed_only_in_what_anybody_reads():
    cache = Cache()
    assert cache.put(KEY, service(1, type="ClusterIP"))
    assert not cache.put(KEY, {**service(2, type="ClusterIP"), "status": {"loadBalancer": {"ingress": []}}})
    assert cache.put(KEY, service(3, type="NodePort"))
    assert not cache.put(KEY, service(2, type="ClusterIP")), "older than what our own write was answered"
    (found,) = cache.children(KEY).values()
    assert found["spec"] == {"type": "NodePort"}


def test_the_end_of_what_was_made_anew_is_no_end():
    cache, child = Cache(), Child("v1", "Service", "main-router")
    cache.put(KEY, service(7))
    assert not cache.drop(KEY, child, 6)
    assert cache.drop(KEY, child, 8)
    assert cache.children(KEY) == {}
    assert not cache.drop(KEY, child, 9)


def test_a_list_tells_what_is_not_in_it():
    cache = Cache()
    for name in ("main-router", "main-gateway"):
        cache.put(KEY, service(1, name))
    cache.put(("other", "main"), {**service(1), "metadata": {**service(1)["metadata"], "namespace": "other"}})
    seen = {(KEY, "main-router")}
    assert cache.strangers("Service", "chat", seen) == [(KEY, Child("v1", "Service", "main-gateway"))]
    assert len(cache.strangers("Service", None, seen)) == 2
    assert cache.strangers("ConfigMap", None, set()) == []


HEAD = {
    "name": "p", "labels": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:00Z",
    "deletionTimestamp": "2026-01-01T01:00:00Z", "deletionGracePeriodSeconds": 60,
}  # fmt: skip
"""What drains are judged by, too."""


def test_of_a_pod_and_a_deployment_all_that_is_read_is_kept():
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"}
    conditions = [{**ready, "lastProbeTime": None}, {"type": "Initialized", "status": "True"}]
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {**HEAD, "managedFields": [{}]},
        "spec": {"nodeName": "n", "containers": []},
        "status": {"podIP": "10.0.0.1", "phase": "Running", "conditions": conditions},
    }  # fmt: skip
    assert trimmed(pod) == {
        "apiVersion": "v1", "kind": "Pod", "metadata": HEAD, "spec": {"nodeName": "n"},
        "status": {"podIP": "10.0.0.1", "phase": "Running", "conditions": [ready]},
    }  # fmt: skip
    fields = [{"manager": "kube-controller-manager", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {}}}}]
    template = {"metadata": {}, "spec": {}}
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "managedFields": fields},
        "spec": {"replicas": 2, "template": template}, "status": {"replicas": 2},
    }  # fmt: skip
    assert Workload.of(trimmed(deployment)) == Workload.of(deployment)
    assert Workload.of(trimmed(deployment)).scaled


@pytest.mark.parametrize(
    ("details", "ending"),
    [
        ({"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]}, True),
        ({"name": "chat", "kind": "namespaces"}, True),
        ({"name": "main", "kind": "chatclusters"}, False),
        ({"causes": [{"reason": "FieldManagerConflict"}]}, False),
        (None, False),
    ],
)
def test_the_end_of_a_namespace_is_told_from_other_refusals(details, ending):
    assert _ending(json.dumps({"kind": "Status", "details": details}).encode()) is ending
    assert not _ending(b"<html>")
