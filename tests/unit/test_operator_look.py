"""One look at a ChatCluster: what is written, kept, pruned and said, in which order, and when the next one is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from chatcluster_operator.names import COMPONENTS, CONFIG_HASH, VERSION, Cluster
from chatcluster_operator.observed import Child, Migration, Observed, Pod, Workload
from chatcluster_operator.plan import LATER, SCALING, SOON, plan
from chatcluster_operator.render import OPTIONAL
from chatcluster_operator.render.workloads import DEADLINE, embedded, migration, pods_of, revision_of
from chatcluster_operator.scale import Wish
from chatcluster_operator.spec import Spec
from clusters import SPEC, changed

CLUSTER = Cluster("team", "main", "uid-1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRETS = {"tokens": "a", "main-link": "b"}
OLD, NEW = "1.0.0", "1.1.0"
RESTARTED = "chatcluster.dev/restarted-at"


def spec_of(version=OLD, **others):
    spec = changed(SPEC, "version", version)
    for path, value in others.items():
        spec = changed(spec, path.replace("__", "."), value)
    return Spec.model_validate(spec)


def workload(spec, component, count=2, **others):
    """A component's Deployment as the last look wrote it, through."""
    pods = pods_of(CLUSTER, spec, component, SECRETS)
    notes, revision = pods["metadata"]["annotations"], revision_of(pods)
    name, revision, template = (
        (f"main-gateway-{revision}", revision, "") if component == "gateway" else (f"main-{component}", "", revision)
    )
    one = Workload(name, count, count, count, count, True, "", notes, notes[VERSION], revision, template)
    return replace(one, **others)


def gateways(*connections, spec=None, **others):
    revision = revision_of(pods_of(CLUSTER, spec or spec_of(), "gateway", SECRETS))
    return tuple(
        replace(Pod(f"g{n}", "gateway", revision, True, None, {"chatcluster_gateway_sockets": float(many)}), **others)
        for n, many in enumerate(connections)
    )


def migrated(spec, *, done=True, failed="", config=""):
    name = migration(CLUSTER, spec, SECRETS)["metadata"]["name"]
    return {name: Migration(name, done, failed, config)}


def stands(spec, *parts, without=(), **others):
    """A cluster that is as ``spec`` says; ``parts``: Deployments that are otherwise, or more."""
    all_parts = [workload(spec, component) for component in COMPONENTS if component not in without]
    found = {one.name: one for one in [*all_parts, *parts]}
    given = {"workloads": found, "migrations": migrated(spec), "secrets": SECRETS, "generation": 1, **others}
    return Observed(**given)


def look(spec, seen, **others):
    return plan(CLUSTER, spec, seen, now=NOW, **others)


def said(made):
    return {one["type"]: (one["status"], one["reason"]) for one in made.status["conditions"]}


def message(made, kind):
    return next(one["message"] for one in made.status["conditions"] if one["type"] == kind)


def written(made, kind="Deployment"):
    return {one["metadata"]["name"]: one for one in made.apply if one["kind"] == kind}


def rolled(made, spec):
    """Components whose Deployment gets the pods of ``spec``, in order."""
    given = {
        revision_of(pods_of(CLUSTER, spec, component, SECRETS)): component for component in COMPONENTS
    }  # by what is in the template, without the label that a gateway gets
    found = []
    for one in written(made).values():
        if "template" not in one["spec"]:
            continue
        head = dict(one["spec"]["template"]["metadata"])
        head["labels"] = {key: text for key, text in head["labels"].items() if key != "chatcluster.dev/revision"}
        found.append(given.get(revision_of({**one["spec"]["template"], "metadata": head}), "?"))
    return found


# -- what is written, kept and pruned ---------------------------------------------------------------------------------


def test_as_it_should_be_nothing_changes_and_there_is_time():
    spec = spec_of()
    made = look(spec, stands(spec, pods=gateways(10, 20)))
    assert (made.again, made.delete, made.events, made.costs) == (LATER, [], [], {})
    assert set(written(made)) == {workload(spec, component).name for component in COMPONENTS}
    assert {kind for kind, (status, _) in said(made).items() if status == "True"} == {
        "Available",
        "DependenciesReachable",
        "Ready",
    }
    assert (made.status["gateways"], made.status["phase"], made.status["draining"]) == ("2/2", "Ready", 0)
    assert made.status["observedGeneration"] == 1


