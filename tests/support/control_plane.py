"""A real Kubernetes control plane on this machine: etcd, API server with an audit log, controllers, scheduler.

No node: pods are scheduled nowhere until a test gives them a node that does not exist and says that they are ready.
Everything listens on 127.0.0.1, on free ports; data goes to a folder of its own.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prebuilt import binaries

ADMIN = "admin"
OPERATORS = ("operator-one", "operator-two")
"""Users of the group ``operators``: to tell replicas from each other in the audit log."""


SERVICES = "10.96.0.0/16"
"""Addresses of Services."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Refused(Exception):
    """The API server said no: its code and its words."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(f"{code}: {words}")
        self.code = code
        self.words = words


class ControlPlane:
    """Started by ``control_plane``."""

    address = "127.0.0.1"
    """Where the API server listens."""

    def __init__(self, folder: Path, bin_: Path) -> None:
        self.folder = folder
        self.bin = bin_
        self.port = free_port()
        self.url = f"https://{self.address}:{self.port}"
        self.users = {
            ADMIN: "system:masters",
            **dict.fromkeys(("system:kube-controller-manager", "system:kube-scheduler", "operator", "oncall"), ""),
            **dict.fromkeys(OPERATORS, "operators"),
        }
        """Who may log in, and their group."""
        self.api_options: list[str] = []
        self.kubeconfig = folder / "admin.conf"
        self.audit = folder / "audit.log"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tokens: dict[str, str] = {}
        self._etcd = free_port()
        self._context = ssl.create_default_context()

    # -- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        pki = self.folder / "pki"
        pki.mkdir(parents=True)
        self._tokens = {name: secrets.token_hex(16) for name in self.users}
        lines = [f'{token},{name},{name},"{self.users[name]}"' for name, token in self._tokens.items()]
        (pki / "tokens.csv").write_text("\n".join(lines) + "\n")
        _certificates(pki, self.address)
        self._context.load_verify_locations(pki / "ca.crt")
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}
        (self.folder / "audit.yaml").write_text(json.dumps(policy))
        self.config_for(ADMIN, self.kubeconfig)
        peer = free_port()
        self._run(
            "etcd",
            *("--name=e", f"--data-dir={self.folder}/etcd", "--unsafe-no-fsync", "--log-level=warn"),
            f"--listen-client-urls=http://127.0.0.1:{self._etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{self._etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=e=http://127.0.0.1:{peer}",
        )
        self.start_api()
        self.wait()
        for part, user in (
            ("kube-controller-manager", "system:kube-controller-manager"),
            ("kube-scheduler", "system:kube-scheduler"),
        ):
            conf = self.config_for(user, self.folder / f"{part}.conf")
            extra = [
                *(f"--service-account-private-key-file={pki}/sa.key", f"--root-ca-file={pki}/ca.crt"),
                "--use-service-account-credentials=true",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
                "--horizontal-pod-autoscaler-sync-period=2s",
                "--horizontal-pod-autoscaler-initial-readiness-delay=0s",
            ]
            self._run(
                part,
                f"--kubeconfig={conf}",
                "--leader-elect=false",
                f"--secure-port={free_port()}",
                "--bind-address=127.0.0.1",
                *(extra if part == "kube-controller-manager" else []),
            )

    def start_nodes(self, count: int = 6) -> None:
        """Nodes that do not exist, by kwok: pods on them run, are ready and end when told, Jobs complete.

        Their addresses are in a part of 127.0.0.0/8 of this control plane's own, so that a test can answer for a pod
        (``pod_metrics``) and for none of another test's.
        """
        stages = (self.bin.parent.parent / "go/mod/sigs.k8s.io/kwok@v0.8.0/kustomize/stage").resolve()
        files = [
            stages / "node/fast/node-initialize.yaml",
            stages / "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
            *sorted((stages / "pod/fast").glob("*.yaml")),
        ]
        config = self.folder / "kwok.yaml"
        config.write_text("\n---\n".join(file.read_text() for file in files if file.name != "kustomization.yaml"))
        self._run(
            "kwok",
            *(f"--kubeconfig={self.kubeconfig}", f"--config={config}", "--manage-all-nodes=true"),
            *(
                f"--cidr=127.{100 + os.getpid() % 150}.0.0/16",
                "--node-ip=127.0.0.1",
                "--node-lease-duration-seconds=40",
            ),
            f"--server-address=127.0.0.1:{free_port()}",
        )
        room = {"cpu": "1000", "memory": "4Ti", "ephemeral-storage": "4Ti", "pods": "2000"}
        for number in range(count):
            name = f"node-{number}"
            labels = {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "topology.kubernetes.io/zone": f"zone-{number % 3}",
            }
            node = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
            }
            self.apply(f"/api/v1/nodes/{name}", node)
            status = {"status": {"capacity": room, "allocatable": room}}
            self.ask("PATCH", f"/api/v1/nodes/{name}/status", status, "application/merge-patch+json")

    def start_api(self) -> None:
        """The API server; also again, after ``stop_api``."""
        pki = self.folder / "pki"
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd}",
            *(f"--bind-address={self.address}", f"--secure-port={self.port}", f"--advertise-address={self.address}"),
            f"--service-cluster-ip-range={SERVICES}",
            *(f"--tls-cert-file={pki}/api.crt", f"--tls-private-key-file={pki}/api.key"),
            *(f"--token-auth-file={pki}/tokens.csv", "--authorization-mode=Node,RBAC", "--allow-privileged=true"),
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--service-account-key-file={pki}/sa.key", f"--service-account-signing-key-file={pki}/sa.key"),
            *(f"--audit-log-path={self.audit}", f"--audit-policy-file={self.folder}/audit.yaml"),
            "--audit-log-mode=blocking",
            # As OpenShift has it: who names an owner must be allowed to.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            *self.api_options,
        )

    def stop_api(self) -> None:
        """As if its machine were gone."""
        self._end("kube-apiserver", signal.SIGKILL)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """One of its processes does nothing for the time of the block."""
        self._processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._processes[name].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        for name in reversed(list(self._processes)):
            self._end(name, signal.SIGTERM)

    def _run(self, name: str, *options: str) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        self._processes[name] = subprocess.Popen(
            [self._program(name), *options], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
        )
        log.close()

    def _program(self, name: str) -> Path:
        """Of Kubernetes itself, or of the tools beside it."""
        own = self.bin / name
        return own if own.exists() else self.bin.parent.parent / "tools" / name

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait(self) -> None:
        """Until the API server answers."""
        deadline = time.monotonic() + 120
        while True:
            try:
                if self.raw("GET", "/readyz") == b"ok":
                    return
            except (OSError, Refused):
                pass
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended: {(self.folder / f'{name}.log').read_text()[-3000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError((self.folder / "kube-apiserver.log").read_text()[-3000:])
            time.sleep(0.1)

    def config_for(self, user: str, path: Path, server: str = "") -> Path:
        """A kubeconfig; of another server that stands before this one, if given."""
        authority = base64.b64encode((self.folder / "pki/ca.crt").read_bytes()).decode() if user else ""
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [
                        {
                            "name": "c",
                            "cluster": {"server": server or self.url, "certificate-authority-data": authority},
                        }
                    ],
                    "users": [{"name": "u", "user": {"token": self._tokens[user]}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        return path

    # -- its API ------------------------------------------------------------------------------------------

    def raw(
        self, method: str, path: str, body: object = None, kind: str = "application/json", user: str = ADMIN
    ) -> bytes:
        """One request. Raises ``Refused``."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._tokens[user]}", "Content-Type": kind}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20, context=self._context) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            words = error.read().decode(errors="replace")
            with suppress(ValueError):
                words = json.loads(words)["message"]
            raise Refused(error.code, words) from None

    def ask(
        self, method: str, path: str, body: object = None, kind: str = "application/json", user: str = ADMIN
    ) -> Any:
        """The same, as objects."""
        return json.loads(self.raw(method, path, body, kind, user))

    def apply(self, path: str, body: object, manager: str = "tests") -> Any:
        """Server-side apply."""
        return self.ask("PATCH", f"{path}?fieldManager={manager}&force=true", body, "application/apply-patch+yaml")

    def get(self, path: str) -> Any:
        """An object, or None."""
        try:
            return self.ask("GET", path)
        except Refused as refused:
            if refused.code == 404:
                return None
            raise

    def writes(self, user: str, since: float = 0.0, namespace: str = "") -> list[tuple[str, str]]:
        """What a user changed, as (verb, path) from the audit log, Leases and Events aside; in a namespace or in all.

        In all may be those of a test before, which still end.
        """
        found = [
            (entry["verb"], entry["requestURI"].partition("?")[0])
            for entry in self.audited((user,), since)
            if (entry.get("objectRef") or {}).get("resource") not in ("leases", "events")
        ]
        return [one for one in found if not namespace or f"/namespaces/{namespace}/" in f"{one[1]}/"]

    def audited(self, users: Sequence[str], since: float = 0.0) -> list[Any]:
        """Every request of these users that was to change something, Leases and Events among them, as they came."""
        found = []
        for line in self.audit.read_text().splitlines():
            if not any(user in line for user in users):
                continue
            entry = json.loads(line)
            if entry["stage"] != "ResponseComplete" or entry["user"]["username"] not in users:
                continue
            if entry["verb"] in ("get", "list", "watch"):
                continue
            if _seconds(entry["requestReceivedTimestamp"]) >= since:
                found.append(entry)
        return sorted(found, key=lambda entry: _seconds(entry["requestReceivedTimestamp"]))


