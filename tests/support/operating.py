"""The operator as a process, and waiting for what it does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager

from chatcluster_operator.crd import crd
from chatcluster_operator.rbac import LEASE, rules
from control_plane import free_port

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/chatclusters.chatcluster.dev"


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
    """The definition, and what the user ``operator`` may do."""
    plane.apply(CRD, crd())

    def established():
        conditions = (plane.get(CRD).get("status") or {}).get("conditions") or []
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    until(established)
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
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "operator"}],
            },
        )


@contextmanager
def operating(plane, folder, *options):
    """An operator's process."""
    conf = plane.config_for("operator", folder / "operator.conf")
    log = folder / "operator.log"
    port = free_port()
    with log.open("ab") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "chatcluster_operator", "--kubeconfig", str(conf)),
                *("--listen", f"127.0.0.1:{port}", "--lease-namespace", "default", *options),
            ],
            stdout=out,
            stderr=out,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    process.log, process.port = log, port  # type: ignore[attr-defined]
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