def test_kinds_that_the_cluster_does_not_have_are_not_written_and_it_is_said():
    spec = spec_of(observability={"podMonitor": {}, "prometheusRules": {}})
    some = look(spec, stands(spec, kinds=frozenset({"PodMonitor"})))
    assert OPTIONAL & {one["kind"] for one in some.apply} == {"PodMonitor"}
    assert said(some)["Monitored"] == ("False", "DefinitionsMissing")
    assert "PrometheusRule" in message(some, "Monitored")
    assert "PodMonitor" not in message(some, "Monitored")
    assert said(look(spec, stands(spec, kinds=OPTIONAL)))["Monitored"] == ("True", "Rendered")
    assert said(look(spec_of(), stands(spec_of(), kinds=OPTIONAL)))["Monitored"] == ("False", "NotConfigured")


def test_the_links_secret_is_made_elsewhere_and_stays():
    spec, link = spec_of(), Child("v1", "Secret", "main-link")
    assert look(spec, stands(spec, children=[link])).delete == []
    assert said(look(spec, stands(spec, secrets={"tokens": "a"})))["Degraded"] == ("False", "Whole")


def test_migrations_and_their_settings_stay_while_anything_moves():
    before, now = spec_of(OLD), spec_of(NEW)
    [old] = migrated(before)
    children = [Child("batch/v1", "Job", old), Child("v1", "ConfigMap", "main-migrate-before")]
    ran = migrated(before, config="main-migrate-before") | migrated(now)
    assert look(now, stands(before, migrations=ran, children=children)).delete == []
    assert look(now, stands(now, migrations=ran, children=children)).delete == [children[0]]
    assert look(now, stands(now, children=children)).delete == [children[1], children[0]]


def test_paused_nothing_is_written_or_pruned_and_nothing_is_announced():
    spec, paused = spec_of(), spec_of(NEW, paused=True)
    seen = stands(spec, migrations=migrated(paused), children=[Child("v1", "Service", "main-old")])
    assert look(spec_of(NEW), replace(seen)).events
    made = look(paused, seen)
    assert (made.apply, made.delete, made.costs, made.events) == ([], [], {}, [])
    assert said(made)["ReconciliationPaused"] == ("True", "Paused")
    assert said(look(spec, seen))["ReconciliationPaused"] == ("False", "NotPaused")


# -- when the next look is --------------------------------------------------------------------------------------------

BUILTIN = {"mode": "builtin", "min": 2, "max": 9}


@pytest.mark.parametrize(
    ("given", "others", "again"),
    [
        ({}, {}, LATER),
        ({"version": NEW}, {}, SOON),
        ({}, {"pods": (*gateways(1, 1), replace(gateways(1)[0], name="left", ends=NOW + timedelta(minutes=1)))}, SOON),
        ({}, {"pods": (*gateways(1, 1), *gateways(1, asked=True))}, SOON),
        ({"paused": True}, {"pods": (*gateways(1, 1), *gateways(1, asked=True))}, LATER),
        ({"gateway__autoscaling": BUILTIN}, {"pods": gateways(1, 1)}, SCALING),
        ({"gateway__autoscaling": BUILTIN, "version": NEW}, {"pods": gateways(1, 1)}, SOON),
    ],
)
def test_one_looks_again_soon_while_something_moves(given, others, again):
    assert look(spec_of(**given), stands(spec_of(), **others)).again == again


# -- Secrets and migration --------------------------------------------------------------------------------------------


