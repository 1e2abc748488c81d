"""Deployments, the migration Job, and the one StatefulSet of the embedded platform. Pure.

Gateways have a Deployment per revision of their pod template, so that the plan decides how many of which run: no
gateway is told to drain before its successor is ready, and no more drain at once than the budget allows. The other
components are rolled by their Deployment.
"""

from __future__ import annotations

from collections.abc import Mapping

from chatcluster_operator.names import (
    COMPONENTS,
    REVISION,
    SECRETS_HASH,
    TEMPLATE,
    VERSION,
    Cluster,
    Component,
    hash_of,
)
from chatcluster_operator.render.config import config, config_name
from chatcluster_operator.render.objects import Object, child
from chatcluster_operator.render.pods import template, version_of
from chatcluster_operator.spec import Component as Shape
from chatcluster_operator.spec import Spec

DEADLINE = 600
"""Seconds after which a roll-out or a migration that does not get on is told as stuck."""


def shape_of(spec: Spec, component: Component) -> Shape:
    """The component's part of the spec."""
    shapes: dict[Component, Shape] = {
        "gateway": spec.gateway,
        "router": spec.router,
        "persister": spec.persister,
        "presence": spec.presence,
    }
    return shapes[component]


def pods_of(cluster: Cluster, spec: Spec, component: Component, secrets: Mapping[str, str]) -> Object:
    """The pod template of a component."""
    return template(
        cluster, spec, component, config(cluster, spec, component), secrets, shape=shape_of(spec, component)
    )


def revision_of(pods: Object) -> str:
    """The name of a pod template, for as long as nothing in it changes."""
    return hash_of(pods)


def gateway(cluster: Cluster, pods: Object, replicas: int) -> Object:
    """The Deployment of one revision of the gateways. It never rolls: its template never changes."""
    revision = revision_of(pods)
    labels = pods["metadata"]["labels"] | {REVISION: revision}
    pods = {**pods, "metadata": {**pods["metadata"], "labels": labels}}
    found = child(
        cluster,
        "Deployment",
        "apps/v1",
        f"gateway-{revision}",
        "gateway",
        annotations={VERSION: pods["metadata"]["annotations"][VERSION]},
        spec={
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": DEADLINE,
            "selector": {"matchLabels": cluster.selector("gateway") | {REVISION: revision}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": pods,
        },
    )
    found["metadata"]["labels"][REVISION] = revision
    return found


def deployment(cluster: Cluster, component: Component, pods: Object, replicas: int) -> Object:
    """The Deployment of another component."""
    return child(
        cluster,
        "Deployment",
        "apps/v1",
        component,
        component,
        annotations={VERSION: pods["metadata"]["annotations"][VERSION], TEMPLATE: revision_of(pods)},
        spec={
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": DEADLINE,
            "selector": {"matchLabels": cluster.selector(component)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": pods,
        },
    )


def migration(cluster: Cluster, spec: Spec, secrets: Mapping[str, str]) -> Object:
    """The Job that brings schema and topics to this version. Its name holds what it depends on: another one runs

    when version, keyspace or topics change, and the same never twice.
    """
    pods = template(cluster, spec, "migrate", config(cluster, spec, "migrate"), secrets, probed=False)
    pods["spec"]["restartPolicy"] = "Never"
    pods["metadata"]["annotations"].pop(SECRETS_HASH)  # another password is no other schema
    return child(
        cluster,
        "Job",
        "batch/v1",
        f"migrate-{hash_of(pods)}",
        "migrate",
        annotations={VERSION: version_of(spec)},
        spec={"backoffLimit": 4, "activeDeadlineSeconds": DEADLINE, "template": pods},
    )


def embedded(cluster: Cluster, spec: Spec, secrets: Mapping[str, str]) -> Object:
    """Everything in one pod on one volume."""
    asked = spec.dependencies.embedded
    assert asked is not None
    told = config(cluster, spec, "embedded")
    pods = template(
        cluster, spec, "embedded", told, secrets, mounts=({"name": "data", "mountPath": "/data"},), shape=spec.gateway
    )
    claim: Object = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": asked.storage}}},
    }
    if asked.storage_class_name is not None:
        claim["spec"]["storageClassName"] = asked.storage_class_name
    return child(
        cluster,
        "StatefulSet",
        "apps/v1",
        "embedded",
        "embedded",
        annotations={VERSION: version_of(spec)},
        spec={
            "replicas": 1,
            # Else its controller leaves a pod that never becomes ready as it is, whatever the template says by now.
            "podManagementPolicy": "Parallel",
            "serviceName": cluster.child("gateway"),
            "selector": {"matchLabels": cluster.selector("embedded")},
            "template": pods,
            "volumeClaimTemplates": [claim],
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        },
    )


def _parts(spec: Spec) -> list[str]:
    return ["embedded"] if spec.dependencies.embedded is not None else [*COMPONENTS, "migrate"]


def configs(cluster: Cluster, spec: Spec) -> list[Object]:
    """A ConfigMap for what each component is told, named after its content."""
    found = []
    for part in _parts(spec):
        told = config(cluster, spec, part)
        made = child(cluster, "ConfigMap", "v1", part, part, immutable=True, data={"config.toml": told.toml()})
        made["metadata"]["name"] = config_name(cluster, part, told)
        found.append(made)
    return found


def secrets_of(cluster: Cluster, spec: Spec) -> set[str]:
    """Names of all Secrets that pods mount."""
    return {name for part in _parts(spec) for name in config(cluster, spec, part).secrets}


def account(cluster: Cluster) -> Object:
    """The pods' ServiceAccount: it may nothing, and its token is mounted nowhere."""
    return child(cluster, "ServiceAccount", "v1", "runtime", automountServiceAccountToken=False)


def budgets(cluster: Cluster, spec: Spec) -> list[Object]:
    """A PodDisruptionBudget per component: one at a time."""
    if spec.dependencies.embedded is not None:
        return []
    return [
        child(
            cluster,
            "PodDisruptionBudget",
            "policy/v1",
            component,
            component,
            spec={
                "maxUnavailable": 1,
                "selector": {"matchLabels": cluster.selector(component)},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        )
        for component in COMPONENTS
    ]
