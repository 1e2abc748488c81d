"""Conditions: what is so, why, and since when."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from chatcluster_operator.conditions import Facts, conditions, invalid
from chatcluster_operator.observed import Observed, Pod, Workload
from chatcluster_operator.scale import Scaling

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def workload(ready=1, name="main-router"):
    return Workload(name, 2, ready, 2, 2, True, "", {}, "1.0.0", "")


def facts(**others):
    """Of a platform that is as it should be."""
    given = {
        "components": {"router": workload(2), "gateway": workload(1, "a")},
        "gateways": (workload(1, "a"), workload(1, "b")),
        "desired": {"router": 2, "gateway": 2},
    }
    return Facts(**{**given, **others})


def pod(name="g", connections=None, **measures):
    found = {} if connections is None else {"chatcluster_gateway_sockets": float(connections)}
    return Pod(
        name, "gateway", "", True, NOW, {**found, **{key.replace("__", ":"): one for key, one in measures.items()}}
    )


def said(made, *pods):
    return {one["type"]: one for one in conditions(made, Observed(pods=pods, generation=7), (), NOW)}


def short(made, kind, *pods):
    one = said(made, *pods)[kind]
    return one["status"], one["reason"]


def test_of_a_platform_that_is_as_it_should_be():
    found = said(facts())
    assert {kind: one["status"] for kind, one in found.items()} == {
        "Available": "True", "Progressing": "False", "Degraded": "False", "DependenciesReachable": "Unknown",
        "Draining": "False", "ScalingActive": "False", "ScalingLimited": "False", "ReconciliationPaused": "False",
        "UpgradeBlocked": "False", "Monitored": "False", "Ready": "True",
    }  # fmt: skip
    assert {one["observedGeneration"] for one in found.values()} == {7}
    assert all(one["message"] and one["reason"] for one in found.values())


def test_since_when_moves_with_the_status_and_with_nothing_else():
    before = conditions(facts(), Observed(generation=1), (), NOW)
    later = NOW + timedelta(hours=1)
    found = conditions(facts(moving="Migrating", paused=True), Observed(generation=2), before, later)
    moved = {one["type"] for one in found if one["lastTransitionTime"] == "2026-01-01T01:00:00Z"}
    assert moved == {"Progressing", "ReconciliationPaused", "Ready"}
    again = conditions(facts(moving="RollingOut"), Observed(generation=3), found, later + timedelta(hours=1))
    [progressing] = [one for one in again if one["type"] == "Progressing"]
    assert (progressing["reason"], progressing["lastTransitionTime"]) == ("RollingOut", "2026-01-01T01:00:00Z")


@pytest.mark.parametrize(
    ("others", "available"),
    [
        ({}, True),
        ({"gateways": (workload(0), workload(1))}, True),
        ({"gateways": (workload(0), workload(0))}, False),
        ({"gateways": ()}, False),
        ({"components": {"router": workload(0), "gateway": workload()}}, False),
        ({"components": {"router": None, "gateway": workload()}}, False),
        ({"components": {"router": None, "gateway": workload()}, "desired": {"router": 0, "gateway": 2}}, True),
        ({"components": {"router": None, "gateway": workload()}, "desired": {}}, False),
        ({"components": {}}, False),
    ],
)
def test_available_is_a_ready_pod_of_everything_that_is_wanted(others, available):
    found = said(facts(**others))["Available"]
    assert (found["status"], found["reason"]) == (("True", "Serving") if available else ("False", "NotServing"))


def test_what_is_not_available_is_named():
    found = facts(components={"router": None, "presence": workload(0), "gateway": workload()})
    assert said(found)["Available"]["message"].endswith("of: presence, router")
    assert said(Facts())["Available"]["message"].endswith("of: everything")


@pytest.mark.parametrize("reason", ["RollingOut", "Migrating", "SecretMissing"])
def test_what_moves_is_not_ready_yet(reason):
    found = said(facts(moving=reason, missing=["b"] if reason == "SecretMissing" else []))
    assert (found["Progressing"]["status"], found["Progressing"]["reason"]) == ("True", reason)
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("False", reason)


def test_missing_secrets_are_named_before_all_else():
    found = said(facts(missing=["a", "b"], moving="SecretMissing", stuck={"router": "deadline"}))
    assert found["Degraded"]["reason"] == "SecretMissing"
    assert found["Degraded"]["message"].endswith(": a, b")
    assert found["Progressing"]["message"].endswith(": a, b")


def test_who_is_stuck_is_named_with_the_reason():
    found = said(facts(moving="RollingOut", stuck={"router": "late", "gateway": "crashes"}))
    assert (found["Degraded"]["status"], found["Degraded"]["reason"]) == ("True", "RolloutStuck")
    assert found["Degraded"]["message"].endswith("gateway: crashes; router: late")
    assert (found["UpgradeBlocked"]["status"], found["UpgradeBlocked"]["reason"]) == ("True", "RolloutStuck")
    assert found["UpgradeBlocked"]["message"].endswith(": gateway, router")
    assert found["Ready"]["message"] == found["UpgradeBlocked"]["message"]


def test_too_few_pods_are_a_fault_unless_something_moves():
    few = facts(gateways=(workload(1),), components={"router": workload(1), "gateway": workload()})
    assert short(few, "Degraded") == ("True", "PodsMissing")
    assert said(few)["Degraded"]["message"] == "ready: router 1/2, gateway 1/2"
    assert short(few, "Ready") == ("False", "PodsMissing")
    assert short(replace(few, moving="RollingOut"), "Degraded") == ("False", "Whole")
    none = facts(components={"gateway": workload()}, desired={"router": 1})
    assert said(none)["Degraded"]["message"] == "ready: router 0/1"


def test_dependencies_are_as_pods_say():
    silent = Pod("s", "router", "", True, None)
    up = {"chatcluster_dependency_up__redis": 1.0, "chatcluster_dependency_up__kafka": 1.0}
    down = {**up, "chatcluster_dependency_up__kafka": 0.0, "chatcluster_gateway_sockets": 0.0}
    assert short(facts(), "DependenciesReachable", silent) == ("Unknown", "NoMetrics")
    assert short(facts(), "DependenciesReachable", silent, pod(**up)) == ("True", "Reachable")
    assert said(facts(), silent, pod(**up))["DependenciesReachable"]["message"].startswith("1 pods")
    found = said(facts(), pod(**up), pod(**down), pod(**down))
    assert (found["DependenciesReachable"]["status"], found["DependenciesReachable"]["reason"]) == (
        "False",
        "Unreachable",
    )
    assert "not reached: kafka (2 pods);" in found["DependenciesReachable"]["message"]
    assert found["Ready"]["status"] == "True", "whoever serves goes on"


def test_of_drains_the_worst_is_said():
    leaving = [pod("a", 3), pod("b", 4), pod("c")]
    assert short(facts(), "Draining") == ("False", "NotDraining")
    assert short(facts(waits="its turn"), "Draining") == ("True", "Waiting")
    found = said(facts(waits="its turn", draining=leaving))["Draining"]
    assert (found["reason"], found["message"]) == ("Draining", "gateways that leave: 3, with 7 connections")
    found = said(facts(waits="no room", waits_long=True, draining=leaving))["Draining"]
    assert (found["reason"], found["message"].rpartition(": ")[2]) == ("Stuck", "no room")
    found = said(facts(waits="no room", waits_long=True, draining=leaving, late=[leaving[1], leaving[0]]))["Draining"]
    assert (found["reason"], found["message"].rpartition(": ")[2]) == ("Stuck", "a, b")


def test_scaling_is_said_and_what_limits_it():
    on = Scaling(4, True, "Computed", "1800 connections")
    held = Scaling(2, False, "NoMetrics", "1 of 2 do not say")
    limited = replace(on, limited="TooManyReplicas")
    found = said(facts(scaling={"gateway": on}))
    assert (found["ScalingActive"]["status"], found["ScalingActive"]["reason"]) == ("True", "Computed")
    assert found["ScalingLimited"]["status"] == "False"
    found = said(facts(scaling={"gateway": on, "persister": held}))["ScalingActive"]
    assert (found["status"], found["message"]) == ("False", "persister: 1 of 2 do not say")
    found = said(facts(scaling={"gateway": on, "persister": limited}))["ScalingLimited"]
    assert (found["status"], found["reason"]) == ("True", "TooManyReplicas")
    assert found["message"].startswith("persister: ")


def test_the_migrations_failure_blocks_before_anybody_is_stuck():
    found = said(facts(blocked="schema is newer", stuck={"router": "late"}))
    assert (found["UpgradeBlocked"]["status"], found["UpgradeBlocked"]["reason"]) == ("True", "MigrationFailed")
    assert found["UpgradeBlocked"]["message"].endswith("schema is newer")
    assert found["Ready"]["reason"] == "MigrationFailed"


def test_paused_is_said_and_ready_stays():
    assert short(facts(paused=True), "ReconciliationPaused") == ("True", "Paused")
    assert short(facts(paused=True), "Ready") == ("True", "Ready")


def test_monitoring_is_there_or_is_not():
    wanted = frozenset({"PodMonitor", "PrometheusRule"})
    found = said(facts(monitoring=wanted))["Monitored"]
    assert (found["status"], found["reason"]) == ("True", "Rendered")
    found = said(facts(monitoring=wanted, unmonitored=frozenset({"PodMonitor"})))
    assert (found["Monitored"]["status"], found["Monitored"]["reason"]) == ("False", "DefinitionsMissing")
    assert found["Monitored"]["message"].endswith("no PodMonitor")
    assert found["Ready"]["status"] == "True"


def test_ready_says_the_worst():
    """A block before a fault, a fault before being away, being away before what is under way."""
    worst = facts(blocked="no", missing=["a"], moving="SecretMissing", components={})
    reasons = []
    for better in ({}, {"blocked": ""}, {"missing": []}, {"components": facts().components}, {"moving": ""}):
        worst = replace(worst, **better)
        reasons.append(short(worst, "Ready")[1])
    assert reasons == ["MigrationFailed", "SecretMissing", "NotServing", "SecretMissing", "Ready"]


def test_a_spec_that_cannot_be_read_is_not_ready_and_all_else_is_as_it_was():
    before = conditions(facts(), Observed(generation=1), (), NOW)
    later = NOW + timedelta(hours=1)
    found = invalid("spec.x: no", 2, before, later)
    assert found[:-1] == before[:-1]
    assert found[-1] == {
        "type": "Ready", "status": "False", "reason": "InvalidSpec", "message": "spec.x: no", "observedGeneration": 2,
        "lastTransitionTime": "2026-01-01T01:00:00Z",
    }  # fmt: skip
    assert invalid("spec.x: no", 2, found, later + timedelta(hours=1)) == found, "said once"
    again = invalid("y" * 2000, 3, found, later + timedelta(hours=1))[-1]
    assert (again["lastTransitionTime"], len(again["message"])) == ("2026-01-01T01:00:00Z", 1000)
    assert [one["type"] for one in invalid("spec.x: no", 1, (), NOW)] == ["Ready"]
