"""The operator as a process, and waiting for what it does."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from types import SimpleNamespace

from chatcluster_operator.crd import crd
from chatcluster_operator.rbac import LEASE, rules
from control_plane import Refused, free_port
from running import running


def until(holds, seconds=60.0, pause=0.1):
    """What ``holds`` gave, as soon as it is something."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"never came: {found!r}"
        time.sleep(pause)


def defined(plane):
    """The definition of ChatCluster, and what operators may do."""
    served(plane, crd())
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    for name, table in (("operator", rules()), ("operator-lease", rules(LEASE))):
        plane.apply(
            f"{rbac}/clusterroles/{name}",
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": {"name": name},
                "rules": table,
            },
        )
        plane.apply(
            f"{rbac}/clusterrolebindings/{name}",
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
                "subjects": [
                    {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "operator"},
                    {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "operators"},
                ],
            },
        )


def served(plane, definition):
    """A definition, until the server serves what it defines. Its path."""
    spec, name = definition["spec"], definition["metadata"]["name"]
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    plane.apply(path, definition)
    version = next(one["name"] for one in spec["versions"] if one["served"])

    def listed():
        try:
            return plane.get(f"/apis/{spec['group']}/{version}/{spec['names']['plural']}") is not None
        except Refused:
            return False  # 429: its storage begins

    until(listed)
    return path


@contextmanager
def operating(plane, folder, *options, user="operator", server="", variables=()):
    """An operator's process."""
    conf = plane.config_for(user, folder / "operator.conf", server)
    log = folder / "operator.log"
    port = free_port()
    command = [
        *(sys.executable, "-m", "chatcluster_operator", "--kubeconfig", conf),
        *("--listen", f"127.0.0.1:{port}", "--lease-namespace", "default", *options),
    ]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **dict(variables)}
    with running(command, log, patience=15.0, env=environment) as process:
        process.log, process.port = log, port  # type: ignore[attr-defined]
        yield process


@contextmanager
def supervised(plane, folder, *options, user="operator", server=""):
    """An operator that is started anew when it ends, as by its Deployment. Gives what ends the process of now."""
    over = threading.Event()
    now, codes = [], []

    def keep():
        while not over.is_set():
            with operating(plane, folder, *options, user=user, server=server) as process:
                now[:] = [process]
                while process.poll() is None and not over.wait(0.1):
                    pass
                codes.append(process.poll())

    def kill():
        if now:
            now[0].kill()

    keeper = threading.Thread(target=keep, name="supervisor")
    keeper.start()
    try:
        yield SimpleNamespace(kill=kill, now=now, codes=codes)
    finally:
        over.set()
        keeper.join(30)


def faults(process):
    """What it logged as a fault of its own; not what kopf says when a watch of its own breaks."""
    found = []
    for line in process.log.read_text().splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            said = {"logger": "", "stack": line}  # an interpreter that ended
        if "stack" in said and not said["logger"].startswith("kopf"):
            found.append(said)
    return found


def figures(process):
    """Its metrics, by name and labels, and by name alone their sum; none while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    found = {name: float(value) for name, _, value in lines}
    for name, value in list(found.items()):
        if "{" in name:
            bare = name.partition("{")[0]
            found[bare] = found.get(bare, 0.0) + value
    return found


def well(process):
    """What ``/healthz`` says: its status and words."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/healthz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)
