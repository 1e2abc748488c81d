"""Objects for engines that scale: an HPA or a ScaledObject. Pure.

Gateways are scaled through the scale subresource of the ChatCluster, so that every change of their number goes
through the plan, which drains; persisters through their Deployment, whose ``replicas`` is then not ours.
"""

from __future__ import annotations

from chatcluster_operator.names import Cluster
from chatcluster_operator.render.objects import Object, child
from chatcluster_operator.spec import GROUP, KIND, VERSION, Spec


def scalers(cluster: Cluster, spec: Spec) -> list[Object]:
    """For the components whose mode is ``hpa`` or ``keda``."""
    if spec.dependencies.embedded is not None:
        return []
    found = []
    ours = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "name": cluster.name}
    theirs = {"apiVersion": "apps/v1", "kind": "Deployment", "name": cluster.child("persister")}
    gateway, persister = spec.gateway.autoscaling, spec.persister.autoscaling
    wanted = spec.gateway.capacity.connections_per_pod * gateway.target_connections_percent // 100
    for component, scaling, target, metric, each in (
        ("gateway", gateway, ours, "chatcluster_gateway_sockets", wanted),
        ("persister", persister, theirs, "chatcluster_persister_lag_records", persister.lag_per_replica),
    ):
        window = scaling.scale_down.stabilization_seconds
        behavior: Object = {
            "scaleDown": {
                "stabilizationWindowSeconds": window,
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
            },
            "scaleUp": {"stabilizationWindowSeconds": 0},
        }
        if scaling.mode == "hpa":
            value = {
                "type": "Pods",
                "pods": {
                    "metric": {"name": metric},
                    "target": {"type": "AverageValue", "averageValue": str(each)},
                },
            }
            body: Object = {
                "scaleTargetRef": target,
                "minReplicas": scaling.min,
                "maxReplicas": scaling.max,
                "metrics": [value],
                "behavior": behavior,
            }
            found.append(child(cluster, "HorizontalPodAutoscaler", "autoscaling/v2", component, component, spec=body))
        elif scaling.mode == "keda":
            labels = f'namespace="{cluster.namespace}",pod=~"{cluster.name}-{component}-.*"'
            trigger = {
                "type": "prometheus",
                "metadata": {
                    "serverAddress": scaling.prometheus_address,
                    "query": f"sum({metric}{{{labels}}})",
                    "threshold": str(each),
                },
            }
            body = {
                "scaleTargetRef": target,
                "minReplicaCount": scaling.min,
                "maxReplicaCount": scaling.max,
                "fallback": {"failureThreshold": 3, "replicas": scaling.min, "behavior": "currentReplicasIfHigher"},
                "advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior}},
                "triggers": [trigger],
            }
            found.append(child(cluster, "ScaledObject", "keda.sh/v1alpha1", component, component, spec=body))
    return found
