"""As the README installs it, on two real nodes: charts by Helm, the operator as two pods, a ChatCluster by its chart.

People talk through the Service while operators are upgraded, killed and drained (which nobody notices), and while
``helm upgrade`` brings the platform to its next version.
"""

from __future__ import annotations

import asyncio
import time

import pytest
import yaml

import helming
from clusters import changed, cluster, restricted_namespace, secret
from conversing import (
    KEY,
    NAMESPACE,
    came,
    conversation,
    is_ready,
    paced,
    pods,
    settled,
    spec,
    url_of,
    version_of,
)
from dependencies import dependencies
from helming import CHARTS
from installed import NAME, available, deployment
from operating import until
from prebuilt import tool

pytestmark = pytest.mark.slow

NODES = 2
DEFINED = False
SYSTEM = "chatcluster-system"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{NAME}"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/chatclusters.chatcluster.dev"


class Releases:
    """``helm`` on the cluster, with the charts of this checkout."""

    def __init__(self, plane, folder):
        self._plane, self._folder = plane, folder

    def do(self, verb, release, *options, namespace=SYSTEM, values=None):
        file = self._folder / f"{release}.yaml"
        file.write_text(yaml.safe_dump(values or {}))
        chart = [] if verb == "uninstall" else [CHARTS / CHART_OF.get(release, release), "--values", file]
        given = (verb, release, *chart, "--namespace", namespace, *options)
        return helming.run("helm", *given, kubeconfig=self._plane.kubeconfig)

    def operator(self, verb, tag):
        waits = ("--wait", "--timeout", "120s")
        policy = {"apiServerPorts": [443, self._plane.port]}  # ours listens where there is room
        self.do(verb, NAME, *waits, values={"image": {"tag": tag}, "leaseName": NAME, "networkPolicy": policy})

    def main(self, verb, wanted):
        self.do(verb, "main", namespace=NAMESPACE, values={"spec": cluster(NAMESPACE, **wanted)["spec"]})


CHART_OF = {"main": "chatcluster", NAME: "chatcluster-operator"}


@pytest.fixture(scope="module")
def releases(plane, tmp_path_factory):
    tool("helm")
    return Releases(plane, tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def platform(plane, releases, tmp_path_factory):
    """What it stands on; everything is installed, and ready."""
    for namespace in (SYSTEM, NAMESPACE):
        restricted_namespace(plane, namespace)
    secret(plane, NAMESPACE, value=KEY.hex())
    with dependencies(tmp_path_factory.mktemp("dependencies")) as stood_on:
        releases.do("install", "chatcluster-crds")
        releases.operator("install", "1.0.0")
        begun = time.monotonic()
        releases.main("install", spec(stood_on))
        until(lambda: settled(plane), 120)
        print(f"\nready {time.monotonic() - begun:.0f} s after it was installed")
        yield stood_on


def operators(plane):
    found = plane.get(f"/api/v1/namespaces/{SYSTEM}/pods")["items"]
    return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


def leader(plane):
    return plane.get(LEASE)["spec"].get("holderIdentity")


def identities(plane):
    return {pod["metadata"]["uid"] for pod in pods(plane) if pod["status"]["phase"] == "Running"}


def test_the_operator_is_two_pods_of_which_one_leads(plane, platform):
    found = operators(plane)
    assert len(found) == 2
    assert all(is_ready(pod) for pod in found.values())
    assert {pod["spec"]["nodeName"] for pod in found.values()} == {"node-1", "node-2"}, "they avoid each other"
    assert leader(plane) in found
    for name in found:
        status = plane.kubectl("-n", SYSTEM, "exec", name, "--", "cat", "/proc/1/status")
        lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert lines["Uid"].split() == ["10001"] * 4
        assert int(lines["CapEff"], 16) == int(lines["CapBnd"], 16) == 0
        print(f"{name}: {int(lines['VmRSS'].split()[0]) >> 10} MiB")


async def test_operators_come_and_go_and_nobody_notices(plane, platform, releases, tmp_path):
    async with conversation(plane, url_of(plane), tmp_path, 21) as talk:
        before, begun = identities(plane), time.monotonic()
        async with talk.during("operators upgraded"):
            await asyncio.to_thread(releases.operator, "upgrade", "1.1.0")
            await came(lambda: available(plane, SYSTEM) and leader(plane) in operators(plane))
        tags = {pod["spec"]["containers"][0]["image"].rpartition(":")[2] for pod in operators(plane).values()}
        assert tags == {"1.1.0"}

        first = leader(plane)
        async with talk.during("the leader's pod deleted by force"):
            kill = ("-n", SYSTEM, "delete", "pod", first, "--grace-period=0", "--force")
            await asyncio.to_thread(plane.kubectl, *kill)
            wanted = changed(spec(platform), "router.replicas", 3)
            await asyncio.to_thread(releases.main, "upgrade", wanted)
            await came(lambda: len(pods(plane, "router")) == 3)
            await came(lambda: settled(plane))
        second = leader(plane)
        assert second != first
        await came(lambda: available(plane, SYSTEM))

        node = operators(plane)[second]["spec"]["nodeName"]
        async with talk.during("the leader's node drained of it"):
            ours = f"--pod-selector=app.kubernetes.io/name={NAME}"
            drain = ("drain", node, ours, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
            try:
                await asyncio.to_thread(plane.kubectl, *drain)
                await asyncio.to_thread(releases.main, "upgrade", spec(platform))
                await came(lambda: sum(pod["status"]["phase"] == "Running" for pod in pods(plane, "router")) == 2)
            finally:
                await asyncio.to_thread(plane.kubectl, "uncordon", node)
        assert leader(plane) not in (first, second)
        await came(lambda: settled(plane))

        assert talk.crowd.since(begun) == [], "no socket was closed"
        gateways = {pod["metadata"]["uid"] for pod in pods(plane, "gateway")}
        assert gateways <= before, "no gateway was touched"


async def test_the_platform_is_upgraded_by_helm_while_people_talk(plane, platform, releases, tmp_path):
    await came(lambda: settled(plane))
    async with conversation(plane, url_of(plane), tmp_path, 22) as talk:
        async with talk.during("helm upgrade") as begun:
            await asyncio.to_thread(releases.main, "upgrade", spec(platform, "1.1.0"))
            await came(lambda: settled(plane), 180)
        paced(talk.crowd, begun)
        assert talk.watch.fewest >= 2, "a gateway left before its successor was ready"
        assert talk.watch.most == 1
    assert {version_of(pod) for pod in pods(plane) if pod["status"]["phase"] == "Running"} == {"1.1.0"}


def test_uninstalled_nothing_is_left(plane, platform, releases):
    """But the definition, which goes with its own release, and what the namespace had before."""
    releases.do("uninstall", "main", namespace=NAMESPACE)
    until(lambda: not pods(plane), 120)
    releases.do("uninstall", NAME)
    assert deployment(plane, SYSTEM) is None
    until(lambda: not operators(plane), 60)
    kept = plane.get(f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"]
    assert [one["metadata"]["name"] for one in kept] == ["tokens"]
    assert plane.get(DEFINITION) is not None
