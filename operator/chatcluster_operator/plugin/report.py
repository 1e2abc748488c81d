"""``report``: what somebody who helps needs to see, in one file, without secrets and with a list of what is in it.

Read with the user's rights; what may not be read is listed as missing. Everything is redacted before it is written.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chatcluster_operator.plugin.api import Api, cluster_of, path_of
from chatcluster_operator.plugin.errors import USAGE, Failure
from chatcluster_operator.plugin.redact import Redactor

OURS = "app.kubernetes.io/managed-by=chatcluster-operator,app.kubernetes.io/instance="
OPERATOR = "app.kubernetes.io/name=chatcluster-operator"
LARGEST = 2 << 20
"""Bytes of one log; its newest."""
MOST = 256 << 20
"""Bytes in all, before they are packed. Logs that come after it are listed as missing."""
SAID = 10
"""Of what is missing so many are told in the terminal."""

CHILDREN = (
    ("apps/v1", "deployments"), ("apps/v1", "replicasets"), ("apps/v1", "statefulsets"), ("batch/v1", "jobs"),
    ("v1", "pods"), ("v1", "services"), ("v1", "configmaps"), ("v1", "serviceaccounts"),
    ("v1", "persistentvolumeclaims"), ("policy/v1", "poddisruptionbudgets"),
    ("networking.k8s.io/v1", "networkpolicies"), ("networking.k8s.io/v1", "ingresses"),
    ("autoscaling/v2", "horizontalpodautoscalers"), ("gateway.networking.k8s.io/v1", "httproutes"),
    ("keda.sh/v1alpha1", "scaledobjects"), ("monitoring.coreos.com/v1", "podmonitors"),
    ("monitoring.coreos.com/v1", "prometheusrules"),
)  # fmt: skip
"""Kinds that are in it. Secrets are not among them."""


class Bundle:
    """What was gathered: file to content, and what could not be."""

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}
        self.missing: dict[str, str] = {}
        self.size = 0

    def put(self, name: str, what: Any) -> None:
        """An object or a text, as the API gave it."""
        self.files[name] = what
        self.size += len(what) if isinstance(what, str) else 0

    def packed(self, redactor: Redactor, about: Mapping[str, Any]) -> bytes:
        """As tar.gz, redacted, with ``manifest.json`` first."""
        for what in self.files.values():
            redactor.learn(what)
        redactor.learn(dict(about))
        clean = {}
        for name, what in self.files.items():
            made = redactor.clean(what)
            text = made if isinstance(made, str) else json.dumps(made, indent=2, ensure_ascii=False) + "\n"
            clean[redactor.text(name)] = text.encode()
        manifest = {
            **redactor.clean(dict(about)),
            "files": [
                {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in sorted(clean.items())
            ],
            "missing": redactor.clean(self.missing),
            "redaction": {
                "places": redactor.removed,
                "differentValues": redactor.known,
                "notRemembered": redactor.forgotten,
            },
        }
        head = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
        return _tar({"manifest.json": head, **dict(sorted(clean.items()))})


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"report/{name}")
            entry.size, entry.mode = len(data), 0o600
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def run(options: argparse.Namespace) -> int:
    """Gather, redact, write; say where it is and what is missing."""
    if options.pods < 0 or options.lines < 1:
        raise Failure("--pods is 0 or more, --lines 1 or more", USAGE)
    api = Api.of(options)
    cluster = cluster_of(api, options.name)
    name = cluster["metadata"]["name"]
    now = datetime.now(UTC)
    bundle = Bundle()
    bundle.put("chatcluster.json", cluster)
    values = [] if options.no_read_secrets else list(_secret_values(api, cluster, bundle))
    gather(api, bundle, cluster, options)
    about = {
        "made": now.isoformat(timespec="seconds"),
        "by": f"kubectl chat report, chatcluster {_version()}",
        "namespace": api.namespace,
        "name": name,
        "redacted": "no Secret is in here; "
        + (
            "none was read, so that their values are removed only where they look like secrets"
            if options.no_read_secrets
            else f"{len(values)} values were read, only to remove them"
        ),
    }
    data = bundle.packed(Redactor(values, keep=secrets_of(cluster["spec"])), about)
    path = Path(options.file or f"chatcluster-{api.namespace}-{name}-{now:%Y%m%dT%H%M%SZ}.tar.gz")
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    print(f"{path}  {len(data):,} bytes, {len(bundle.files)} files and their list, manifest.json")
    for what, why in list(bundle.missing.items())[:SAID]:
        print(f"not in it: {what}: {why}", file=sys.stderr)
    if len(bundle.missing) > SAID:
        print(f"not in it: {len(bundle.missing) - SAID} more, named in manifest.json", file=sys.stderr)
    return 0


def gather(api: Api, bundle: Bundle, cluster: Any, options: argparse.Namespace) -> None:
    """Everything but Secrets."""
    name, space = cluster["metadata"]["name"], api.namespace
    children = {f"ChatCluster/{name}"}
    pods: list[Any] = []
    for group, plural in CHILDREN:
        found = _try(
            bundle, plural, lambda g=group, p=plural: api.items(path_of(g, p, space), labelSelector=f"{OURS}{name}")
        )
        for one in found or ():
            bundle.put(f"{plural}/{one['metadata']['name']}.json", {"apiVersion": group, **one})
            children.add(f"{_KINDS.get(plural, plural)}/{one['metadata']['name']}")
        if plural == "pods":
            pods = list(found or ())
    events = _try(bundle, "events", lambda: api.items(path_of("events.k8s.io/v1", "events", space)))
    bundle.put("events.json", [one for one in events or () if _concerns(one, children)])
    _logs(api, bundle, pods, options, "logs")
    _operator(api, bundle, options)
    server = _try(bundle, "version of Kubernetes", lambda: api.get("/version"))
    crd = _try(
        bundle,
        "definition of ChatCluster",
        lambda: api.get(
            path_of("apiextensions.k8s.io/v1", "customresourcedefinitions", name="chatclusters.chatcluster.dev")
        ),
    )
    bundle.put(
        "versions.json",
        {
            "kubernetes": server,
            "plugin": _version(),
            "chatcluster": (cluster.get("status") or {}).get("version"),
            "images": sorted({c["image"] for pod in pods for c in pod["spec"]["containers"]}),
            "definition": None
            if crd is None
            else {
                "versions": [one["name"] for one in crd["spec"]["versions"]],
                "sha256": hashlib.sha256(json.dumps(crd["spec"], sort_keys=True).encode()).hexdigest()[:16],
            },
        },
    )


_KINDS = {
    "deployments": "Deployment", "replicasets": "ReplicaSet", "statefulsets": "StatefulSet", "jobs": "Job",
    "pods": "Pod", "services": "Service", "poddisruptionbudgets": "PodDisruptionBudget", "ingresses": "Ingress",
    "horizontalpodautoscalers": "HorizontalPodAutoscaler", "scaledobjects": "ScaledObject",
    "persistentvolumeclaims": "PersistentVolumeClaim",
}  # fmt: skip


def _concerns(event: Any, children: set[str]) -> bool:
    about = event.get("regarding") or {}
    kind, name = about.get("kind", ""), about.get("name", "")
    # Pods and ReplicaSets that are gone have events still: they are named after what made them.
    return f"{kind}/{name}" in children or any(
        name.startswith(f"{one.partition('/')[2]}-") for one in children if kind in ("Pod", "ReplicaSet", "Job")
    )


def _try(bundle: Bundle, what: str, read: Any) -> Any:
    try:
        return read()
    except Failure as failure:
        # A kind that this Kubernetes cluster does not have is nothing that lacks.
        if "could not find the requested resource" not in str(failure) and "page not found" not in str(failure):
            bundle.missing[what] = str(failure)
        return None


def _logs(api: Api, bundle: Bundle, pods: list[Any], options: argparse.Namespace, folder: str) -> None:
    ordered = sorted(pods, key=_interest)
    if len(ordered) > options.pods:
        bundle.missing[f"{folder} of {len(ordered) - options.pods} pods"] = f"--pods {options.pods}"
    for pod in ordered[: options.pods]:
        head = pod["metadata"]
        states = {one["name"]: one for one in (pod.get("status") or {}).get("containerStatuses") or ()}
        for container in pod["spec"]["containers"]:
            state = states.get(container["name"], {})
            for previous in (False, True) if state.get("restartCount") else (False,):
                file = f"{folder}/{head['name']}/{container['name']}{'.previous' if previous else ''}.log"
                if bundle.size >= MOST:
                    bundle.missing[file] = f"the bundle holds {MOST >> 20} MiB already"
                    continue
                query = {"container": container["name"], "tailLines": str(options.lines), "timestamps": "true"}
                if previous:
                    query["previous"] = "true"
                where = path_of("v1", "pods", head["namespace"], head["name"], "log")
                text = _try(bundle, file, lambda w=where, q=query: api.raw(w, **q))
                if text is not None:
                    bundle.put(file, newest(text))


def newest(log: bytes) -> str:
    """The last lines of a log, whole: half of a secret would not be known for one."""
    if len(log) > LARGEST:
        log = log[-LARGEST:].partition(b"\n")[2]
    return log.decode(errors="replace")


def _interest(pod: Any) -> tuple[int, str]:
    """Logs of pods in trouble first."""
    status = pod.get("status") or {}
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())
    restarts = sum(one.get("restartCount", 0) for one in status.get("containerStatuses") or ())
    leaving = bool(pod["metadata"].get("deletionTimestamp"))
    return (0 if not ready else 1 if restarts else 2 if leaving else 3), pod["metadata"]["name"]


def _operator(api: Api, bundle: Bundle, options: argparse.Namespace) -> None:
    """The operator's pods and logs, where it is found."""
    space = options.operator_namespace or ""
    path = path_of("v1", "pods", space)
    pods = _try(bundle, "operator", lambda: api.items(path, labelSelector=OPERATOR))
    if pods is None:
        bundle.missing["operator"] += "; or name its namespace: --operator-namespace"
        return
    if not pods:
        bundle.missing["operator"] = f"no pod with the label {OPERATOR} in {space or 'any namespace'}"
    for pod in pods:
        bundle.put(f"operator/{pod['metadata']['name']}.json", pod)
    _logs(api, bundle, pods, options, "operator")


