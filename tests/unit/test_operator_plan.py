"""Roll-outs of gateways, step by step: successors first, never more draining than allowed, and they end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from chatcluster_operator.names import VERSION, Cluster
from chatcluster_operator.observed import Child, Migration, Observed, Pod, Workload
from chatcluster_operator.plan import plan
from chatcluster_operator.render.workloads import deployment, gateway, migration, pods_of, revision_of
from chatcluster_operator.spec import Spec
from clusters import SPEC, changed

CLUSTER = Cluster("team", "main", "uid-1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """A cluster that does what Deployments do, one pod at a time, when told to."""

    wanted: dict[str, int] = field(default_factory=dict)
    ready: dict[str, int] = field(default_factory=dict)
    faltering: dict[str, int] = field(default_factory=dict)
    """Not ready, with sockets."""
    draining: int = 0
    annotations: dict[str, dict] = field(default_factory=dict)

    def carry_out(self, made):
        for one in made.apply:
            if one["kind"] == "Deployment" and "gateway-" in one["metadata"]["name"]:
                name, count = one["metadata"]["name"], one["spec"]["replicas"]
                self.wanted[name] = count
                if "template" in one["spec"]:
                    self.annotations[name] = one["spec"]["template"]["metadata"]["annotations"]
                # As a ReplicaSet chooses: who is not ready goes first.
                for alive in (self.faltering, self.ready):
                    while alive.get(name, 0) and self.alive(name) > count:
                        alive[name] -= 1
                        self.draining += 1
        for child in made.delete:
            if child.kind == "Deployment":
                assert not self.wanted.get(child.name), "a Deployment with pods is not deleted"
                self.wanted.pop(child.name, None)

    def alive(self, name):
        return self.ready.get(name, 0) + self.faltering.get(name, 0)

    def a_pod_falters(self):
        for name in self.wanted:
            if self.ready.get(name, 0):
                self.ready[name] -= 1
                self.faltering[name] = self.faltering.get(name, 0) + 1
                return

    def a_pod_gets_ready(self):
        for name, count in self.wanted.items():
            if self.faltering.get(name, 0):
                self.faltering[name] -= 1
                self.ready[name] += 1
                return
            if self.ready.get(name, 0) < count:
                self.ready[name] = self.ready.get(name, 0) + 1
                return

    def a_drain_ends(self):
        self.draining = max(0, self.draining - 1)

    def observed(self, spec):
        workloads = {}
        for name, count in self.wanted.items():
            ready = self.ready.get(name, 0)
            workloads[name] = Workload(
                name, count, ready, self.alive(name), self.alive(name), ready == count, "", self.annotations[name],
                self.annotations[name][VERSION], name.rpartition("-")[2],
            )  # fmt: skip
        secrets = {"tokens": "a", "main-link": "b"}
        for component in ("persister", "router", "presence"):
            pods = pods_of(CLUSTER, spec, component, secrets)
            name = deployment(CLUSTER, component, pods, 2)["metadata"]["name"]
            notes = pods["metadata"]["annotations"]
            workloads[name] = Workload(name, 2, 2, 2, 2, True, "", notes, notes[VERSION], "")
        job = migration(CLUSTER, spec, secrets)["metadata"]["name"]
        leaving = tuple(
            Pod(f"leaving-{n}", "gateway", "", False, NOW + timedelta(minutes=5)) for n in range(self.draining)
        )
        return Observed(
            workloads=workloads,
            migrations={job: Migration(job, True, "")},
            pods=leaving + tuple(self.pods()),
            secrets=secrets,
            generation=1,
        )

    def pods(self):
        for name in self.wanted:
            for n in range(self.alive(name)):
                measures = {"chatcluster_gateway_sockets": 20.0}
                yield Pod(
                    f"{name}-{n}", "gateway", name.rpartition("-")[2], n < self.ready.get(name, 0), None, measures
                )

    @property
    def serving(self):
        return sum(self.ready.get(name, 0) for name in self.wanted)


def spec_of(version, replicas, budget):
    spec = changed(SPEC, "version", version)
    spec = changed(spec, "router.replicas", 2)
    spec = changed(spec, "gateway.drain", {"maxConcurrent": budget})
    return Spec.model_validate(changed(spec, "gateway.replicas", replicas))


@given(
    st.integers(1, 7),
    st.integers(1, 3),
    st.lists(st.sampled_from(["ready", "falters", "drained", "1.0.0", "1.1.0", "1.2.0"]), max_size=60),
)
def test_gateways_roll_within_the_budget_whatever_happens(replicas, budget, happens):
    world, version = World(), "1.0.0"
    for _ in range(3 * replicas + 3):
        world.carry_out(
            plan(CLUSTER, spec_of(version, replicas, budget), world.observed(spec_of(version, 1, 1)), now=NOW)
        )
        world.a_pod_gets_ready()
    assert world.serving == replicas
    # Edits, also back to what was before, in the middle of a roll-out; then everything calms down.
    for what in [*happens, *["ready", "drained"] * (6 * replicas + 10)]:
        if what == "ready":
            world.a_pod_gets_ready()
        elif what == "falters":
            world.a_pod_falters()
        elif what == "drained":
            world.a_drain_ends()
        else:
            version = what
        spec = spec_of(version, replicas, budget)
        before, served = world.draining, world.serving
        world.carry_out(plan(CLUSTER, spec, world.observed(spec), now=NOW))
        assert world.serving >= min(replicas, served), "a successor was not ready"
        assert world.draining <= max(budget, before)
        assert sum(world.wanted.values()) <= replicas + 2 * budget
    pods = pods_of(CLUSTER, spec, "gateway", {"tokens": "a", "main-link": "b"})
    last = gateway(CLUSTER, pods, replicas)["metadata"]["name"]
    assert {name: count for name, count in world.wanted.items() if count} == {last: replicas}
    again = plan(CLUSTER, spec, world.observed(spec), now=NOW)
    assert {one["type"]: one["status"] for one in again.status["conditions"]}["Progressing"] == "False"


def test_who_is_not_ready_and_has_sockets_is_one_of_those_that_drain():
    world, old = World(), spec_of("1.0.0", 2, 1)
    for _ in range(6):
        world.carry_out(plan(CLUSTER, old, world.observed(old), now=NOW))
        world.a_pod_gets_ready()
    spec = spec_of("1.1.0", 2, 1)
    world.carry_out(plan(CLUSTER, spec, world.observed(spec), now=NOW))
    world.a_pod_gets_ready()
    world.carry_out(plan(CLUSTER, spec, world.observed(spec), now=NOW))
    assert world.draining == 1
    world.a_pod_falters()  # the only one that is left of 1.0.0
    world.carry_out(plan(CLUSTER, spec, world.observed(spec), now=NOW))
    assert world.draining == 1
    world.a_drain_ends()
    world.carry_out(plan(CLUSTER, spec, world.observed(spec), now=NOW))
    assert world.draining == 1, "it needs no successor"


def test_a_time_of_transition_moves_only_with_the_status():
    world, spec = World(), spec_of("1.0.0", 1, 1)
    first = plan(CLUSTER, spec, world.observed(spec), now=NOW)
    seen = world.observed(spec)
    later = plan(CLUSTER, spec, Observed(**{**vars(seen), "status": first.status}), now=NOW + timedelta(hours=1))
    assert later.status["conditions"] == first.status["conditions"]
    world.carry_out(first)
    world.a_pod_gets_ready()
    seen = world.observed(spec)
    up = plan(CLUSTER, spec, Observed(**{**vars(seen), "status": first.status}), now=NOW + timedelta(hours=1))
    moved = {one["type"]: one["lastTransitionTime"] for one in up.status["conditions"]}
    assert moved["Ready"] == "2026-01-01T01:00:00Z"
    assert moved["Degraded"] == "2026-01-01T00:00:00Z"


def test_a_failed_migration_blocks_and_leaves_what_runs():
    world, old, new = World(), spec_of("1.0.0", 2, 1), spec_of("1.1.0", 2, 1)
    for _ in range(6):
        world.carry_out(plan(CLUSTER, old, world.observed(old), now=NOW))
        world.a_pod_gets_ready()
    seen = world.observed(old)
    job = migration(CLUSTER, new, seen.secrets)["metadata"]["name"]
    failed = Observed(**{**vars(seen), "migrations": {job: Migration(job, False, "schema is newer")}})
    made = plan(CLUSTER, new, failed, now=NOW)
    said = {one["type"]: one for one in made.status["conditions"]}
    assert (said["UpgradeBlocked"]["status"], said["UpgradeBlocked"]["reason"]) == ("True", "MigrationFailed")
    assert "schema is newer" in said["UpgradeBlocked"]["message"]
    assert [one for one in made.apply if one["kind"] == "Deployment"] == []
    assert [child for child in made.delete if child.kind == "Deployment"] == []


def up(spec):
    world = World()
    for _ in range(12):
        world.carry_out(plan(CLUSTER, spec, world.observed(spec), now=NOW))
        world.a_pod_gets_ready()
    return world


def but(seen, **others):
    return Observed(**{**vars(seen), **others})


def test_the_emptiest_gateway_costs_least():
    spec = spec_of("1.0.0", 3, 1)
    seen = up(spec).observed(spec)
    pods = tuple(
        Pod(f"p{n}", "gateway", "", True, None, {"chatcluster_gateway_sockets": float(n * 100)}) for n in range(3)
    )
    assert plan(CLUSTER, spec, but(seen, pods=pods), now=NOW).costs == {}, "nobody has to go"
    fewer = plan(CLUSTER, spec_of("1.0.0", 2, 1), but(seen, pods=pods), now=NOW)
    assert fewer.costs == {"p0": 0, "p1": 100, "p2": 200}


def test_who_was_told_to_go_and_is_not_seen_going_counts_as_draining():
    spec = spec_of("1.0.0", 3, 1)
    seen = up(spec).observed(spec)
    [name] = [name for name in seen.workloads if "gateway-" in name]
    going = replace(seen.workloads[name], wanted=2)  # its controller still has three
    made = plan(CLUSTER, spec_of("1.0.0", 1, 1), but(seen, workloads={**seen.workloads, name: going}), now=NOW)
    [found] = [one for one in made.apply if one["metadata"]["name"] == name]
    assert found["spec"]["replicas"] == 2


def test_who_scales_says_how_many():
    spec = spec_of("1.0.0", 1, 1)
    hpa = Spec.model_validate(
        {**spec.model_dump(by_alias=True, exclude_none=True), "persister": {"autoscaling": {"mode": "hpa"}}}
    )
    seen = up(spec).observed(spec)
    name = "main-persister"

    def persister(**others):
        workloads = {**seen.workloads, name: replace(seen.workloads[name], wanted=7, **others)}
        made = plan(CLUSTER, hpa, but(seen, workloads=workloads), now=NOW)
        [found] = [one for one in made.apply if (one["kind"], one["metadata"]["name"]) == ("Deployment", name)]
        return found["spec"].get("replicas")

    assert persister(scaled=True) is None
    assert persister(scaled=False) == 7, "left out while nobody else says it, it would become 1"


def test_another_image_of_the_same_version_waits_for_its_migration_and_its_turn():
    spec = spec_of("1.0.0", 1, 1)
    other = Spec.model_validate(changed(spec.model_dump(by_alias=True, exclude_none=True), "image", "registry/chat:b"))
    seen = up(spec).observed(spec)
    workloads = dict(seen.workloads)
    for part in ("persister", "router", "presence"):
        name, before = f"main-{part}", revision_of(pods_of(CLUSTER, spec, part, seen.secrets))
        assert before != revision_of(pods_of(CLUSTER, other, part, seen.secrets))
        workloads[name] = replace(workloads[name], template=before)
    seen = but(seen, workloads=workloads)

    def deployments(migrations):
        made = plan(CLUSTER, other, but(seen, migrations=migrations), now=NOW)
        return [one["metadata"]["name"] for one in made.apply if one["kind"] == "Deployment"]

    assert deployments(seen.migrations) == []
    job = migration(CLUSTER, other, seen.secrets)["metadata"]["name"]
    assert deployments({job: Migration(job, True, "")}) == ["main-persister"], "the others wait until it is through"


def test_settings_of_who_still_runs_stay():
    spec = spec_of("1.0.0", 1, 1)
    seen = up(spec).observed(spec)
    running = replace(seen.workloads["main-router"], config="main-router-config-before")
    children = [Child("v1", "ConfigMap", f"main-router-config-{which}") for which in ("before", "long-ago")]
    workloads = {**seen.workloads, "main-router": running}
    made = plan(CLUSTER, spec, but(seen, workloads=workloads, children=children), now=NOW)
    assert [child.name for child in made.delete] == ["main-router-config-long-ago"]


def test_a_deployment_stays_until_its_last_gateway_has_left():
    spec = spec_of("1.0.0", 1, 1)
    old = Child("apps/v1", "Deployment", "main-gateway-0123456789")
    seen = vars(World().observed(spec)) | {"children": [old]}
    leaving = Pod("p", "gateway", "0123456789", False, NOW + timedelta(minutes=5))
    assert old not in plan(CLUSTER, spec, Observed(**seen | {"pods": (leaving,)}), now=NOW).delete
    assert old in plan(CLUSTER, spec, Observed(**seen), now=NOW).delete


def test_none_wanted_is_a_state_that_is_reached():
    spec = spec_of("1.0.0", 0, 1)
    world = up(spec)
    assert set(world.wanted.values()) == {0}
    made = plan(CLUSTER, spec, world.observed(spec), now=NOW)
    [progressing] = [one for one in made.status["conditions"] if one["type"] == "Progressing"]
    assert (progressing["status"], progressing["reason"]) == ("False", "Settled")
