"""The distributed platform as pods on two real nodes, on real Redis, Kafka and Cassandra: upgrades and drains under

conversation. People talk through the Service all the time; afterwards the audit finds nothing lost, doubled or out of
order. What it cost them goes to stdout.
"""

from __future__ import annotations

import asyncio
import itertools
from datetime import datetime
from functools import partial

import pytest

from clusters import changed, cluster, conditions, path_of
from conversing import (
    CROWD,
    DEADLINE,
    NAMESPACE,
    came,
    conversation,
    is_ready,
    leaving,
    paced,
    pods,
    settled,
    spec,
    url_of,
    version_of,
)
from operating import until

pytestmark = pytest.mark.slow

NODES = 2
MEMORY = """
import re
print(1024 * int(re.search("VmRSS:.*?([0-9]+)", open("/proc/1/status").read())[1]))
"""
ORDER = ("persister", "router", "presence", "gateway")


@pytest.fixture
def url(plane, platform):
    return url_of(plane)


def told_to_be(plane, stood_on, version):
    plane.apply(path_of(NAMESPACE), cluster(NAMESPACE, **spec(stood_on, version)))


def seconds(stamp):
    return datetime.fromisoformat(stamp).timestamp()


def test_every_pod_is_restricted_and_ready_and_the_migration_ran(plane, platform):
    found = pods(plane)
    assert len(found) == 7
    [job] = [pod for pod in found if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "migrate"]
    assert job["status"]["phase"] == "Succeeded"
    running = [pod for pod in found if pod is not job]
    assert all(is_ready(pod) for pod in running)
    assert [pod["status"]["containerStatuses"][0]["restartCount"] for pod in running] == [0] * 6
    assert {pod["spec"]["nodeName"] for pod in running} == {"node-1", "node-2"}
    ask = "import os; print(open('/proc/1/status').read()); print(os.access('/', os.W_OK), os.access('/tmp', os.W_OK))"
    for pod in running:
        said = plane.kubectl("-n", NAMESPACE, "exec", pod["metadata"]["name"], "--", "python", "-c", ask)
        lines = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
        assert lines["Uid"].split() == ["10001"] * 4
        assert (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2")
        assert int(lines["CapEff"], 16) == int(lines["CapBnd"], 16) == 0
        assert "False True" in said
        used = plane.kubectl("-n", NAMESPACE, "exec", pod["metadata"]["name"], "--", "python", "-c", MEMORY)
        print(f"{pod['metadata']['name']}: {int(used) >> 20} MiB")
    gateway = pods(plane, "gateway")[0]
    assert gateway["spec"]["terminationGracePeriodSeconds"] == DEADLINE + 30


async def test_an_upgrade_under_conversation(plane, platform, url, tmp_path):
    async with conversation(plane, url, tmp_path, 11) as talk:
        before = {pod["metadata"]["name"] for pod in pods(plane)}
        async with talk.during("upgrade") as begun:
            await asyncio.to_thread(told_to_be, plane, platform, "1.1.0")
            await came(lambda: settled(plane), 180)
        new = [pod for pod in pods(plane) if pod["metadata"]["name"] not in before]
        assert len(paced(talk.crowd, begun)) >= CROWD, "each gateway was left by all of its clients"
        watch = talk.watch
    parts = {part: [pod for pod in new if f"main-{part}" in pod["metadata"]["name"]] for part in ORDER}
    assert {part: len(found) for part, found in parts.items()} == {
        "persister": 1, "router": 2, "presence": 1, "gateway": 2,
    }  # fmt: skip
    for first, then in itertools.pairwise(ORDER):
        through = max(
            seconds(one["lastTransitionTime"])
            for pod in parts[first]
            for one in pod["status"]["conditions"]
            if one["type"] == "Ready"
        )
        assert through <= min(seconds(pod["metadata"]["creationTimestamp"]) for pod in parts[then]), f"{then} too early"
    events = plane.get(f"/api/v1/namespaces/{NAMESPACE}/events")["items"]
    # Once is possible: the controller may hear of a Deployment's end before that of its last pod, which came first.
    held = [one for one in events if one["reason"] == "CalculateExpectedPodCountFailed"]
    assert all((one.get("count") or 1) == 1 for one in held), f"evictions were held up: {held}"
    assert watch.fewest >= 2, "a gateway left before its successor was ready"
    assert watch.most == 1
    assert len(watch.drains) == 2
    assert all(last - first <= DEADLINE + 30 for first, last in watch.drains.values())


async def test_turning_back_in_the_middle_of_an_upgrade(plane, platform, url, tmp_path):
    await came(lambda: settled(plane))
    async with conversation(plane, url, tmp_path, 12) as talk:
        [now] = {version_of(pod) for pod in pods(plane, "gateway")}
        other = "1.1.0" if now == "1.0.0" else "1.0.0"
        async with talk.during("turned back"):
            await asyncio.to_thread(told_to_be, plane, platform, other)
            await came(lambda: any(leaving(pod) for pod in pods(plane, "gateway")))
            await asyncio.to_thread(told_to_be, plane, platform, now)
            await came(lambda: settled(plane), 180)
        assert talk.watch.fewest >= 2
        assert talk.watch.most == 1
        assert talk.faults[0][2] - talk.faults[0][1] < 60_000, "who is told to leave while it starts leaves, too"
    running = [pod for pod in pods(plane) if not leaving(pod) and pod["status"]["phase"] == "Running"]
    assert {version_of(pod) for pod in running} == {now}


async def test_a_node_is_drained(plane, platform, url, tmp_path):
    await came(lambda: settled(plane))
    async with conversation(plane, url, tmp_path, 13) as talk:
        assert any(pod["spec"]["nodeName"] == "node-2" for pod in pods(plane, "gateway"))
        drain = partial(
            plane.kubectl, "drain", "node-2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s",
            timeout=160,
        )  # fmt: skip
        async with talk.during("kubectl drain") as begun:
            try:
                await asyncio.to_thread(drain)
                await came(lambda: settled(plane))
            finally:
                await asyncio.to_thread(plane.kubectl, "uncordon", "node-2")
        paced(talk.crowd, begun)
    running = [pod for pod in pods(plane) if pod["status"]["phase"] == "Running"]
    assert {pod["spec"]["nodeName"] for pod in running} == {"node-1"}


async def test_gateways_of_several_processes(plane, platform, url, tmp_path):
    """They share their pod's port; the parent passes SIGTERM on, and each of its processes drains."""
    await came(lambda: settled(plane))
    async with conversation(plane, url, tmp_path, 14) as talk:
        async with talk.during("one process to two"):
            told = changed(cluster(NAMESPACE, **spec(platform, newest(plane))), "spec.gateway.processes", 2)
            await asyncio.to_thread(plane.apply, path_of(NAMESPACE), told)
            await came(lambda: settled(plane), 180)
        async with talk.during("two processes to one") as begun:
            await asyncio.to_thread(told_to_be, plane, platform, newest(plane))
            await came(lambda: settled(plane), 180)
        gone = talk.crowd.since(begun)
        assert {one.code for one in gone} == {1012}
        assert all(one.hinted is not None for one in gone)
        assert talk.watch.fewest >= 2
        assert all(last - first <= DEADLINE for first, last in talk.watch.drains.values())


def newest(plane):
    return plane.get(path_of(NAMESPACE))["spec"]["version"]


def test_a_drain_that_does_not_end_is_told(plane, platform):
    """The node of a gateway loses power: nobody can say that the pod ended."""
    until(lambda: settled(plane), 60)
    victim = pods(plane, "gateway")[0]
    if victim["spec"]["nodeName"] == "node-1":  # the Service's way in: another must go
        plane.kubectl("-n", NAMESPACE, "get", "pods", "-o", "wide")
        plane.kubectl("cordon", "node-1")
        plane.kubectl("-n", NAMESPACE, "delete", "pod", victim["metadata"]["name"])
        plane.kubectl("uncordon", "node-1")
        until(lambda: settled(plane), 60)
    [victim, *_] = [pod for pod in pods(plane, "gateway") if pod["spec"]["nodeName"] == "node-2"]
    name = victim["metadata"]["name"]
    plane.network.order("kill", 2)
    plane.kubectl("-n", NAMESPACE, "delete", "pod", name, "--grace-period=5", "--wait=false")
    until(lambda: conditions(plane, NAMESPACE)["Draining"]["reason"] == "Stuck", 40)
    assert name in conditions(plane, NAMESPACE)["Draining"]["message"]
