"""Real nodes in place of kwok's: a control plane of its own for each module, as many nodes as it names (``NODES``).

It knows ChatClusters, unless the module brings their definition itself (``DEFINED = False``).
"""

from __future__ import annotations

import os
import time

import pytest

from clusters import cluster, path_of, restricted_namespace, secret
from conversing import KEY, NAMESPACE, settled, spec
from dependencies import dependencies
from nodes import missing, nodes
from operating import defined, operating, until


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


@pytest.fixture(scope="module")
def platform(plane, tmp_path_factory):
    """A ChatCluster that is ready, and what its spec stands on; the operator runs."""
    folder = tmp_path_factory.mktemp("platform")
    restricted_namespace(plane, NAMESPACE)
    secret(plane, NAMESPACE, value=KEY.hex())
    with dependencies(folder) as stood_on, operating(plane, folder):
        begun = time.monotonic()
        plane.apply(path_of(NAMESPACE), cluster(NAMESPACE, **spec(stood_on)))
        until(lambda: settled(plane), 90)
        print(f"\nready {time.monotonic() - begun:.0f} s after it was applied")
        yield stood_on


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure says what the pods say."""
    report = yield
    plane = item.funcargs.get("plane") if report.when != "teardown" and report.failed else None
    if plane is not None:
        report.sections.append(("pods", plane.told()))
    return report
