"""Real nodes for a real control plane: kubelet, containerd, runc, CNI, kube-proxy, cluster DNS; pods that run.

NetworkPolicies are enforced (kube-router).

All of it is in a network of its own, which this thread enters for the time of the block (``keeper``): control plane,
operator, dependencies and clients are on a bridge, 10.200.0.1; each node has an address there and a network for its
pods. The machine's own network is neither used nor changed, and nothing is left when the test ends or is killed.

``python nodes.py [--nodes N]`` holds it open for people, with the images, until Ctrl-C.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from chatcluster_operator.render.pods import REGISTRY
from control_plane import SERVICES, ControlPlane, certificate
from image import PAUSE, images
from installed import IMAGE
from keeper import HUB, NEWNET, address_of, pods_of
from prebuilt import binaries, built, folder

VERSIONS = ("1.0.0", "1.1.0")
"""Tags of both images on the nodes, all of the same content."""
TOOLS = ("kubelet", "kube-proxy", "coredns", "kube-router")
PROGRAMS = (
    "containerd",
    "runc",
    "ctr",
    "iptables",
    "ipset",
    "conntrack",
    "mmdebstrap",
    "setpriv",
    "unshare",
    "nsenter",
)
CNI = Path("/usr/lib/cni")


def missing() -> str:
    """Why there can be no nodes here, with what to do; empty: there can."""
    if os.geteuid() != 0:
        return "real nodes need root: namespaces, mounts, control groups"
    lacking = [one for one in PROGRAMS if shutil.which(one) is None]
    if lacking or not (CNI / "bridge").exists():
        return f"{', '.join(lacking) or 'CNI plugins'} not found: run `make nodes` once"
    found = folder()
    parts = [found / one for one in TOOLS[:2]] + [found.parent.parent / "tools" / one for one in TOOLS[2:]]
    if not built() or not all(part.exists() for part in parts):
        return f"{', '.join(TOOLS)} are not all built: run `make nodes` once (needs Go, takes minutes)"
    return ""


class Network:
    """The keeper's process and its network."""

    def __init__(self, folder: Path, *, remove: bool = False) -> None:
        self.name = f"chatcluster-nodes-{os.getpid()}"
        script = Path(__file__).with_name("keeper.py")
        self._keeper = subprocess.Popen(
            [sys.executable, "-S", str(script), str(folder), self.name, *(["--remove"] if remove else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer("ready")

    def order(self, what: str, number: int) -> None:
        """``start`` or ``kill`` of a node."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(f"{what} {number}\n")
        self._keeper.stdin.flush()
        self._answer("done")

    def _answer(self, wanted: str) -> None:
        assert self._keeper.stdout is not None
        said = self._keeper.stdout.readline().strip()
        if said != wanted:
            raise RuntimeError(f"the nodes' keeper: {said or 'it ended'}")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and what it starts, is in the network for the time of the block."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("only the main thread enters another network: others would be left outside")
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            there = os.open(f"/proc/{self._keeper.pid}/ns/net", os.O_RDONLY)
            try:
                _enter(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)

    def close(self) -> None:
        """Everything in it ends; returns when it has."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        with suppress(OSError):
            self._keeper.stdin.close()
        self._keeper.wait(60)
        self._keeper.stdout.close()


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Nodes(ControlPlane):
    """A control plane with real nodes, numbered from 1. Started by ``nodes``."""

    address = HUB

    def __init__(self, folder: Path, bin_: Path, network: Network, count: int) -> None:
        super().__init__(folder, bin_)
        self.network = network
        self.count = count
        self.users |= {"system:kube-proxy": "", "coredns": "system:masters", "kube-router": "system:masters"}
        self.users |= {f"system:node:{name_of(number)}": "system:nodes" for number in self._numbers()}
        pki = folder / "pki"
        self.api_options = [
            f"--kubelet-client-certificate={pki}/kubelet-client.crt",
            f"--kubelet-client-key={pki}/kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
        ]

    def _numbers(self) -> range:
        return range(1, self.count + 1)

    def start_api(self) -> None:
        pki = self.folder / "pki"
        if not (pki / "kubelet-client.crt").exists():
            certificate(pki, "kubelet-client", "/O=system:masters/CN=kube-apiserver", "extendedKeyUsage=clientAuth\n")
        super().start_api()

    def start_nodes(self, archives: Sequence[Path] = ()) -> None:  # type: ignore[override]
        """Returns when all are Ready, with these images on each."""
        self._dns()
        for number in self._numbers():
            self._settings(number, archives)
            self.network.order("start", number)
        deadline = time.monotonic() + 120
        waiting = {name_of(number) for number in self._numbers()}
        while waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{', '.join(sorted(waiting))} did not come: {self._last_words()}")
            waiting = {name for name in waiting if not self._is_ready(name)}
            time.sleep(0.2)

    def _is_ready(self, name: str) -> bool:
        node = self.get(f"/api/v1/nodes/{name}")
        conditions = (node or {}).get("status", {}).get("conditions") or []
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _last_words(self) -> str:
        logs = [
            self.folder / f"n{number}" / f"{part}.log" for number in self._numbers() for part in ("init", "kubelet")
        ]
        return "\n".join(f"{log}: {log.read_text(errors='replace')[-1500:]}" for log in logs if log.exists())

    def _dns(self) -> None:
        """Cluster DNS, on the bridge: CoreDNS with its plugin for Kubernetes."""
        conf = self.config_for("coredns", self.folder / "coredns.conf")
        (self.folder / "Corefile").write_text(
            f"""cluster.local:53 in-addr.arpa:53 {{
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {conf}
        ttl 5
    }}
    cache 5
}}
.:53 {{
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""
        )
        self._run("coredns", "-conf", str(self.folder / "Corefile"))

    def _settings(self, number: int, archives: Sequence[Path]) -> None:
        folder = self.folder / f"n{number}"
        folder.mkdir()
        name = name_of(number)
        self.config_for(f"system:node:{name}", folder / "kubelet.conf")
        self.config_for("system:kube-proxy", folder / "kube-proxy.conf")
        self.config_for("kube-router", folder / "kube-router.conf")
        environment = {
            "NAME": name,
            "ADDRESS": address_of(number),
            "HUB": HUB,
            "BIN": str(self.bin),
            "TOOLS": str(self.bin.parent.parent / "tools"),
            "SERVICES": SERVICES,
            "IMAGES": " ".join(map(str, archives)),
        }
        (folder / "node.env").write_text("".join(f"{key}='{value}'\n" for key, value in environment.items()))
        (folder / "resolv.conf").write_text(f"nameserver {HUB}\n")
        (folder / "kubelet.json").write_text(json.dumps(self._kubelet(number, folder)))
        (folder / "kube-proxy.json").write_text(json.dumps(_kube_proxy(name, folder)))
        (folder / "containerd.toml").write_text(_containerd(folder))
        (folder / "cni").mkdir()
        (folder / "cni/10-bridge.conflist").write_text(json.dumps(_network_of(number)))

    def _kubelet(self, number: int, folder: Path) -> dict[str, Any]:
        least = {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"}
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.network.name}/n{number}",
            "clusterDNS": [HUB],
            "clusterDomain": "cluster.local",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{self.folder}/pki/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": least,
            "resolvConf": f"{folder}/resolv.conf",
            "nodeStatusUpdateFrequency": "4s",
        }

    def stop(self) -> None:
        """At once: none of it is needed again, and an API server that is asked waits for its watchers."""
        for number in self._numbers():
            with suppress(RuntimeError, OSError):
                self.network.order("kill", number)
        for name in list(self._processes):
            self._end(name, signal.SIGKILL)

    # -- for tests --------------------------------------------------------------------------------------------

    def kubectl(self, *words: str, timeout: float = 120) -> str:
        """What ``kubectl`` says. Raises ``RuntimeError`` with its words when it fails."""
        command = [str(self.bin / "kubectl"), "--kubeconfig", str(self.kubeconfig), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def told(self) -> str:
        """What pods, events and logs say, for whoever reads a failure."""
        found = []
        for words in (
            ("get", "pods", "-A", "-o", "wide"),
            ("get", "events", "-A", "--sort-by=.lastTimestamp"),
            ("get", "chatclusters", "-A", "-o", "yaml"),
        ):
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                found.append(self.kubectl(*words)[-8000:])
        for pod in self.get("/api/v1/pods")["items"]:
            head = pod["metadata"]
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                said = self.kubectl("logs", "-n", head["namespace"], head["name"], "--tail=15")
                found.append(f"-- {head['name']}\n{said}")
        return "\n".join(found)

    def volume(self, name: str, number: int = 1, *, size: str = "1Gi") -> None:
        """A local volume on a node, of the storage class ``local``."""
        path = self.folder / f"n{number}" / "scratch/volumes" / name
        self.inside(number, "mkdir", "-p", str(path))
        classes = "/apis/storage.k8s.io/v1/storageclasses/local"
        self.apply(
            classes,
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": "local"},
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            },
        )
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [name_of(number)]}
        self.apply(
            f"/api/v1/persistentvolumes/{name}",
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    "capacity": {"storage": size},
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "local",
                    "local": {"path": str(path)},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
                },
            },
        )

    def inside(self, number: int, *command: str) -> str:
        """What a command says that runs on a node, as root."""
        init = (self.folder / f"n{number}" / "init.pid").read_text()
        entered = ["nsenter", "-t", init, "-m", "-n", "-p", "-u", "-i", "--", *command]
        return subprocess.run(entered, check=True, stdout=subprocess.PIPE, text=True).stdout


def name_of(number: int) -> str:
    """A node's name."""
    return f"node-{number}"


def _containerd(folder: Path) -> str:
    return f"""version = 2
root = "{folder}/scratch/containerd"
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{folder}/cni"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/scratch/opt"
"""


def _network_of(number: int) -> dict[str, Any]:
    addresses = {"type": "host-local", "ranges": [[{"subnet": pods_of(number)}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def _kube_proxy(name: str, folder: Path) -> dict[str, Any]:
    never = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{folder}/kube-proxy.conf"},
        "mode": "iptables",
        "clusterCIDR": "10.244.0.0/16",
        "hostnameOverride": name,
        "conntrack": never,  # they are settings of the whole machine
        "iptables": {"syncPeriod": "10s", "minSyncPeriod": "0s"},
    }


@contextmanager
def nodes(folder: Path, count: int = 1, *, remove: bool = False) -> Iterator[Nodes]:
    """For the time of the block, on ``folder``; this thread is in their network. ``remove``: the folder goes, too."""
    tools = binaries(*TOOLS)
    tags = [[f"{name}:{version}" for version in VERSIONS] for name in (REGISTRY, IMAGE)]
    with images(*tags[0], operator=tags[1]) as archives:
        network = Network(folder, remove=remove)
        try:
            with network.entered():
                plane = Nodes(folder, tools, network, count)
                try:
                    plane.start()
                    plane.start_nodes(archives)
                    yield plane
                finally:
                    plane.stop()
        finally:
            network.close()


def main() -> None:
    """For people."""
    parser = argparse.ArgumentParser(description="A control plane with real nodes, until Ctrl-C.")
    parser.add_argument("--nodes", type=int, default=1, choices=range(1, 5))
    parser.add_argument("--prepare", action="store_true", help="Only build and keep what is needed.")
    given = parser.parse_args()
    if given.prepare:
        binaries(*TOOLS)
        with images("chatcluster:dev", operator=["chatcluster-operator:dev"]):
            return
    if why := missing():
        sys.exit(f"nodes: {why}")
    folder = Path(tempfile.mkdtemp(prefix="chatcluster-nodes-"))
    with nodes(folder, given.nodes, remove=True) as plane:
        enter = f"nsenter --net=/proc/{os.getpid()}/ns/net env KUBECONFIG={plane.kubeconfig} PATH={plane.bin}:$PATH"
        print(f"{plane.kubectl('get', 'nodes')}\nIn another terminal, as root:\n  {enter} bash")
        print(
            f"The runtime's image: {REGISTRY}:{VERSIONS[0]} (and the same as :{VERSIONS[1]}). Ctrl-C ends all.",
            flush=True,
        )
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main()
