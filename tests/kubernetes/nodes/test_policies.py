"""NetworkPolicies, enforced on real nodes: who may speak to whom, and that nobody is kept out who has to get in."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from clusters import changed, cluster, path_of
from conversing import NAMESPACE, came, conversation, is_ready, pods, settled, spec, url_of
from keeper import HUB
from operating import until

pytestmark = pytest.mark.slow

NODES = 2
SOCKETS, MANAGEMENT, LINK, REDIS, KAFKA, CASSANDRA = 8080, 8081, 8090, 6379, 9092, 9042
LISTENS = {
    "gateway": (SOCKETS, MANAGEMENT),
    "router": (LINK, MANAGEMENT),
    "persister": (MANAGEMENT,),
    "presence": (LINK, MANAGEMENT),
    HUB: (REDIS, KAFKA, CASSANDRA),
}
"""What there is to speak to: components, and the servers on the nodes' bridge."""
MAY = {
    "gateway": {("router", LINK), ("presence", LINK), (HUB, REDIS), (HUB, CASSANDRA)},
    "router": {(HUB, REDIS), (HUB, KAFKA), (HUB, CASSANDRA)},
    "persister": {(HUB, REDIS), (HUB, KAFKA), (HUB, CASSANDRA)},
    "presence": {(HUB, REDIS)},
    "stranger": {
        *(("gateway", SOCKETS), ("gateway", MANAGEMENT), ("router", MANAGEMENT)),
        *(("persister", MANAGEMENT), ("presence", MANAGEMENT), (HUB, REDIS), (HUB, KAFKA), (HUB, CASSANDRA)),
    },
}
"""Nobody's probes and metrics are closed to who measures; links are the gateways' alone."""
REACHES = """
import json, socket, sys
found = []
for host, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((host, port), 2).close()
        found.append(True)
    except OSError:
        found.append(False)
print(json.dumps(found))
"""


def stranger(plane):
    """A pod of no ChatCluster, in the same namespace."""
    like = pods(plane, "router")[0]["spec"]
    image = like["containers"][0]["image"]
    container = {
        "name": "stranger",
        "image": image,
        "command": ["python", "-c", "import time; time.sleep(86400)"],
        "securityContext": like["containers"][0]["securityContext"],
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/stranger"
    body = {
        "securityContext": like["securityContext"],
        "automountServiceAccountToken": False,
        "containers": [container],
    }
    head = {"name": "stranger", "namespace": NAMESPACE}
    plane.apply(path, {"apiVersion": "v1", "kind": "Pod", "metadata": head, "spec": body})
    until(lambda: is_ready(plane.get(path)), 60)


def reached(plane, source):
    """What of ``LISTENS`` takes a connection from a pod of this component.

    Not of its own kind: where one policy is about both ends, kube-router believes the rule of either direction.
    """
    name = "stranger" if source == "stranger" else pods(plane, source)[0]["metadata"]["name"]
    asked = []
    for component, ports in LISTENS.items():
        if component != source:
            hosts = [HUB] if component == HUB else [one["status"]["podIP"] for one in pods(plane, component)]
            asked += [((component, port), host) for host in hosts for port in ports]
    addresses = json.dumps([(host, port) for (_, port), host in asked])
    said = plane.kubectl("-n", NAMESPACE, "exec", name, "--", "python", "-c", REACHES, addresses)
    found = {}
    for (what, _), yes in zip(asked, json.loads(said), strict=True):
        found.setdefault(what, set()).add(yes)
    assert all(len(answers) == 1 for answers in found.values()), f"pods of one component differ: {found}"
    return {what for what, answers in found.items() if answers == {True}}


def test_each_speaks_to_whom_it_has_to_and_to_nobody_else(plane, platform):
    stranger(plane)
    ends = time.monotonic() + 60  # until the nodes know of the newest pods
    while (found := {source: reached(plane, source) for source in MAY}) != MAY and time.monotonic() < ends:
        time.sleep(1)
    assert found == MAY


async def test_an_upgrade_under_conversation_is_not_held_up(plane, platform, tmp_path):
    """New pods are let in as they come: a rule that is late is a pod that is not ready."""
    url = url_of(plane)
    async with conversation(plane, url, tmp_path, 61) as talk, talk.during("upgrade, policies enforced"):
        await asyncio.to_thread(plane.apply, path_of(NAMESPACE), cluster(NAMESPACE, **spec(platform, "1.1.0")))
        await came(lambda: settled(plane), 180)
    assert {source: reached(plane, source) for source in MAY} == MAY


def test_without_policies_a_stranger_gets_in(plane, platform):
    """So it is the policies that keep it out."""
    wanted = changed(spec(platform, "1.1.0"), "networkPolicy", {"enabled": False})
    plane.apply(path_of(NAMESPACE), cluster(NAMESPACE, **wanted))
    ends = time.monotonic() + 60
    while ("router", LINK) not in reached(plane, "stranger") and time.monotonic() < ends:
        time.sleep(1)
    assert {("router", LINK), ("presence", LINK)} <= reached(plane, "stranger")
