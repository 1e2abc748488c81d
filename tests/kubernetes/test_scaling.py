"""The operator's own autoscaling on a real control plane; pods do not exist, the test answers for their metrics."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import contextmanager

import pytest

from clusters import SPEC, changed, cluster, conditions, path_of, ready, secret
from operating import until
from pod_metrics import answering

pytestmark = pytest.mark.slow
WINDOW = 20
BUILTIN = {
    "capacity": {"connectionsPerPod": 100},
    "autoscaling": {"mode": "builtin", "min": 2, "max": 6, "scaleDown": {"stabilizationSeconds": WINDOW}},
}
"""70 connections for each, and a fifth more room: 210 connections are 4 gateways."""
JSON = "application/merge-patch+json"


def component(pod):
    return pod["metadata"]["labels"]["app.kubernetes.io/component"]


class Load:
    """Connections, spread over gateways: the first by name has the fewest."""

    def __init__(self, plane, namespace):
        self.plane, self.namespace = plane, namespace
        self.connections, self.lag = 100, 0
        self.silent = False
        self.answers = None

    def gateways(self):
        found = self.plane.get(f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return sorted(pod["metadata"]["name"] for pod in found if component(pod) == "gateway")

    def of(self, name, names):
        share, rest = divmod(self.connections, len(names))
        uneven = min(share, 3) if len(names) > 1 else 0
        first, last = names.index(name) == 0, names.index(name) == len(names) - 1
        return share + (rest if last else 0) + (uneven if last else 0) - (uneven if first else 0)

    def say(self, pod):
        if self.silent:
            return None
        name = pod["metadata"]["name"]
        if component(pod) == "gateway":
            pods = self.answers.pods.values()
            names = sorted(one["metadata"]["name"] for one in pods if component(one) == "gateway")
            return {"chatcluster_gateway_sockets": self.of(name, names)}
        if component(pod) == "persister":
            pods = [one for one in self.answers.pods.values() if component(one) == "persister"]
            return {"chatcluster_persister_lag_records": self.lag / len(pods)}
        return {}


@pytest.fixture
def load(plane, namespace):
    found = Load(plane, namespace)
    with answering(plane, namespace, found.say) as answers:
        found.answers = answers
        yield found


def up(plane, namespace, **spec):
    secret(plane, namespace)
    plane.apply(path_of(namespace), cluster(namespace, **spec))
    until(lambda: ready(plane, namespace), 120)


def wanted(plane, namespace, name="gateway"):
    found = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
    return sum(one["spec"]["replicas"] for one in found if one["metadata"]["name"].startswith(f"main-{name}"))


@contextmanager
def watching(plane, namespace):
    """How many gateways were wanted, with the time of each change."""
    seen, over = [], threading.Event()

    def look():
        while not over.wait(0.1):
            now = wanted(plane, namespace)
            if not seen or seen[-1][1] != now:
                seen.append((time.monotonic(), now))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(10)


def turns(seen):
    """Times at which the number began to go the other way."""
    ways = [(at, many > before) for (_, before), (at, many) in itertools.pairwise(seen)]
    return [at for (_, before), (at, way) in itertools.pairwise(ways) if way != before]


def told(plane, namespace, kind):
    found = conditions(plane, namespace)[kind]
    return found["status"], found["reason"]


def test_step_ramp_and_spike(plane, namespace, load, operator):
    up(plane, namespace, gateway=BUILTIN)
    until(lambda: wanted(plane, namespace) == 2 and told(plane, namespace, "ScalingActive") == ("True", "Computed"), 60)
    with watching(plane, namespace) as seen:
        load.connections = 210  # a step
        until(lambda: wanted(plane, namespace) == 4, 40)
        for connections in range(215, 291, 15):  # a ramp
            load.connections = connections
            time.sleep(3)
        until(lambda: wanted(plane, namespace) == 5, 40)
        load.connections = 1000  # a spike
        until(lambda: wanted(plane, namespace) == 6, 40)
        until(lambda: told(plane, namespace, "ScalingLimited") == ("True", "TooManyReplicas"), 30)
        load.connections = 100
        fell = time.monotonic()
        time.sleep(WINDOW - 8)
        assert wanted(plane, namespace) == 6, "it is too much for less than the window"
        until(lambda: wanted(plane, namespace) == 2, 150)
        until(lambda: ready(plane, namespace), 60)
        until(lambda: told(plane, namespace, "ScalingLimited") == ("False", "InRange"), 30)
    lower = [at for (_, before), (at, many) in itertools.pairwise(seen) if many < before]
    assert lower[0] - fell >= WINDOW - 12, "what pods said of themselves is up to ten seconds old"
    assert len(turns(seen)) == 1, seen
    assert [many for _, many in seen][-5:] == [6, 5, 4, 3, 2], "one at a time: maxConcurrent"


def test_the_emptiest_goes_and_none_while_one_drains(plane, namespace, load, operator):
    load.connections = 210
    up(plane, namespace, gateway=BUILTIN)
    until(lambda: wanted(plane, namespace) == 4 and len(load.gateways()) == 4, 60)
    names = load.gateways()
    # One drains: it is told to go and stays.
    held = f"/api/v1/namespaces/{namespace}/pods/{names[2]}"
    plane.ask("PATCH", held, {"metadata": {"finalizers": ["test.example/drains"]}}, JSON)
    plane.ask("DELETE", held)
    until(lambda: told(plane, namespace, "Draining")[0] == "True", 30)
    load.connections = 150
    time.sleep(WINDOW + 15)
    assert wanted(plane, namespace) == 4, "none goes while one drains"
    before = set(load.gateways())
    emptiest = sorted(before - {names[2]})[0]
    plane.ask("PATCH", held, {"metadata": {"finalizers": None}}, JSON)
    until(lambda: wanted(plane, namespace) == 3, 90)
    until(lambda: len(load.gateways()) == 3, 30)
    assert before - {names[2]} - set(load.gateways()) == {emptiest}


def test_without_metrics_it_holds_and_after_a_mass_reconnect_nobody_goes(plane, namespace, load, operator):
    load.connections = 210
    up(plane, namespace, gateway=BUILTIN)
    until(lambda: wanted(plane, namespace) == 4, 60)
    with watching(plane, namespace) as seen:
        load.silent = True
        until(lambda: told(plane, namespace, "ScalingActive") == ("False", "NoMetrics"), 40)
        load.connections = 0
        time.sleep(WINDOW + 10)
        load.silent = False
        until(lambda: told(plane, namespace, "ScalingActive") == ("True", "Computed"), 40)
        time.sleep(5)  # everybody was gone for a moment
        load.connections = 210
        time.sleep(WINDOW + 10)
    assert [many for _, many in seen] == [4]


def test_a_roll_out_does_not_change_how_many(plane, namespace, load, operator):
    load.connections = 150
    up(plane, namespace, gateway=BUILTIN)
    until(lambda: wanted(plane, namespace) == 3, 60)
    until(lambda: ready(plane, namespace), 60)
    with watching(plane, namespace) as seen:
        spec = changed({**SPEC, "gateway": BUILTIN}, "version", "1.1.0")
        plane.apply(path_of(namespace), {**cluster(namespace), "spec": spec})
        until(lambda: ready(plane, namespace), 180)
    assert wanted(plane, namespace) == 3
    assert max(many for _, many in seen) <= 4, "one more, as its successor"


def test_persisters_follow_the_lag_up_to_the_partitions(plane, namespace, load, operator):
    scaling = {"mode": "builtin", "min": 1, "max": 16, "lagPerReplica": 1000}
    scaling["scaleDown"] = {"stabilizationSeconds": 5}
    up(plane, namespace, persister={"autoscaling": scaling})
    load.lag = 4500
    until(lambda: wanted(plane, namespace, "persister") == 5, 60)
    load.lag = 1_000_000
    until(lambda: wanted(plane, namespace, "persister") == 16, 60)
    load.lag = 100
    until(lambda: wanted(plane, namespace, "persister") == 1, 90)
