"""A network of its own for real nodes, and the nodes in it: kept by a process of its own, so that nothing is left.

``python keeper.py FOLDER NAME [--remove]``: makes a network namespace with a bridge, prints ``ready``, and takes orders
on its standard input: ``start N`` and ``kill N``, each answered by ``done``. When the input ends, however its writer
ended, every process in this network ends, then the control groups and what the nodes wrote go; with ``--remove`` the
whole folder, else logs stay. The machine's own network and mounts are never touched. Stdlib alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

NEWNET = 0x40000000
HUB = "10.200.0.1"
"""The bridge: control plane, dependencies and clients are here."""
NODE = Path(__file__).with_name("node.sh")
CGROUPS = Path("/sys/fs/cgroup")


def address_of(number: int) -> str:
    """A node's."""
    return f"10.200.0.{10 + number}"


def pods_of(number: int) -> str:
    """The network of a node's pods."""
    return f"10.244.{number}.0/24"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL)


class Keeper:
    """What was started, to be ended."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.nodes: dict[int, subprocess.Popen[bytes]] = {}

    def network(self) -> None:
        """Of this process, and of all that enter it."""
        if ctypes.CDLL(None, use_errno=True).unshare(NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "a network namespace needs root")
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "hub", "type", "bridge")
        _ip("addr", "add", f"{HUB}/24", "dev", "hub")
        _ip("link", "set", "hub", "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def start(self, number: int) -> None:
        """A node: namespaces whose first process is ``node.sh``."""
        for folder in self._hierarchies():
            for one in (folder / self.name, folder / self.name / f"n{number}"):
                one.mkdir(exist_ok=True)
                for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group of version 1: nobody could enter
                    if (one / file).exists() and not (one / file).read_text().strip():
                        (one / file).write_text((one.parent / file).read_text())
        log = (self.folder / f"n{number}" / "init.log").open("ab")
        # Each is killed with its parent: the whole node with the shell, the shell with unshare, that one with us.
        node = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"),
                *("--propagation", "slave", "bash", str(NODE), str(self.folder / f"n{number}")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        self.nodes[number] = node
        init = self._init(node)
        (self.folder / f"n{number}" / "init.pid").write_text(str(init))
        _ip("link", "add", f"node{number}", "type", "veth", "peer", "name", "eth0", "netns", str(init))
        _ip("link", "set", f"node{number}", "master", "hub", "up")
        _ip("route", "replace", pods_of(number), "via", address_of(number))
        if number == 1:
            _ip("route", "replace", "10.96.0.0/16", "via", address_of(1))  # Services, by this node's kube-proxy

    def _init(self, node: subprocess.Popen[bytes]) -> int:
        """The number that the node's first process has outside, once it is in a network of its own."""
        ours = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + 20
        while node.poll() is None and time.monotonic() < deadline:
            with suppress(OSError, IndexError):
                child = int(Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()[0])
                if os.readlink(f"/proc/{child}/ns/net") != ours:
                    return child
            time.sleep(0.02)
        raise RuntimeError("a node did not start")

    def kill(self, number: int) -> None:
        """As if its machine lost power."""
        if (node := self.nodes.pop(number, None)) is None:
            return
        with suppress(OSError, ValueError):
            os.kill(int((self.folder / f"n{number}" / "init.pid").read_text()), signal.SIGKILL)
        node.wait()

    def _hierarchies(self) -> list[Path]:
        """Where a node needs a control group: of version 2 the one tree, of version 1 each controller's."""
        if (CGROUPS / "cgroup.controllers").exists():
            wanted = (CGROUPS / "cgroup.controllers").read_text().split()
            for folder in (CGROUPS, CGROUPS / self.name):
                folder.mkdir(exist_ok=True)
                for one in {"cpuset", "cpu", "io", "memory", "hugetlb", "pids"} & set(wanted):
                    with suppress(OSError):
                        (folder / "cgroup.subtree_control").write_text(f"+{one}")
            return [CGROUPS]
        return [one for one in CGROUPS.iterdir() if one.is_dir() and not one.is_symlink() and one.name != "unified"]

    # -- the end ----------------------------------------------------------------------------------------------

    def end(self, *, remove: bool) -> None:
        """Nodes, everybody else in this network, control groups, data."""
        for number in list(self.nodes):
            self.kill(number)
        deadline = time.monotonic() + 20
        while (found := list(self._neighbours())) and time.monotonic() < deadline:
            for pid in found:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for folder in (CGROUPS, *CGROUPS.iterdir()):  # also where others made groups after our name
            self._ungroup(folder / self.name)
        for one in [self.folder] if remove else [*self.folder.glob("n*/scratch"), self.folder / "etcd"]:
            shutil.rmtree(one, ignore_errors=True)

    def _neighbours(self) -> Iterator[int]:
        """Processes in our network: only what was started in it, or entered it, can be."""
        ours = os.readlink("/proc/self/ns/net")
        for one in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                alive = one.joinpath("stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
                if alive and int(one.name) != os.getpid() and os.readlink(one / "ns/net") == ours:
                    yield int(one.name)

    def _ungroup(self, top: Path) -> None:
        for _ in range(50):
            if not top.exists():
                return
            for one in sorted(top.rglob("*"), key=lambda one: len(one.parts), reverse=True):
                if one.is_dir():
                    with suppress(OSError):
                        one.rmdir()
            with suppress(OSError):
                top.rmdir()
            time.sleep(0.1)


def main() -> None:
    keeper = Keeper(Path(sys.argv[1]), sys.argv[2])
    os.setsid()  # a Ctrl-C is for who reads our answers; we end when he is gone
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        keeper.network()
        print("ready", flush=True)
        for line in sys.stdin:
            order, number = line.split()
            {"start": keeper.start, "kill": keeper.kill}[order](int(number))
            print("done", flush=True)
    except Exception as error:
        with suppress(OSError):
            print(json.dumps(str(error)), flush=True)
    finally:
        with suppress(OSError):
            os.close(sys.stdout.fileno())
        keeper.end(remove="--remove" in sys.argv[3:])


if __name__ == "__main__":
    main()
