"""A real ``chatcluster dev`` in a process of its own, and clients by hand.

``serve`` starts servers on free ports and ends them by pid. ``Wire`` is one raw socket: what a careful client
never sends can be sent with it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
UPGRADE = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
SEVERED = 1006
"""What ``close_code`` says of a connection that ended without a close frame (RFC 6455 section 7.1.5)."""


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, size: int | None = None) -> bytes:
    """A client's frame, its mask zero. ``size``: the one announced, if it is to be another."""
    size = len(payload) if size is None else size
    head = bytes([(0x80 if fin else 0) | reserved | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0xFE]) + size.to_bytes(2, "big")
    else:
        head += bytes([0xFF]) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


class Wire:
    """One client socket, by hand, without a thread. Everything waits at most ``patience`` seconds."""

    def __init__(self, port: int, *, patience: float = 10.0, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:  # before connecting: the window is agreed then
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(patience)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""
        self.heard = bytearray()
        """Everything that came, up to 1 MiB: what must never be in a reply is looked for here."""
        self.others: list[dict[str, Any]] = []
        """Frames that came while an answer was waited for: events, marks."""

    # -- HTTP ---------------------------------------------------------------------------------------

    def request(self, raw: bytes) -> tuple[int, dict[str, str]]:
        """Send a request head as it is; the answer's status and headers."""
        with suppress(ConnectionError):  # refused before its end
            self.socket.sendall(raw)
        while b"\r\n\r\n" not in self.rest:
            self._more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        return int(first.split(" ")[1]), {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }

    def upgrade(self, changes: Mapping[str, str | None] | None = None) -> tuple[int, dict[str, str]]:
        """The opening handshake; None in ``changes`` leaves a header out."""
        headers = {**UPGRADE, **(changes or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
        return self.request(f"GET /v1/connect HTTP/1.1\r\n{lines}\r\n".encode("iso-8859-1"))

    # -- frames --------------------------------------------------------------------------------------

    def put(self, opcode: int, payload: bytes = b"", **how: Any) -> None:
        self.socket.sendall(frame(opcode, payload, **how))

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server ended the connection")
        self.rest += data
        if len(self.heard) < 1 << 20:
            self.heard += data

    def _take(self, size: int) -> bytes:
        while len(self.rest) < size:
            self._more()
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def get(self) -> tuple[int, bytes]:
        """The next message: opcode and payload."""
        first, size = self._take(2)
        assert first & 0xF0 == 0x80, "whole messages without reserved bits"
        assert size < 128, "servers do not mask"
        if size == 126:
            size = int.from_bytes(self._take(2), "big")
        elif size == 127:
            size = int.from_bytes(self._take(8), "big")
        return first & 15, self._take(size)

    def close_code(self) -> int:
        """Reads up to the close frame. ``SEVERED``: there was none."""
        with suppress(ConnectionError):
            while True:
                opcode, payload = self.get()
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2], "big")
        return SEVERED

    # -- the protocol ----------------------------------------------------------------------------------

    def say(self, **message: Any) -> None:
        """One JSON message."""
        self.put(TEXT, json.dumps(message).encode())

    def next(self) -> dict[str, Any]:
        """The next JSON frame; pings are answered."""
        while True:
            opcode, payload = self.get()
            if opcode == PING:
                self.put(PONG, payload)
            elif opcode == CLOSE:
                raise ConnectionError(f"closed: {int.from_bytes(payload[:2], 'big')} {payload[2:]!r}")
            else:
                return json.loads(payload)

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first frame that is ``wanted``; what comes before it goes to ``others``."""
        while not wanted(message := self.next()):
            self.others.append(message)
        return message

    def ask(self, type_: str, **fields: Any) -> dict[str, Any]:
        """A request and its answer."""
        rid = secrets.token_hex(4)
        self.say(type=type_, rid=rid, **fields)
        return self.until(lambda message: message.get("rid") == rid)

    def pong(self) -> None:
        """A round trip: whatever was sent before is behind us."""
        self.say(type="ping")
        self.until(lambda message: message["type"] == "pong")

    def stop(self) -> None:
        """Drop the socket at once (RST: the port is free again)."""
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Server:
    """One ``chatcluster dev``. ``env``: settings, as ``{"GATEWAY__SWEEP": "0.1"}``."""

    def __init__(self, data: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.wires: list[Wire] = []
        self._written = data.with_name(data.name + ".output")
        self._output = self._written.open("ab")
        self.from_byte = self._output.tell()
        self.process = launch(data, *arguments, env=env, stdout=self._output)
        said = self._until_said()
        self.port = int(re.search(r"socket\s+ws://127\.0\.0\.1:(\d+)", said)[1])  # type: ignore[index]
        self.management = re.search(r"management\s+(http://\S+?)/?\n", said)[1]  # type: ignore[index]

    def _until_said(self) -> str:
        deadline = time.monotonic() + 20.0
        while "Ctrl-C" not in (said := self.output()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end()
                raise AssertionError(f"the server did not start: {said}")
            time.sleep(0.02)
        return said

    def output(self) -> str:
        """Everything that this process printed and logged."""
        return self._written.read_bytes()[self.from_byte :].decode()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def rss(self) -> int:
        """KiB in memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all series with these labels."""
        with urllib.request.urlopen(f"{self.management}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        total = 0.0
        for line in text.splitlines():
            match = re.fullmatch(r"(?:chatcluster_)?(\w+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name:
                has = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                if labels.items() <= has.items():
                    total += float(match[3])
        return total

    # -- clients -------------------------------------------------------------------------------------

    @property
    def key(self) -> bytes:
        """What development tokens are signed with."""
        return bytes.fromhex((self.data / "signing.key").read_text())

    def token(self, user: str, tenant: str = "default", **claims: Any) -> str:
        now = int(time.time())
        return jwt.encode({"sub": user, "tid": tenant, "iat": now, "exp": now + 3600, **claims}, self.key)

    def wire(self, **how: Any) -> Wire:
        """A socket without a handshake."""
        wire = Wire(self.port, **how)
        self.wires.append(wire)
        return wire

    def open(self, changes: Mapping[str, str | None] | None = None, **how: Any) -> Wire:
        """A connection without a hello."""
        wire = self.wire(**how)
        status, _ = wire.upgrade(changes)
        assert status == 101
        return wire

    def sign_in(self, user: str, tenant: str = "default", **hello: Any) -> Wire:
        """A session."""
        wire = self.open()
        welcome = wire.ask("hello", token=self.token(user, tenant), **hello)
        assert welcome["type"] == "welcome", welcome
        wire.others.append(welcome)
        return wire

    def hang_up(self) -> None:
        """Drop every client."""
        for wire in self.wires:
            wire.stop()
        self.wires.clear()

    # -- ends ----------------------------------------------------------------------------------------

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM: leave politely. The exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def end(self) -> None:
        """Whatever state it is in: gone, and nothing left open."""
        self.hang_up()
        if self.alive:
            self.kill()
        self._output.close()


def launch(
    data: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdout: Any = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """``python -m chatcluster dev`` on free ports (``arguments`` may say others), stderr with stdout."""
    settings = {f"CHATCLUSTER_{name}": value for name, value in (env or {}).items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHATCLUSTER_")}
    free = ["--no-demo", "--listen", "127.0.0.1:0", "--management", "127.0.0.1:0", "--data", str(data)]
    return subprocess.Popen(
        [sys.executable, "-m", "chatcluster", "dev", *free, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        env={**inherited, "PYTHONUNBUFFERED": "1", **settings},
    )


Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers: ``serve(*arguments, env=..., data=...)``; a new data folder unless one is given."""
    started: list[Server] = []

    def start(*arguments: str, env: Mapping[str, str] | None = None, data: Path | None = None) -> Server:
        # A test machine's disk may stand still for seconds; refusals for that have tests of their own (tests/flow).
        patient = {"ROUTER__STALLED": "20", **(env or {})}
        server = Server(data or tmp_path_factory.mktemp("server") / "data", *arguments, env=patient)
        started.append(server)
        return server

    try:
        yield start
    finally:
        for server in started:
            server.end()


@pytest.fixture
def refused_start(tmp_path: Path) -> Callable[..., str]:
    """Starts a server that must not start: exits by itself, with a failure and one line. Returns the line."""

    def refuse(*arguments: str, env: Mapping[str, str] | None = None, data: Path | None = None) -> str:
        process = launch(data or tmp_path / "data", *arguments, env=env)
        try:
            said, _ = process.communicate(timeout=20)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        text = said.decode().strip()
        assert process.returncode not in {0, None}, text
        assert "Traceback" not in text
        assert len(text.splitlines()) == 1, text
        return text

    return refuse
