"""An API server that refuses, is slow, forgets, cuts and falls silent: through a proxy on real TCP (``fault_proxy``).

Under each fault the operator gets there; when it is over, a further look writes nothing.
"""

from __future__ import annotations

import os
import time

import pytest

from clusters import SPEC, changed, cluster, path_of, ready, secret
from fault_proxy import Fault, fault_proxy
from operating import faults, figures, operating, until, well

pytestmark = pytest.mark.slow
LONG = os.environ.get("CHATCLUSTER_LONG") == "1"
SPACE = "faults"


@pytest.fixture(scope="module")
def proxy(plane):
    with fault_proxy(plane) as found:
        yield found


@pytest.fixture(scope="module")
def operated(plane, proxy, tmp_path_factory):
    """One operator and one ChatCluster that is up, for all that follows."""
    plane.apply(f"/api/v1/namespaces/{SPACE}", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
    secret(plane, SPACE)
    with operating(plane, tmp_path_factory.mktemp("operator"), server=proxy.url) as process:
        plane.apply(path_of(SPACE), cluster(SPACE))
        until(lambda: ready(plane, SPACE), 120)
        yield process
        assert process.poll() is None, "no fault here is a reason to end"
        assert faults(process) == []
    plane.ask("DELETE", f"/api/v1/namespaces/{SPACE}")


def edited(plane, path, value):
    plane.apply(path_of(SPACE), {**cluster(SPACE), "spec": changed(SPEC, path, value)})


def settled(plane, process):
    """Nothing is left to do: a look that is asked for writes nothing."""
    until(lambda: ready(plane, SPACE), 120)
    until(lambda: figures(process).get("chatcluster_operator_queue") == 0.0)
    time.sleep(3)
    since, looks = time.time(), figures(process)["chatcluster_operator_reconciles_total"]
    touch = {"metadata": {"annotations": {"test.example/touched": str(since)}}}
    plane.ask("PATCH", path_of(SPACE), touch, "application/merge-patch+json")
    until(lambda: figures(process)["chatcluster_operator_reconciles_total"] > looks, 40)
    time.sleep(2)
    assert plane.writes("operator", since, SPACE) == []


def service(name="main-router"):
    return f"/api/v1/namespaces/{SPACE}/services/{name}"


FAULTS = {
    "409": [Fault(409, 0.4, "POST|PATCH|DELETE")],
    "429": [Fault(429, 0.3, retry_after=1)],
    "403": [Fault(403, 0.2)],
    "500": [Fault(500, 0.3)],
    "all": [Fault(code, 0.08) for code in (409, 429, 403, 500)],
    "410 to a watch": [Fault(410, 0.5, "GET", watches=True)],
    "410 in a watch": [Fault(410, 0.5, "GET", watches=True, within=True)],
    "500 in a watch": [Fault(500, 0.5, "GET", watches=True, within=True)],
}


@pytest.mark.parametrize("name", FAULTS)
def test_it_gets_there_whatever_is_refused(plane, proxy, operated, name):
    before = sum(proxy.done.values())
    proxy.faults = FAULTS[name]
    proxy.cut()
    edited(plane, "router.replicas", 3 + list(FAULTS).index(name))
    edited(plane, "dependencies.redis.endpoints", [f"redis-{time.time_ns()}:6379"])
    plane.ask("DELETE", service())
    until(lambda: plane.get(service()) and ready(plane, SPACE), 180)
    assert sum(proxy.done.values()) > before + 3, proxy.done
    proxy.heal()
    settled(plane, operated)


def test_it_gets_there_slowly(plane, proxy, operated):
    proxy.latency = 2.0
    edited(plane, "version", "1.3.0")
    until(lambda: ready(plane, SPACE), 240)
    proxy.heal()
    settled(plane, operated)


def test_what_went_while_no_watch_held_comes_back(plane, proxy, operated):
    """The server says 410 afterwards: only a list tells, by what is not in it."""
    proxy.faults = [Fault(500, 1.0, "GET", watches=True)]
    proxy.cut()
    plane.ask("DELETE", service())
    plane.ask("DELETE", f"/apis/policy/v1/namespaces/{SPACE}/poddisruptionbudgets/main-gateway")
    time.sleep(3)
    assert plane.get(service()) is None
    proxy.faults = [Fault(410, 1.0, "GET", watches=True, within=True)]
    lists = figures(operated)["chatcluster_operator_lists_total"]
    until(lambda: figures(operated)["chatcluster_operator_lists_total"] > lists, 60)
    proxy.heal()
    until(lambda: plane.get(service()), 60)
    settled(plane, operated)


def test_watches_that_fall_silent_are_noticed(plane, proxy, operated):
    """Half-open: nothing comes, nothing ends. By itself it notices within the time of a bookmark and a bit."""
    proxy.silent = "."
    edited(plane, "router.replicas", 5)
    plane.ask("DELETE", service("main-presence"))
    time.sleep(5)
    proxy.silent = ""  # the streams that were open stay silent
    began = time.monotonic()
    until(lambda: plane.get(service("main-presence")) and ready(plane, SPACE), 150)
    assert proxy.done["silent"] >= 2
    print(f"noticed after {time.monotonic() - began:.0f} s")
    assert well(operated)[0] == 200
    settled(plane, operated)


def test_a_cluster_of_which_nothing_is_told_is_found_by_comparing(plane, proxy, operated):
    """kopf's watch alone is silent, also when it is begun anew."""
    proxy.silent = "/chatclusters$"
    missed = figures(operated)["chatcluster_operator_missed_total"]
    edited(plane, "router.replicas", 1)
    until(lambda: ready(plane, SPACE), 300)
    assert figures(operated)["chatcluster_operator_missed_total"] > missed
    proxy.heal()
    proxy.cut("/chatclusters$")
    settled(plane, operated)


@pytest.mark.skipif(not LONG, reason="takes six minutes: CHATCLUSTER_LONG=1")
def test_when_nothing_helps_it_says_that_it_is_not_alive(plane, proxy, operated):
    proxy.silent = "."
    until(lambda: well(operated)[0] == 503, 500)
    assert "gave nothing for" in well(operated)[1]
    proxy.heal()
    proxy.cut()
    until(lambda: well(operated)[0] == 200, 120)
