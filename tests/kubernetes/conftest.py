"""A real control plane for the session, and the operator as a process of its own user."""

from __future__ import annotations

import itertools
import os

import pytest

from chatcluster_operator.crd import crd
from chatcluster_operator.rbac import LEASE, rules
from control_plane import built, control_plane
from operating import operating, until

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/chatclusters.chatcluster.dev"
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def plane(tmp_path_factory):
    if not (built() or os.environ.get("CHATCLUSTER_TEST_KUBERNETES")):
        pytest.skip("build a control plane first: `make kubernetes` (needs Go, takes minutes)")
    with control_plane(tmp_path_factory.mktemp("kubernetes"), ("kwok",)) as found:
        found.start_nodes()
        found.apply(CRD, crd())

        def established():
            conditions = (found.get(CRD).get("status") or {}).get("conditions") or []
            return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

        until(established)
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        for name, table in (("operator", rules()), ("operator-lease", rules(LEASE))):
            found.apply(
                f"{rbac}/clusterroles/{name}",
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "ClusterRole",
                    "metadata": {"name": name},
                    "rules": table,
                },
            )
            found.apply(
                f"{rbac}/clusterrolebindings/{name}",
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "ClusterRoleBinding",
                    "metadata": {"name": name},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
                    "subjects": [
                        {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "operator"},
                        {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "operators"},
                    ],
                },
            )
        yield found


@pytest.fixture
def namespace(plane):
    name = f"test-{next(_NUMBERS)}"
    body = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    plane.apply(f"/api/v1/namespaces/{name}", body)
    yield name
    plane.ask("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def operator(plane, tmp_path):
    with operating(plane, tmp_path) as process:
        yield process
