"""Charts and plain manifests on a real API server: install, upgrade, rollback, uninstall; Helm 3 and 4.

The operator's pods are admitted (restricted) on nodes that do not exist; beside them it runs as a process with the
rights of their account and the options of their Deployment.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

import helming
from chatcluster_operator.crd import crd
from chatcluster_operator.rbac import LEASE, rules
from clusters import SPEC, changed, cluster, path_of, ready, restricted_namespace, secret
from helming import CHARTS, ROOT, VERSIONS
from installed import NAME, account_config, as_pod, available, deployment, installed, requests_of
from operating import faults, until
from prebuilt import definitions

pytestmark = pytest.mark.slow
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/chatclusters.chatcluster.dev"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
SYSTEM = "chatcluster-system"
MAIN = {"spec": SPEC}


@pytest.fixture
def bare(plane):
    """A cluster that does not know ChatClusters; afterwards it knows them as before."""
    remove_definition(plane)
    yield plane
    for kind in ("clusterrolebindings", "clusterroles"):
        for one in plane.get(f"{RBAC}/{kind}")["items"]:
            if one["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") == "chatcluster":
                plane.ask("DELETE", f"{RBAC}/{kind}/{one['metadata']['name']}")
    if plane.get(f"/api/v1/namespaces/{SYSTEM}"):
        plane.ask("DELETE", f"/api/v1/namespaces/{SYSTEM}")
        until(lambda: plane.get(f"/api/v1/namespaces/{SYSTEM}") is None, 60)
    remove_definition(plane)
    plane.apply(CRD, crd())
    until(lambda: established(plane))


def remove_definition(plane):
    if plane.get(CRD):
        plane.ask("DELETE", CRD)
        until(lambda: plane.get(CRD) is None, 60)


def established(plane):
    conditions = ((plane.get(CRD) or {}).get("status") or {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


@pytest.fixture
def system(bare):
    return restricted_namespace(bare, SYSTEM)


@pytest.fixture(params=VERSIONS)
def helm(request, bare, tmp_path):
    """Helm on this cluster; values as an object."""

    def run(*arguments, values=None):
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values or {}))
        chosen = ["--values", file] if values is not None else []
        return helming.run(request.param, *arguments, *chosen, kubeconfig=bare.kubeconfig)

    return run


def kubectl(plane, *arguments, accept=(0,)):
    done = subprocess.run(
        [plane.bin / "kubectl", f"--kubeconfig={plane.kubeconfig}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode in accept, done.stderr + done.stdout
    return done


def pods(plane, namespace):
    found = plane.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    return {one["metadata"]["uid"] for one in found if "deletionTimestamp" not in one["metadata"]}


def children(plane, namespace):
    ours = "labelSelector=app.kubernetes.io%2Fname%3Dchatcluster"
    return plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments?{ours}")["items"]


# -- Helm -------------------------------------------------------------------------------------------------


def test_install_upgrade_rollback_uninstall(helm, bare, system, namespace, tmp_path):
    plane = bare
    secret(plane, namespace)
    operator = (NAME, CHARTS / "chatcluster-operator", "--namespace", system, "--wait", "--timeout", "90s")
    main = ("main", CHARTS / "chatcluster", "--namespace", namespace)
    definition = ("chatcluster-crds", CHARTS / "chatcluster-crds", "--namespace", system)
    told = helm("install", *operator)
    assert "does not know ChatClusters yet" in told
    assert available(plane, system)
    with installed(plane, system, tmp_path) as process:
        # The definition comes after the operator, which waits for it.
        until(lambda: "does not know ChatClusters" in process.log.read_text(), 30)
        helm("install", *definition)
        until(lambda: established(plane))
        helm("install", *main, values=MAIN)
        until(lambda: ready(plane, namespace), 90)
        before = pods(plane, namespace)

        # A newer operator rolls its own pods and nobody else's.
        told = helm("upgrade", *operator, values={"replicas": 3, "logLevel": "debug"})
        assert "does not know" not in told
        assert deployment(plane, system)["spec"]["replicas"] == 3
        assert available(plane, system)
        helm("upgrade", *definition, values={"annotations": {"team": "platform"}})
        assert plane.get(CRD)["metadata"]["annotations"]["team"] == "platform"
        assert ready(plane, namespace)
        assert pods(plane, namespace) == before

        router = f"/apis/apps/v1/namespaces/{namespace}/deployments/main-router"
        helm("upgrade", *main, values={"spec": changed(SPEC, "router.replicas", 3)})
        until(lambda: plane.get(router)["spec"]["replicas"] == 3 and ready(plane, namespace), 60)
        helm("rollback", "main", "1", "--namespace", namespace)
        until(lambda: plane.get(router)["spec"]["replicas"] == 2 and ready(plane, namespace), 60)
        helm("rollback", NAME, "1", "--namespace", system, "--wait", "--timeout", "90s")
        assert deployment(plane, system)["spec"]["replicas"] == 2
        assert "--log-level=info" in deployment(plane, system)["spec"]["template"]["spec"]["containers"][0]["args"]
        before = pods(plane, namespace)

        # Without operator and chart of the definition: the definition stays, and all that runs.
        helm("uninstall", NAME, "--namespace", system, "--wait")
        assert process.wait(60) != 0, "without rights it does not lead on"
    helm("uninstall", "chatcluster-crds", "--namespace", system)
    assert plane.get(f"/apis/apps/v1/namespaces/{system}/deployments")["items"] == []
    assert plane.get(f"{RBAC}/clusterroles/{NAME}") is None
    assert established(plane)
    assert plane.get(path_of(namespace))
    assert pods(plane, namespace) == before

    # Installed again it takes up what stayed.
    helm("install", *definition)
    helm("install", *operator)
    with installed(plane, system, tmp_path):
        helm("upgrade", *main, values={"spec": changed(SPEC, "router.replicas", 4)})
        until(lambda: plane.get(router)["spec"]["replicas"] == 4 and ready(plane, namespace), 90)
    helm("uninstall", "main", "--namespace", namespace)
    until(lambda: plane.get(path_of(namespace)) is None and children(plane, namespace) == [], 60)


def test_a_chatcluster_that_is_to_stay_stays(helm, bare, namespace):
    plane = bare
    helm("install", "chatcluster-crds", CHARTS / "chatcluster-crds", "--namespace", namespace)
    until(lambda: established(plane))
    helm("install", "main", CHARTS / "chatcluster", "--namespace", namespace, values={**MAIN, "keep": True})
    helm("uninstall", "main", "--namespace", namespace)
    assert plane.get(path_of(namespace))


def test_without_keep_the_definition_goes(helm, bare, namespace):
    plane = bare
    helm("install", "chatcluster-crds", CHARTS / "chatcluster-crds", "--namespace", namespace, values={"keep": False})
    until(lambda: established(plane))
    helm("uninstall", "chatcluster-crds", "--namespace", namespace)
    until(lambda: plane.get(CRD) is None)


def test_a_chatcluster_that_breaks_a_rule_is_refused_with_its_sentence(helm, bare, namespace):
    plane = bare
    helm("install", "chatcluster-crds", CHARTS / "chatcluster-crds", "--namespace", namespace)
    until(lambda: established(plane))
    broken = {"spec": changed(SPEC, "gateway.autoscaling", {"min": 5, "max": 4})}
    with pytest.raises(helming.Refused, match="min must not exceed max"):
        helm("install", "main", CHARTS / "chatcluster", "--namespace", namespace, values=broken)


# -- rights -----------------------------------------------------------------------------------------------


def allowed(plane, namespace, verb, group, resource, where, subresource=""):
    asked = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": where}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": f"system:serviceaccount:{namespace}:{NAME}", "resourceAttributes": asked},
    }
    return plane.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)["status"]["allowed"]


FORBIDDEN = [
    ("list", "", "secrets"),
    ("watch", "", "secrets"),
    ("delete", "", "secrets"),
    ("create", "", "pods"),
    ("delete", "", "pods"),
    ("get", "", "nodes"),
    ("list", "", "namespaces"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
    ("patch", "rbac.authorization.k8s.io", "clusterroles"),
    ("patch", "chatcluster.dev", "chatclusters"),
    ("delete", "chatcluster.dev", "chatclusters"),
    ("impersonate", "", "users"),
]


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def rights_used(plane, namespace, since):
    """(verb, group, resource, namespace) of every request that concerned an object; none was refused for its rights."""
    found = set()
    for entry in requests_of(plane, namespace, since):
        assert entry["responseStatus"]["code"] != 403, entry["requestURI"]
        of = entry.get("objectRef")
        if of is None:
            assert entry["requestURI"].partition("?")[0].rstrip("/").startswith(("/api", "/apis", "/version"))
            continue
        resource = "/".join(filter(None, (of["resource"], of.get("subresource"))))
        found.add((entry["verb"], of.get("apiGroup", ""), resource, of.get("namespace")))
    return found


def granted(table):
    return {(verb, row["apiGroups"][0], row["resources"][0]) for row in table for verb in row["verbs"]}


@pytest.fixture
def others(bare):
    """Definitions of the Gateway API, KEDA and the Prometheus operator."""
    folder = definitions()
    kubectl(bare, "apply", "--server-side", "-f", str(folder))
    kubectl(bare, "wait", "--for=condition=Established", "-f", str(folder), "--timeout=30s")
    yield
    kubectl(bare, "delete", "-f", str(folder))


def test_with_the_charts_rights_alone_it_runs_chatclusters_everywhere(helm, bare, system, namespace, others, tmp_path):
    plane = bare
    secret(plane, namespace)
    helm("install", "chatcluster-crds", CHARTS / "chatcluster-crds", "--namespace", system)
    monitored = {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}
    helm("install", NAME, CHARTS / "chatcluster-operator", "--namespace", system, values=monitored)
    assert plane.get(f"/apis/monitoring.coreos.com/v1/namespaces/{system}/podmonitors/{NAME}")
    until(lambda: established(plane))
    spec = changed(SPEC, "gateway.exposure", {"ingress": {"host": "chat.example"}})
    spec = changed(spec, "persister.autoscaling", {"mode": "hpa", "max": 4})
    since = now()
    with installed(plane, system, tmp_path):
        plane.apply(path_of(namespace), {**cluster(namespace), "spec": spec})
        until(lambda: plane.get(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/main-gateway"), 60)
        until(lambda: len(children(plane, namespace)) == 4, 60)
        spec = changed(SPEC, "gateway.exposure", {"gatewayAPI": {"parentRefs": [{"name": "main"}]}})
        keda = {"mode": "keda", "max": 4, "prometheusAddress": "http://prometheus:9090"}
        plane.apply(path_of(namespace), {**cluster(namespace), "spec": changed(spec, "persister.autoscaling", keda)})
        scaled = f"/apis/keda.sh/v1alpha1/namespaces/{namespace}/scaledobjects/main-persister"
        routed = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/main-gateway"
        until(lambda: plane.get(routed) and plane.get(scaled), 60)
        plane.apply(path_of(namespace), cluster(namespace))
        until(lambda: not plane.get(routed) and not plane.get(scaled), 60)
        until(lambda: ready(plane, namespace), 90)
        plane.ask("DELETE", path_of(namespace))
        until(lambda: children(plane, namespace) == [], 60)
    used = rights_used(plane, system, since)
    assert {(verb, group, resource) for verb, group, resource, _ in used} <= granted(rules() + rules(LEASE))
    assert {where for _, _, resource, where in used if resource == "leases"} == {system}
    for verb, group, resource in FORBIDDEN:
        assert not allowed(plane, system, verb, group, resource, namespace), (verb, resource)
    assert not allowed(plane, system, "update", "coordination.k8s.io", "leases", "kube-system")


@pytest.mark.parametrize("how", ["chart", "manifest"])
def test_namespaced_it_has_no_right_beyond_and_needs_none(bare, system, namespace, tmp_path, how):
    plane = bare
    other = restricted_namespace(plane, f"{namespace}-other")
    kubectl(plane, "apply", "--server-side", "-f", str(ROOT / "crds/chatclusters.yaml"))
    until(lambda: established(plane))
    if how == "chart":
        file = tmp_path / "values.yaml"
        watched = [namespace, f"{namespace}-second"]
        restricted_namespace(plane, watched[1])
        file.write_text(json.dumps({"scope": "namespaced", "watchNamespaces": watched}))
        helming.run(
            *("helm", "install", NAME, CHARTS / "chatcluster-operator", "--namespace", system, "--values", file),
            kubeconfig=plane.kubeconfig,
        )
    else:
        watched = [system]
        kubectl(plane, "apply", "--server-side", "-f", str(ROOT / "deploy/chatcluster-operator-namespaced.yaml"))
    for kind in ("clusterroles", "clusterrolebindings"):
        names = [one["metadata"]["name"] for one in plane.get(f"{RBAC}/{kind}")["items"]]
        assert not [name for name in names if name.startswith("chatcluster")]
    for where in (*watched, other):
        secret(plane, where)
        plane.apply(path_of(where), cluster(where))
    since = now()
    with installed(plane, system, tmp_path):
        for where in watched:
            until(lambda where=where: ready(plane, where), 90)
        plane.ask("DELETE", path_of(watched[0]))
        until(lambda: children(plane, watched[0]) == [], 60)
    assert "status" not in plane.get(path_of(other))
    assert children(plane, other) == []
    used = rights_used(plane, system, since)
    assert {where for *_, where in used} == {*watched, system}, "it asked for something of the whole cluster"
    assert {one[:3] for one in used} <= granted(rules() + rules(LEASE))
    for where in (other, ""):
        for verb, group, resource in granted(rules()) | granted(rules(LEASE)):
            name, _, part = resource.partition("/")
            assert not allowed(plane, system, verb, group, name, where, part), (verb, resource, where)
    for where in (*watched[1:], other):
        plane.ask("DELETE", f"/api/v1/namespaces/{where}") if where not in (namespace, system) else None


# -- plain manifest ---------------------------------------------------------------------------------------


def test_the_plain_manifest_is_enough(bare, namespace, tmp_path):
    plane = bare
    manifest = str(ROOT / "deploy/chatcluster-operator.yaml")
    told = kubectl(plane, "apply", "--server-side", "-f", manifest)
    assert "Warning" not in told.stderr
    until(lambda: established(plane))
    until(lambda: available(plane, SYSTEM), 60)
    secret(plane, namespace)
    since = now()
    with installed(plane, SYSTEM, tmp_path):
        plane.apply(path_of(namespace), cluster(namespace))
        until(lambda: ready(plane, namespace), 90)
    rights_used(plane, SYSTEM, since)
    kubectl(plane, "diff", "--server-side", "-f", manifest)  # as it stands there it is what the file says
    conf = account_config(plane, SYSTEM, NAME, tmp_path / "who.conf")
    done = subprocess.run(
        [plane.bin / "kubectl", f"--kubeconfig={conf}", "auth", "can-i", "list", "secrets", "-A"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "no"


@pytest.mark.parametrize("program", VERSIONS)
def test_from_the_plain_manifest_to_helm(bare, namespace, program):
    plane = bare
    kubectl(plane, "apply", "--server-side", "-f", str(ROOT / "deploy/chatcluster-operator.yaml"))
    until(lambda: established(plane) and available(plane, SYSTEM), 60)
    plane.apply(path_of(namespace), cluster(namespace))
    before = pods(plane, SYSTEM)
    options = ("--take-ownership", *(("--force-conflicts",) if program == "helm4" else ()), "--wait", "--timeout=60s")
    for chart in ("chatcluster-crds", NAME):
        command = ("install", chart, CHARTS / chart, "--namespace", SYSTEM, *options)
        helming.run(program, *command, kubeconfig=plane.kubeconfig)
    assert pods(plane, SYSTEM) == before, "what runs stays"
    assert plane.get(path_of(namespace))
    helming.run(program, "uninstall", NAME, "--namespace", SYSTEM, "--wait", kubeconfig=plane.kubeconfig)
    assert plane.get(f"{RBAC}/clusterroles/{NAME}") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts of one's own need root")
def test_it_runs_as_its_pod_would_with_a_read_only_root_and_a_user_without_a_name(bare, namespace, tmp_path):
    plane = bare
    kubectl(plane, "apply", "--server-side", "-f", str(ROOT / "deploy/chatcluster-operator.yaml"))
    until(lambda: established(plane))
    secret(plane, namespace)
    with as_pod(plane, SYSTEM, tmp_path) as process:
        plane.apply(path_of(namespace), cluster(namespace))
        until(lambda: process.poll() is not None or ready(plane, namespace), 90)
        assert process.poll() is None, process.log.read_text()
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Uid"].split() == ["10001"] * 4
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        mounts = Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()
        writable = {line.split()[4] for line in mounts if line.split()[5].startswith("rw")}
        assert "/tmp" in writable
        assert "/" not in writable
    assert faults(process) == []


def test_whoever_may_edit_a_namespace_may_make_a_chatcluster(bare, namespace):
    plane = bare
    kubectl(plane, "apply", "--server-side", "-f", str(ROOT / "deploy/chatcluster-operator.yaml"))
    until(lambda: established(plane))

    def may(role, verb, what="chatclusters"):
        rows = plane.get(f"{RBAC}/clusterroles/{role}").get("rules") or []
        name, _, part = what.partition("/")
        wanted = f"{name}/{part}" if part else name
        return any("chatcluster.dev" in one["apiGroups"] and wanted in one["resources"] and verb in one["verbs"]
                   for one in rows)  # fmt: skip

    until(lambda: may("edit", "create") and may("view", "list") and may("admin", "delete"), 30)
    assert not may("view", "create")
    assert not may("edit", "patch", "chatclusters/status")
