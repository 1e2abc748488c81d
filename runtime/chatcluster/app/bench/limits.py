"""The physical limit beside which fan-out is quoted: one bare ``send`` per socket, in the same run.

A process on the subject's core accepts N connections; each byte on its standard input makes it send the same
frame to all of them, one system call each: no protocol, no loop, nothing to decide.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time

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


class _Sink(asyncio.Protocol):
    def __init__(self, counted: asyncio.Event, wanted: list[int]) -> None:
        self._counted = counted
        self._wanted = wanted

    def data_received(self, data: bytes) -> None:
        self._wanted[0] -= len(data)
        if self._wanted[0] <= 0:
            self._counted.set()


async def raw_sends(sockets: int, size: int, seconds: float) -> float:
    """Frames of ``size`` bytes delivered per second, one at a time to ``sockets`` receivers in this process."""
    cores = sorted(os.sched_getaffinity(0) | {0})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SENDER, str(sockets), str(size)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    os.sched_setaffinity(process.pid, {cores[0]})
    assert process.stdin is not None
    assert process.stdout is not None
    loop = asyncio.get_running_loop()
    try:
        port = int(await process.stdout.readline())
        counted, wanted = asyncio.Event(), [0]
        links = []
        for _ in range(sockets):
            transport, _protocol = await loop.create_connection(lambda: _Sink(counted, wanted), "127.0.0.1", port)
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            links.append(transport)
        await process.stdout.readline()
        rounds = 0
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            wanted[0] = sockets * size
            counted.clear()
            process.stdin.write(b"g")
            await counted.wait()
            rounds += 1
        elapsed = time.perf_counter() - begin
        for link in links:
            link.close()
        return rounds * sockets / elapsed
    finally:
        process.kill()
        await process.wait()
