"""The embedded platform as a pod that runs: restricted, on a volume, and killed in the middle of a conversation."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from chatcluster.app.commands.audit import records_of
from clusters import cluster, path_of, ready, secret
from operating import until
from ordeals import measured, report
from talking import faultless, talking

pytestmark = pytest.mark.slow

KEY = bytes(range(32))


def applied(plane, namespace, **spec):
    secret(plane, namespace, value=KEY.hex())
    plane.volume(f"data-{namespace}")
    stood_on = {"embedded": {"storage": "1Gi", "storageClassName": "local"}}
    plane.apply(path_of(namespace), cluster(namespace, dependencies=stood_on, **spec))


def embedded(plane, namespace):
    applied(plane, namespace)
    until(lambda: ready(plane, namespace), 90)
    service = plane.get(f"/api/v1/namespaces/{namespace}/services/main-gateway")
    return f"ws://{service['spec']['clusterIP']}:8080"


def pod_of(plane, namespace):
    return plane.get(f"/api/v1/namespaces/{namespace}/pods/main-embedded-0")


def restarts(plane, namespace):
    found = (pod_of(plane, namespace) or {}).get("status", {}).get("containerStatuses") or [{}]
    return found[0].get("restartCount", 0)


def test_an_image_that_cannot_be_had_is_put_right_by_the_next(plane, namespace, operator):
    """Nobody has to delete the pod that waits for the wrong one."""

    def waiting():
        found = (pod_of(plane, namespace) or {}).get("status", {}).get("containerStatuses") or [{}]
        return found[0].get("state", {}).get("waiting", {}).get("reason", "")

    applied(plane, namespace, image="localhost:1/nobody:1")
    until(lambda: waiting() in ("ErrImagePull", "ImagePullBackOff"), 60)
    applied(plane, namespace)
    until(lambda: ready(plane, namespace), 90)


async def test_what_was_acked_outlives_the_pod(plane, namespace, operator, tmp_path):
    url = await asyncio.to_thread(partial(embedded, plane, namespace))
    pod = pod_of(plane, namespace)
    faults = []

    def healed(name, begun):
        faults.append((name, begun, time.time_ns() // 1_000_000))

    async with talking([url], KEY, tmp_path, 7, rate=20.0) as (_, judged):
        await asyncio.sleep(4)
        begun = time.time_ns() // 1_000_000
        # As if the kernel had run out of memory: no drain.
        container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        plane.inside(1, "ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", container)
        await asyncio.to_thread(until, lambda: restarts(plane, namespace) == 1 and ready(plane, namespace), 60)
        healed("the process killed", begun)
        await asyncio.sleep(3)
        begun = time.time_ns() // 1_000_000
        # And politely: another pod on the same volume.
        await asyncio.to_thread(plane.kubectl, "-n", namespace, "delete", "pod", "main-embedded-0")
        await asyncio.to_thread(until, lambda: ready(plane, namespace), 60)
        healed("the pod deleted", begun)
        await asyncio.sleep(3)
        begun = time.time_ns()
        audit = await judged()
        told = (time.time_ns() - begun) / 1e9
    report(measured(list(records_of([tmp_path / "history.jsonl"])), faults), audit.counts, len(audit.violations), told)
    faultless(audit)
    assert pod_of(plane, namespace)["metadata"]["uid"] != pod["metadata"]["uid"]
