"""What ``kubectl chat status`` shows, to the letter."""
# ruff: noqa: E501 - lines are as wide as what is shown

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime

import pytest

from chatcluster_operator.plugin.paint import Paint, length, plain
from chatcluster_operator.plugin.view import age, details, document, table, unseen

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
PLAIN = Paint()


def condition(kind, status, reason, message, since="2026-01-01T11:56:00Z"):
    return {
        "type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 3,
        "lastTransitionTime": since,
    }  # fmt: skip


CALM = [
    condition("Available", "True", "Serving", "every component has a ready pod"),
    condition("Progressing", "False", "Settled", "everything is as the spec says"),
    condition("Degraded", "False", "Whole", "nothing is broken that the operator sees"),
    condition("DependenciesReachable", "True", "Reachable", "9 pods reach what they need"),
    condition("Draining", "False", "NotDraining", "no gateway leaves"),
    condition("ScalingActive", "False", "NotConfigured", "nothing is scaled by the operator"),
    condition("ScalingLimited", "False", "InRange", "what is wanted lies within min and max"),
    condition("ReconciliationPaused", "False", "NotPaused", "the operator writes what the spec says"),
    condition("UpgradeBlocked", "False", "NotBlocked", "nothing holds an upgrade"),
    condition("Ready", "True", "Ready", "the platform is as the spec says, and serves"),
]
CLUSTER = {
    "metadata": {"name": "main", "namespace": "team", "generation": 3, "creationTimestamp": "2025-12-20T12:00:00Z"},
    "spec": {
        "dependencies": {"redis": {}, "kafka": {}, "cassandra": {}},
        "gateway": {"capacity": {"connectionsPerPod": 20000}, "drain": {"maxConcurrent": 1}},
    },
    "status": {
        "observedGeneration": 3,
        "version": "1.1.0",
        "gateways": "3/3",
        "conditions": CALM,
        "components": {
            "persister": {"desired": 2, "ready": 2, "updated": 2, "revision": "3f2a9c01d4", "lag": 1204},
            "router": {"desired": 3, "ready": 3, "updated": 3, "revision": "91b2c3d4e5"},
            "presence": {"desired": 2, "ready": 2, "updated": 2, "revision": "aa00bb11cc"},
            "gateway": {"desired": 3, "ready": 3, "updated": 3, "revision": "7bb9421fcc", "connections": 12345},
        },
        "drains": [],
        "endpoints": {
            "sockets": "ws://main-gateway.team.svc:8080/v1/connect",
            "serverApi": "http://main-api.team.svc:8081/api/v1",
        },
    },
}  # fmt: skip


def but(conditions=(), **status):
    found = copy.deepcopy(CLUSTER)
    others = {one["type"]: one for one in conditions}
    found["status"]["conditions"] = [others.get(one["type"], one) for one in CALM]
    found["status"].update(status)
    return found


def shown(cluster, paint=PLAIN, **options):
    return "\n".join(details(cluster, NOW, paint, **options))


def test_a_day_without_news():
    assert (
        shown(CLUSTER)
        == """\
main  namespace team · version 1.1.0 · 12d old
✔ Ready  the platform is as the spec says, and serves (for 4m)

COMPONENT  READY  UPDATED  REVISION    LOAD
persister  2/2    2        3f2a9c01d4  1,204 records behind
router     3/3    3        91b2c3d4e5
presence   2/2    2        aa00bb11cc
gateway    3/3    3        7bb9421fcc  12,345 connections, 21 % of 60,000

CONDITIONS
✔ Available              every component has a ready pod (4m)
✔ Progressing            everything is as the spec says (4m)
✔ DependenciesReachable  9 pods reach what they need (4m)

ENDPOINTS   (inside the Kubernetes cluster)
clients     ws://main-gateway.team.svc:8080/v1/connect
server API  http://main-api.team.svc:8081/api/v1"""
    )