def test_without_its_secret_nothing_is_started_or_rolled_and_the_others_go_on():
    spec = spec_of()
    secrets = {"main-link": "b"}
    made = look(
        spec,
        stands(
            spec,
            secrets=secrets,
            migrations={},
            children=[Child("apps/v1", "Deployment", workload(spec, "gateway").name)],
        ),
    )
    assert written(made, "Job") == {}
    assert set(written(made)) == {"main-persister", "main-router", "main-presence"}, "gateways mount it"
    assert made.delete == []
    assert said(made)["Progressing"] == ("True", "SecretMissing")
    assert said(made)["Degraded"] == ("True", "SecretMissing")
    assert said(made)["Available"] == ("True", "Serving"), "what runs goes on"
    assert "tokens" in message(made, "Degraded")
    first = look(spec, Observed(secrets=secrets))
    assert (written(first), written(first, "Job")) == ({}, {})


def test_of_a_first_install_the_migration_is_first_then_all_start_together():
    spec = spec_of()
    first = look(spec, Observed(secrets=SECRETS))
    assert len(written(first, "Job")) == 1
    assert written(first) == {}
    assert said(first)["Progressing"] == ("True", "Migrating")
    then = look(spec, Observed(secrets=SECRETS, migrations=migrated(spec)))
    assert rolled(then, spec) == list(COMPONENTS)
    assert said(then)["Progressing"] == ("True", "RollingOut")
    assert [one["spec"]["replicas"] for one in written(then).values()] == [2, 2, 2, 2]


def test_while_a_version_migrates_what_runs_stays_and_what_does_not_is_not_started():
    before, now = spec_of(OLD), spec_of(NEW)
    parts = [Child("apps/v1", "Deployment", workload(before, component).name) for component in COMPONENTS]
    seen = stands(before, without=["presence"], children=parts, migrations=migrated(now, done=False))
    made = look(now, seen)
    assert (written(made), made.delete) == ({}, [parts[2]])
    assert said(made)["Progressing"] == ("True", "Migrating")
    assert made.status["gateways"] == "2/2"
    gateway = made.status["components"]["gateway"]
    assert (gateway["revision"], gateway["updated"]) == (workload(now, "gateway").revision, 0)
    unsettled = replace(workload(before, "router"), ready=1, settled=False)
    same = look(before, stands(before, unsettled, migrations=migrated(before, done=False)))
    assert set(written(same)) == {workload(before, component).name for component in COMPONENTS}, "what does not differ"
    assert said(same)["Progressing"] == ("True", "Migrating")


# -- the order of a roll-out ------------------------------------------------------------------------------------------


def turns(before, now, **others):
    """Components in the order in which they get the pods of ``now``, each through before the next look."""
    seen, found = stands(before, migrations=migrated(before) | migrated(now), **others), []
    for _ in range(len(COMPONENTS)):
        [*done, turn] = rolled(look(now, seen), now)
        assert done == [one for one in done if one in found], "one after the other"
        if turn in found:  # what is through is written again
            turn = next(one for one in done if one not in found)
        found.append(turn)
        workloads = {name: one for name, one in seen.workloads.items() if turn not in name}
        new = workload(now, turn)
        seen = replace(seen, workloads={**workloads, new.name: new})
    assert said(look(now, seen))["Ready"] == ("True", "Ready")
    return found


@pytest.mark.parametrize(
    ("before", "now", "down"),
    [
        ("1.0.0", "1.1.0", False),
        ("1.9.0", "1.10.0", False),
        ("1.1.0", "1.0.9", True),
        ("1.10.0", "1.9.0", True),
        ("1.0.0-rc.1", "1.0.0", False),
        ("1.0.0-rc.9", "1.0.0-rc.10", False),
        ("1.0.0", "1.0.0-rc.1", True),
    ],
)
def test_up_persisters_are_first_and_down_gateways_are(before, now, down):
    order = list(COMPONENTS)
    assert turns(spec_of(before), spec_of(now)) == (order[::-1] if down else order)


@pytest.mark.parametrize("image", ["registry/chat:a", "registry/chat:b"])
def test_an_image_alone_is_not_older_than_a_version(image):
    assert turns(spec_of("2.0.0"), spec_of(None, image=image)) == list(COMPONENTS)


