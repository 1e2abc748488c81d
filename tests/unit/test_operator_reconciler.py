"""A look that ends before the plan: what is said, and that it is not said again."""

from __future__ import annotations

import asyncio

from chatcluster_operator.cache import Cache
from chatcluster_operator.reconciler import Reconciler
from clusters import cluster

KEY = ("team", "main")


class Told:
    """A cluster that only listens; whatever else is asked of it is an error."""

    def __init__(self):
        self.said = []

    async def status(self, cluster, status):
        self.said.append(("status", status["phase"], status["conditions"]))

    async def event(self, cluster, kind, reason, message):
        self.said.append((kind, reason, message))


async def test_a_spec_that_cannot_be_read_is_said_once_and_not_retried_before_it_changes():
    kube = Told()
    reconciler = Reconciler(kube, Cache(), None)
    raw = cluster(*KEY, paused="perhaps")
    raw["metadata"] |= {"uid": "u", "generation": 3}
    reconciler.cache.clusters[KEY] = raw
    await reconciler._turn(KEY, asyncio.Semaphore(0))
    (_, phase, conditions), event = kube.said
    assert phase == "InvalidSpec"
    assert [(one["type"], one["status"], one["observedGeneration"]) for one in conditions] == [("Ready", "False", 3)]
    assert event == ("Warning", "InvalidSpec", conditions[0]["message"])
    assert event[2].startswith("spec.paused: ")
    assert reconciler.due == {}
    reconciler.cache.clusters[KEY] = {**raw, "status": {"conditions": conditions}}
    await reconciler._turn(KEY, asyncio.Semaphore(0))
    assert len(kube.said) == 2


async def test_what_is_being_deleted_is_left_alone():
    kube = Told()
    reconciler = Reconciler(kube, Cache(), None)
    raw = cluster(*KEY, paused="perhaps")
    raw["metadata"] |= {"uid": "u", "generation": 3, "deletionTimestamp": "2026-01-01T00:00:00Z"}
    reconciler.cache.clusters[KEY] = raw
    await reconciler._turn(KEY, asyncio.Semaphore(0))
    assert (kube.said, reconciler.due) == ([], {})
