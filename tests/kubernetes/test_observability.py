"""PodMonitor, PrometheusRule and dashboards on a real API server, without the Prometheus operator and with it."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from chatcluster_operator.rbac import rules
from clusters import SPEC, changed, cluster, conditions, path_of, ready, secret
from control_plane import Refused
from operating import until
from prebuilt import definition

pytestmark = pytest.mark.slow
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ASKED = {
    "podMonitor": {"labels": {"release": "prometheus"}},
    "prometheusRules": {"labels": {"release": "prometheus"}},
    "dashboards": {},
}


@contextmanager
def prometheus_operator(plane):
    """Its definitions, for the time of the block."""
    found = [definition(f"monitoring.coreos.com_{name}") for name in ("podmonitors", "prometheusrules")]
    try:
        for one in found:
            plane.ask("POST", CRDS, one)
        for one in found:
            path = f"{CRDS}/{one['metadata']['name']}"
            until(lambda path=path: established(plane.get(path)))
        yield
    finally:
        for one in found:
            path = f"{CRDS}/{one['metadata']['name']}"
            if plane.get(path):
                plane.ask("DELETE", path)
            until(lambda path=path: plane.get(path) is None)


def established(one):
    found = (one.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in found)


def of(plane, namespace, plural, name):
    try:
        return plane.get(f"/apis/monitoring.coreos.com/v1/namespaces/{namespace}/{plural}/{name}")
    except Refused:
        return None


def both(plane, namespace):
    return [of(plane, namespace, *one) for one in (("podmonitors", "main-pods"), ("prometheusrules", "main-rules"))]


def monitored(plane, namespace):
    found = conditions(plane, namespace).get("Monitored", {})
    return found.get("status"), found.get("reason")


def edit(plane, namespace, asked, **more):
    plane.apply(path_of(namespace), cluster(namespace, observability=asked, **more))


def metrics(process):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except urllib.error.URLError:
        return {}  # it is about to start
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_without_the_prometheus_operator_and_when_it_comes_and_goes(plane, namespace, operator):
    secret(plane, namespace)
    edit(plane, namespace, ASKED)
    until(lambda: ready(plane, namespace), 90)
    # Not there: said, and in nobody's way; dashboards need no definition.
    assert monitored(plane, namespace) == ("False", "DefinitionsMissing")
    assert "PodMonitor and PrometheusRule" in conditions(plane, namespace)["Monitored"]["message"]
    board = f"/api/v1/namespaces/{namespace}/configmaps/main-dashboard"
    assert plane.get(board)["metadata"]["labels"]["grafana_dashboard"] == "1"

    with prometheus_operator(plane):
        # It comes while the operator runs.
        until(lambda: all(both(plane, namespace)), 75)
        until(lambda: monitored(plane, namespace) == ("True", "Rendered"), 30)
        pods, rules = both(plane, namespace)
        assert pods["metadata"]["labels"]["release"] == "prometheus"
        assert pods["metadata"]["ownerReferences"][0]["name"] == "main"
        assert len(rules["spec"]["groups"]) == 2
        time.sleep(5)
        since = time.time()
        time.sleep(40)
        assert plane.writes("operator", since, namespace) == [], "what stands there is not written again"

        # Edits are followed, of the spec and of others.
        edit(plane, namespace, ASKED | {"podMonitor": {"intervalSeconds": 15}})
        until(lambda: interval(plane, namespace) == "15s", 30)
        assert "release" not in of(plane, namespace, "podmonitors", "main-pods")["metadata"]["labels"]
        path = f"/apis/monitoring.coreos.com/v1/namespaces/{namespace}/prometheusrules/main-rules"
        plane.ask("PATCH", path, {"spec": {"groups": []}}, "application/merge-patch+json")
        until(lambda: len(plane.get(path)["spec"].get("groups") or ()) == 2, 45)

        # Off is gone.
        edit(plane, namespace, {"prometheusRules": {}})
        until(lambda: of(plane, namespace, "podmonitors", "main-pods") is None, 30)
        until(lambda: plane.get(board) is None, 30)
        assert of(plane, namespace, "prometheusrules", "main-rules")

    # It goes while it is wanted.
    edit(plane, namespace, {"prometheusRules": {}}, router={"replicas": 3})
    until(lambda: ready(plane, namespace), 90)
    until(lambda: monitored(plane, namespace) == ("False", "DefinitionsMissing"), 75)
    assert plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/main-router")["spec"]["replicas"] == 3
    assert operator.poll() is None
    edit(plane, namespace, {})
    until(lambda: monitored(plane, namespace) == ("False", "NotConfigured"), 30)


def interval(plane, namespace):
    found = of(plane, namespace, "podmonitors", "main-pods")
    return found and found["spec"]["podMetricsEndpoints"][0]["interval"]


def test_the_api_server_takes_whatever_is_rendered(plane, namespace, operator):
    """The real schema of the Prometheus operator: durations, labels, names."""
    secret(plane, namespace)
    asked = {
        "podMonitor": {"labels": {"team": "chat"}, "intervalSeconds": 60, "scrapeTimeoutSeconds": 60},
        "prometheusRules": {
            "intervalSeconds": 60,
            "runbookBase": "https://wiki.example/chat",
            "alertLabels": {"team": "chat"},
            "without": ["ChatClusterPushLate"],
            "thresholds": {"gatewayPercent": 80},
        },
    }
    with prometheus_operator(plane):
        edit(plane, namespace, asked)
        until(lambda: ready(plane, namespace), 90)
        until(lambda: all(both(plane, namespace)), 45)
        _, found = both(plane, namespace)
        alerts = {
            rule["alert"]: rule for group in found["spec"]["groups"] for rule in group["rules"] if "alert" in rule
        }
        assert "ChatClusterPushLate" not in alerts
        assert alerts["ChatClusterGatewayFull"]["expr"].endswith("> 16000")
        assert alerts["ChatClusterPodDown"]["labels"] == {"severity": "warning", "team": "chat"}
        assert alerts["ChatClusterPodDown"]["annotations"]["runbook_url"].startswith("https://wiki.example/chat#")
        edit(plane, namespace, {})
        until(lambda: not any(both(plane, namespace)), 45)


def test_roles_without_it_hold_up_nothing_else(plane, namespace, operator):
    """Definitions are there, and the operator may not see them: its roles are older than it is."""
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/operator"
    older = [one for one in rules() if one["apiGroups"] != ["monitoring.coreos.com"]]
    merge = "application/merge-patch+json"
    secret(plane, namespace)
    with prometheus_operator(plane):
        try:
            plane.ask("PATCH", role, {"rules": older}, merge)
            edit(plane, namespace, ASKED)
            until(lambda: ready(plane, namespace), 90)
            until(lambda: monitored(plane, namespace) == ("False", "DefinitionsMissing"), 60)
        finally:
            plane.ask("PATCH", role, {"rules": rules()}, merge)
        until(lambda: all(both(plane, namespace)), 60)
        edit(plane, namespace, {})
        until(lambda: not any(both(plane, namespace)), 45)


def test_the_operator_tells_of_itself(plane, namespace, operator):
    secret(plane, namespace)
    edit(plane, namespace, {})
    until(lambda: ready(plane, namespace), 90)
    until(lambda: metrics(operator).get(("chatcluster_operator_clusters", ("phase", "Ready"))), 30)
    told = metrics(operator)
    name = "chatcluster_operator_"
    assert told[f"{name}leads",] == 1
    assert told[f"{name}reconciles_total", ("result", "ok")] > 3
    assert told[f"{name}reconcile_seconds_count",] >= told[f"{name}reconciles_total", ("result", "ok")]
    assert 0 <= told[f"{name}lease_age_seconds",] < 8
    who = (("chatcluster", "main"), ("chatcluster_namespace", namespace))
    assert told[(f"{name}condition", *who, ("reason", "Ready"), ("type", "Ready"))] == 1
    assert told[(f"{name}replicas", who[0], who[1], ("component", "router"), ("state", "ready"))] == 2
    requests = {key for key in told if key[0] == f"{name}api_requests_total"}
    assert (
        f"{name}api_requests_total",
        ("code", "200"),
        ("resource", "chatclusters/status"),
        ("verb", "patch"),
    ) in requests
    assert any(("resource", "deployments") in key and ("verb", "apply") in key for key in requests)
    assert any(("resource", "leases") in key for key in requests)
    ages = {dict(key[1:])["watch"]: value for key, value in told.items() if key[0] == f"{name}watch_age_seconds"}
    assert {"ChatCluster", "Pod", "Deployment", "ConfigMap"} <= ages.keys()
    # The server's bookmarks alone keep quiet watches young.
    quiet = "HorizontalPodAutoscaler"
    assert quiet in ages
    time.sleep(80)
    young = metrics(operator)
    assert young[f"{name}watch_age_seconds", ("watch", quiet)] < 75


def test_a_refusal_is_counted_by_its_reason(plane, namespace, operator):
    """A quota that lets nothing in is somebody else's, and an alert of ours."""
    secret(plane, namespace)
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"services": "0"}},
    }
    path = f"/api/v1/namespaces/{namespace}/resourcequotas/none"
    plane.apply(path, quota)
    until(lambda: (plane.get(path).get("status") or {}).get("hard"), 30)
    edit(plane, namespace, {})
    error = ("chatcluster_operator_reconcile_errors_total", ("reason", "Forbidden"))
    until(lambda: metrics(operator).get(error, 0) > 0, 60)
    told = metrics(operator)
    refused = ("chatcluster_operator_api_requests_total", ("code", "403"), ("resource", "services"), ("verb", "apply"))
    assert told[refused] > 0
    plane.ask("DELETE", path)
    until(lambda: ready(plane, namespace), 90)


def test_a_spec_that_cannot_be_rendered_is_refused(plane, namespace):
    for asked, words in (
        ({"podMonitor": {"scrapeTimeoutSeconds": 31}}, "scrapeTimeoutSeconds must not exceed intervalSeconds"),
        ({"dashboards": {"labels": {"app.kubernetes.io/name": "x"}}}, "are the operator's own"),
    ):
        with pytest.raises(Refused) as told:
            plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(SPEC, "observability", asked)})
        assert words in told.value.words