def _seconds(stamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(stamp).timestamp()


def _openssl(*options: str) -> None:
    subprocess.run(["openssl", *options], check=True, capture_output=True)


_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _certificates(pki: Path, address: str) -> None:
    _openssl("req", "-x509", *_CURVE, "-keyout", f"{pki}/ca.key", "-out", f"{pki}/ca.crt", "-days", "30",
             "-subj", "/CN=ca", "-addext", "keyUsage=critical,keyCertSign,digitalSignature")  # fmt: skip
    names = f"DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:{address}"
    certificate(pki, "api", "/CN=kube-apiserver", f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{pki}/sa.key")


def certificate(pki: Path, name: str, subject: str, extensions: str) -> None:
    """A key and a certificate of the authority in ``pki``."""
    _openssl("req", *_CURVE, "-keyout", f"{pki}/{name}.key", "-out", f"{pki}/{name}.csr", "-subj", subject)
    (pki / f"{name}.ext").write_text(extensions)
    _openssl("x509", "-req", "-in", f"{pki}/{name}.csr", "-CA", f"{pki}/ca.crt", "-CAkey", f"{pki}/ca.key",
             "-CAcreateserial", "-days", "30", "-extfile", f"{pki}/{name}.ext",
             "-out", f"{pki}/{name}.crt")  # fmt: skip


@contextmanager
def control_plane(folder: Path, tools: Sequence[str] = ()) -> Iterator[ControlPlane]:
    """For the time of the block."""
    plane = ControlPlane(folder, binaries(*tools))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
        shutil.rmtree(folder / "etcd", ignore_errors=True)
