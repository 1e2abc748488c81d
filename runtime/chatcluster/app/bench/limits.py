"""The physical limit beside which fan-out is quoted: one bare ``send`` per socket, in the same run.

A process on the subject's core accepts N connections; each byte on its standard input makes it send the same
frame to all of them, one system call each: no protocol, no loop, nothing to decide.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from chatcluster.app.bench.histogram import LatencyHistogram

_SENDER = """
import os, socket, sys
count, size = int(sys.argv[1]), int(sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
print(listener.getsockname()[1], flush=True)
peers = [listener.accept()[0] for _ in range(count)]
for peer in peers:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
frame = b"x" * size
sends = [peer.send for peer in peers]
print("ready", flush=True)
while os.read(0, 1):
    for send in sends:
        send(frame)
"""


def sync_times(folder: Path, seconds: float) -> LatencyHistogram:
    """What the disk takes to make 4 KiB durable, one after the other: no ack can be faster. Blocks for ``seconds``."""
    times = LatencyHistogram()
    file = folder / "sync-times"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            os.write(descriptor, b"x" * 4096)
            os.fdatasync(descriptor)
            times.record(int((time.perf_counter() - begin) * 1e6))
    finally:
        os.close(descriptor)
        file.unlink()
    return times


async def produce_times(servers: str, rate: float, seconds: float) -> LatencyHistogram:
    """Produce to report at ``rate`` records/s, nothing around it: acks=all, idempotent, on a topic made for it.

    No ack of the platform can be faster. The topic has the replication that ``messages`` has, and is removed.
    """
    return await asyncio.get_running_loop().run_in_executor(None, _produce_times, servers, rate, seconds)


def _produce_times(servers: str, rate: float, seconds: float) -> LatencyHistogram:
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

    admin = AdminClient({"bootstrap.servers": servers})
    brokers = len(admin.list_topics(timeout=10).brokers)
    topic = f"bench-{os.getpid()}-{time.monotonic_ns()}"
    replicas = min(3, brokers)
    config = {"min.insync.replicas": str(max(1, replicas - 1))}
    for future in admin.create_topics([NewTopic(topic, 4, replicas, config=config)]).values():
        future.result(10)
    times = LatencyHistogram()
    producer = Producer({"bootstrap.servers": servers, "acks": "all", "enable.idempotence": True, "linger.ms": 1})
    try:

        def report(at: float) -> Callable[[object, object], None]:
            return lambda _error, _message: times.record(int((time.perf_counter() - at) * 1e6))

        producer.produce(topic, b"warm")
        producer.flush(10)
        begin, sent, value = time.perf_counter(), 0, b"x" * 300
        while (now := time.perf_counter() - begin) < seconds:
            while sent < now * rate:
                producer.produce(topic, value, on_delivery=report(begin + sent / rate))
                sent += 1
            producer.poll(0.0005)
        producer.flush(30)
    finally:
        for future in admin.delete_topics([topic]).values():
            future.result(10)
    return times


class _Sink(asyncio.Protocol):
    def __init__(self, raw: RawSender) -> None:
        self._raw = raw

    def data_received(self, data: bytes) -> None:
        self._raw.arrived(len(data))


class RawSender:
    """A sending process and its ``sockets`` receivers in this one. Made by ``raw_sender``."""

    def __init__(self, process: asyncio.subprocess.Process, sockets: int, size: int) -> None:
        self._process = process
        self._sockets = sockets
        self._size = size
        self._left = 0
        self._done = asyncio.Event()

    def arrived(self, size: int) -> None:
        """Bytes came in."""
        self._left -= size
        if self._left <= 0:
            self._done.set()

    async def rate(self, seconds: float) -> float:
        """Frames delivered per second, each round after the one before has arrived everywhere."""
        assert self._process.stdin is not None
        rounds = 0
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            self._left = self._sockets * self._size
            self._done.clear()
            self._process.stdin.write(b"g")
            await self._done.wait()
            rounds += 1
        return rounds * self._sockets / (time.perf_counter() - begin)


@asynccontextmanager
async def raw_sender(sockets: int, size: int) -> AsyncIterator[RawSender]:
    """The limit for ``sockets`` receivers of frames of ``size`` bytes, for the time of the block."""
    core = min(os.sched_getaffinity(0) | {0})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SENDER, str(sockets), str(size)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    os.sched_setaffinity(process.pid, {core})
    assert process.stdout is not None
    loop = asyncio.get_running_loop()
    raw = RawSender(process, sockets, size)
    try:
        port = int(await process.stdout.readline())
        links = []
        for _ in range(sockets):
            transport, _protocol = await loop.create_connection(lambda: _Sink(raw), "127.0.0.1", port)
            links.append(transport)
        await process.stdout.readline()
        yield raw
        for link in links:
            link.abort()
    finally:
        process.kill()
        await process.wait()
