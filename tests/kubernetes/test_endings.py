"""What is being deleted gets nothing more: a ChatCluster, its namespace, one that went while nobody watched."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from chatcluster_operator.watches import PROOF
from clusters import cluster, path_of, ready, secret
from control_plane import Refused
from operating import faults, figures, operating, until, well

pytestmark = pytest.mark.slow


@pytest.fixture
def ending(plane):
    """A namespace that is being deleted and cannot end, as something in it has a finalizer."""
    name = f"ending-{time.time_ns()}"
    plane.apply(f"/api/v1/namespaces/{name}", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    holds = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "holds", "finalizers": ["test.example/it"]}}
    plane.apply(f"/api/v1/namespaces/{name}/configmaps/holds", holds)
    yield name
    free = {"metadata": {"finalizers": None}}
    plane.ask("PATCH", f"/api/v1/namespaces/{name}/configmaps/holds", free, "application/merge-patch+json")
    with suppress(Refused):
        plane.ask("DELETE", f"/api/v1/namespaces/{name}")


def held(namespace):
    """A ChatCluster that stays while its namespace ends."""
    found = cluster(namespace)
    found["metadata"]["finalizers"] = ["test.example/it"]
    return found


def let_go(plane, namespace):
    free = {"metadata": {"finalizers": None}}
    plane.ask("PATCH", path_of(namespace), free, "application/merge-patch+json")


def test_in_a_namespace_that_ends_it_is_tried_once_and_never_again(plane, ending, tmp_path):
    """As the operator starts it does not know, and each try is refused with 403."""
    secret(plane, ending)
    plane.apply(path_of(ending), cluster(ending))
    with plane.frozen("kube-controller-manager"):  # whoever empties a namespace has much to do
        plane.ask("DELETE", f"/api/v1/namespaces/{ending}")
        since = time.time()
        with operating(plane, tmp_path):
            link = ("create", f"/api/v1/namespaces/{ending}/secrets")
            until(lambda: plane.writes("operator", since, ending))
            time.sleep(15)
            assert plane.writes("operator", since, ending) == [link]
        assert "deletionTimestamp" not in plane.get(path_of(ending))["metadata"]


def test_a_namespace_that_ends_while_it_runs_gets_nothing_again(plane, ending, tmp_path):
    secret(plane, ending)
    with operating(plane, tmp_path) as process:
        plane.apply(path_of(ending), cluster(ending))
        until(lambda: ready(plane, ending), 90)
        plane.ask("DELETE", f"/api/v1/namespaces/{ending}")
        until(lambda: not plane.get(f"/apis/apps/v1/namespaces/{ending}/deployments")["items"], 60)
        time.sleep(3)
        since = time.time()
        time.sleep(15)
        assert plane.writes("operator", since, ending) == []
        assert faults(process) == []


def test_a_cluster_that_is_being_deleted_gets_no_creations(plane, namespace, tmp_path):
    secret(plane, namespace)
    with operating(plane, tmp_path):
        plane.apply(path_of(namespace), held(namespace))
        until(lambda: ready(plane, namespace), 90)
        since = time.time()
        plane.ask("DELETE", f"{path_of(namespace)}?propagationPolicy=Foreground")
        until(lambda: not plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"], 60)
        time.sleep(5)
        assert plane.writes("operator", since, namespace) == []
        let_go(plane, namespace)
        until(lambda: plane.get(path_of(namespace)) is None, 30)
        time.sleep(5)
        assert plane.writes("operator", since, namespace) == []


def test_where_there_is_none_it_waits(plane, tmp_path):
    every = "/apis/chatcluster.dev/v1/chatclusters"
    until(lambda: not plane.get(every)["items"], 120)
    with operating(plane, tmp_path) as process:
        until(lambda: figures(process).get("chatcluster_operator_leads") == 1.0, 60)
        time.sleep(PROOF / 3 + 5)  # until it compared what it knows with the server
        assert well(process) == (200, "ok\n")
        assert faults(process) == []
