"""What the operator tells of itself, and that its documentation says the same."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

import exported
from chatcluster_operator.cache import Cache
from chatcluster_operator.connection import resource_of, verb_of
from chatcluster_operator.exposition import Exposition
from chatcluster_operator.health import Lag
from chatcluster_operator.kube import NotLeading, Trouble
from chatcluster_operator.memory import Memory
from chatcluster_operator.metrics import Metrics, reason_of
from chatcluster_operator.observed import Observed, Pod
from chatcluster_operator.plan import Plan
from chatcluster_operator.reconciler import Reconciler
from chatcluster_operator.scale import Scaling
from chatcluster_operator.watches import Watches
from clusters import cluster
from prebuilt import ROOT


class Failing:
    """A cluster that answers each look with an error."""

    def __init__(self, *errors):
        self.errors = list(errors)

    async def kinds(self, wanted):
        raise self.errors.pop(0)


async def nothing(namespace, pod):
    return None


def one(status=None, name="main"):
    found = cluster("team", name)
    found["metadata"] |= {"uid": "u", "generation": 1}
    return {**found, "status": status or {}}


def text_of(reconciler, **more):
    options = {"leads": lambda: True, "lease_age": lambda: 1.5, **more}
    exposition = Exposition(reconciler, Watches(None, reconciler), Lag(), **options)
    return asyncio.run(exposition.render()).decode()


def value(text, line):
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.M)
    assert found, f"no {line} in\n{text}"
    return float(found.group(1))


async def test_looks_are_counted_by_how_they_ended():
    errors = (Trouble("no", status=403), Trouble("gone"), NotLeading(), ValueError("ours"))
    reconciler = Reconciler(Failing(*errors), Cache(), nothing)
    reconciler.cache.clusters["team", "main"] = one()
    for _ in errors:
        await reconciler._turn(("team", "main"), asyncio.Semaphore(0))
    await reconciler._turn(("team", "gone"), asyncio.Semaphore(0))  # deleted meanwhile: nothing to do
    text = await asyncio.to_thread(text_of, reconciler)
    name = "chatcluster_operator_reconcile"
    for result, count in (("ok", 1), ("error", 3), ("not_leading", 1)):
        assert value(text, f'{name}s_total{{result="{result}"}}') == count
    for reason in ("Forbidden", "Unreachable", "Fault"):
        assert value(text, f'{name}_errors_total{{reason="{reason}"}}') == 1
    assert value(text, f"{name}_seconds_count") == 5


@pytest.mark.parametrize(
    ("status", "reason"),
    [(0, "Unreachable"), (403, "Forbidden"), (409, "Conflict"), (422, "Invalid"), (429, "TooManyRequests"),
     (410, "Gone"), (500, "ServerError"), (503, "ServerError"), (418, "Other")],
)  # fmt: skip
def test_reasons(status, reason):
    assert reason_of(status) == reason


@pytest.mark.parametrize(
    ("url", "resource"),
    [
        ("https://a:1/apis/apps/v1/namespaces/team/deployments/main-router?fieldManager=x", "deployments"),
        ("https://a:1/api/v1/namespaces/team/secrets/s", "secrets"),
        ("https://a:1/apis/chatcluster.dev/v1/namespaces/team/chatclusters/main/status", "chatclusters/status"),
        ("https://a:1/apis/monitoring.coreos.com/v1/namespaces/team/podmonitors?labelSelector=a", "podmonitors"),
        ("https://a:1/apis/keda.sh/v1alpha1", ""),
        ("https://a:1/api/v1/namespaces/team", "namespaces"),
        ("https://a:1/version", ""),
    ],
)
def test_a_request_is_about_a_resource_and_never_about_a_name(url, resource):
    assert resource_of(url) == resource


def test_verbs():
    assert verb_of("PATCH", "application/apply-patch+yaml") == "apply"
    assert verb_of("PATCH", "application/merge-patch+json") == "patch"
    assert [verb_of(method, "") for method in ("GET", "POST", "PUT", "DELETE")] == ["get", "create", "update", "delete"]


def test_clusters_are_told_by_phase_and_condition():
    reconciler = Reconciler(None, Cache(), nothing)
    condition = {"type": "Draining", "status": "True", "reason": "Stuck"}
    drains = [{"pod": "a", "connections": 40}, {"pod": "b"}]
    parts = {
        "gateway": {"desired": 3, "ready": 2, "updated": 1, "connections": 70},
        "router": {"desired": 2, "ready": 2},
    }
    status = {"phase": "RollingOut", "conditions": [condition], "draining": 2, "drains": drains, "components": parts}
    reconciler.cache.clusters["team", "main"] = one(status)
    reconciler.cache.clusters["team", "new"] = one(name="new")
    text = text_of(reconciler)
    name = "chatcluster_operator_"
    who = 'chatcluster="main",chatcluster_namespace="team"'
    assert value(text, f'{name}clusters{{phase="RollingOut"}}') == 1
    assert value(text, f'{name}clusters{{phase="Unknown"}}') == 1
    assert value(text, f'{name}condition{{{who},reason="Stuck",type="Draining"}}') == 1
    assert (
        value(
            text, f'{name}replicas{{chatcluster="main",chatcluster_namespace="team",component="gateway",state="ready"}}'
        )
        == 2
    )
    assert value(text, f"{name}draining{{{who}}}") == 2
    assert value(text, f"{name}draining_connections{{{who}}}") == 40
    assert value(text, f"{name}connections{{{who}}}") == 70
    assert exported.of_text(text)[f"{name}replicas"] == {"chatcluster", "chatcluster_namespace", "component", "state"}


def test_the_queue_and_the_lease_are_told():
    reconciler = Reconciler(None, Cache(), nothing)
    reconciler.due["team", "main"] = time.monotonic() - 7
    reconciler.due["team", "later"] = time.monotonic() + 60
    text = text_of(reconciler, leads=lambda: False, lease_age=lambda: -1.0)
    assert value(text, "chatcluster_operator_queue") == 1
    assert 7 <= value(text, "chatcluster_operator_queue_oldest_seconds") < 9
    assert value(text, "chatcluster_operator_leads") == 0
    assert value(text, "chatcluster_operator_lease_age_seconds") == -1


@dataclass
class Decided:
    current: int
    replicas: int
    active: bool = True


def test_drains_and_scale_decisions_are_counted_once():
    metrics = Metrics()
    reconciler = Reconciler(None, Cache(), nothing, metrics)
    memory = Memory()
    leaving = Pod("gateway-1", "gateway", "r", True, datetime.now(UTC))
    scaled = [Decided(3, 5), Decided(3, 5), Decided(5, 5), Decided(5, 4), Decided(5, 4), Decided(4, 4, active=False)]
    for second, one_look in enumerate(scaled):
        made = Plan()
        outcome = Scaling(one_look.replicas, one_look.active, "Computed", "")
        made.scalings["gateway"] = (one_look.current, outcome)
        pods = (leaving,) if second < 3 else ()
        reconciler._count(made, Observed(pods=pods), memory, float(second))
    counted = {
        direction: metrics.scalings.labels("gateway", direction)._value.get() for direction in ("up", "down", "held")
    }
    assert counted == {"up": 1, "down": 1, "held": 1}
    assert metrics.drain_seconds._sum.get() == 3.0, "from the first look at it until it was gone"
    assert memory.leaving == {}


def test_a_thousand_clusters_are_told_in_time():
    reconciler = Reconciler(None, Cache(), nothing)
    conditions = [{"type": f"T{number}", "status": "True", "reason": "R"} for number in range(11)]
    part = {"desired": 3, "ready": 3, "updated": 3}
    parts = dict.fromkeys(("gateway", "router", "persister", "presence"), part)
    for number in range(1000):
        status = {"phase": "Ready", "conditions": conditions, "components": parts}
        reconciler.cache.clusters["team", f"c{number}"] = one(status, f"c{number}")
    began = time.monotonic()
    text = text_of(reconciler)
    took = time.monotonic() - began
    assert text.count("\n") > 25_000
    assert took < 8, "a scrape gives up at 10 s"


def test_the_documentation_names_every_metric():
    reconciler = Reconciler(None, Cache(), nothing)
    reconciler.cache.clusters["team", "main"] = one({"phase": "Ready"})
    reconciler.metrics.requests.labels("get", "pods", "200").inc()
    reconciler.metrics.latency.labels("get").observe(0.1)
    told = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported.of_text(text_of(reconciler))}
    told |= {f"chatcluster_operator_{name}" for name in ("watch_age_seconds", "condition", "replicas", "connections")}
    documented = set()
    for line in (ROOT / "docs/monitoring.md").read_text().splitlines():
        first = line.split("|")[1] if line.startswith("| `chatcluster_operator") else ""
        names = re.findall(r"`(\w+)`", first)
        documented |= {name if name.startswith("chatcluster") else f"chatcluster_operator{name}" for name in names}
    assert documented == {name for name in told if name.startswith("chatcluster_operator")}
