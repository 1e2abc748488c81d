"""Two replicas, a leader that dies or freezes, an API server that goes away: on a real control plane."""

from __future__ import annotations

import signal
import time
import urllib.request

import pytest

from clusters import SPEC, changed, cluster, path_of, ready, secret
from operating import operating, until

pytestmark = pytest.mark.slow
LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/chatcluster-operator"


@pytest.fixture
def two(plane, tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    if plane.get(LEASE):
        plane.ask("DELETE", LEASE)
    with (
        operating(plane, folders[0], "--identity", "one") as one,
        operating(plane, folders[1], "--identity", "two") as two,
    ):
        yield {"one": one, "two": two}


def leader(plane):
    lease = plane.get(LEASE)
    return lease and lease["spec"].get("holderIdentity")


def leads(process):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/metrics", timeout=5) as answer:
            return "chatcluster_operator_leads 1.0" in answer.read().decode()
    except OSError:
        return False  # it is about to start


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_another_takes_over_and_never_two_write(plane, namespace, two, how):
    secret(plane, namespace)
    plane.apply(path_of(namespace), cluster(namespace))
    until(lambda: ready(plane, namespace), 90)
    first = leader(plane)
    other = "two" if first == "one" else "one"
    assert [leads(two[name]) for name in (first, other)] == [True, False]
    two[first].send_signal(how)
    died = time.monotonic()
    until(lambda: leader(plane) == other, 60)
    assert time.monotonic() - died <= 20.0
    until(lambda: leads(two[other]), 10)
    plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(SPEC, "router.replicas", 3)})
    until(lambda: ready(plane, namespace), 60)
    if how == signal.SIGSTOP:
        # The one that slept finds that its time is over before it writes anything.
        two[first].send_signal(signal.SIGCONT)
        assert two[first].wait(30) == 3
        assert leader(plane) == other


def test_the_api_server_goes_away_and_comes_back(plane, namespace, tmp_path):
    secret(plane, namespace)
    with operating(plane, tmp_path):
        plane.apply(path_of(namespace), cluster(namespace))
        until(lambda: ready(plane, namespace), 90)
    # Away for longer than a lease lasts: the process ends and is started again, as by its Deployment.
    with operating(plane, tmp_path) as process:
        until(lambda: leads(process), 60)
        plane.stop_api()
        code = process.wait(60)
        plane.start_api()
        plane.wait()
        assert code == 3
    with operating(plane, tmp_path) as process:
        # Away for a moment: it goes on.
        until(lambda: leads(process), 60)
        plane.stop_api()
        time.sleep(2)
        plane.start_api()
        plane.wait()
        plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(SPEC, "router.replicas", 4)})
        until(lambda: ready(plane, namespace), 120)
        router = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/main-router")
        assert router["spec"]["replicas"] == 4


def test_it_starts_where_there_is_much_already(plane, namespace, tmp_path):
    """More objects of a kind than kopf would have workers, if they were limited."""
    labels = {"app.kubernetes.io/managed-by": "chatcluster-operator", "app.kubernetes.io/instance": "other"}
    for number in range(120):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{number}", "labels": labels}}
        plane.apply(f"/api/v1/namespaces/{namespace}/configmaps/c{number}", body)
    secret(plane, namespace)
    plane.apply(path_of(namespace), cluster(namespace))
    with operating(plane, tmp_path):
        until(lambda: ready(plane, namespace), 90)