def test_what_has_no_pods_does_not_say_that_a_version_goes_down():
    left = workload(spec_of("2.0.0"), "gateway", 0)
    seen = stands(spec_of(OLD), left, migrations=migrated(spec_of(NEW)))
    assert rolled(look(spec_of(NEW), seen), spec_of(NEW)) == ["persister"]
    ending = replace(left, total=1)
    seen = stands(spec_of(OLD), ending, migrations=migrated(spec_of(NEW)))
    assert "persister" not in rolled(look(spec_of(NEW), seen), spec_of(NEW)), "one of its gateways is still there"


def test_nobody_begins_before_whoever_is_before_is_through():
    before, now = spec_of(OLD), spec_of(NEW)
    seen = stands(before, workload(now, "persister", settled=False), migrations=migrated(now))
    assert rolled(look(now, seen), now) == ["persister"]
    gone = stands(before, workload(now, "persister"), without=["router"], migrations=migrated(now))
    assert rolled(look(now, gone), now) == ["persister", "router"], "one that somebody took away is waited for, too"


def test_who_does_not_get_on_is_named():
    before, now = spec_of(OLD), spec_of(NEW)
    stuck = workload(now, "router", ready=0, settled=False, stuck="deadline exceeded")
    made = look(now, stands(before, workload(now, "persister"), stuck, migrations=migrated(now)))
    assert said(made)["UpgradeBlocked"] == said(made)["Degraded"] == ("True", "RolloutStuck")
    assert "router: deadline exceeded" in message(made, "Degraded")


@pytest.mark.parametrize("version", [OLD, NEW])
def test_of_gateways_the_revision_that_is_wanted_is_stuck_or_not(version):
    before = spec_of(OLD)
    now = spec_of(version, gateway__podLabels={"a": "b"})
    others = [workload(now, component) for component in COMPONENTS[:3]]
    new = workload(now, "gateway", 1, ready=0, settled=False)
    whole = stands(before, *others, replace(new, stuck="crashes"), migrations=migrated(now))
    assert said(look(now, whole))["UpgradeBlocked"] == ("True", "RolloutStuck")
    assert "gateway: crashes" in message(look(now, whole), "Degraded")
    bad = workload(before, "gateway", ready=0, settled=False, stuck="crashes")
    mended = stands(before, *others, bad, new, migrations=migrated(now))
    assert said(look(now, mended))["UpgradeBlocked"] == ("False", "NotBlocked")


