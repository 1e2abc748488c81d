"""People who talk through a Service while its platform, of pods on real nodes, is changed: what it cost them.

And what is seen of its gateways meanwhile: how many served and how many drained, at the worst moment.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from uuid import uuid4

from bystanders import bystanders
from chatcluster.app.commands.audit import records_of
from clusters import conditions, ready
from operating import until
from ordeals import measured, report
from talking import faultless, talking

KEY = bytes(range(32))
"""By which the tokens of the platform's clients are signed."""
NAMESPACE = "chat"
RATE = 10
"""Closes per second of a gateway that drains."""
CROWD = 40
DEADLINE = 40
SMALL = {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "768Mi"}}}


def spec(stood_on, version="1.0.0"):
    return {
        "version": version,
        "dependencies": stood_on,
        "gateway": {
            **SMALL,
            "replicas": 2,
            "drain": {"propagationSeconds": 3, "connectionsPerSecond": RATE, "deadlineSeconds": DEADLINE},
        },
        "router": {**SMALL, "replicas": 2},
        "persister": {**SMALL, "replicas": 1},
        "presence": {**SMALL, "replicas": 1},
    }


def url_of(plane):
    """Where its sockets are."""
    service = plane.get(f"/api/v1/namespaces/{NAMESPACE}/services/main-gateway")
    return f"ws://{service['spec']['clusterIP']}:8080"


def pods(plane, component=""):
    query = f"?labelSelector=app.kubernetes.io/component%3D{component}" if component else ""
    return plane.get(f"/api/v1/namespaces/{NAMESPACE}/pods{query}")["items"]


def is_ready(pod):
    found = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in found)


def leaving(pod):
    return pod["metadata"].get("deletionTimestamp") is not None


def settled(plane):
    """As its newest spec says, and nobody drains any more."""
    return ready(plane, NAMESPACE) and conditions(plane, NAMESPACE)["Draining"]["status"] == "False"


def lives(pod):
    """Whether a process of it may be there: whose last one ended stands there until its node was told."""
    return pod["status"]["phase"] not in ("Succeeded", "Failed")


def version_of(pod):
    return pod["metadata"]["annotations"]["chatcluster.dev/version"]


class Watch:
    """Looks at the gateways again and again, in a thread."""

    def __init__(self, plane):
        self.fewest = 99
        """Gateways that were ready and not leaving, at the worst moment."""
        self.most = 0
        """Gateways that had served and were leaving, at the worst moment."""
        self.drains: dict[str, tuple[float, float]] = {}
        """First and last time that a gateway was seen leaving."""
        self._served: set[str] = set()
        self._plane = plane
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self):
        while not self._ended.wait(0.3):
            found = pods(self._plane, "gateway")
            now = time.monotonic()
            self.fewest = min(self.fewest, sum(is_ready(pod) and not leaving(pod) for pod in found))
            self._served |= {pod["metadata"]["name"] for pod in found if is_ready(pod)}
            gone = [
                name
                for pod in found
                if leaving(pod) and lives(pod) and (name := pod["metadata"]["name"]) in self._served
            ]
            self.most = max(self.most, len(gone))
            for name in gone:
                self.drains[name] = (self.drains.get(name, (now, now))[0], now)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()


class Conversation:
    """People who talk, and a crowd that listens."""

    def __init__(self, crowd, watch):
        self.crowd = crowd
        self.watch = watch
        self.faults = []

    @asynccontextmanager
    async def during(self, name):
        begun, clock = time.time_ns() // 1_000_000, time.monotonic()
        yield clock
        self.faults.append((name, begun, time.time_ns() // 1_000_000))
        print(f"\n{name}: {time.monotonic() - clock:.1f} s")


@asynccontextmanager
async def conversation(plane, url, folder, seed):
    after = f"-{uuid4().hex[:8]}"
    async with bystanders(url, KEY, CROWD) as crowd, talking([url], KEY, folder, seed, rate=20.0, after=after) as talk:
        with Watch(plane) as watch:
            found = Conversation(crowd, watch)
            await asyncio.sleep(2)
            yield found
            await asyncio.sleep(2)
        begun = time.monotonic()
        audit = await talk[1]()
    records = list(records_of([folder / "history.jsonl"]))
    report(measured(records, found.faults), audit.counts, len(audit.violations), time.monotonic() - begun)
    gone = crowd.goodbyes
    back = sorted(one.back - one.closed for one in gone if one.back is not None)
    if back:
        print(
            f"   crowd: {len(gone)} closed, codes {sorted({one.code for one in gone})}, "
            f"back after {back[len(back) // 2]:.2f} s (median), {back[-1]:.2f} s (longest)"
        )
    print(f"   at worst {watch.fewest} gateways served and {watch.most} drained")
    for name, (first, last) in watch.drains.items():
        print(f"   {name}: left within {last - first:.1f} s")
    faultless(audit)


async def came(holds, seconds=120.0):
    return await asyncio.to_thread(until, holds, seconds, 0.2)


def paced(crowd, since):
    """Every close was announced, was a 1012, and was not one of too many in its second."""
    gone = crowd.since(since)
    assert gone, "nobody was moved"
    assert {one.code for one in gone} == {1012}
    assert all(one.hinted is not None and one.closed - one.hinted > 1.0 for one in gone)
    times = [one.closed for one in gone]
    busiest = max(sum(first <= at < first + 1.0 for at in times) for first in times)
    assert busiest <= RATE * 1.5 + 1, f"{busiest} closes within a second"
    assert all(one.back is not None for one in gone[:-1])
    return gone
