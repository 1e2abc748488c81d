"""``kubectl chat`` on a real API server: as kubectl starts it, with the rights of a user who has no others."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from clusters import cluster, conditions, path_of, ready, secret
from control_plane import Refused
from operating import until

pytestmark = pytest.mark.slow

MERGE = "application/merge-patch+json"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def chat(plane, namespace, tmp_path):
    """``kubectl chat`` as a user, in the test's namespace."""
    conf = plane.config_for("oncall", tmp_path / "oncall.conf")

    def call(*given, stdin=None, **environment):
        path = f"{Path(sys.executable).parent}{os.pathsep}{plane.bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["kubectl", "chat", *given, "--kubeconfig", str(conf), "-n", namespace],
            capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120,
            env={"PATH": path, "HOME": str(tmp_path), **environment},
        )  # fmt: skip

    return call


def roles():
    """The Roles that the documentation has to copy, by name."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/kubectl-chat.md").read_text(), re.DOTALL)
    return {one["metadata"]["name"]: one for block in blocks for one in yaml.safe_load_all(block)}


def may(plane, namespace, name):
    """Give the user a Role, or a ClusterRole, of the documentation."""
    role = roles()[name]
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    whole = role["kind"] == "ClusterRole"
    space = "" if whole else f"/namespaces/{namespace}"
    for kind, body in (
        (f"{role['kind'].lower()}s", role),
        (
            f"{role['kind'].lower()}bindings",
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": f"{role['kind']}Binding",
                "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": name},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "oncall"}],
            },
        ),
    ):
        plane.apply(f"{rbac}{space}/{kind}/{name}", body)


def up(plane, namespace, **spec):
    secret(plane, namespace, value="ab" * 32)
    plane.apply(path_of(namespace), cluster(namespace, **spec))
    until(lambda: ready(plane, namespace), 90)


def gateways(plane, namespace):
    found = plane.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io/component=gateway")["items"]
    return {one["metadata"]["name"]: one for one in found}


def is_ready(pod):
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions") or ())


@contextmanager
def nodes_stand_still(plane):
    """Pods do not get ready, and do not end, until they are let."""
    kwok = plane._processes["kwok"]
    kwok.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        kwok.send_signal(signal.SIGCONT)


def get_ready(plane, namespace, name):
    """What a kubelet would say of a pod."""
    true = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady", "Initialized", "PodScheduled")]
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
    plane.ask("PATCH", path, {"status": {"phase": "Running", "conditions": true}}, MERGE)


@contextmanager
def answering(address, connections):
    """A pod's metrics; ``connections`` is a list of one number, which may change."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            text = f"# TYPE chatcluster_gateway_sockets gauge\nchatcluster_gateway_sockets {connections[0]}\n"
            text += '# TYPE chatcluster_dependency_up gauge\nchatcluster_dependency_up{dependency="redis"} 1\n'
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *given):
            pass

    with ThreadingHTTPServer((address, 8081), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


def test_without_a_right_it_is_named_and_nothing_else_said(chat, namespace):
    done = chat("status")
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr == (
        f"kubectl chat: you may not list chatclusters in namespace {namespace}: ask for the verb list on chatclusters "
        "of group chatcluster.dev there (docs/kubectl-chat.md has a Role to copy)\n"
    )


def test_who_may_look_may_do_nothing_else(plane, chat, namespace, operator):
    up(plane, namespace)
    may(plane, namespace, "chatcluster-viewer")
    done = chat("status")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"main  namespace {namespace} · version 1.0.0 · ")
    assert "✔ Ready  the platform is as the spec says, and serves" in done.stdout
    assert re.search(r"^router +2/2 +2 ", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout
    assert "\x1b[32m" in chat("status", "--color", "always").stdout
    told = json.loads(chat("status", "main", "-o", "json").stdout)["clusters"][0]
    assert (told["name"], told["ready"], told["components"]["router"]["ready"]) == ("main", True, 2)
    pod = next(iter(gateways(plane, namespace)))
    for given, right in (
        (("pause",), "patch chatclusters"),
        (("restart", "router"), "patch chatclusters"),
        (("drain", pod), "patch pods"),
        (("token", "--user", "ann"), "get secrets"),
    ):
        done = chat(*given)
        assert done.returncode == 4, given
        assert f"you may not {right} in namespace {namespace}" in done.stderr
    done = chat("status", "-A")
    assert (done.returncode, "in the whole cluster" in done.stderr) == (4, True)
    assert "Traceback" not in done.stderr


def test_one_gateway_is_drained_by_a_successor_and_taken_back_while_it_waits(plane, chat, namespace, operator):
    up(plane, namespace)
    may(plane, namespace, "chatcluster-on-call")
    before = set(gateways(plane, namespace))
    kept, mine = sorted(before)
    with nodes_stand_still(plane):
        done = chat("drain", mine)
        assert done.returncode == 0, done.stderr
        assert f"{mine} is asked to leave" in done.stdout
        successor = until(lambda: set(gateways(plane, namespace)) - before, 30).pop()
        assert "its successor is not ready yet" in chat("status").stdout
        time.sleep(5)  # longer than two looks
        assert "deletionTimestamp" not in gateways(plane, namespace)[mine]["metadata"], "no successor is ready"
        assert conditions(plane, namespace)["Draining"]["reason"] == "Waiting"
        assert ready(plane, namespace), "a drain is no roll-out"
        done = chat("undrain", mine)
        assert (done.returncode, done.stdout) == (0, f"{mine} stays\n")
        until(lambda: "deletionTimestamp" in gateways(plane, namespace)[successor]["metadata"], 30)
    until(lambda: set(gateways(plane, namespace)) == before, 30)
    until(lambda: conditions(plane, namespace)["Draining"]["status"] == "False", 30)
    connections = [400]
    address = gateways(plane, namespace)[mine]["status"]["podIP"]
    with answering(address, connections), nodes_stand_still(plane):
        assert chat("drain", mine).returncode == 0
        successor = until(lambda: set(gateways(plane, namespace)) - before, 30).pop()
        get_ready(plane, namespace, successor)
        until(lambda: "deletionTimestamp" in gateways(plane, namespace)[mine]["metadata"], 30)
        assert "deletionTimestamp" not in gateways(plane, namespace)[kept]["metadata"]
        until(lambda: "400 of 400 connections left" in chat("status").stdout, 30)
        [told] = plane.get(path_of(namespace))["status"]["drains"]
        head, spec = (gateways(plane, namespace)[mine][part] for part in ("metadata", "spec"))
        assert (told["node"], told["since"]) == (spec["nodeName"], head["annotations"]["chatcluster.dev/drain"])
        assert told["until"] == head["deletionTimestamp"]
        connections[0] = 100
        until(lambda: "75 %  100 of 400 connections left" in chat("status").stdout, 30)
        done = chat("undrain", mine)
        assert done.returncode == 5
        assert "too late" in done.stderr
        done = chat("drain", mine, "--wait", "--timeout", "2s")
        assert done.returncode == 7
        assert f"not left after 2 s: {mine}" in done.stderr
    done = chat("drain", kept, "--wait", "--timeout", "60s")
    assert done.returncode == 0, done.stderr
    assert f"{kept} has left" in done.stdout
    until(lambda: len(gateways(plane, namespace)) == 2, 30)
    assert not {kept, mine} & set(gateways(plane, namespace))


def test_all_gateways_of_a_node_leave_one_after_the_other(plane, chat, namespace, operator):
    may(plane, namespace, "chatcluster-on-call")
    may(plane, namespace, "chatcluster-nodes")
    node = {"kubernetes.io/hostname": "node-1"}
    up(plane, namespace, gateway={"replicas": 3, "nodeSelector": node, "topologySpreadConstraints": []})
    before = set(gateways(plane, namespace))
    assert {one["spec"]["nodeName"] for one in gateways(plane, namespace).values()} == {"node-1"}
    done = chat("drain", "--node", "node-1", "--wait")
    assert done.returncode == 0, done.stderr
    assert "node-1 is not cordoned" in done.stderr
    assert done.stdout.count("has left") == 3
    until(lambda: len(gateways(plane, namespace)) == 3, 30)
    assert not before & set(gateways(plane, namespace))
    done = chat("drain", "--node", "node-77")
    assert (done.returncode, done.stderr) == (3, "kubectl chat: no node 'node-77'\n")


def test_pause_resume_restart(plane, chat, namespace, operator):
    up(plane, namespace)
    may(plane, namespace, "chatcluster-on-call")
    assert chat("pause").returncode == 0
    until(lambda: conditions(plane, namespace)["ReconciliationPaused"]["status"] == "True", 30)
    assert "ReconciliationPaused" in chat("status").stdout
    assert chat("pause").stdout == "main is paused already\n"
    before = set(gateways(plane, namespace))
    done = chat("restart", "gateway")
    assert "it begins after kubectl chat resume main" in done.stdout
    time.sleep(4)
    assert set(gateways(plane, namespace)) == before
    assert chat("resume").returncode == 0
    until(lambda: ready(plane, namespace) and not before & set(gateways(plane, namespace)), 90)
    found = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/main-router")
    assert chat("restart", "router").returncode == 0

    def rolled():
        one = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/main-router")
        return one["metadata"]["generation"] > found["metadata"]["generation"]

    until(rolled, 30)
    until(lambda: ready(plane, namespace), 60)
    events = plane.get(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
    assert "router: somebody asked for it" in [one["note"] for one in events]
    assert chat("restart", "embedded").returncode == 2


def test_the_policy_lets_people_change_that_annotation_and_nothing_else(plane, chat, namespace, operator):
    up(plane, namespace)
    may(plane, namespace, "chatcluster-on-call")
    kinds = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
    policy, binding = roles()["chatcluster-drain-only"], roles()["chatcluster-drain-only-here"]
    policy["spec"]["matchConditions"][0]["expression"] = "request.userInfo.username == 'oncall'"
    plane.apply(f"{kinds}ies/chatcluster-drain-only", policy)
    plane.apply(f"{kinds}ybindings/chatcluster-drain-only-here", binding)
    try:
        pod = sorted(gateways(plane, namespace))[0]
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        image = {"spec": {"containers": [{"name": "gateway", "image": "evil"}]}}
        strategic = "application/strategic-merge-patch+json"

        def refused(body, kind=strategic):
            try:
                plane.ask("PATCH", f"{path}?dryRun=All", body, kind, user="oncall")
            except Refused as refused:
                return "only the annotation chatcluster.dev/drain" in refused.words
            return False

        until(lambda: refused(image), 30)  # policies are in force a moment later
        assert refused({"metadata": {"labels": {"app.kubernetes.io/component": "router"}}})
        assert refused({"metadata": {"annotations": {"other": "x"}}})
        done = chat("drain", pod, "--wait", "--timeout", "60s")
        assert done.returncode == 0, done.stderr
    finally:
        plane.ask("DELETE", f"{kinds}ybindings/chatcluster-drain-only-here")
        plane.ask("DELETE", f"{kinds}ies/chatcluster-drain-only")


def test_a_router_is_not_drained(plane, chat, namespace, operator):
    up(plane, namespace)
    may(plane, namespace, "chatcluster-on-call")
    pods = plane.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io/component=router")["items"]
    done = chat("drain", pods[0]["metadata"]["name"])
    assert (done.returncode, "is a router: only gateways" in done.stderr) == (5, True)
    assert chat("drain", "nobody").returncode == 3


def test_the_token_is_one_that_gateways_take(plane, chat, namespace):
    secret(plane, namespace, value="ab" * 32)
    auth = {"secretRef": {"name": "tokens", "key": "secret"}, "audience": "chat", "issuer": "https://id.example"}
    plane.apply(path_of(namespace), cluster(namespace, auth=auth))
    may(plane, namespace, "chatcluster-token")
    done = chat("token", "--user", "ann", "--tenant", "acme", "--ttl", "90s")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "reading the Secret tokens (key secret), for this token alone\n"
    import jwt

    claims = jwt.decode(
        done.stdout.strip(), bytes.fromhex("ab" * 32), ["HS256"], audience="chat", issuer="https://id.example"
    )
    assert (claims["sub"], claims["tid"], claims["exp"] - claims["iat"]) == ("ann", "acme", 90)
    plane.apply(path_of(namespace), cluster(namespace, auth={"jwks": {"url": "https://id.example/keys"}}))
    done = chat("token", "--user", "ann")
    assert done.returncode == 5
    assert "the key set at https://id.example/keys" in done.stderr


@contextmanager
def kubelets(plane, log):
    """Something that answers as the nodes' kubelets when the API server asks for logs."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(log.encode())

        def log_message(self, *given):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(plane.folder / "pki/api.crt", plane.folder / "pki/api.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def listen_at(port):
            body = {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}}
            for node in plane.get("/api/v1/nodes")["items"]:
                plane.ask("PATCH", f"/api/v1/nodes/{node['metadata']['name']}/status", body, MERGE)

        listen_at(server.server_port)
        yield
        listen_at(10250)
        server.shutdown()
        thread.join()


def test_the_report_has_what_helps_and_no_secret(plane, chat, namespace, operator, tmp_path):
    planted = "hunter2-is-planted"
    up(
        plane, namespace,
        settings={"logging": {"level": "info"}, "router": {}},
        router={"replicas": 2, "podAnnotations": {"vault.example/token": planted}},
        gateway={"replicas": 2, "podAnnotations": {"note": f"try {planted} or {'ab' * 32}"}},
    )  # fmt: skip
    may(plane, namespace, "chatcluster-report")
    jwt = chat("token", "--user", "ann").stdout.strip()
    link = plane.get(f"/api/v1/namespaces/{namespace}/secrets/main-link")["data"]["secret"]
    log = f"it began\nredis password=other-{planted}\nAuthorization: Bearer {jwt}\n{link} and {'ab' * 32}\nit ended\n"
    safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container = {
        "name": "operator", "image": "x", "securityContext": {**safe, "seccompProfile": {"type": "RuntimeDefault"}},
        "env": [{"name": "API_TOKEN", "value": f"also-{planted}"}],
    }  # fmt: skip
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "operator-0", "labels": {"app.kubernetes.io/name": "chatcluster-operator"}},
        "spec": {"containers": [container]},
    }  # fmt: skip
    plane.apply(f"/api/v1/namespaces/{namespace}/pods/operator-0", pod)
    with kubelets(plane, log):
        until(lambda: is_ready(plane.get(f"/api/v1/namespaces/{namespace}/pods/operator-0")), 30)
        done = chat("report", "-f", "second.tar.gz", "--operator-namespace", namespace, "--no-read-secrets")
        assert done.returncode == 0, done.stderr
        with tarfile.open(tmp_path / "second.tar.gz") as tar:
            files = {one.name: tar.extractfile(one).read().decode() for one in tar.getmembers()}
        assert files["report/operator/operator-0/operator.log"].endswith("\nit ended\n")
        assert not [name for name, text in files.items() if planted in text or jwt in text or "ab" * 32 in text]
        assert "none was read" in files["report/manifest.json"]
        done = chat("report", "-f", "bundle.tar.gz")
    assert done.returncode == 0, done.stderr
    assert "not in it: operator: you may not list pods in the whole cluster" in done.stderr
    assert (tmp_path / "bundle.tar.gz").stat().st_mode & 0o077 == 0
    with tarfile.open(tmp_path / "bundle.tar.gz") as tar:
        files = {one.name: tar.extractfile(one).read().decode() for one in tar.getmembers()}
    manifest = json.loads(files["report/manifest.json"])
    names = {one["name"] for one in manifest["files"]}
    assert {"chatcluster.json", "events.json", "versions.json", "deployments/main-router.json"} <= names
    assert len([name for name in names if name.startswith("pods/")]) >= 8
    assert set(manifest["missing"]) == {"operator", "definition of ChatCluster"}
    assert "2 values were read, only to remove them" in manifest["redacted"]
    assert not [name for name in names if "secret" in name]
    logs = [text for name, text in files.items() if "/logs/" in name]
    assert len(logs) == len([name for name in names if name.startswith("pods/")])
    assert all(text.startswith("it began\nredis password=▒") and text.endswith("\nit ended\n") for text in logs)
    assert json.loads(files["report/versions.json"])["kubernetes"]["gitVersion"] == "v1.34.10"
    assert json.loads(files["report/events.json"])
    for name, text in files.items():
        for value in (planted, "ab" * 32, link, base64.b64decode(link).decode(), jwt, jwt.split(".")[2]):
            assert value not in text, name
    assert "vault.example/token" in files["report/deployments/main-router.json"]


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("status", "no"), 4, "get chatclusters"),
        (("drain",), 2, "name pods, or --node"),
        (("drain", "a", "--node", "b"), 2, "name pods, or --node"),
        (("drain", "a", "--wait", "--timeout", "soon"), 2, "is not a time"),
        (("token", "--user", ""), 2, "--user has 1 to 128"),
        (("status", "--context", "not"), 2, "no context 'not'"),
        (("report", "--lines", "0"), 2, "--lines 1 or more"),
        (("status", "-A", "main"), 2, "leave out -A"),
    ],
)
def test_what_is_wrong_is_one_line(chat, given, code, words):
    done = chat(*given)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_api_server_that_is_away_is_one_line(chat, tmp_path):
    conf = json.loads((tmp_path / "oncall.conf").read_text())
    conf["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "away.conf").write_text(json.dumps(conf))
    path = Path(sys.executable).parent / "kubectl-chat"
    done = subprocess.run(
        [path, "status", "--kubeconfig", tmp_path / "away.conf"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 6
    assert done.stderr.startswith("kubectl chat: the API server at https://127.0.0.1:9 does not answer: ")
    assert len(done.stderr.splitlines()) == 1


def test_watching_tells_what_is_new(plane, chat, namespace, operator, tmp_path):
    up(plane, namespace)
    may(plane, namespace, "chatcluster-on-call")
    path = Path(sys.executable).parent / "kubectl-chat"
    options = ("--kubeconfig", str(tmp_path / "oncall.conf"), "-n", namespace)
    with subprocess.Popen(
        [path, "status", "--watch", "--interval", "0.3", "-o", "json", *options], stdout=subprocess.PIPE, text=True
    ) as watching:
        try:
            first = json.loads(watching.stdout.readline())
            assert first["clusters"][0]["paused"] is False
            chat("pause")
            assert json.loads(watching.stdout.readline())["clusters"][0]["paused"] is True
            watching.send_signal(signal.SIGINT)
            assert watching.wait(10) == 130
        finally:
            watching.kill()  # whoever started us may have told all to ignore the first