# -- what rolls, and why ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "secrets", "why"),
    [
        (spec_of(NEW), SECRETS, "router: version 1.0.0 to 1.1.0"),
        (spec_of(settings={"router": {"sends_per_second": 50.0}}), SECRETS, "router: its settings changed"),
        (spec_of(), {**SECRETS, "main-link": "c"}, "router: a Secret that it mounts changed"),
        (spec_of(router__podAnnotations={RESTARTED: "now"}), SECRETS, "router: somebody asked for it"),
        (spec_of(router__podLabels={"a": "b"}), SECRETS, "router: its pods are described anew"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_what_causes_a_roll_out_is_told(now, secrets, why, known):
    before = spec_of()
    parts = [workload(now if now.version == NEW else before, "persister")]
    if not known:  # written by an operator that noted no hash
        parts.append(workload(before, "router", template=""))
    made = look(now, stands(before, *parts, secrets=secrets, migrations=migrated(now)))
    told = [one.message for one in made.events if one.message.startswith("router")]
    assert told == ([] if not known and "anew" in why else [why])


def test_of_gateways_it_is_told_from_what_to_what():
    before, now = spec_of(OLD), spec_of(NEW)
    parts = [workload(now, component) for component in COMPONENTS]
    made = look(now, stands(before, *parts, migrations=migrated(now)))
    assert [one.message for one in made.events] == ["gateway: version 1.0.0 to 1.1.0"]


def test_gateways_of_before_without_pods_are_pruned_and_with_pods_are_replaced():
    before, now = spec_of(OLD), spec_of(NEW)
    left = workload(before, "gateway", 0)
    children = [Child("apps/v1", "Deployment", left.name)]
    made = look(now, stands(now, left, children=children))
    assert (made.events, made.delete, said(made)["Progressing"][0]) == ([], children, "False")
    for part in (replace(left, total=1), workload(before, "gateway", 1, total=0, ready=0)):
        made = look(now, stands(now, part, children=children))
        assert (made.delete, said(made)["Progressing"]) == ([], ("True", "RollingOut"))


# -- who says how many ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [{"mode": "hpa"}, {"mode": "keda", "prometheusAddress": "http://p"}])
def test_persisters_that_others_scale_are_as_many_as_they_say(mode):
    spec = spec_of(persister__autoscaling={**mode, "min": 1})
    new = look(spec, stands(spec, without=["persister"]))
    assert written(new)["main-persister"]["spec"]["replicas"] == 2, "nobody else says it before it is there"
    for many in (1, 7):
        theirs = workload(spec, "persister", many, scaled=True)
        made = look(spec, stands(spec, theirs))
        assert "replicas" not in written(made)["main-persister"]["spec"]
        assert written(made)["main-router"]["spec"]["replicas"] == 2
        assert made.status["components"]["persister"]["desired"] == many
        assert said(made)["Degraded"] == ("False", "Whole")
    short = look(spec, stands(spec, replace(theirs, ready=5)))
    assert said(short)["Degraded"] == ("True", "PodsMissing")


def test_routers_stay_ours_whoever_scales():
    spec = spec_of(persister__autoscaling={"mode": "hpa"})
    foreign = workload(spec, "router", 5, scaled=True)
    assert written(look(spec, stands(spec, foreign)))["main-router"]["spec"]["replicas"] == 2
    ours = spec_of(persister__autoscaling=BUILTIN)
    foreign = workload(ours, "persister", 5, scaled=True)
    assert written(look(ours, stands(ours, foreign)))["main-persister"]["spec"]["replicas"] == 5, "held, and ours"


def lagging(*records):
    return tuple(
        Pod(f"p{n}", "persister", "", True, None, {"chatcluster_persister_lag_records": float(one)})
        for n, one in enumerate(records)
    )


def test_builtin_scales_by_what_its_own_pods_say_and_tells_it():
    each = {"connectionsPerPod": 1000}
    scaling = {"mode": "builtin", "min": 2, "max": 9, "targetConnectionsPercent": 50, "headroomPercent": 0}
    lag = {"mode": "builtin", "min": 2, "max": 16, "lagPerReplica": 10}
    spec = spec_of(
        gateway__capacity=each, gateway__autoscaling=scaling, persister__autoscaling=lag,
        dependencies__kafka__topics={"messages": {"partitions": 16}, "inbox": {"partitions": 3}},
    )  # fmt: skip
    pods = (*gateways(900, 900, spec=spec), *lagging(25, 25))
    made = look(spec, stands(spec, pods=pods))
    sizes = {name: one["spec"]["replicas"] for name, one in written(made).items()}
    assert (sizes[workload(spec, "gateway").name], sizes["main-persister"]) == (4, 5)
    assert made.wishes == {"gateway": 4, "persister": 5}
    assert made.unknown == set()
    assert {name: (was, one.replicas) for name, (was, one) in made.scalings.items()} == {
        "gateway": (2, 4), "persister": (2, 5),
    }  # fmt: skip
    assert said(made)["ScalingActive"] == ("True", "Computed")
    parts = made.status["components"]
    assert (parts["gateway"]["desired"], parts["gateway"]["connections"]) == (4, 1800)
    assert (parts["persister"]["desired"], parts["persister"]["lag"]) == (5, 50)


def test_builtin_without_metrics_holds_and_forgets():
    spec = spec_of(gateway__autoscaling=BUILTIN, persister__autoscaling=BUILTIN)
    many = [workload(spec, "gateway", 5), workload(spec, "persister", 4)]
    made = look(spec, stands(spec, *many, pods=gateways(1, 2, spec=spec, measures=None)))
    sizes = {name: one["spec"]["replicas"] for name, one in written(made).items()}
    assert (sizes[many[0].name], sizes[many[1].name]) == (5, 4)
    assert (made.wishes, made.unknown) == ({}, {"gateway", "persister"})
    assert said(made)["ScalingActive"] == ("False", "NoMetrics")


def test_builtin_goes_down_by_what_was_wanted_in_the_window_and_never_while_some_drain():
    scaling = {**BUILTIN, "scaleDown": {"stabilizationSeconds": 20}}
    spec = spec_of(gateway__autoscaling=scaling, persister__autoscaling=scaling)
    seen = stands(
        spec, workload(spec, "gateway", 4), workload(spec, "persister", 4),
        pods=(*gateways(1, 1, 1, 1, spec=spec), *lagging(0, 0, 0, 0)),
    )  # fmt: skip
    few = [Wish(100.0 - second, 2) for second in range(30)]

    def decided(seen=seen, **wishes):
        made = look(spec, seen, monotonic=100.0, wishes=wishes)
        return tuple(made.scalings[name][1].replicas for name in ("gateway", "persister"))

    assert decided() == (4, 4)
    assert decided(gateway=few) == (2, 4)
    assert decided(persister=few) == (4, 2)
    assert decided(gateway=few, persister=[*few, Wish(99.0, 3)]) == (2, 3)
    leaving = replace(seen.pods[0], name="left", ends=NOW + timedelta(minutes=1))
    assert decided(replace(seen, pods=(*seen.pods, leaving)), gateway=few)[0] == 4


@pytest.mark.parametrize(
    ("old", "new", "told", "current"),
    [
        (0, 3, None, 3),
        (0, 3, 2, 2),  # one more for whoever was asked to leave
        (0, 3, 5, 3),  # fewer than were told of
        (2, 2, 3, 3),  # a roll-out, with one more
        (3, 1, None, 3),
        (1, 2, None, 2),
    ],
)
def test_what_is_more_for_a_while_is_no_wish(old, new, told, current):
    spec = spec_of(gateway__autoscaling=BUILTIN)
    before = workload(spec_of(OLD, gateway__podLabels={"a": "b"}), "gateway", old)
    status = {"components": {"gateway": {"desired": told}}} if told else {}
    made = look(spec, stands(spec, before, workload(spec, "gateway", new), status=status, pods=gateways(1, 1)))
    assert made.scalings["gateway"][0] == current


# -- embedded ---------------------------------------------------------------------------------------------------------

EMBEDDED = Spec.model_validate(
    {"version": OLD, "auth": SPEC["auth"], "dependencies": {"embedded": {}}, "gateway": {"replicas": 1}}
)


def one_pod(**others):
    notes = embedded(CLUSTER, EMBEDDED, {"tokens": "a"})["spec"]["template"]["metadata"]["annotations"]
    return replace(Workload("main-embedded", 1, 1, 1, 1, True, "", notes, OLD, ""), **others)


def test_embedded_is_one_pod():
    first = look(EMBEDDED, Observed(secrets={"tokens": "a"}))
    assert set(written(first, "StatefulSet")) == {"main-embedded"}
    assert (written(first), written(first, "Job")) == ({}, {})
    assert said(first)["Progressing"] == ("True", "RollingOut")
    assert said(first)["Available"] == ("False", "NotServing")
    made = look(EMBEDDED, Observed(secrets={"tokens": "a"}, workloads={"main-embedded": one_pod()}))
    assert said(made)["Ready"] == ("True", "Ready")
    assert (made.status["gateways"], made.status["replicas"], made.again) == ("1/1", 1, LATER)
    assert "app.kubernetes.io/component=embedded" in made.status["selector"]
    assert "components" not in made.status
    away = one_pod(ready=0, settled=False)
    made = look(EMBEDDED, Observed(secrets={"tokens": "a"}, workloads={"main-embedded": away}))
    assert said(made)["Progressing"] == ("True", "RollingOut")
    assert made.status["gateways"] == "0/1"
    short = one_pod(ready=0)
    made = look(EMBEDDED, Observed(secrets={"tokens": "a"}, workloads={"main-embedded": short}))
    assert said(made)["Degraded"] == ("True", "PodsMissing")


@pytest.mark.parametrize(
    ("pod", "stuck"),
    [
        (Pod("main-embedded-0", "embedded", "", False, None, unready=NOW - timedelta(seconds=DEADLINE + 1)), True),
        (Pod("main-embedded-0", "embedded", "", False, None, unready=NOW - timedelta(seconds=DEADLINE)), False),
        (Pod("main-embedded-0", "embedded", "", True, None, unready=None), False),
        # It leaves: its drain has a deadline of its own.
        (Pod("main-embedded-0", "embedded", "", False, NOW, unready=NOW - timedelta(hours=1)), False),
    ],
)
def test_embedded_that_does_not_become_ready_is_told_of(pod, stuck):
    away = one_pod(ready=0, settled=False)
    made = look(EMBEDDED, Observed(secrets={"tokens": "a"}, workloads={"main-embedded": away}, pods=(pod,)))
    assert (said(made)["Degraded"] == ("True", "RolloutStuck")) == stuck
    assert (said(made)["UpgradeBlocked"] == ("True", "RolloutStuck")) == stuck
    assert said(made)["Progressing"] == ("True", "RollingOut")
    texts = [one["message"] for one in made.status["conditions"] if one["type"] == "Degraded"]
    assert ("main-embedded-0 is not ready since" in texts[0]) == stuck


def test_embedded_is_not_started_or_rolled_while_its_secret_is_missing():
    first = look(EMBEDDED, Observed())
    assert written(first, "StatefulSet") == {}
    assert said(first)["Progressing"] == ("True", "SecretMissing")
    stays = Child("apps/v1", "StatefulSet", "main-embedded")
    made = look(EMBEDDED, Observed(workloads={"main-embedded": one_pod()}, children=[stays]))
    assert (written(made, "StatefulSet"), made.delete) == ({}, [])
    assert said(made)["Available"] == ("True", "Serving")
    assert said(made)["Ready"] == ("False", "SecretMissing")


# -- the status -------------------------------------------------------------------------------------------------------


def test_components_are_told_by_their_own_pods_and_revisions():
    before, now = spec_of(OLD), spec_of(NEW)
    parts = [workload(now, component) for component in COMPONENTS[:3]]
    new = workload(now, "gateway", 1, updated=1)
    pods = (
        *gateways(5, 7, spec=before),
        *lagging(3),
        Pod("r", "router", "", True, None, {"chatcluster_gateway_sockets": 9.0}),
    )
    made = look(now, stands(before, *parts, new, pods=pods, migrations=migrated(now)))
    gateway, router = made.status["components"]["gateway"], made.status["components"]["router"]
    assert gateway == {"desired": 2, "ready": 3, "updated": 1, "revision": new.revision, "connections": 12}
    notes = pods_of(CLUSTER, now, "router", SECRETS)["metadata"]["annotations"]
    assert router == {"desired": 2, "ready": 2, "updated": 2, "revision": notes[CONFIG_HASH]}
    assert made.status["components"]["persister"]["lag"] == 3
    assert (made.status["gateways"], made.status["replicas"], made.status["version"]) == ("3/2", 3, NEW)


def test_what_a_failed_migration_holds_is_not_the_version():
    seen = stands(spec_of(OLD), migrations=migrated(spec_of(NEW), done=False, failed="no"), status={"version": OLD})
    assert look(spec_of(NEW), seen).status["version"] == OLD
    first = Observed(secrets=SECRETS, migrations=migrated(spec_of(NEW), done=False, failed="no"))
    assert "version" not in look(spec_of(NEW), first).status


def test_no_more_than_a_hundred_drains_are_told():
    spec = spec_of()
    made = look(spec, stands(spec, pods=gateways(*[1] * 150, asked=True)))
    assert len(made.status["drains"]) == 100


def test_who_should_have_ended_is_late():
    spec = spec_of()
    ends = NOW + timedelta(seconds=30)
    seen = stands(spec, pods=(*gateways(1, 1), *gateways(1, ends=ends)))
    assert said(look(spec, seen))["Draining"] == ("True", "Draining")
    assert said(plan(CLUSTER, spec, seen, now=ends + timedelta(seconds=1)))["Draining"] == ("True", "Stuck")
    router = Pod("r", "router", "", True, ends)
    assert said(look(spec, stands(spec, pods=(*gateways(1, 1), router))))["Draining"] == ("False", "NotDraining")
