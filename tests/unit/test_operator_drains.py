"""Gateways that are asked to leave: by a successor, within the budget, and nobody else in their place."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from chatcluster_operator.drains import FIRST
from chatcluster_operator.names import VERSION, Cluster
from chatcluster_operator.observed import Migration, Observed, Pod, Workload
from chatcluster_operator.plan import plan
from chatcluster_operator.render.workloads import deployment, gateway, migration, pods_of
from chatcluster_operator.spec import Spec
from clusters import SPEC, changed

CLUSTER = Cluster("team", "main", "uid-1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRETS = {"tokens": "a", "main-link": "b"}
VERSIONS = ("1.0.0", "1.1.0", "1.2.0")


def spec_of(version="1.0.0", replicas=3, budget=1, **others):
    spec = changed(SPEC, "version", version)
    spec = changed(spec, "gateway", {"replicas": replicas, "drain": {"maxConcurrent": budget}})
    return Spec.model_validate({**spec, **others})


@dataclass
class Gateway:
    name: str
    revision: str
    born: int
    ready: bool = False
    asked: bool = False
    leaving: bool = False
    cost: int | None = None
    connections: int = 0


@dataclass
class World:
    """A cluster with controllers that act when they are let, and pods that get ready and leave when they are let."""

    budget: int = 1
    lag: bool = False
    """Whether controllers act only when they are let, not at once."""
    pods: list[Gateway] = field(default_factory=list)
    wanted: dict[str, int] = field(default_factory=dict)
    templates: dict[str, dict] = field(default_factory=dict)
    floor: dict[str, int] = field(default_factory=dict)
    """By Deployment how many had to serve when its number was made less."""
    gone: list[Gateway] = field(default_factory=list)
    migrated: set[str] = field(default_factory=lambda: {"1.0.0"})
    births: itertools.count = field(default_factory=itertools.count)
    status: dict = field(default_factory=dict)

    def look(self, spec):
        """One pass of the operator."""
        made = plan(CLUSTER, spec, self.observed(spec), now=NOW)
        self.status = made.status
        for one in made.apply:
            name = one["metadata"]["name"]
            if one["kind"] != "Deployment" or "gateway-" not in name:
                continue
            count = one["spec"]["replicas"]
            if count < self.wanted.get(name, 0):
                self.floor[name] = spec.gateway.replicas
            self.wanted[name] = count
            if "template" in one["spec"]:
                self.templates[name] = one["spec"]["template"]["metadata"]["annotations"]
        for child in made.delete:
            if child.kind == "Deployment":
                assert not self.wanted.get(child.name), "a Deployment with pods is not deleted"
                self.wanted.pop(child.name, None)
        if not self.lag:
            self.act()
        # Later than the numbers, as the controller may hear of them later.
        for pod in self.pods:
            pod.cost = made.costs.get(pod.name, pod.cost)
        return made

    def act(self):
        """What the controllers of Deployments do."""
        for name, count in self.wanted.items():
            revision = name.rpartition("-")[2]
            mine = [pod for pod in self.pods if pod.revision == revision and not pod.leaving]
            mine.sort(key=lambda pod: (pod.ready, pod.cost or 0, -pod.born))
            for pod in mine[: max(0, len(mine) - count)]:
                if not pod.ready:
                    self.pods.remove(pod)
                    continue
                pod.leaving = True
                self.gone.append(pod)
                assert self.serving >= self.floor[name], "a successor was not ready"
            for _ in range(count - len(mine)):
                number = next(self.births)
                self.pods.append(Gateway(f"g{number}", revision, number))
        assert sum(pod.leaving for pod in self.pods) <= self.budget

    @property
    def serving(self):
        return sum(pod.ready and not pod.leaving for pod in self.pods)

    def one(self, which, number=0):
        """One of the pods of which ``which`` holds, or None."""
        found = [pod for pod in self.pods if which(pod)]
        return found[number % len(found)] if found else None

    def gets_ready(self):
        if pod := self.one(lambda pod: not pod.ready and not pod.leaving):
            pod.ready = True

    def drained(self):
        if pod := self.one(lambda pod: pod.leaving):
            self.pods.remove(pod)

    def ask(self, number, asked=True):
        if pod := self.one(lambda pod: not pod.leaving and pod.asked != asked, number):
            pod.asked = asked

    def calm(self, spec, looks=200):
        """Until nothing moves any more."""
        for _ in range(looks):
            before = repr((self.pods, self.wanted))
            self.look(spec)
            self.act()
            self.gets_ready()
            self.drained()
            if repr((self.pods, self.wanted)) == before:
                return

    def observed(self, spec):
        workloads = {}
        for name, count in self.wanted.items():
            revision = name.rpartition("-")[2]
            mine = [pod for pod in self.pods if pod.revision == revision and not pod.leaving]
            ready = sum(pod.ready for pod in mine)
            whole = len(mine) == ready == count
            notes = self.templates[name]
            workloads[name] = Workload(
                name, count, ready, len(mine), len(mine), whole, "", notes, notes[VERSION], revision
            )  # fmt: skip
        for component in ("persister", "router", "presence"):
            pods = pods_of(CLUSTER, spec, component, SECRETS)
            name = deployment(CLUSTER, component, pods, 2)["metadata"]["name"]
            notes = pods["metadata"]["annotations"]
            workloads[name] = Workload(name, 2, 2, 2, 2, True, "", notes, notes[VERSION], "")
        job = migration(CLUSTER, spec, SECRETS)["metadata"]["name"]
        ran = {job: Migration(job, True, "")} if spec.version in self.migrated else {}
        pods = tuple(
            Pod(
                pod.name, "gateway", pod.revision, pod.ready and not pod.leaving,
                NOW + timedelta(minutes=5) if pod.leaving else None,
                {"chatcluster_gateway_sockets": float(pod.connections)},
                pod.asked, NOW if pod.asked else None, pod.cost, "node-1", NOW,
            )
            for pod in self.pods
        )  # fmt: skip
        return Observed(
            workloads=workloads, migrations=ran, pods=pods, secrets=SECRETS, generation=1, status=self.status
        )


def up(spec, **others):
    world = World(budget=spec.gateway.drain.max_concurrent, **others)
    world.calm(spec)
    assert world.serving == len(world.pods) == spec.gateway.replicas
    for pod in world.pods:
        pod.connections = 100
    return world


def condition(world, kind):
    return next((one["status"], one["reason"]) for one in world.status["conditions"] if one["type"] == kind)


HAPPENS = st.one_of(
    st.sampled_from(["ready", "drained", "act", "look", "migrated"]),
    st.tuples(st.sampled_from(["ask", "take back"]), st.integers(0, 9)),
    st.tuples(st.just("version"), st.sampled_from(VERSIONS)),
    st.tuples(st.just("replicas"), st.integers(1, 6)),
)


@settings(max_examples=250)
@given(st.integers(1, 5), st.integers(1, 3), st.booleans(), st.lists(HAPPENS, max_size=60))
def test_gateways_serve_in_full_and_drain_within_the_budget_whatever_is_asked(replicas, budget, lag, happens):
    world, version = up(spec_of(replicas=replicas, budget=budget)), "1.0.0"
    world.lag = lag
    for what in happens:
        match what:
            case "ready":
                world.act()  # a start takes longer than a controller
                world.gets_ready()
            case "drained":
                world.drained()
            case "act":
                world.act()
            case "migrated":
                world.migrated.add(version)
            case ("ask", number):
                world.ask(number)
            case ("take back", number):
                world.ask(number, asked=False)
            case ("version", given):
                version = given
            case ("replicas", given):
                replicas = given
        # Looks come at any time; what the controllers do between them is asserted in ``act``.
        if what not in ("ready", "drained", "act") or not lag:
            world.look(spec_of(version, replicas, budget))
    world.migrated.update(VERSIONS)
    spec = spec_of(version, replicas, budget)
    world.calm(spec)
    event(f"left: {len(world.gone)}")
    last = gateway(CLUSTER, pods_of(CLUSTER, spec, "gateway", SECRETS), replicas)["metadata"]["name"]
    assert {name: count for name, count in world.wanted.items() if count} == {last: replicas}
    assert not [pod for pod in world.pods if pod.asked or pod.leaving], "whoever was asked has left"
    assert world.serving == replicas
    assert condition(world, "Draining") == ("False", "NotDraining")
    assert condition(world, "Ready") == ("True", "Ready")


@settings(max_examples=60)
@given(st.integers(1, 6), st.integers(1, 3), st.lists(st.integers(0, 5), min_size=1, max_size=6), st.booleans())
def test_whoever_was_asked_leaves_and_nobody_else(replicas, budget, asked, held):
    spec = spec_of(replicas=replicas, budget=budget)
    world = up(spec)
    names = set()
    if held:
        spec = spec_of("1.1.0", replicas, budget)  # its migration does not end
    for number in asked:
        pod = world.pods[number % len(world.pods)]
        pod.asked = pod.ready and not pod.leaving
        names |= {pod.name} if pod.asked else set()
        world.look(spec)
        assert condition(world, "Ready")[0] == ("False" if held else "True"), "a drain is no roll-out"
    world.calm(spec)
    assert {pod.name for pod in world.gone} == names
    assert world.serving == replicas
    assert {pod.revision for pod in world.pods} == {pod.revision for pod in world.gone}


def test_what_is_asked_is_taken_back_while_it_waits():
    spec = spec_of(replicas=3)
    world = up(spec)
    mine = world.pods[1]
    mine.asked = True
    made = world.look(spec)
    assert made.costs == {mine.name: FIRST}
    assert world.status["drains"] == [
        {
            "pod": mine.name, "node": "node-1", "since": "2026-01-01T00:00:00Z", "phase": "Waiting",
            "message": "its successor is not ready yet", "connections": 100,
        }
    ]  # fmt: skip
    assert condition(world, "Draining") == ("True", "Waiting")
    assert len(world.pods) == 4
    world.gets_ready()
    mine.asked = False
    world.calm(spec)
    assert mine in world.pods
    assert mine.cost == 100
    assert [pod.name for pod in world.gone] == ["g3"], "the one that came for it has nobody"
    assert world.status["drains"] == []


def test_a_drain_that_leaves_is_said_with_its_progress():
    spec = spec_of(replicas=1)
    world = up(spec)
    mine = world.pods[0]
    mine.asked = True
    world.look(spec)
    world.gets_ready()
    world.look(spec)
    world.look(spec)
    assert mine.leaving
    mine.connections = 40
    world.status["drains"] = [{"pod": mine.name, "phase": "Leaving", "connectionsAtStart": 100}]
    world.look(spec)
    assert world.status["drains"] == [
        {
            "pod": mine.name, "node": "node-1", "since": "2026-01-01T00:00:00Z", "phase": "Leaving",
            "until": "2026-01-01T00:05:00Z", "connectionsAtStart": 100, "connections": 40,
        }
    ]  # fmt: skip


def test_a_drain_without_a_successor_is_said_as_stuck():
    spec = spec_of(replicas=2)
    world = up(spec)
    world.pods[0].asked = True
    world.look(spec)
    seen = world.observed(spec)
    later = plan(CLUSTER, spec, seen, now=NOW + timedelta(minutes=11)).status
    said = {one["type"]: one for one in later["conditions"]}
    assert (said["Draining"]["status"], said["Draining"]["reason"]) == ("True", "Stuck")
    assert "g2 not ready for more than 10 minutes" in said["Draining"]["message"]
    assert [one["phase"] for one in later["drains"]] == ["Stuck"]
    [name] = [name for name in seen.workloads if "gateway-" in name]
    quota = replace(seen.workloads[name], refused="exceeded quota: pods=2")
    now = plan(CLUSTER, spec, replace(seen, workloads={**seen.workloads, name: quota}), now=NOW).status
    said = {one["type"]: one for one in now["conditions"]}
    assert said["Draining"]["reason"] == "Stuck"
    assert "exceeded quota" in said["Draining"]["message"]


def test_a_gateway_that_is_not_ready_needs_no_successor_but_the_number_stays():
    spec = spec_of(replicas=2)
    world = up(spec)
    world.pods[0].ready, world.pods[0].asked = False, True
    world.look(spec)
    assert len(world.pods) == 3
    world.look(spec)
    assert len(world.pods) == 3, "two must be there that serve, or may soon"
    world.pods[2].ready = True
    world.look(spec)
    assert [pod.name for pod in world.pods] == ["g1", "g2"]


def test_who_was_told_and_is_not_seen_going_drains():
    spec = spec_of(replicas=4)
    world = up(spec)
    world.lag = True
    for pod in world.pods[:3]:
        pod.asked = True
    for _ in range(3):
        world.look(spec)
    world.act()
    world.gets_ready()
    for _ in range(5):
        world.look(spec)  # their controllers are slow
    world.act()
    assert sum(pod.leaving for pod in world.pods) == 1
    world = up(spec)
    world.lag = True
    for _ in range(5):
        world.look(spec_of(replicas=1))
    world.act()
    assert sum(pod.leaving for pod in world.pods) == 1


def test_in_a_roll_out_that_is_held_nobody_goes_before_the_right_one_is_marked():
    world, later = up(spec_of(replicas=3)), spec_of("1.1.0", 2)  # one may go; its turn does not come
    world.look(later)
    mine = world.pods[0]
    mine.asked, mine.connections = True, 10**6
    world.look(later)
    assert not world.gone
    world.look(later)
    assert world.gone == [mine]


def test_paused_nobody_leaves_and_it_is_said():
    world = up(spec_of(replicas=2))
    world.pods[0].asked = True
    made = world.look(spec_of(replicas=2, paused=True))
    assert (made.apply, made.costs) == ([], {})
    assert world.status["drains"][0]["message"] == "the ChatCluster is paused"


def test_who_is_up_for_a_drain_is_no_wish_of_the_autoscaling():
    given = changed(SPEC, "gateway", {"autoscaling": {"mode": "builtin", "min": 2, "max": 9}})
    spec = Spec.model_validate(given)
    world = up(spec_of(replicas=3))
    world.status = {"components": {"gateway": {"desired": 3}}}
    world.pods[0].asked = True
    for _ in range(20):
        world.look(spec)
        assert world.status["components"]["gateway"]["desired"] == 3
    assert len(world.pods) == 4


@pytest.mark.parametrize("text", ["", "now", "2026-13-45", "2026-01-01T00:00:00"])
def test_whatever_the_annotation_says_it_asks(text):
    thing = {
        "metadata": {"name": "g", "labels": {}, "annotations": {"chatcluster.dev/drain": text}},
        "spec": {"nodeName": "n"},
    }
    assert Pod.of(thing, None).asked


def test_when_it_was_told_is_known_without_having_been_asked():
    head = {"name": "g", "deletionTimestamp": "2026-01-01T00:15:30Z", "deletionGracePeriodSeconds": 930}
    assert Pod.of({"metadata": head}, None).since == NOW


def test_a_restart_is_another_revision_and_says_so():
    asked = {"podAnnotations": {"chatcluster.dev/restarted-at": "2026-01-01T00:00:00Z"}}
    spec = spec_of(replicas=2)
    world = up(spec)
    again = Spec.model_validate(
        {**spec.model_dump(by_alias=True, exclude_none=True), "router": {"replicas": 2, **asked}}
    )
    seen = world.observed(spec)
    made = plan(CLUSTER, again, seen, now=NOW)
    assert [(one.reason, one.message) for one in made.events] == [("RollingOut", "router: somebody asked for it")]
    assert plan(CLUSTER, spec, seen, now=NOW).events == []
