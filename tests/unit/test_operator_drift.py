"""What was written and stands there is not written again, however the server writes it; what drifted is."""

from __future__ import annotations

import pytest

from chatcluster_operator.drift import amount, holds

WANTED = {
    "metadata": {"name": "main-router", "labels": {"a": "b"}, "annotations": {}},
    "spec": {
        "replicas": 2,
        "template": {"spec": {"containers": [{"name": "router", "args": ["router"], "env": []}], "volumes": None}},
    },
}


def container(**others):
    return {"template": {"spec": {"containers": [{"name": "router", "args": ["router"], **others}]}}}


def stands(**spec):
    head = {"name": "main-router", "uid": "u", "labels": {"a": "b", "theirs": "c"}}
    return {"metadata": head, "spec": {"replicas": 2, **container(image="i"), "paused": False, **spec}, "status": {}}


def test_what_others_added_and_what_the_server_leaves_out_is_no_drift():
    assert holds(WANTED, stands())


def pod(*containers, **others):
    return {"template": {"spec": {"containers": list(containers), **others}}}


ENV = [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)"}]
OURS = {"name": "router", "env": ENV, "volumeMounts": [{"mountPath": "/etc/chat", "name": "config"}]}
THEIRS = {"name": "mesh", "env": [{"name": "A", "value": "9"}]}


@pytest.mark.parametrize(
    "live",
    [
        pod(OURS, THEIRS, volumes=[{"name": "mesh"}], initContainers=[THEIRS]),
        pod(THEIRS, OURS),
        pod({**OURS, "env": [{"name": "TRACE", "value": "on"}, *ENV]}),
        pod({**OURS, "volumeMounts": [*OURS["volumeMounts"], {"mountPath": "/again", "name": "config"}]}),
    ],
)
def test_what_others_put_into_lists_that_the_server_merges_stays_there_and_is_no_drift(live):
    """A webhook's sidecar or variable: an apply of ours would change nothing, at each look anew."""
    assert holds({"spec": pod(OURS, volumes=[], initContainers=[])}, {"spec": live})


@pytest.mark.parametrize(
    "live",
    [
        pod(THEIRS),
        pod({**OURS, "env": ENV[:1]}, THEIRS),
        pod({**OURS, "env": [ENV[0], {"name": "B", "value": "2"}]}, THEIRS),
        pod({**OURS, "env": ENV[::-1]}, THEIRS),
        pod({**OURS, "volumeMounts": [{"mountPath": "/etc/chat", "name": "mesh"}]}),
        pod({**OURS, "args": ["router"]}, OURS),
    ],
)
def test_ours_in_such_lists_are_as_wanted_and_in_our_order(live):
    assert not holds({"spec": pod(OURS)}, {"spec": live})


def test_lists_that_are_one_value_hold_nothing_of_others():
    rule = {"ports": [{"port": 8080}], "from": []}
    assert not holds({"ingress": [rule]}, {"ingress": [rule, {}]})
    assert not holds({"args": ["router"]}, {"args": ["router", "--debug"]})


@pytest.mark.parametrize(
    "live",
    [
        stands(replicas=3),
        stands(replicas=None),
        stands(**container(args=["router", "--debug"])),
        stands(**container(args=["gateway"])),
        stands(**container(args="router")),
        stands(template=[]),
        {**stands(), "metadata": {"name": "main-router", "labels": {"theirs": "c"}}},
        {**stands(), "metadata": {"name": "main-router", "labels": {"a": "c"}}},
        {"metadata": stands()["metadata"]},
    ],
)
def test_what_is_otherwise_or_gone_is_drift(live):
    assert not holds(WANTED, live)


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ("1000m", "1"), ("0.35", "350m"), ("1.1", "1100m"), ("2.0", "2"), ("0.0005", "500u"),
        ("0.5Gi", "512Mi"), ("1024Ti", "1Pi"), ("0.1Gi", "107374182400m"), ("1500k", "1500000"), ("1000G", "1T"),
    ],
)  # fmt: skip
def test_a_quantity_is_the_same_however_it_is_written(asked, written):
    assert holds({"cpu": asked}, {"cpu": written})
    assert not holds({"cpu": asked}, {"cpu": f"1{written}"})


def test_every_thousandth_of_a_core_is_the_same_in_both_ways():
    assert all(amount(f"{number / 1000:.3f}") == amount(f"{number}m") for number in range(1, 10_000))


@pytest.mark.parametrize(
    "text", ["", "m", "Mi", "1.", ".5", "1x", "1 Gi", "1e3", "nan", "Infinity", "12e4567890", "v1"]
)
def test_what_is_no_quantity_is_text(text):
    """Hashes are hexadecimal: 12e4567890 and 34e4567890 are no numbers."""
    assert amount(text) is None
    assert not holds(text, "34e4567890")
