"""Every kind of Kubernetes object that the operator reads or writes: where the API has it. Nothing is discovered."""

from __future__ import annotations

from collections.abc import Mapping

from chatcluster_operator.spec import GROUP, KIND, PLURAL, VERSION

MONITORING = "monitoring.coreos.com/v1"

CHILDREN: Mapping[str, str] = {
    "ServiceAccount": "v1",
    "ConfigMap": "v1",
    "Service": "v1",
    "Pod": "v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "Job": "batch/v1",
    "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "Ingress": "networking.k8s.io/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "ScaledObject": "keda.sh/v1alpha1",
    "PodMonitor": MONITORING,
    "PrometheusRule": MONITORING,
}
"""Of all kinds of children the version that is written and watched. Secrets are not: who watches them may read all."""

PLURALS: Mapping[str, str] = {
    "ServiceAccount": "serviceaccounts",
    "ConfigMap": "configmaps",
    "Service": "services",
    "Pod": "pods",
    "Secret": "secrets",
    "Event": "events",
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "Job": "jobs",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "NetworkPolicy": "networkpolicies",
    "Ingress": "ingresses",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "HTTPRoute": "httproutes",
    "ScaledObject": "scaledobjects",
    "PodMonitor": "podmonitors",
    "PrometheusRule": "prometheusrules",
    KIND: PLURAL,
}
"""As in paths."""

CLUSTER = (f"{GROUP}/{VERSION}", KIND)
"""Version and kind of a ChatCluster."""
