"""Who else scales: the real HPA controller on metrics of ours; KEDA's real definition of a ScaledObject."""

from __future__ import annotations

import time

import pytest

from clusters import SPEC, changed, cluster, path_of, ready, secret
from custom_metrics import REGISTERED, custom_metrics
from operating import operating, served, until
from prebuilt import definition

pytestmark = pytest.mark.slow
HPA = {"mode": "hpa", "min": 2, "max": 6, "scaleDown": {"stabilizationSeconds": 5}}


def deployments(plane, namespace):
    found = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
    return {one["metadata"]["name"]: one for one in found}


def owners(thing, field="f:replicas"):
    """Who says how many, by ``managedFields``."""
    entries = thing["metadata"]["managedFields"]
    return {(one["manager"], one["operation"]) for one in entries if field in one["fieldsV1"].get("f:spec", {})}


def test_an_hpa_scales_and_the_operator_leaves_the_number_to_it(plane, namespace, operator):
    told = {"chatcluster_gateway_sockets": 50.0, "chatcluster_persister_lag_records": 100.0}

    def say(pod, metric):
        return told[metric]

    secret(plane, namespace)
    with custom_metrics(plane, say):
        until(
            lambda: any(
                one["type"] == "Available" and one["status"] == "True"
                for one in (plane.get(REGISTERED).get("status") or {}).get("conditions", ())
            )
        )
        gateway = {"capacity": {"connectionsPerPod": 100}, "autoscaling": HPA}
        persister = {"autoscaling": {**HPA, "lagPerReplica": 1000}}
        plane.apply(path_of(namespace), cluster(namespace, gateway=gateway, persister=persister))
        until(lambda: ready(plane, namespace), 120)
        told["chatcluster_persister_lag_records"] = 2000.0
        until(lambda: deployments(plane, namespace)["main-persister"]["spec"]["replicas"] == 6, 120)
        until(lambda: ready(plane, namespace), 60)
        # A change of ours beside it: theirs stays.
        plane.ask("PATCH", path_of(namespace), {"spec": {"version": "1.1.0"}}, "application/merge-patch+json")
        until(lambda: ready(plane, namespace), 180)
        persister = deployments(plane, namespace)["main-persister"]
        assert persister["spec"]["replicas"] == 6
        assert owners(persister) == {("kube-controller-manager", "Update")}
        assert ("chatcluster-operator", "Apply") in owners(persister, "f:template")
        # Gateways by the ChatCluster's scale, so that each that goes is drained by the plan.
        told["chatcluster_gateway_sockets"] = 140.0
        until(lambda: plane.get(path_of(namespace))["spec"]["gateway"].get("replicas") == 6, 120)
        until(lambda: ready(plane, namespace) and plane.get(path_of(namespace))["status"]["replicas"] == 6, 120)
        told["chatcluster_gateway_sockets"] = 10.0
        until(lambda: plane.get(path_of(namespace))["spec"]["gateway"]["replicas"] < 6, 150)
        # And back to us: the number is the spec's again.
        plane.ask(
            "PATCH",
            path_of(namespace),
            {"spec": {"persister": {"replicas": 3, "autoscaling": {"mode": "none"}}}},
            "application/merge-patch+json",
        )
        until(lambda: deployments(plane, namespace)["main-persister"]["spec"]["replicas"] == 3, 60)
        until(lambda: ("chatcluster-operator", "Apply") in owners(deployments(plane, namespace)["main-persister"]))


def test_keda_takes_what_is_rendered_for_it(plane, namespace, tmp_path):
    """Its definition, from its own module; its operator does not run here."""
    path = served(plane, definition("keda.sh_scaledobjects"))
    objects = f"/apis/keda.sh/v1alpha1/namespaces/{namespace}/scaledobjects"
    try:
        secret(plane, namespace)
        keda = {"mode": "keda", "prometheusAddress": "http://prometheus:9090"}
        spec = changed(changed(SPEC, "gateway.autoscaling", keda), "persister.autoscaling", {**keda, "max": 8})
        with operating(plane, tmp_path):
            plane.apply(path_of(namespace), {**cluster(namespace), "spec": spec})
            until(lambda: ready(plane, namespace), 120)
            found = {one["metadata"]["name"]: one["spec"] for one in plane.get(objects)["items"]}
            assert sorted(found) == ["main-gateway", "main-persister"]
            assert found["main-gateway"]["scaleTargetRef"]["kind"] == "ChatCluster"
            assert found["main-persister"]["triggers"][0]["metadata"]["threshold"] == "10000"
            # The server took every field: what it does not know it would have dropped, and it would come again.
            time.sleep(3)
            since = time.time()
            time.sleep(35)
            assert plane.writes("operator", since, namespace) == []
            plane.apply(path_of(namespace), {**cluster(namespace), "spec": SPEC})
            until(lambda: plane.get(objects)["items"] == [], 60)
    finally:
        plane.ask("DELETE", path)