def test_a_day_with_all_of_them():
    cluster = but(
        [
            condition("Progressing", "True", "RollingOut", "pods are becoming what the spec says"),
            condition("Degraded", "True", "RolloutStuck", "look at the pods' events and logs: router: deadline"),
            condition("DependenciesReachable", "False", "Unreachable", "not reached: redis (3 pods)"),
            condition("Draining", "True", "Stuck", "should have ended by now, look at the node: main-gateway-b-x"),
            condition("ScalingActive", "True", "Computed", "gateway: 12345 connections, 14000 each: 2 wanted, 3 given"),
            condition("ScalingLimited", "True", "TooFewReplicas", "gateway: 2 wanted, 3 given"),
            condition("ReconciliationPaused", "True", "Paused", "spec.paused is set"),
            condition("UpgradeBlocked", "True", "RolloutStuck", "waiting for: router"),
            condition("Ready", "False", "RolloutStuck", "waiting for: router"),
        ],
        drains=[
            {
                "pod": "main-gateway-a-x7k2p", "node": "node-1", "phase": "Leaving", "since": "2026-01-01T11:50:00Z",
                "until": "2026-01-01T12:04:00Z", "connections": 380, "connectionsAtStart": 1000,
            },
            {
                "pod": "main-gateway-b-x", "node": "node-2", "phase": "Stuck", "until": "2026-01-01T11:59:00Z",
                "message": "it should have ended by now: look at its node", "connections": 5, "connectionsAtStart": 50,
            },
            {"pod": "main-gateway-c-x", "phase": "Leaving", "until": "2026-01-01T12:04:00Z"},
            {
                "pod": "main-gateway-d-x", "node": "node-3", "phase": "Waiting", "since": "2026-01-01T11:59:40Z",
                "message": "1 of 1 drain already", "connections": 900,
            },
        ],
    )  # fmt: skip
    cluster["spec"]["gateway"]["autoscaling"] = {
        "mode": "builtin", "min": 3, "max": 200, "targetConnectionsPercent": 70,
    }  # fmt: skip
    cluster["metadata"]["generation"] = 4
    cluster["status"]["components"]["router"].update(ready=1, updated=1)
    assert (
        shown(cluster)
        == """\
main  namespace team · version 1.1.0 · 12d old
✖ RolloutStuck  waiting for: router (for 4m)
● the operator has not seen the newest spec yet (generation 4, seen 3): does it run?

COMPONENT  READY  UPDATED  REVISION    LOAD
persister  2/2    2        3f2a9c01d4  1,204 records behind
router     1/3    1        91b2c3d4e5
presence   2/2    2        aa00bb11cc
gateway    3/3    3        7bb9421fcc  12,345 connections, 21 % of 60,000

DRAINS                NODE    PROGRESS                    (at most 1 at once)
main-gateway-a-x7k2p  node-1  ████████████░░░░░░░░  62 %  380 of 1,000 connections left, at most until 12:04:00 UTC (4m)
main-gateway-b-x      node-2  ██████████████████░░  90 %  5 of 50 connections left; stuck: it should have ended by now: look at its node
main-gateway-c-x      -       Leaving                     connections not known, at most until 12:04:00 UTC (4m)
main-gateway-d-x      node-3  Waiting                     asked 20s ago: 1 of 1 drain already

AUTOSCALING  MODE     RANGE
gateway      builtin  3 to 200  70 % of a gateway's connections
✔ gateway: 12345 connections, 14000 each: 2 wanted, 3 given

CONDITIONS
✔ Available              every component has a ready pod (4m)
● Progressing            RollingOut: pods are becoming what the spec says (4m)
✖ Degraded               RolloutStuck: look at the pods' events and logs: router: deadline (4m)
✖ DependenciesReachable  Unreachable: not reached: redis (3 pods) (4m)
✖ Draining               Stuck: should have ended by now, look at the node: main-gateway-b-x (4m)
● ScalingLimited         TooFewReplicas: gateway: 2 wanted, 3 given (4m)
● ReconciliationPaused   Paused: spec.paused is set (4m)
✖ UpgradeBlocked         RolloutStuck: waiting for: router (4m)

ENDPOINTS   (inside the Kubernetes cluster)
clients     ws://main-gateway.team.svc:8080/v1/connect
server API  http://main-api.team.svc:8081/api/v1"""
    )


def test_nobody_has_looked_at_it():
    bare = {"metadata": {"name": "new", "namespace": "team", "generation": 1}, "spec": {"dependencies": {}}}
    assert (
        shown(bare)
        == """\
new  namespace team · version ? · ? old
● Unknown  no operator has looked at it yet: does one run?"""
    )


