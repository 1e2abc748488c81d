"""The stack's own promises: processes by name and pid, real servers that answer, faults that bite."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chatcluster_stack import fetch, ports
from chatcluster_stack.kafka import brokers
from chatcluster_stack.processes import Group, Node, NotReady, started_at
from chatcluster_stack.redis import command

pytestmark = pytest.mark.slow


def sleeper(folder: Path) -> Node:
    return Node("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], folder)


def test_a_recycled_pid_is_never_killed(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        began = started_at(stranger.pid)
        assert began is not None
        (tmp_path / "pid").write_text(json.dumps({"pid": stranger.pid, "started": began - 1}))
        node = sleeper(tmp_path)
        assert node.pid is None
        node.kill()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_faults_by_name(tmp_path: Path) -> None:
    node = sleeper(tmp_path)
    node.start()
    first = node.pid
    node.start()
    assert node.pid == first is not None
    node.pause()
    node.term()
    assert node.pid is None
    node.start()
    assert node.pid not in {None, first}
    node.wipe()
    assert node.pid is None
    assert not node.data.exists()


def test_a_process_that_ends_while_starting_says_where_to_look(tmp_path: Path) -> None:
    node = Node("broken", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path, ready=lambda: False)
    with pytest.raises(NotReady, match=str(tmp_path)):
        node.start()


def test_a_taken_port_names_its_holder(redis_nodes: Group) -> None:
    port = int(redis_nodes.address.rpartition(":")[2])
    with pytest.raises(ports.Taken, match=f"redis-server .pid {redis_nodes.nodes['redis-1'].pid}"):
        ports.check([port])


def test_a_cassandra_that_is_not_known_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATCLUSTER_TEST_CASSANDRA_VERSION", "4.1")
    assert fetch.release() == "cassandra-4.1"
    monkeypatch.setenv("CHATCLUSTER_TEST_CASSANDRA_VERSION", "4.0")
    with pytest.raises(fetch.Missing, match=r"allowed: 5\.0, 4\.1"):
        fetch.release()


def test_two_callers_wait_for_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHATCLUSTER_CACHE", str(tmp_path))
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        with fetch.locked("test"):
            inside += 1
            most = max(most, inside)
            os.sched_yield()
            inside -= 1

    callers = [threading.Thread(target=enter) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert most == 1


def test_two_processes_fetch_once(tmp_path: Path) -> None:
    if shutil.which("mvn") is None:
        pytest.skip("Maven is not installed")
    command = [sys.executable, "-c", "from chatcluster_stack import fetch; fetch.kafka()"]
    stack = str(Path(fetch.__file__).parents[1])
    environment = {**os.environ, "CHATCLUSTER_CACHE": str(tmp_path), "PYTHONPATH": stack}
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        for _ in range(2)
    ]
    said = [one.communicate(timeout=300)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sorted("by Maven" in text for text in said) == [False, True]


def test_redis_forgets_when_wiped_and_remembers_when_restarted(redis_nodes: Group) -> None:
    host, _, port = redis_nodes.address.partition(":")
    node = redis_nodes.nodes["redis-1"]
    command(host, int(port), "set", "stack", "kept")
    node.restart()
    assert command(host, int(port), "get", "stack") == "kept"
    node.wipe()
    node.start()
    assert command(host, int(port), "get", "stack") == ""


def test_cluster_and_sentinels_agree(redis_cluster_nodes: Group, redis_sentinel_nodes: Group) -> None:
    host, _, port = redis_cluster_nodes.address.partition(":")
    assert "cluster_slots_ok:16384" in command(host, int(port), "cluster", "info")
    master, _, address = redis_sentinel_nodes.address.partition("@")
    host, _, port = address.partition(":")
    assert "num-slaves\n2" in command(host, int(port), "sentinel", "master", master)


def test_a_killed_broker_comes_back(kafka_nodes: Group) -> None:
    node = kafka_nodes.nodes["kafka-1"]
    node.kill()
    assert node.pid is None
    node.start()
    assert brokers(kafka_nodes.address) == 1
