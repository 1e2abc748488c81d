"""A real control plane for the session, and the operator as a process of its own user."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from control_plane import control_plane
from operating import defined, operating
from prebuilt import built

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def plane(tmp_path_factory):
    if not (built() or os.environ.get("CHATCLUSTER_TEST_KUBERNETES")):
        pytest.skip("build a control plane first: `make kubernetes` (needs Go, takes minutes)")
    with control_plane(tmp_path_factory.mktemp("kubernetes"), ("kwok",)) as found:
        found.start_nodes()
        defined(found)
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


CORE = ("test_api.py", "test_endings.py", "test_reconcile.py", "test_robust.py")
"""What every run has; the rest takes half an hour more."""


def pytest_collection_modifyitems(items):
    """The rest is asked for; ``CHATCLUSTER_LONG=1`` adds what takes longer still."""
    if os.environ.get("CHATCLUSTER_LONG") or os.environ.get("CHATCLUSTER_TEST_KUBERNETES") == "all":
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.path.name not in CORE:
            item.add_marker(pytest.mark.skip(reason="half an hour more: CHATCLUSTER_TEST_KUBERNETES=all"))
