"""``drain`` and ``undrain``: an annotation on gateways' pods, which the operator obeys (``group.DRAIN``)."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from typing import Any

from chatcluster_operator.group import DRAIN
from chatcluster_operator.plugin import view
from chatcluster_operator.plugin.api import Api, cluster_path, path_of
from chatcluster_operator.plugin.errors import IMPOSSIBLE, TIMED_OUT, USAGE, Failure, Forbidden, NotFound
from chatcluster_operator.plugin.paint import Paint
from chatcluster_operator.plugin.tokens import duration

INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
OURS = "app.kubernetes.io/name=chatcluster,app.kubernetes.io/managed-by=chatcluster-operator"
"""Labels of the pods of ChatClusters."""
PAUSE = 1.0
"""Seconds between two looks of ``--wait``."""


def drain(options: argparse.Namespace) -> int:
    """Ask gateways to leave; with ``--wait`` until they have."""
    timeout = duration(options.timeout, "--timeout")
    _checked(options)
    if options.cordon and not options.node:
        raise Failure("--cordon goes with --node", USAGE)
    api = Api.of(options)
    if options.node:
        _node(api, options.node, cordon=options.cordon)
    pods = _pods(api, options)
    when = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    clusters: dict[tuple[str, str], Any] = {}
    for pod in pods:
        head = pod["metadata"]
        key = (head["namespace"], head["labels"].get(INSTANCE, ""))
        if head.get("deletionTimestamp"):
            print(f"{head['name']} leaves already")
        elif DRAIN in (head.get("annotations") or {}):
            print(f"{head['name']} was asked already; it waits")
        else:
            _mark(api, pod, when)
            print(f"{head['name']} is asked to leave; it goes when its successor is ready and the budget lets it")
        clusters.setdefault(key, None)
    for namespace, name in clusters:
        if (_cluster(api, namespace, name) or {}).get("spec", {}).get("paused"):
            print(f"{name} is paused: nobody leaves before kubectl chat resume {name} -n {namespace}")
        elif not options.wait:
            print(f"follow it: kubectl chat status {name} -n {namespace} --watch")
    return _wait(api, pods, timeout, Paint.of(options.color)) if options.wait else 0


def undrain(options: argparse.Namespace) -> int:
    """Take it back, of whoever was not told yet."""
    _checked(options)
    api = Api.of(options)
    late = []
    for pod in _pods(api, options):
        head = pod["metadata"]
        if head.get("deletionTimestamp"):
            late.append(head["name"])
        elif DRAIN not in (head.get("annotations") or {}):
            print(f"{head['name']} was not asked to leave")
        elif (_mark(api, pod, None)["metadata"]).get("deletionTimestamp") or _gone(api, pod):
            late.append(head["name"])
        else:
            print(f"{head['name']} stays")
    if late:
        raise Failure(f"too late, it was told to leave and cannot be kept: {', '.join(late)}", IMPOSSIBLE)
    return 0


def _checked(options: argparse.Namespace) -> None:
    if bool(options.pods) == bool(options.node):
        raise Failure("name pods, or --node", USAGE)
    if options.all_namespaces and not options.node:
        raise Failure("-A goes with --node", USAGE)


def _pods(api: Api, options: argparse.Namespace) -> list[Any]:
    """The gateways that are meant. Raises ``Failure`` before anything is written."""
    if not options.node:
        return [_gateway(api, name) for name in dict.fromkeys(options.pods)]
    namespace = "" if options.all_namespaces else api.namespace
    where = "any namespace" if options.all_namespaces else f"namespace {namespace}"
    found = api.items(
        path_of("v1", "pods", namespace), labelSelector=OURS, fieldSelector=f"spec.nodeName={options.node}"
    )
    gateways = [pod for pod in found if pod["metadata"]["labels"].get(COMPONENT) == "gateway"]
    others = [pod for pod in found if pod not in gateways and not pod["metadata"].get("deletionTimestamp")]
    if not gateways:
        print(f"no gateway of {where} is on {options.node}")
    if others:
        print(
            f"{len(others)} other pods of ChatClusters are there: kubectl drain moves them, one of each kind at a time"
        )
    return gateways


def _gateway(api: Api, name: str) -> Any:
    try:
        pod = api.get(path_of("v1", "pods", api.namespace, name))
    except NotFound:
        raise NotFound(f"no pod {name!r} in namespace {api.namespace}") from None
    labels = pod["metadata"].get("labels") or {}
    component = labels.get(COMPONENT, "")
    if not all(labels.get(key) == value for key, _, value in (one.partition("=") for one in OURS.split(","))):
        raise Failure(f"{name} is no pod of a ChatCluster", IMPOSSIBLE)
    if component == "embedded":
        raise Failure(f"{name} is the whole platform in one pod: nobody could take its place", IMPOSSIBLE)
    if component != "gateway":
        raise Failure(
            f"{name} is a {component}: only gateways hold clients that have to leave; kubectl drain moves it, or "
            f"kubectl delete pod {name}",
            IMPOSSIBLE,
        )
    return pod


def _mark(api: Api, pod: Any, value: str | None) -> Any:
    head = pod["metadata"]
    # With its uid: never another pod that has the name by now.
    body = {"metadata": {"uid": head["uid"], "annotations": {DRAIN: value}}}
    return api.patch(path_of("v1", "pods", head["namespace"], head["name"]), body)


def _now(api: Api, pod: Any) -> Any:
    """The pod as it is, or None."""
    head = pod["metadata"]
    try:
        found = api.get(path_of("v1", "pods", head["namespace"], head["name"]))
    except NotFound:
        return None
    return found if found["metadata"]["uid"] == head["uid"] else None


def _gone(api: Api, pod: Any) -> bool:
    """Whether it was told in the very moment in which it was taken back."""
    time.sleep(0.5)
    found = _now(api, pod)
    return found is None or bool(found["metadata"].get("deletionTimestamp"))


def _cluster(api: Api, namespace: str, name: str) -> Any:
    """For what is told beside: None when the user may not see it."""
    try:
        return api.get(cluster_path(namespace, name))
    except (Forbidden, NotFound):
        return None


def _node(api: Api, name: str, *, cordon: bool) -> None:
    path = path_of("v1", "nodes", name=name)
    if cordon:
        api.patch(path, {"spec": {"unschedulable": True}})
        print(f"{name} is cordoned")
        return
    try:
        node = api.get(path)
    except NotFound:
        raise NotFound(f"no node {name!r}") from None
    except Forbidden:
        print(f"whether {name} is cordoned is not known: you may not get nodes", file=sys.stderr)
        return
    if not (node.get("spec") or {}).get("unschedulable"):
        print(
            f"{name} is not cordoned: successors may come to it (--cordon, or kubectl cordon {name})", file=sys.stderr
        )


def _wait(api: Api, pods: list[Any], timeout: int, paint: Paint) -> int:
    ends = time.monotonic() + timeout
    left = {pod["metadata"]["uid"]: pod for pod in pods}
    told: dict[str, str] = {}
    while True:
        for uid, pod in list(left.items()):
            found = _now(api, pod)
            name = pod["metadata"]["name"]
            if found is None:
                del left[uid]
                print(f"{paint.mark('good')} {name} has left", flush=True)
            elif not found["metadata"].get("deletionTimestamp") and DRAIN not in found["metadata"].get(
                "annotations", {}
            ):
                del left[uid]
                print(f"{paint.mark('note')} {name} stays: somebody took it back", flush=True)
        if not left:
            return 0
        for namespace, cluster in {
            (p["metadata"]["namespace"], p["metadata"]["labels"][INSTANCE]) for p in left.values()
        }:
            status = (_cluster(api, namespace, cluster) or {}).get("status") or {}
            for one in status.get("drains") or ():
                if any(one["pod"] == pod["metadata"]["name"] for pod in left.values()):
                    _tell(one, told, paint)
        if time.monotonic() >= ends:
            names = ", ".join(sorted(pod["metadata"]["name"] for pod in left.values()))
            raise Failure(
                f"not left after {timeout} s: {names} (they are asked still; kubectl chat undrain)", TIMED_OUT
            )
        time.sleep(PAUSE)


def _tell(one: Any, told: dict[str, str], paint: Paint) -> None:
    """A line for each step of ten percent, and for every other news."""
    left, start = one.get("connections"), one.get("connectionsAtStart")
    step = "" if left is None or not start else str(10 * left // start)
    news = f"{one.get('phase')} {one.get('message', '')} {step}"
    if told.get(one["pod"]) != news:
        told[one["pod"]] = news
        print("  ".join(cell for cell in view.drain_row(one, datetime.now(UTC), paint) if cell != "-"), flush=True)
