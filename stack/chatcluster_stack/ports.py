"""Ports: checked before use, with the name of whoever holds them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Taken(Exception):
    """A port is in use; the text names the process where the kernel lets us see it."""


def is_free(port: int, addresses: Iterable[str] = ADDRESSES) -> bool:
    """Whether one may listen there on every address."""
    for address in addresses:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def listens(address: str, port: int) -> bool:
    """Whether somebody accepts connections there; cheap, so that it can be asked often before a driver is."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def check(ports: Iterable[int]) -> None:
    """Raises ``Taken`` for the first port in use."""
    for port in ports:
        if not is_free(port):
            raise Taken(f"port {port} is in use by {holder(port) or 'another process'}")


def block(offsets: Sequence[int], *, first: int = 12_100, last: int = 20_000, step: int = 100) -> int:
    """A base whose ports at these offsets are free; begins at a place that depends on the process.

    Below 22,768, so that a Redis node's second port (its own + 10,000) stays under the ephemeral ones.
    """
    bases = list(range(first, last, step))
    start = os.getpid() % len(bases)
    for base in bases[start:] + bases[:start]:
        if all(is_free(base + offset) for offset in offsets):
            return base
    raise Taken(f"no free block of ports between {first} and {last}")


def holder(port: int) -> str | None:
    """``name (pid N)`` of the process that listens on a port."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "0A":
            inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(handle) in inodes for handle in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # gone, or not ours to look at
            continue
    return None
