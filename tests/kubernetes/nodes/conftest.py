"""Real nodes in place of kwok's: a control plane of its own for each module, as many nodes as it names (``NODES``).

It knows ChatClusters, unless the module brings their definition itself (``DEFINED = False``).
"""

from __future__ import annotations

import os

import pytest

from nodes import missing, nodes
from operating import defined


@pytest.fixture(scope="module")
def plane(request, tmp_path_factory):
    if why := missing():
        if os.environ.get("CHATCLUSTER_TEST_NODES"):
            pytest.fail(why)
        pytest.skip(why)
    with nodes(tmp_path_factory.mktemp("nodes"), getattr(request.module, "NODES", 1)) as found:
        if getattr(request.module, "DEFINED", True):
            defined(found)
        yield found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure says what the pods say."""
    report = yield
    plane = item.funcargs.get("plane") if report.when != "teardown" and report.failed else None
    if plane is not None:
        report.sections.append(("pods", plane.told()))
    return report
