"""Whatever happens on the way: in the end the children are what ``render`` makes of the last spec, and no more."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from chatcluster_operator.drift import holds
from chatcluster_operator.kinds import CHILDREN, PLURALS
from chatcluster_operator.names import COMPONENTS, Cluster
from chatcluster_operator.render import OPTIONAL, around
from chatcluster_operator.render.workloads import deployment, gateway, migration, pods_of, secrets_of, shape_of
from chatcluster_operator.spec import Spec
from clusters import SPEC, changed, cluster, path_of, ready, secret
from control_plane import Refused
from operating import supervised, until

pytestmark = pytest.mark.slow
LONG = os.environ.get("CHATCLUSTER_LONG") == "1"
JSON = "application/merge-patch+json"
SELECT = "labelSelector=app.kubernetes.io/managed-by=chatcluster-operator"

EDITS = [
    ("version", ["1.0.0", "1.1.0", "1.2.0", "2.0.0-rc.1"]),
    ("router.replicas", [0, 1, 3]),
    ("gateway.replicas", [1, 2, 4]),
    ("gateway.drain.maxConcurrent", [1, 3]),
    ("gateway.drain.deadlineSeconds", [60, 900]),
    ("gateway.exposure", [None, {"ingress": {"host": "chat.example"}}, {"service": {"type": "NodePort"}}]),
    ("gateway.podLabels", [None, {"team": "chat"}]),
    ("auth.allowedOrigins", [None, ["https://chat.example"], []]),
    ("dependencies.kafka.bootstrapServers", [["kafka:9092"], ["kafka:9092", "kafka-2:9092"]]),
    ("dependencies.cassandra.port", [9042, 9142]),
    ("settings", [None, {"router": {"sends_per_second": 50.0}}]),
    ("networkPolicy", [None, {"enabled": False}]),
    ("persister.autoscaling", [None, {"mode": "hpa", "max": 8}]),
    ("presence.nodeSelector", [None, {"kubernetes.io/os": "linux"}]),
    ("paused", [True, False]),
]
edits = st.sampled_from(EDITS).flatmap(lambda one: st.tuples(st.just("edit"), st.just(one[0]), st.sampled_from(one[1])))
kinds = st.sampled_from([kind for kind in CHILDREN if kind not in OPTIONAL and kind != "Pod"])
numbers = st.integers(0, 100)
ACTIONS = st.one_of(
    edits,
    edits,
    st.tuples(st.just("delete"), kinds, numbers),
    st.tuples(st.just("spoil"), st.sampled_from(["Deployment", "Service", "NetworkPolicy", "ConfigMap"]), numbers),
    st.tuples(st.just("kill"), st.none(), st.none()),
    st.tuples(st.just("secret"), st.none(), numbers),
    st.tuples(st.just("wait"), st.none(), st.floats(0.0, 4.0)),
)


def where(namespace, kind, name=""):
    api = CHILDREN[kind]
    return f"/{'apis' if '/' in api else 'api'}/{api}/namespaces/{namespace}/{PLURALS[kind]}" + (name and f"/{name}")


def listed(plane, namespace, kind):
    return plane.get(f"{where(namespace, kind)}?{SELECT}")["items"]


def act(plane, namespace, operator, spec, action):
    """The spec after it."""
    what, one, other = action
    if what == "edit":
        spec = changed(spec, one, other)
        plane.apply(path_of(namespace), {**cluster(namespace), "spec": spec})
    elif what in ("delete", "spoil"):
        found = sorted(thing["metadata"]["name"] for thing in listed(plane, namespace, one))
        if found:
            path = where(namespace, one, found[other % len(found)])
            with suppress(Refused):  # it went, or it is immutable
                if what == "delete":
                    plane.ask("DELETE", f"{path}?propagationPolicy=Background")
                else:
                    plane.ask("PATCH", path, _spoilt(one), JSON)
    elif what == "kill":
        operator.kill()
    elif what == "secret":
        secret(plane, namespace, value=f"{other:02x}" * 32)
    else:
        time.sleep(other)
    return spec


def _spoilt(kind):
    mine = {"metadata": {"annotations": {"test.example/mine": "stays"}, "labels": {"app.kubernetes.io/part-of": "x"}}}
    return {
        "Deployment": mine | {"spec": {"replicas": 7, "progressDeadlineSeconds": 99}},
        "Service": mine | {"spec": {"selector": {"app.kubernetes.io/instance": "other"}}},
        "NetworkPolicy": mine | {"spec": {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": "other"}}}},
    }.get(kind, mine)


def expected(plane, namespace):
    """What ``render`` makes of the spec as the server has it."""
    raw = plane.get(path_of(namespace))
    mine = Cluster(namespace, "main", raw["metadata"]["uid"])
    spec = Spec.model_validate(raw["spec"])
    secrets = {}
    for name in secrets_of(mine, spec):
        head = plane.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")["metadata"]
        secrets[name] = hashlib.sha256(f"{head['uid']}/{head['resourceVersion']}".encode()).hexdigest()[:10]
    found = [one for one in around(mine, spec) if one["kind"] not in OPTIONAL]
    found.append(migration(mine, spec, secrets))
    for component in COMPONENTS:
        pods = pods_of(mine, spec, component, secrets)
        many = shape_of(spec, component).replicas
        if component == "gateway":
            found.append(gateway(mine, pods, many))
        else:
            made = deployment(mine, component, pods, many)
            if component == "persister" and spec.persister.autoscaling.mode == "hpa":
                del made["spec"]["replicas"]
            found.append(made)
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def differing(plane, namespace):
    """Of children: what is missing, what is too much, what is not as it should be."""
    wanted = expected(plane, namespace)
    seen = {}
    for kind in CHILDREN:
        if kind not in OPTIONAL and kind != "Pod":
            seen |= {(kind, one["metadata"]["name"]): one for one in listed(plane, namespace, kind)}
    wrong = {key for key in wanted.keys() & seen.keys() if not holds(_body(wanted[key]), seen[key])}
    return {"missing": wanted.keys() - seen.keys(), "obsolete": seen.keys() - wanted.keys(), "wrong": wrong}


def _body(thing):
    return {key: value for key, value in thing.items() if key not in ("apiVersion", "kind")}


def converges(plane, namespace, operator, actions):
    spec = SPEC
    secret(plane, namespace)
    plane.apply(path_of(namespace), cluster(namespace))
    for action in actions:
        spec = act(plane, namespace, operator, spec, action)
    plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(spec, "paused", False)})
    nothing = {"missing": set(), "obsolete": set(), "wrong": set()}
    try:
        until(lambda: ready(plane, namespace) and differing(plane, namespace) == nothing, 150, 0.5)
    except AssertionError:
        found = plane.get(path_of(namespace)).get("status")
        raise AssertionError(f"{differing(plane, namespace)}; {found}") from None
    time.sleep(3)
    since = time.time()
    touch = {"metadata": {"annotations": {"test.example/touched": str(since)}}}
    plane.ask("PATCH", path_of(namespace), touch, JSON)
    time.sleep(4)
    assert plane.writes("operator", since, namespace) == []


@pytest.fixture(scope="module")
def operator(plane, tmp_path_factory):
    with supervised(plane, tmp_path_factory.mktemp("operator")) as found:
        yield found
        assert set(found.codes) <= {None, 0, 3, -9}


# Kept: an upgrade that is taken back while it is killed, with what it made deleted beside it.
@example(
    actions=[
        ("wait", None, 4.0),
        ("edit", "version", "1.1.0"),
        ("kill", None, None),
        ("delete", "Deployment", 1),
        ("edit", "persister.autoscaling", {"mode": "hpa", "max": 8}),
        ("edit", "version", "1.0.0"),
        ("delete", "ConfigMap", 2),
        ("spoil", "Deployment", 0),
        ("secret", None, 7),
    ]
)
@seed(20261126)
@settings(
    max_examples=40 if LONG else 2,
    deadline=None,
    database=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.generate),  # one takes half a minute: none are made smaller
    suppress_health_check=list(HealthCheck),
)
@given(actions=st.lists(ACTIONS, min_size=8, max_size=16))
def test_any_sequence_ends_where_its_last_spec_says(plane, operator, actions):
    name = f"converging-{time.time_ns()}"
    plane.apply(f"/api/v1/namespaces/{name}", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        converges(plane, name, operator, actions)
    finally:
        plane.ask("DELETE", f"/api/v1/namespaces/{name}")
