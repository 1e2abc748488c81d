"""Real Redis, Kafka and Cassandra for tests, and the platform on them: once per session, or given by the environment.

A variable ``CHATCLUSTER_TEST_...`` names a server that runs already. A server that cannot be had skips its tests
on a developer's machine and fails them under CI.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from chatcluster_stack.fetch import Missing
from chatcluster_stack.named import Stack, platform
from chatcluster_stack.processes import Group
from chatcluster_stack.servers import group, run_folder

_STACK = f"tests-{os.getpid()}"


@contextmanager
def needed(what: str) -> Iterator[None]:
    """What cannot be had skips the test, or fails it under CI."""
    try:
        yield
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{what}: {missing}")
        pytest.skip(f"{what}: {missing}")


def _started(kind: str) -> Iterator[Group]:
    servers = group(kind, _STACK)
    try:
        with needed(kind):
            servers.start()
        yield servers
    finally:
        servers.stop(wipe=True)
        shutil.rmtree(run_folder(_STACK) / kind, ignore_errors=True)
        with suppress(OSError):  # the last one takes the folder along
            run_folder(_STACK).rmdir()


def _address(request: pytest.FixtureRequest, variable: str, nodes: str) -> str:
    given = os.environ.get(variable)
    if given:
        return given
    servers: Group = request.getfixturevalue(nodes)
    return servers.address


@pytest.fixture(scope="session")
def redis_nodes() -> Iterator[Group]:
    """``redis-1`` with its fault handles; always ours."""
    yield from _started("redis")


@pytest.fixture(scope="session")
def redis2_nodes() -> Iterator[Group]:
    """``redis-1`` and ``redis-2``, independent of each other, with their fault handles."""
    yield from _started("redis2")


@pytest.fixture(scope="session")
def redis_cluster_nodes() -> Iterator[Group]:
    """``redis-cluster-1..3`` with their fault handles."""
    yield from _started("redis_cluster")


@pytest.fixture(scope="session")
def redis_sentinel_nodes() -> Iterator[Group]:
    """``redis-ha-1..3`` and ``sentinel-1..3`` with their fault handles."""
    yield from _started("redis_sentinel")


@pytest.fixture(scope="session")
def kafka_nodes() -> Iterator[Group]:
    """``kafka-1`` with its fault handles."""
    yield from _started("kafka")


@pytest.fixture(scope="session")
def kafka3_nodes() -> Iterator[Group]:
    """``kafka-1..3`` with their fault handles."""
    yield from _started("kafka3")


@pytest.fixture(scope="session")
def cassandra_nodes() -> Iterator[Group]:
    """``cassandra-1`` with its fault handles."""
    yield from _started("cassandra")


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> str:
    """host:port of a Redis."""
    return _address(request, "CHATCLUSTER_TEST_REDIS", "redis_nodes")


@pytest.fixture(scope="session")
def redis_cluster(request: pytest.FixtureRequest) -> str:
    """host:port of a node of a Redis cluster."""
    return _address(request, "CHATCLUSTER_TEST_REDIS_CLUSTER", "redis_cluster_nodes")


@pytest.fixture(scope="session")
def redis_sentinel(request: pytest.FixtureRequest) -> str:
    """master@host:port of a sentinel."""
    return _address(request, "CHATCLUSTER_TEST_REDIS_SENTINEL", "redis_sentinel_nodes")


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> str:
    """Bootstrap list of a Kafka of one broker."""
    return _address(request, "CHATCLUSTER_TEST_KAFKA", "kafka_nodes")


@pytest.fixture(scope="session")
def kafka3(request: pytest.FixtureRequest) -> str:
    """Bootstrap list of a Kafka of three brokers."""
    return _address(request, "CHATCLUSTER_TEST_KAFKA3", "kafka3_nodes")


@pytest.fixture(scope="session")
def cassandra(request: pytest.FixtureRequest) -> str:
    """host:port of a Cassandra of one node."""
    return _address(request, "CHATCLUSTER_TEST_CASSANDRA", "cassandra_nodes")


@pytest.fixture(scope="session")
def whole_stack() -> Iterator[Stack]:
    """The platform on two Redis, three brokers and a Cassandra; use ``stack``, which mends it after each test.

    ``CHATCLUSTER_TEST_STACK``: name of one that ``python -m chatcluster_stack`` started.
    """
    if given := os.environ.get("CHATCLUSTER_TEST_STACK"):
        yield Stack.recorded(given)
        return
    with ExitStack() as running:
        with needed("stack"):
            started = running.enter_context(platform(f"{_STACK}-platform"))
        yield started


@pytest.fixture
def stack(whole_stack: Stack) -> Iterator[Stack]:
    """The whole platform, ready. What a test leaves down or paused is started again before the next one."""
    whole_stack.heal()
    yield whole_stack
    whole_stack.heal()
