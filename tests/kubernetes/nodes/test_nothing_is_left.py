"""Whoever holds nodes open is killed without a word, and nothing of them is left on the machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nodes import missing
from operating import until

pytestmark = pytest.mark.slow


def in_network(namespace):
    """Processes whose network it is."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(one / "ns/net") == namespace:
                found.append(one.name)
        except OSError:
            continue
    return found


def links():
    return sorted(os.listdir("/sys/class/net"))


def rules():
    return subprocess.run(["iptables-save"], check=True, capture_output=True, text=True).stdout.count("KUBE")


def test_killed_it_leaves_nothing():
    if why := missing():
        pytest.skip(why)
    before = links(), rules()
    holder = subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[2] / "support/nodes.py")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        said = ""
        while "Ctrl-C ends all" not in said:
            line = holder.stdout.readline()
            assert line, f"it ended: {said}"
            said += line
        assert re.search(r"node-1 +Ready", said)
        folder = Path(re.search(r"KUBECONFIG=(\S+)/admin.conf", said)[1])
        network = os.readlink(f"/proc/{holder.pid}/ns/net")
        assert network != os.readlink("/proc/self/ns/net")
        name = f"chatcluster-nodes-{holder.pid}"
        assert list(Path("/sys/fs/cgroup").glob(f"**/{name}"))
        inside = int((folder / "n1/init.pid").read_text())
        node = os.readlink(f"/proc/{inside}/ns/net")
        assert (links(), rules()) == before, "the machine's own network was touched"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    until(lambda: not in_network(network) and not in_network(node), 30)
    until(lambda: not list(Path("/sys/fs/cgroup").glob(f"**/{name}")), 10)
    until(lambda: not folder.exists(), 10)
    assert (links(), rules()) == before
