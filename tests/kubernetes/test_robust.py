"""Two replicas, a leader that dies or freezes, an API server that goes away: on a real control plane."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.request
from contextlib import ExitStack

import pytest

from clusters import SPEC, changed, cluster, path_of, ready, secret
from control_plane import OPERATORS
from fault_proxy import Fault, fault_proxy
from operating import figures, operating, supervised, until

pytestmark = pytest.mark.slow
LONG = os.environ.get("CHATCLUSTER_LONG") == "1"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/chatcluster-operator"


@pytest.fixture
def two(plane, tmp_path):
    """Two replicas, each behind a proxy and with an account of its own."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    if plane.get(LEASE):
        plane.ask("DELETE", LEASE)
    with ExitStack() as stack:
        found = {}
        for name, folder in zip(("one", "two"), folders, strict=True):
            proxy = stack.enter_context(fault_proxy(plane))
            process = stack.enter_context(
                operating(plane, folder, "--identity", name, user=f"operator-{name}", server=proxy.url)
            )
            process.proxy = proxy
            found[name] = process
        yield found


def leader(plane):
    lease = plane.get(LEASE)
    return lease and lease["spec"].get("holderIdentity")


def leads(process):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/metrics", timeout=5) as answer:
            return "chatcluster_operator_leads 1.0" in answer.read().decode()
    except OSError:
        return False  # it is about to start


def turns(plane, since):
    """Who wrote, one after the other, Leases aside: (user, first and last time of writing)."""
    found = []
    for entry in plane.audited(OPERATORS, since):
        if (entry.get("objectRef") or {}).get("resource") == "leases" or entry["responseStatus"]["code"] >= 400:
            continue
        user, began, ended = entry["user"]["username"], entry["requestReceivedTimestamp"], entry["stageTimestamp"]
        if found and found[-1][0] == user:
            found[-1][2] = max(found[-1][2], ended)
        else:
            found.append([user, began, ended])
    return found


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP", "cut off"])
def test_another_takes_over_and_never_two_write(plane, namespace, two, how):
    started = time.time()
    secret(plane, namespace)
    plane.apply(path_of(namespace), cluster(namespace))
    until(lambda: ready(plane, namespace), 90)
    first = leader(plane)
    other = "two" if first == "one" else "one"
    assert [leads(two[name]) for name in (first, other)] == [True, False]
    # It has much to write at that moment.
    plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(SPEC, "version", "1.1.0")})
    until(lambda: plane.audited([f"operator-{first}"], time.time() - 2), 20)
    if how == "cut off":
        two[first].proxy.dark = True
    else:
        two[first].send_signal(signal.Signals[how])
    died = time.monotonic()
    until(lambda: leader(plane) == other, 60)
    assert time.monotonic() - died <= 20.0
    until(lambda: leads(two[other]), 10)
    plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(SPEC, "router.replicas", 3)})
    until(lambda: ready(plane, namespace), 120)
    if how == "SIGSTOP":
        # The one that slept finds that its time is over before it writes anything.
        two[first].send_signal(signal.SIGCONT)
    if how != "SIGKILL":
        assert two[first].wait(30) == 3
        two[first].proxy.heal()  # what was on its way when it was cut off arrives now, if anything does
        time.sleep(2)
        assert leader(plane) == other
    found = turns(plane, started)
    assert [user for user, _, _ in found] == [f"operator-{first}", f"operator-{other}"]
    assert found[0][2] < found[1][1], "the last write of one is over before the first of the other begins"


def test_an_election_that_is_refused_now_and_then_goes_on_and_for_good_it_is_lost(plane, namespace, two):
    secret(plane, namespace)
    until(lambda: leader(plane) in two and leads(two[leader(plane)]), 60)
    started, first = time.time(), leader(plane)
    other = "two" if first == "one" else "one"
    for process in two.values():
        process.proxy.leases = [Fault(code, 0.04) for code in (409, 429, 500)]
    plane.apply(path_of(namespace), cluster(namespace))
    until(lambda: ready(plane, namespace), 90)
    until(lambda: sum(process.proxy.done["lease"] for process in two.values()) >= 6, 180)
    assert leader(plane) == first
    assert [process.poll() for process in two.values()] == [None, None]
    two[first].proxy.leases = [Fault(500)]
    two[other].proxy.leases = []
    refused = time.monotonic()
    until(lambda: leader(plane) == other, 60)
    assert time.monotonic() - refused <= 20.0
    assert two[first].wait(30) == 3
    plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(SPEC, "router.replicas", 3)})
    until(lambda: ready(plane, namespace), 120)
    found = turns(plane, started)
    assert [user for user, _, _ in found] == [f"operator-{first}", f"operator-{other}"]
    assert found[0][2] < found[1][1]


def test_an_operator_that_is_told_to_end_hands_over_at_once(plane, namespace, two):
    until(lambda: leader(plane) in two and leads(two[leader(plane)]), 60)
    first = leader(plane)
    other = "two" if first == "one" else "one"
    two[first].terminate()
    began = time.monotonic()
    until(lambda: leads(two[other]), 30)
    assert time.monotonic() - began <= 8.0, "no need to wait for the Lease to run out"
    assert two[first].wait(20) == 0


def test_an_upgrade_of_the_operator_restarts_no_pod(plane, namespace, tmp_path):
    """Another version, the same rendering: it finds everything as it would have it, and writes nothing."""
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    secret(plane, namespace)
    plane.apply(path_of(namespace), cluster(namespace))
    with operating(plane, folders[0]):
        until(lambda: ready(plane, namespace), 90)
        time.sleep(2)

    def pods():
        found = plane.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        return {one["metadata"]["uid"]: (one["metadata"]["name"], one["metadata"]["generation"]) for one in found}

    before, since = pods(), time.time()
    assert len(before) >= 8
    stamp = folders[1] / "chatcluster-99.0.0.dist-info"
    stamp.mkdir()
    (stamp / "METADATA").write_text("Metadata-Version: 2.1\nName: chatcluster\nVersion: 99.0.0\n")
    path = os.pathsep.join([str(folders[1]), *sys.path])
    with operating(plane, folders[1], variables={"PYTHONPATH": path}) as process:
        until(lambda: leads(process), 60)
        until(lambda: figures(process).get("chatcluster_operator_reconciles_total", 0) >= 1, 30)
        time.sleep(5)
        assert plane.writes("operator", since, namespace) == []
        assert pods() == before
        agents = {entry["userAgent"] for entry in plane.audited(["operator"], since)}
        assert agents == {"chatcluster-operator/99.0.0"}, "its Lease is written by another version"


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


def test_the_api_server_is_away_for_long(plane, namespace, tmp_path):
    secret(plane, namespace)
    plane.apply(path_of(namespace), cluster(namespace))
    with supervised(plane, tmp_path) as operator:
        until(lambda: ready(plane, namespace), 120)
        plane.stop_api()
        time.sleep(600 if LONG else 60)
        plane.start_api()
        plane.wait()
        since = time.time()
        plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(SPEC, "router.replicas", 4)})
        # Not until it is ready: its nodes were silent for long, and kwok's pods do not recover from that.
        routers = f"/apis/apps/v1/namespaces/{namespace}/deployments/main-router"
        until(lambda: plane.get(routers)["spec"]["replicas"] == 4, 120)
        assert 3 in operator.codes, "its Lease was lost: it ended, and was started again"
        time.sleep(3)
        written = plane.writes("operator", since, namespace)
        assert [one for one in written if "/status" not in one[1]] == [("patch", routers)]