def test_what_no_pod_tells_is_not_told_as_zero():
    dark = but([condition("DependenciesReachable", "Unknown", "NoMetrics", "no pod has said yet what it reaches")])
    assert "gateway    3/3    3        7bb9421fcc  not known: no pod tells its metrics" in shown(dark)
    assert "12,345" not in "\n".join(table([dark], NOW, PLAIN, namespaces=True))


def test_embedded():
    bare = {
        "metadata": {"name": "new", "namespace": "team", "generation": 1},
        "spec": {"dependencies": {"embedded": {"storage": "1Gi"}}},
        "status": {"observedGeneration": 1, "conditions": CALM, "version": "1.0.0"},
    }
    assert "embedded: everything in one pod" in shown(bare)


def test_a_line_for_each():
    stuck = but([condition("Ready", "False", "SecretMissing", "x"), condition("Available", "False", "NotServing", "x")])
    stuck["metadata"] = {**stuck["metadata"], "namespace": "other", "name": "chat"}
    rolling = but(
        [condition("Ready", "False", "RollingOut", "x"), condition("Progressing", "True", "RollingOut", "x")],
        drains=[{"pod": "a"}],
    )
    rolling["metadata"] = {**rolling["metadata"], "name": "zoo"}
    lines = table([rolling, CLUSTER, stuck], NOW, PLAIN, namespaces=True)
    assert (
        "\n".join(lines)
        == """\
NAMESPACE  NAME     STATE          VERSION  GATEWAYS  CONNECTIONS  LAG    DRAINS  AGE
other      chat  ✖  SecretMissing  1.1.0    3/3       12,345       1,204  0       12d
team       main  ✔  Ready          1.1.0    3/3       12,345       1,204  0       12d
team       zoo   ●  RollingOut     1.1.0    3/3       12,345       1,204  1       12d"""
    )
    assert table([CLUSTER], NOW, PLAIN, namespaces=False)[1].startswith("main  ✔  Ready")


def test_colours_change_no_column():
    painted = Paint(colours=True)
    assert "\x1b[32m✔\x1b[0m \x1b[32mReady\x1b[0m" in shown(CLUSTER, painted)
    assert [length(line) for line in shown(CLUSTER, painted).splitlines()] == [
        len(line) for line in shown(CLUSTER).splitlines()
    ]


def test_a_terminal_without_unicode_and_with_eighty_columns():
    cluster = but([condition("Degraded", "True", "RolloutStuck", "look at the pods' events and logs: " + "word " * 20)])
    text = shown(cluster, Paint(unicode=False, width=80))
    assert "+ Ready" in text
    conditions = text[text.index("CONDITIONS") : text.index("ENDPOINTS")]
    assert max(map(len, conditions.splitlines())) <= 80
    assert "x Degraded" in conditions


def test_all_conditions_when_asked():
    assert "· UpgradeBlocked         nothing holds an upgrade" not in shown(CLUSTER)
    assert "nothing holds an upgrade" in shown(CLUSTER, verbose=True)


def test_nothing_that_a_terminal_would_obey_comes_through():
    evil = but([condition("Ready", "False", "Bad\x1b[2J", "a\x07\x1b]0;x\x07b\nc")])
    assert "\x1b" not in shown(evil)
    assert "\x07" not in shown(evil)
    assert plain("a\x9b31mb") == "a?31mb"


def test_the_document_is_json_and_whole():
    found = json.loads(json.dumps(document(CLUSTER)))
    assert (found["name"], found["ready"], found["paused"]) == ("main", True, False)
    assert found["components"]["gateway"]["connections"] == 12345
    assert len(found["conditions"]) == 10


@pytest.mark.parametrize(
    ("stamp", "text"),
    [
        ("2026-01-01T11:59:01Z", "59s"), ("2026-01-01T11:58:01Z", "119s"), ("2026-01-01T11:50:00Z", "10m"),
        ("2026-01-01T09:00:00Z", "3h"), ("2025-12-01T12:00:00Z", "31d"), (None, "?"), ("soon", "?"),
        ("2026-01-01T12:05:00", "?"),
    ],
)  # fmt: skip
def test_ages(stamp, text):
    assert age(stamp, NOW) == text


def test_an_operator_that_is_behind_is_noticed():
    assert unseen(CLUSTER) == ""
    assert "generation 3, seen 2" in unseen(but(observedGeneration=2))
