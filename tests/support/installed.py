"""The operator as it is installed: a process with the rights of its account and the options of its Deployment."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from control_plane import ControlPlane, free_port
from operating import operating, until
from prebuilt import ROOT
from running import running

NAME = "chatcluster-operator"
IMAGE = "ghcr.io/chatcluster/chatcluster-operator"


def deployment(plane: ControlPlane, namespace: str, name: str = NAME) -> dict[str, Any]:
    """As the API server has it."""
    found: dict[str, Any] = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
    return found


def available(plane: ControlPlane, namespace: str, name: str = NAME) -> bool:
    """Whether all its pods of now were admitted and are ready."""
    found = deployment(plane, namespace, name)
    status = found.get("status") or {}
    counts = {status.get(name, 0) for name in ("updatedReplicas", "availableReplicas", "replicas")}
    current = status.get("observedGeneration") == found["metadata"]["generation"]
    return current and counts == {found["spec"]["replicas"]}


def account_config(plane: ControlPlane, namespace: str, account: str, path: Path) -> Path:
    """A kubeconfig of a ServiceAccount, by a token as its pod would have."""
    where = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    token = plane.ask("POST", where, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    config = json.loads(plane.config_for("admin", path).read_text())
    config["users"][0]["user"] = {"token": token}
    path.write_text(json.dumps(config))
    return path


@contextmanager
def installed(plane: ControlPlane, namespace: str, folder: Path, name: str = NAME) -> Iterator[Any]:
    """The process, with the account and the options of the Deployment."""
    until(lambda: available(plane, namespace, name), 60)
    pod = deployment(plane, namespace, name)["spec"]["template"]["spec"]
    conf = account_config(plane, namespace, pod["serviceAccountName"], folder / "account.conf")
    options = [one for one in pod["containers"][0]["args"] if not one.startswith("--listen")]
    with operating(plane, folder, *options, "--kubeconfig", str(conf), "--lease-namespace", namespace) as process:
        yield process


@contextmanager
def as_pod(plane: ControlPlane, namespace: str, folder: Path, name: str = NAME) -> Iterator[Any]:
    """The process as its pod would run it (``as_pod.sh``): needs root, for mounts of its own."""
    until(lambda: available(plane, namespace, name), 60)
    pod = deployment(plane, namespace, name)["spec"]["template"]["spec"]
    account = folder / "account"
    account.mkdir()
    where = f"/api/v1/namespaces/{namespace}/serviceaccounts/{pod['serviceAccountName']}/token"
    (account / "token").write_text(plane.ask("POST", where, {"spec": {}})["status"]["token"])
    (account / "ca.crt").write_bytes((plane.folder / "pki/ca.crt").read_bytes())
    (account / "namespace").write_text(namespace)
    port = free_port()
    options = [one for one in pod["containers"][0]["args"] if not one.startswith("--listen")]
    command = [
        *("unshare", "--mount", ROOT / "tests/support/as_pod.sh", account, str(plane.port)),
        *(sys.base_prefix, sysconfig.get_path("purelib"), ROOT / "operator", *options, f"--listen=127.0.0.1:{port}"),
    ]
    log = folder / "operator.log"
    with running(command, log) as process:
        process.log, process.port = log, port  # type: ignore[attr-defined]
        yield process


def requests_of(plane: ControlPlane, namespace: str, since: str, account: str = NAME) -> list[dict[str, Any]]:
    """What the account asked of the API server since a time (RFC 3339, UTC), from the audit log."""
    user = f"system:serviceaccount:{namespace}:{account}"
    entries = (json.loads(line) for line in plane.audit.read_text().splitlines())
    return [
        one
        for one in entries
        if one["user"].get("username") == user
        and one["stage"] == "ResponseComplete"
        and one["requestReceivedTimestamp"] >= since
    ]