def _secret_values(api: Api, cluster: Any, bundle: Bundle) -> Iterator[str]:
    """Values of the Secrets that the spec names, to remove them: they go nowhere else."""
    names = sorted({*secrets_of(cluster["spec"]), f"{cluster['metadata']['name']}-link"})
    for name in names:
        found = _try(
            bundle,
            f"values of Secret {name}, to remove them",
            lambda n=name: api.get(path_of("v1", "secrets", api.namespace, n)),
        )
        for value in ((found or {}).get("data") or {}).values():
            raw = base64.b64decode(value)
            try:
                yield raw.decode()
            except UnicodeDecodeError:  # no text: as people write bytes
                yield value
                yield raw.hex()


def secrets_of(what: Any) -> Iterator[str]:
    """Names of Secrets in a spec: ``…SecretRef: {name}``, ``tlsSecretName``, ``imagePullSecrets``."""
    if isinstance(what, dict):
        for key, value in what.items():
            if key.lower().endswith("secretref") and isinstance(value, dict) and isinstance(value.get("name"), str):
                yield value["name"]
            elif key.lower().endswith("secretname") and isinstance(value, str):
                yield value
            elif key == "imagePullSecrets" and isinstance(value, list):
                yield from (one["name"] for one in value if isinstance(one, dict) and "name" in one)
            else:
                yield from secrets_of(value)
    elif isinstance(what, list):
        for one in what:
            yield from secrets_of(one)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("chatcluster")
    except PackageNotFoundError:
        return "unknown"
