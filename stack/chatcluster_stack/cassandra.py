"""Real Cassandra: one or three nodes on 127.0.0.1 to 127.0.0.3."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatcluster_stack import archives, fetch, ports
from chatcluster_stack.processes import Group, Node

# One token each, evenly spread: three nodes share the ring without waiting for each other's bootstrap.
_TOKENS = {1: [0], 3: [-9223372036854775808, -3074457345618258603, 3074457345618258602]}
# One node has the only copy: what it acknowledged must outlive it. Three have it elsewhere.
_SYNC = {
    # With group every row holds a writer for the window: with 16 writers the machine stood idle.
    1: {"commitlog_sync": "group", "commitlog_sync_group_window": "5ms", "concurrent_writes": "256"},
    3: {"commitlog_sync": "periodic", "commitlog_sync_period": "10000ms", "concurrent_writes": "16"},
}
_AGENTS = {"cassandra": "jamm-0.4.0.jar", "cassandra-4.1": "jamm-0.3.2.jar"}
_STORAGE = """\
cluster_name: chatcluster
num_tokens: 1
auto_bootstrap: false
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
start_native_transport: true
commitlog_segment_size: 16MiB
commitlog_total_space: 256MiB
concurrent_reads: 8
concurrent_counter_writes: 4
concurrent_compactors: 1
memtable_heap_space: 96MiB
memtable_offheap_space: 96MiB
file_cache_enabled: false
networking_cache_size: 32MiB
key_cache_size: 8MiB
disk_access_mode: mmap_index_only
batch_size_warn_threshold: 64KiB
batch_size_fail_threshold: 640KiB
auto_snapshot: false
dynamic_snitch: false
write_request_timeout: 5000ms
read_request_timeout: 5000ms
"""


def cassandra(
    folder: Path,
    port: int,
    storage_port: int,
    jmx_port: int,
    *,
    count: int = 1,
    heap: str = "512m",
    jvm: Sequence[str] | None = None,
    extra: Mapping[str, str] | None = None,
    client: Mapping[str, Any] | None = None,
) -> Group:
    """``cassandra-1`` …; ``address`` is the first node's; node N's JMX listens at ``jmx_port`` + N - 1.

    ``jvm``: options for the making of a class-data archive. ``extra``: more of cassandra.yaml. ``client``: what the
    driver needs beside the address to be let in, such as ``ssl_context`` and ``auth_provider``.
    """
    nodes = [
        _node(folder, i, port, storage_port, jmx_port + i - 1, count, heap, jvm, extra or {}, client or {})
        for i in range(1, count + 1)
    ]
    wanted = [port, storage_port, *(jmx_port + i for i in range(count))]
    return _Cassandra(nodes, ",".join(f"127.0.0.{i}:{port}" for i in range(1, count + 1)), wanted)


class _Cassandra(Group):
    def __init__(self, nodes: Sequence[Node], address: str, wanted: Sequence[int]) -> None:
        super().__init__(nodes, address)
        self._wanted = wanted

    def start(self) -> None:
        fetch.cassandra()
        archives.ensure(fetch.release(), _throw_away)
        if all(node.pid is None for node in self.nodes.values()):
            ports.check(self._wanted)
        # The seed must answer first: others started beside it may give up with "Unable to gossip with any peers".
        first, *others = self.nodes.values()
        first.start()
        for node in others:
            node.start(wait=False)
        for node in others:
            node.wait_ready()


def _throw_away(folder: Path, jvm: list[str]) -> Group:
    base = ports.block([0, 1, 2], first=12_150)  # Kafka's may be made at the same time
    return cassandra(folder, base, base + 1, base + 2, jvm=jvm)


def peers(address: str, port: int, **client: Any) -> int:
    """Nodes that the one at this address knows, itself included; asked by CQL. ``client``: more for the driver."""
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
    from cassandra.policies import WhiteListRoundRobinPolicy

    only = ExecutionProfile(load_balancing_policy=WhiteListRoundRobinPolicy([address]), request_timeout=5)
    asked = {"port": port, "connect_timeout": 5, "protocol_version": 5, **client}
    cluster = Cluster([address], execution_profiles={EXEC_PROFILE_DEFAULT: only}, **asked)
    try:
        return 1 + len(list(cluster.connect().execute("SELECT peer FROM system.peers")))
    finally:
        cluster.shutdown()


def _node(
    folder: Path,
    number: int,
    port: int,
    storage_port: int,
    jmx_port: int,
    count: int,
    heap: str,
    jvm: Sequence[str] | None,
    extra: Mapping[str, str],
    client: Mapping[str, Any],
) -> Node:
    home, host = folder / f"cassandra-{number}", f"127.0.0.{number}"
    data, conf = home / "data", home / "conf"
    own = {
        "initial_token": f'"{_TOKENS[count][number - 1]}"',
        "seed_provider": (
            "[{class_name: org.apache.cassandra.locator.SimpleSeedProvider, "
            f'parameters: [{{seeds: "127.0.0.1:{storage_port}"}}]}}]'
        ),
        "listen_address": host,
        "rpc_address": host,
        "native_transport_port": port,
        "storage_port": storage_port,
        "data_file_directories": f"[{data / 'data'}]",
        **{f"{what}_directory": data / what for what in ("commitlog", "hints", "saved_caches")},
        "cdc_raw_directory": data / "cdc_raw",
        **_SYNC[count],
        **extra,
    }

    def prepare() -> None:
        conf.mkdir(parents=True, exist_ok=True)
        shutil.copy(fetch.FILES / "cassandra-logback.xml", conf / "logback.xml")
        (conf / "cassandra.yaml").write_text(_STORAGE + "".join(f"{key}: {value}\n" for key, value in own.items()))

    release = fetch.release()
    lib = fetch.jars(release)
    # No agent while the archive is made: the JVM refuses to write one then. It is used with the agent all the same.
    agent = [f"-javaagent:{lib / _AGENTS[release]}"] if jvm is None else list(jvm)

    def command() -> list[str]:
        quick = archives.options(release) if jvm is None else []
        java = ["java", f"-Xms{heap}", f"-Xmx{heap}", "-XX:MaxDirectMemorySize=256m", "-XX:+ExitOnOutOfMemoryError"]
        java += [
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            *quick,
            *agent,
            f"@{fetch.FILES / 'cassandra-jvm17.options'}",
        ]
        java += [f"-Dcassandra.config=file://{conf / 'cassandra.yaml'}"]
        java += [f"-Dlogback.configurationFile=file://{conf / 'logback.xml'}", f"-Dcassandra.storagedir={data}"]
        java += [f"-Dcassandra.logdir={home}", "-Dcassandra-foreground=yes", f"-Dcassandra.jmx.local.port={jmx_port}"]
        java += ["-Dcassandra.ring_delay_ms=1000", "-Dcassandra.skip_wait_for_gossip_to_settle=0"]
        java += ["-Dcassandra.superuser_setup_delay_ms=0", "-Dcassandra.available_processors=2"]
        java += ["-Dcassandra.consistent.rangemovement=false", "-cp", f"{lib}/*"]
        java += ["org.apache.cassandra.service.CassandraDaemon"]
        return java

    # A single answer before all know each other would let a test create a keyspace on half a ring.
    known = count if number > 1 else 1
    return Node(
        f"cassandra-{number}",
        command,
        home,
        prepare=prepare,
        ready=lambda: ports.listens(host, port) and peers(host, port, **client) >= known,
        patience=240,
    )
