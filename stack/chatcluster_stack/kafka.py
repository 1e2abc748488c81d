"""Real Kafka: one or three combined KRaft nodes on 127.0.0.1 to 127.0.0.3."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from chatcluster_stack import archives, fetch, ports
from chatcluster_stack.processes import Group, Node, NotReady, together, wait_for

_CLUSTER = "ChatClusterStack00000w"
_JVM = ["-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]


def kafka(
    folder: Path,
    port: int,
    controller_port: int,
    *,
    count: int = 1,
    session_timeout: float = 3.0,
    heartbeat: float = 0.5,
    advertised: Mapping[int, str] | None = None,
    extra: Mapping[str, str] | None = None,
    jvm: Sequence[str] | None = None,
) -> Group:
    """``kafka-1`` …; ``address`` is the bootstrap list.

    ``advertised`` maps a node's number to the host:port that clients are told (a proxy's): brokers keep a listener
    of their own among themselves. ``session_timeout`` and ``heartbeat`` in seconds: how soon a dead broker is missed.
    ``jvm``: options instead of the class-data archive's.
    """
    voters = ",".join(f"{i}@127.0.0.{i}:{controller_port}" for i in range(1, count + 1))
    replicas, least = (3, 2) if count == 3 else (1, 1)
    nodes = []
    for i in range(1, count + 1):
        home, host = folder / f"kafka-{i}", f"127.0.0.{i}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": i,
            "controller.quorum.voters": voters,
            "listeners": f"CLIENT://{host}:{port},INNER://{host}:{port + 1},CONTROLLER://{host}:{controller_port}",
            "advertised.listeners": f"CLIENT://{(advertised or {}).get(i, f'{host}:{port}')},INNER://{host}:{port + 1}",
            "inter.broker.listener.name": "INNER",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,INNER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": home / "data",
            "broker.rack": f"r{i}",
            "num.partitions": 3,
            "default.replication.factor": replicas,
            "min.insync.replicas": least,
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": least,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": least,
            "share.coordinator.state.topic.num.partitions": 2,
            "unclean.leader.election.enable": "false",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "broker.session.timeout.ms": round(session_timeout * 1000),
            "broker.heartbeat.interval.ms": round(heartbeat * 1000),
            "num.network.threads": 2,
            "num.io.threads": 4,
            "log.segment.bytes": 67108864,
            "log.cleaner.dedupe.buffer.size": 8388608,
            **(extra or {}),
        }
        nodes.append(_node(home, i, {key: str(value) for key, value in settings.items()}, host, port, jvm))
    bootstrap = ",".join(f"127.0.0.{i}:{port}" for i in range(1, count + 1))
    return _Kafka(nodes, bootstrap, [port, port + 1, controller_port])


class _Kafka(Group):
    def __init__(self, nodes: list[Node], address: str, wanted: list[int]) -> None:
        super().__init__(nodes, address)
        self._wanted = wanted

    def start(self) -> None:
        fetch.kafka()
        archives.ensure("kafka", _throw_away)
        if all(node.pid is None for node in self.nodes.values()):
            ports.check(self._wanted)
        super().start()
        wait_for(lambda: brokers(self.address) >= len(self.nodes), timeout=90, what="all brokers of Kafka")

    def stop(self, *, wipe: bool = False) -> None:
        """All at once: a controller that has lost its quorum would wait for it. What it wrote is read again."""
        if not wipe:
            for node in self.nodes.values():
                node.ask_to_leave()
            together(lambda node: node.term(patience=5), self.nodes.values())
        super().stop(wipe=wipe)


def _throw_away(folder: Path, jvm: list[str]) -> Group:
    base = ports.block([0, 1, 2])
    return kafka(folder, base, base + 2, jvm=jvm)


def brokers(bootstrap: str) -> int:
    """Brokers that a controller knows as alive."""
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "socket.connection.setup.timeout.ms": 2000})
    described = client.describe_cluster(request_timeout=2.0).result(3.0)
    return len(described.nodes) if described.controller is not None else 0


def _node(
    home: Path, number: int, settings: Mapping[str, str], host: str, port: int, jvm: Sequence[str] | None
) -> Node:
    properties, classes = home / "server.properties", f"{fetch.jars('kafka')}/*"

    def prepare() -> None:
        properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        properties.chmod(0o600)
        if (home / "data" / "meta.properties").exists():
            return
        tool = ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classes]
        tool += ["kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(properties)]
        done = subprocess.run(tool, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(home / "data", ignore_errors=True)
            raise NotReady(f"kafka-{number} cannot be formatted: {(done.stdout + done.stderr)[-600:]}")

    def command() -> list[str]:
        quick = archives.options("kafka") if jvm is None else jvm
        java = ["java", *_JVM, *quick, f"-Dlog4j2.configurationFile={fetch.FILES / 'kafka-log4j2.yaml'}"]
        return [*java, "-cp", classes, "kafka.Kafka", str(properties)]

    return Node(
        f"kafka-{number}",
        command,
        home,
        prepare=prepare,
        ready=lambda: ports.listens(host, port) and brokers(f"{host}:{port}") > 0,
        patience=90,
    )
