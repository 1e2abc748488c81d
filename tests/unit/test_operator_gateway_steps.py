"""One step of the gateways: how many of each revision from now on. Sequences of steps are in ``test_operator_plan`` and
``test_operator_drains``."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from chatcluster_operator.drains import FIRST
from chatcluster_operator.names import COMPONENTS, VERSION, Cluster
from chatcluster_operator.observed import Migration, Observed, Pod, Workload
from chatcluster_operator.plan import plan
from chatcluster_operator.render.workloads import migration, pods_of, revision_of
from chatcluster_operator.spec import Spec
from clusters import SPEC, changed

CLUSTER = Cluster("team", "main", "uid-1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = NOW + timedelta(minutes=5)
SECRETS = {"tokens": "a", "main-link": "b"}
MARKED = {"asked": True, "cost": FIRST}


def spec_of(replicas, budget=1, **others):
    spec = changed(SPEC, "gateway", {"replicas": replicas, "drain": {"maxConcurrent": budget}, **others})
    return Spec.model_validate(spec)


NEW = revision_of(pods_of(CLUSTER, spec_of(1), "gateway", SECRETS))
NOTES = pods_of(CLUSTER, spec_of(1), "gateway", SECRETS)["metadata"]["annotations"]


def workload(revision, wanted, ready=None, total=None, **others):
    ready, total = wanted if ready is None else ready, wanted if total is None else total
    whole = wanted == ready == total
    made = Workload(f"main-gateway-{revision}", wanted, ready, ready, total, whole, "", NOTES, "1.0.0", revision)
    return replace(made, **others)


def pods(revision, *connections, **others):
    found = (
        Pod(f"{revision}-{n}", "gateway", revision, True, None, {"chatcluster_gateway_sockets": float(many)})
        for n, many in enumerate(connections)
    )
    return tuple(replace(one, **others) for one in found)


def look(spec, *parts, pods=(), migrated=True, now=NOW):
    """With all other components through."""
    found = {one.name: one for one in parts}
    for component in COMPONENTS[:3]:
        template = pods_of(CLUSTER, spec, component, SECRETS)
        notes = template["metadata"]["annotations"]
        name = f"main-{component}"
        found[name] = Workload(name, 2, 2, 2, 2, True, "", notes, notes[VERSION], "", revision_of(template))
    job = migration(CLUSTER, spec, SECRETS)["metadata"]["name"]
    ran = {job: Migration(job, migrated, "")}
    seen = Observed(workloads=found, migrations=ran, pods=tuple(pods), secrets=SECRETS, generation=1)
    return plan(CLUSTER, spec, seen, now=now)


def sizes(made):
    """By revision, of those that are written."""
    found = {one["metadata"]["name"]: one for one in made.apply if one["kind"] == "Deployment"}
    return {
        "new" if name == f"main-gateway-{NEW}" else name.rpartition("-")[2]: one["spec"]["replicas"]
        for name, one in found.items()
        if name.startswith("main-gateway-")
    }


def said(made, kind="Progressing"):
    return next((one["status"], one["reason"]) for one in made.status["conditions"] if one["type"] == kind)


def everybody(*parts):
    """As many pods as there are, each ready with a socket, but those beyond ``ready``."""
    found = []
    for one in parts:
        for n, pod in enumerate(pods(one.revision, *[1] * one.total)):
            found.append(replace(pod, ready=n < one.ready))
    return tuple(found)


@pytest.mark.parametrize(
    ("wanted", "budget", "parts", "expected"),
    [
        # Up: as many more as may drain, and the old stay until these are ready.
        (3, 1, [workload("a", 3)], {"new": 1}),
        (3, 2, [workload("a", 3)], {"new": 2}),
        (3, 1, [workload("a", 3), workload(NEW, 1, 0)], {"new": 1}),
        (3, 1, [workload("a", 3), workload(NEW, 1)], {"new": 1, "a": 2}),
        (5, 1, [workload(NEW, 2)], {"new": 5}),
        # Down: as many as may drain, of the old as of the new.
        (1, 2, [workload(NEW, 4)], {"new": 2}),
        (2, 1, [workload(NEW, 3), workload("a", 1)], {"new": 2}),
        (2, 2, [workload(NEW, 3, 2), workload("a", 1)], {"new": 2}),
        (3, 3, [workload(NEW, 3), workload("a", 1)], {"new": 3, "a": 0}),
        # Of several old ones together no more than may drain, and no more than have a successor.
        (2, 1, [workload(NEW, 2), workload("a", 1), workload("b", 1)], {"new": 2, "a": 0}),
        (2, 2, [workload(NEW, 2, 1), workload("a", 1), workload("b", 1)], {"new": 2, "a": 0}),
        (2, 2, [workload(NEW, 2), workload("a", 1), workload("b", 1)], {"new": 2, "a": 0, "b": 0}),
        # Who is told to go and still counts as ready has gone.
        (3, 2, [workload(NEW, 1, 2, 2), workload("a", 2)], {"new": 3}),
        (3, 2, [workload(NEW, 1), workload("a", 1, 2, 2), workload("b", 1)], {"new": 3}),
        # Who is not ready serves nobody: it needs no successor, but what it has drains.
        (2, 2, [workload(NEW, 2), workload("a", 1, 0, 1), workload("b", 1)], {"new": 2, "a": 0, "b": 0}),
        (2, 2, [workload(NEW, 2, 1), workload("a", 1, 0, 1), workload("b", 1)], {"new": 2, "a": 0}),
        # Who was never made has nothing to drain.
        (2, 1, [workload(NEW, 1, 0), workload("a", 3, 2, 2)], {"new": 1, "a": 2}),
        # None: nobody waits for anybody, as far as they may drain.
        (0, 1, [workload("a", 2)], {"new": 0, "a": 1}),
        (0, 3, [workload(NEW, 2, 0, 2), workload("a", 1)], {"new": 0, "a": 0}),
    ],
)  # fmt: skip
def test_a_step(wanted, budget, parts, expected):
    assert sizes(look(spec_of(wanted, budget), *parts, pods=everybody(*parts))) == expected


def test_while_one_drains_who_was_never_made_goes_all_the_same():
    parts = [workload(NEW, 1), workload("a", 2, 1, 1)]
    leaving = pods("a", 1, ends=ENDS, name="left")
    made = look(spec_of(2), *parts, pods=(*everybody(*parts), *leaving))
    assert sizes(made)["a"] == 1
    assert (made.status["draining"], said(made, "Draining")) == (1, ("True", "Draining"))


def test_only_the_number_of_the_old_is_written():
    parts = [workload(NEW, 1), workload("a", 3)]
    made = look(spec_of(3), *parts, pods=everybody(*parts))
    [old] = [one for one in made.apply if one["metadata"]["name"] == "main-gateway-a"]
    assert (old["spec"], old["patch"]) == ({"replicas": 2}, True)
    assert made.status["replicas"] == 4
    short = look(spec_of(3), workload(NEW, 1, 0), workload("a", 3))
    assert (short.status["replicas"], short.status["gateways"]) == (4, "3/3")


# -- who goes first ---------------------------------------------------------------------------------------------------


def test_in_a_roll_out_the_emptiest_goes_first_and_without_one_nobody_is_marked():
    parts = [workload(NEW, 1), workload("a", 2)]
    seen = (*pods(NEW, 5), *pods("a", 9, 3))
    assert look(spec_of(2), *parts, pods=seen).costs == {f"{NEW}-0": 5, "a-0": 9, "a-1": 3}
    whole = workload(NEW, 2)
    assert look(spec_of(2), whole, pods=pods(NEW, 5, 6)).costs == {}
    back = (*pods(NEW, 5, cost=FIRST), *pods(NEW, 6, name="other"))
    assert look(spec_of(2), whole, pods=back).costs == {f"{NEW}-0": 5, "other": 6}, "no mark is left"


def test_of_old_ones_those_with_who_was_asked_go_first():
    parts = [workload(NEW, 2), workload("a", 1), workload("b", 1)]
    seen = (*pods(NEW, 1, 1), *pods("a", 1), *pods("b", 1, **MARKED))
    assert sizes(look(spec_of(2), *parts, pods=seen)) == {"new": 2, "b": 0}


def test_asked_it_leaves_when_another_serves_in_its_place():
    mine, others = pods(NEW, 1, **MARKED), pods(NEW, 1, 1, name="other")
    three = workload(NEW, 3)
    assert sizes(look(spec_of(2), workload(NEW, 2), pods=(*mine, others[0]))) == {"new": 3}
    assert sizes(look(spec_of(2), three, pods=(*mine, *others))) == {"new": 2}
    away = (*mine, others[0], replace(others[1], ready=False))
    assert sizes(look(spec_of(2), three, pods=away)) == {"new": 3}, "its Deployment does not know yet"
    assert sizes(look(spec_of(2), workload(NEW, 3, 2, 3), pods=(*mine, *others))) == {"new": 3}


def test_with_none_wanted_whoever_was_asked_holds_up_nobody():
    seen = (*pods(NEW, 1, **MARKED), *pods(NEW, 1, 1, ready=False, name="other"))
    assert sizes(look(spec_of(0, 3), workload(NEW, 3, 1, 3), pods=seen)) == {"new": 0}


def test_while_it_is_not_their_turn_only_who_was_asked_is_marked():
    seen = (*pods("a", 1, asked=True), *pods("a", 7, name="other"))
    made = look(spec_of(2), workload("a", 2), pods=seen, migrated=False)
    assert (made.costs, sizes(made)) == ({"a-0": FIRST}, {})
    seen = (*pods("a", 1, **MARKED), *pods("a", 7, name="other"))
    made = look(spec_of(2), workload("a", 2), pods=seen, migrated=False)
    assert sizes(made) == {"a": 3}


def test_a_drain_that_nobody_asked_for_is_never_stuck():
    late = pods(NEW, 1, ready=False, created=NOW - timedelta(hours=1), name="late")
    short = workload(NEW, 2, 1, 2)

    def draining(*more, **others):
        return said(look(spec_of(2), short, pods=(*pods(NEW, 1, **others), *late, *more)), "Draining")

    assert draining() == ("False", "NotDraining")
    assert draining(**MARKED) == ("True", "Stuck")
    assert draining(*pods(NEW, 1, ends=ENDS, name="left"), **MARKED) == ("True", "Draining"), "its turn comes"
    paused = Spec.model_validate({**spec_of(2).model_dump(by_alias=True, exclude_none=True), "paused": True})
    made = look(paused, short, pods=(*pods(NEW, 1, **MARKED), *late))
    assert said(made, "Draining") == ("True", "Waiting")


# -- when they are through --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "parts", "through"),
    [
        (2, [workload(NEW, 2)], True),
        (2, [workload(NEW, 2, settled=False)], False),
        (2, [workload(NEW, 2), workload("a", 1)], False),
        (2, [workload(NEW, 3)], False),
        (3, [workload(NEW, 2)], False),
        (2, [], False),
        (0, [], False),
        (0, [workload(NEW, 0)], True),
        (2, [workload(NEW, 0)], False),
        (0, [workload(NEW, 0), workload("a", 1)], False),
    ],
)
def test_a_roll_out_is_through_when_all_are_of_the_revision_that_is_wanted(wanted, parts, through):
    made = look(spec_of(wanted), *parts, pods=everybody(*parts))
    assert said(made) == (("False", "Settled") if through else ("True", "RollingOut"))


@pytest.mark.parametrize(
    ("wanted", "parts", "through"),
    [
        (2, [workload(NEW, 2)], True),
        (2, [workload(NEW, 3, 2, 3)], True),
        (2, [workload(NEW, 2, 1, 2)], False),
        (2, [workload(NEW, 1, 2, 2)], False),
        (2, [workload(NEW, 2), workload("a", 1)], False),
        (0, [workload("a", 1)], False),
        (0, [], False),
    ],
)
def test_a_drain_is_no_roll_out_as_long_as_enough_serve(wanted, parts, through):
    asked = pods(parts[0].revision if parts else "gone", 1, name="asked", **MARKED)
    made = look(spec_of(wanted), *parts, pods=(*asked, *everybody(*parts)[1:]))
    assert said(made) == (("False", "Settled") if through else ("True", "RollingOut"))


def test_gateways_that_an_hpa_scales_are_as_many_as_it_says_in_the_spec():
    spec = spec_of(2, autoscaling={"mode": "hpa", "min": 1, "max": 9}, capacity={"connectionsPerPod": 100})
    revision = revision_of(pods_of(CLUSTER, spec, "gateway", SECRETS))
    made = look(spec, workload(revision, 2), pods=pods(revision, 10_000, 10_000))
    assert (made.scalings, made.status["components"]["gateway"]["desired"]) == ({}, 2)
