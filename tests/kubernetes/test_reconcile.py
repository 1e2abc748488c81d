"""From an applied ChatCluster to its children, on a real API server."""

from __future__ import annotations

import time

import pytest

from clusters import cluster, path_of
from operating import until

pytestmark = pytest.mark.slow


def secret(plane, namespace, name="tokens", value="00" * 32):
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"secret": value}}
    plane.apply(f"/api/v1/namespaces/{namespace}/secrets/{name}", body)


def conditions(plane, namespace):
    status = plane.get(path_of(namespace)).get("status") or {}
    return {one["type"]: one for one in status.get("conditions") or ()}


def ready(plane, namespace):
    found = conditions(plane, namespace).get("Ready", {})
    generation = plane.get(path_of(namespace))["metadata"]["generation"]
    return found.get("status") == "True" and found["observedGeneration"] == generation


def deployments(plane, namespace):
    return {
        one["metadata"]["name"]: one for one in plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
    }


def test_a_cluster_comes_up_and_a_second_pass_writes_nothing(plane, namespace, operator):
    secret(plane, namespace)
    plane.apply(path_of(namespace), cluster(namespace))
    until(lambda: ready(plane, namespace), 90)
    found = deployments(plane, namespace)
    assert sorted(name.rpartition("-")[0] if "gateway" in name else name for name in found) == [
        "main-gateway", "main-persister", "main-presence", "main-router",
    ]  # fmt: skip
    time.sleep(3)  # whatever follows from the last change
    since = time.time()
    time.sleep(40)  # longer than the time between two looks
    assert plane.writes("operator", since) == []
