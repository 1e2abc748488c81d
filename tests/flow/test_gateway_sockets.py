"""A listening gateway and raw sockets: every row of the bad-input table that is about sockets, and time."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvloop

from chatcluster.core.codes import Close
from chatcluster.core.frames import BadFrame, ClientFrame, Pong, Reconnect, RenewToken, Send
from chatcluster.core.metrics import Counter, Metrics
from chatcluster.core.outbound import frame_bytes
from chatcluster.ports import Clock
from chatcluster.services.gateway.link import Handler, Link
from chatcluster.services.gateway.server import GatewayServer
from chatcluster.services.gateway.settings import GatewaySettings

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
PING_JSON = b'{"type":"ping"}'
UPGRADE = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


class WallClock:
    def now(self) -> int:
        return int(time.time() * 1000)

    def monotonic(self) -> float:
        return time.monotonic()


class Echo:
    """A session that answers pings, authenticates at once unless told not to, and remembers what happened."""

    def __init__(self, link: Link, bearer: str | None, home: Home) -> None:
        self.link = link
        self.bearer = bearer
        self.seen: list[ClientFrame] = []
        self.closed = 0
        self.home = home
        home.sessions.append(self)
        if home.authenticate:
            link.authenticated("default/ann", home.expires)

    def on_frame(self, frame: ClientFrame) -> None:
        self.seen.append(frame)
        if isinstance(frame, Send):
            raise RuntimeError(f"a secret: {frame.body}")
        if isinstance(frame, RenewToken):
            self.link.authenticated("default/ann", float(frame.token))
        elif not self.home.silent:
            self.link.send(Pong())

    def on_bad_frame(self, bad: BadFrame) -> None:
        self.link.send(bad.error)

    def on_closed(self) -> None:
        self.closed += 1

    def on_drain(self, after_ms: int, spread_ms: int, reason: str) -> None:
        self.link.send(Reconnect(after_ms, spread_ms, reason))


class Home:
    """A gateway under test."""

    def __init__(self, clock: Clock, settings: GatewaySettings, **changes: Any) -> None:
        self.authenticate = True
        self.silent = False
        self.expires: float | None = None
        self.sessions: list[Echo] = []
        self.metrics = Metrics()
        self.server = GatewayServer(
            accept=self.accept,
            clock=clock,
            metrics=self.metrics,
            settings=settings,
            **{"chance": lambda: 0.5, **changes},
        )

    def accept(self, link: Link, bearer: str | None) -> Handler:
        return Echo(link, bearer, self)

    def counted(self, name: str, **labels: str) -> float:
        return sum(
            metric.source.value
            for metric in self.metrics
            if metric.name == name and isinstance(metric.source, Counter) and labels.items() <= metric.labels.items()
        )


class Peer:
    """The other end, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def put(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        size = len(payload)
        head = bytes([(0x80 if fin else 0) | opcode])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 65536:
            head += bytes([0xFE]) + size.to_bytes(2, "big")
        else:
            head += bytes([0xFF]) + size.to_bytes(8, "big")
        self.writer.write(head + b"\0\0\0\0" + payload)

    async def get(self) -> tuple[int, bytes]:
        first, second = await self.reader.readexactly(2)
        assert first & 0x70 == 0
        assert second < 128, "servers do not mask"
        if second == 126:
            second = int.from_bytes(await self.reader.readexactly(2), "big")
        elif second == 127:
            second = int.from_bytes(await self.reader.readexactly(8), "big")
        return first & 15, await self.reader.readexactly(second)

    async def close_code(self) -> int:
        """Reads up to the close frame; then nothing but the end may come."""
        while True:
            opcode, payload = await self.get()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    async def ended(self) -> bool:
        with suppress(ConnectionError):
            return await self.reader.read(1) == b""
        return True

    async def ping(self) -> None:
        """A round trip through the session."""
        self.put(TEXT, PING_JSON)
        assert await self.get() == (TEXT, b'{"type":"pong"}')

    def leave(self) -> None:
        self.writer.transport.abort()


def head(line: str = "GET /v1/connect HTTP/1.1", **changes: str | None) -> bytes:
    fields: dict[str, str | None] = {**UPGRADE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return ("\r\n".join([line, *(f"{k}: {v}" for k, v in fields.items() if v is not None)]) + "\r\n\r\n").encode()


Start = Callable[..., Any]


class World:
    """Gateways and peers of one test, all gone at its end."""

    def __init__(self, clock: Clock, tasks: asyncio.TaskGroup) -> None:
        self.clock = clock
        self.tasks = tasks
        self.running: list[asyncio.Task[None]] = []
        self.peers: list[Peer] = []

    async def gateway(self, *, server: dict[str, Any] | None = None, **settings: Any) -> Home:
        home = Home(self.clock, GatewaySettings(**settings), **(server or {}))
        await home.server.listen(host="127.0.0.1", port=0)
        self.running.append(self.tasks.create_task(home.server.run()))
        return home

    async def raw(self, home: Home, data: bytes = b"") -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", home.server.port))
        self.peers.append(peer)
        peer.writer.write(data)
        return peer

    async def http(self, home: Home, data: bytes) -> tuple[int, dict[str, str], bytes]:
        peer = await self.raw(home, data)
        answer = await peer.reader.read()  # up to the end: the connection closes
        peer.leave()
        top, _, body = answer.partition(b"\r\n\r\n")
        first, *lines = top.decode().split("\r\n")
        return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body

    async def connect(self, home: Home, request: bytes | None = None) -> Peer:
        peer = await self.raw(home, request or head())
        answer = await peer.reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        return peer


@asynccontextmanager
async def world(clock: Clock) -> AsyncIterator[World]:
    async with asyncio.TaskGroup() as tasks:
        here = World(clock, tasks)
        try:
            yield here
        finally:
            for peer in here.peers:
                peer.leave()
            for task in here.running:
                task.cancel()
    await asyncio.sleep(0)


Story = Callable[[World], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def tell(request: pytest.FixtureRequest) -> Callable[[Story], None]:
    """Runs a story in real time on both loops: production is uvloop."""

    async def main(story: Story) -> None:
        async with asyncio.timeout(20), world(WallClock()) as here:
            await story(here)

    def run(story: Story) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as runner:
            runner.run(main(story))

    return run


@pytest.fixture
def timed(jump: Callable[..., None], loop_clock: Clock) -> Callable[[Story], None]:
    """Runs a story on jumping time."""

    async def main(story: Story) -> None:
        async with world(loop_clock) as here:
            await story(here)

    return lambda story: jump(main(story))


# -- handshake ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (head("POST /v1/connect HTTP/1.1"), 405),
        (head("POST /v1/connect HTTP/1.1", Content_Length="5") + b"hello", 405),
        (head("GET /v1/connect HTTP/1.0"), 505),
        (head("GET /" + "x" * 9000 + " HTTP/1.1"), 414),
        (head(X="x" * 9000), 431),
        (head(**{f"X{at}": "" for at in range(130)}), 431),
        (head(Sec_WebSocket_Key=None), 400),
        (head(Sec_WebSocket_Version="12"), 400),
        (head(Upgrade=None), 426),
        (head(Sec_WebSocket_Protocol="mqtt"), 400),
        (head("GET /elsewhere HTTP/1.1"), 404),
        (head("GET /v1/connect/ HTTP/1.1"), 404),
        (head(Origin="https://app.example.evil"), 403),
        (head(Origin="https://app.example:444"), 403),
        (head(Origin="http://app.example"), 403),
        (head(Origin="null"), 403),
        (head(Origin=""), 403),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_refused_handshakes(tell: Callable[[Story], None], request_bytes: bytes, expected: int) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(origins=frozenset({"https://app.example"}))
        status, headers, body = await here.http(home, request_bytes)
        assert status == expected
        assert headers["connection"] == "close"
        assert len(body) == int(headers["content-length"])
        assert b"evil" not in body
        assert b"Traceback" not in body
        assert not home.sessions
        await until(lambda: home.server.sockets.admission.sockets == 0)

    tell(story)


def test_origins_allowed(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(origins=frozenset({"https://app.example"}))
        await here.connect(home, head(Origin="https://app.example"))
        await here.connect(home)
        strict = await here.gateway(origins=frozenset({"https://app.example"}), allow_no_origin=False)
        assert (await here.http(strict, head()))[0] == 403
        await here.connect(strict, head(Origin="https://app.example"))

    tell(story)


def test_subprotocol_and_bearer(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        peer = await here.raw(
            home, head(Sec_WebSocket_Protocol="x, chatcluster.v1.msgpack", Authorization="Bearer token")
        )
        answer = await peer.reader.readuntil(b"\r\n\r\n")
        assert b"\r\nSec-WebSocket-Protocol: chatcluster.v1.msgpack\r\n" in answer
        peer.put(BINARY, b"\x81\xa4type\xa4ping")
        assert await peer.get() == (BINARY, b"\x81\xa4type\xa4pong")
        assert home.sessions[0].bearer == "token"

    tell(story)


def test_frames_sent_with_the_handshake_are_read(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        frame = bytes([0x81, 0x80 | len(PING_JSON), 0, 0, 0, 0]) + PING_JSON
        peer = await here.connect(home, head() + frame[:9])
        peer.writer.write(frame[9:])
        assert await peer.get() == (TEXT, b'{"type":"pong"}')

    tell(story)


def test_a_head_may_come_in_pieces(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        for cut in (1, 2, 3, 4):
            peer = await here.raw(home, head()[:-cut])
            await asyncio.sleep(0.02)
            peer.writer.write(head()[-cut:])
            assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            await peer.ping()

    tell(story)


def test_a_refusal_arrives_whole_however_much_was_sent_with_the_request(tell: Callable[[Story], None]) -> None:
    """Closed over unread bytes, the socket would be reset, and the answer lost on its way."""

    async def story(here: World) -> None:
        home = await here.gateway()
        for _ in range(5):
            status, _, _ = await here.http(home, head("POST /v1/connect HTTP/1.1") + b"x" * 4_000_000)
            assert status == 405

    tell(story)


def test_probes_and_pages(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        up = True
        home = await here.gateway(
            server={"pages": {"/": ("text/html", b"<p>", [("X-A", "b")])}, "ready": lambda: up}, max_sockets=0
        )
        assert (await here.http(home, head("GET /healthz HTTP/1.1")))[0] == 200
        assert (await here.http(home, head("GET /readyz HTTP/1.1")))[0] == 200
        up = False
        assert (await here.http(home, head("GET /readyz HTTP/1.1")))[0] == 503
        home = await here.gateway(server={"pages": {"/": ("text/html", b"<p>", [("X-A", "b")])}})
        status, headers, body = await here.http(home, head("GET /?q=1 HTTP/1.1"))
        assert (status, body, headers["content-type"], headers["x-a"]) == (200, b"<p>", "text/html", "b")
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-cache"
        status, _, body = await here.http(home, head("GET / HTTP/1.1", If_None_Match=headers["etag"]))
        assert (status, body) == (304, b"")

    tell(story)


# -- frames ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"\x82\xff" + (1 << 62).to_bytes(8, "big") + b"\0\0\0\0" + b"x" * 100_000, 1009),
        (b"\x81\xff" + (65537).to_bytes(8, "big") + b"\0\0\0\0" + b" " * 65537, 1009),
        (b"\x01\x80\0\0\0\0" + b"\x00\x81\0\0\0\0x" * 10_000, 1009),
        (b"\x81\x81\0\0\0\0\xff", 1007),
        (b"\x81\x01x", 1002),
        (b"\xc1\x81\0\0\0\0x", 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (b"\x80\x80\0\0\0\0", 1002),
        (b"\x82\x80\0\0\0\0", 1003),
        (b"\x88\x81\0\0\0\0\x03", 1002),
        (b"\x88\x82\0\0\0\0\x03\xee", 1002),
        (b"\x89\x80\0\0\0\0" * 200, 1008),
        (b"\x8a\x80\0\0\0\0" * 200, 1008),
        (b"\x88\x82\0\0\0\0\x03\xe8", 1000),
        (b"\x88\x82\0\0\0\0\x13\x88"[:6] + b"\x0f\xa0", 4000),
        (b"\x88\x80\0\0\0\0", 0),
    ],
)
def test_ends_of_connections(tell: Callable[[Story], None], stream: bytes, code: int) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        peer = await here.connect(home)
        peer.writer.write(stream)
        assert await peer.close_code() == code
        assert await peer.ended()
        peer.leave()
        await until(lambda: home.sessions[0].closed == 1)
        assert not home.server.sockets.connections
        assert home.server.sockets.admission.sockets == 0

    tell(story)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - it waits for what has no event
            await asyncio.sleep(0.01)


def test_control_frames_between_fragments(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        peer = await here.connect(home)
        peer.put(TEXT, PING_JSON[:5], fin=False)
        peer.put(PING, b"still there?")
        peer.put(CONTINUATION, b"", fin=False)
        assert await peer.get() == (PONG, b"still there?")
        peer.put(CONTINUATION, PING_JSON[5:])
        assert await peer.get() == (TEXT, b'{"type":"pong"}')

    tell(story)


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b'"x"',
        b'{"type":NaN}',
        b"[" * 10_000,
        b'{"type":"ping","x":' + b"9" * 50_000 + b"}",
        b'{"type":"\\ud800"}',
    ],
)
def test_what_is_no_frame_is_answered_and_the_connection_lives(tell: Callable[[Story], None], raw: bytes) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        peer = await here.connect(home)
        peer.put(TEXT, raw)
        opcode, payload = await peer.get()
        assert opcode == TEXT
        assert b'"type":"error"' in payload or payload == b'{"type":"pong"}'  # an unknown field may be anything
        await peer.ping()

    tell(story)


def test_a_fault_of_the_session_ends_it_alone_and_tells_nothing(
    tell: Callable[[Story], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        bystander = await here.connect(home)
        for _ in range(20):
            peer = await here.connect(home)
            peer.put(TEXT, b'{"type":"send","rid":"1","channel":"c","client_id":"1","body":"hunter2"}')
            opcode, payload = await peer.get()
            assert (opcode, payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
            assert b"hunter2" not in payload
        await bystander.ping()

    tell(story)
    assert "RuntimeError" in caplog.text
    assert "hunter2" not in caplog.text
    assert "Traceback" not in caplog.text
    assert len(caplog.records) <= 10  # a fault in every session is no flood


def test_half_closed_socket_ends(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        peer = await here.connect(home)
        peer.writer.write_eof()
        assert await peer.ended()
        await until(lambda: home.sessions[0].closed == 1)

    tell(story)


def test_own_close_waits_for_the_answer_then_ends(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        peer = await here.connect(home)
        session = home.sessions[0]
        session.link.send(Pong())
        session.link.close(Close.REPLACED, "another one came")
        session.link.close(Close.IDLE, "again")
        session.link.send(Pong())
        assert session.link.closed
        assert await peer.get() == (TEXT, b'{"type":"pong"}')
        assert await peer.get() == (CLOSE, (4409).to_bytes(2, "big") + b"another one came")
        peer.put(TEXT, PING_JSON)  # crossed our close: ignored
        peer.put(CLOSE, (4409).to_bytes(2, "big"))
        assert await peer.ended()
        await until(lambda: session.closed == 1)
        assert session.seen == []

    tell(story)


def test_writes_of_one_tick_are_one_write(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        peer = await here.connect(home)
        link = home.sessions[0].link
        wires = [frame_bytes(b"%d" % at, True) for at in range(50)]
        for wire in wires:
            link.write(wire)
        data = b"".join(wires)
        assert await peer.reader.readexactly(len(data)) == data
        link.write(b"")
        link.write(frame_bytes(b"x" * 3_000_000, True))  # more than the kernel takes at once
        assert (await peer.get())[1] == b"x" * 3_000_000

    tell(story)


def test_pause_holds_frames_and_resume_brings_them_in_order(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        peer = await here.connect(home)
        session = home.sessions[0]
        session.link.pause()
        for _ in range(5):
            peer.put(TEXT, PING_JSON)
        await asyncio.sleep(0.1)
        assert session.seen == []
        session.link.resume()
        for _ in range(5):
            assert await peer.get() == (TEXT, b'{"type":"pong"}')

    tell(story)


# -- slow readers and floods ------------------------------------------------------------------------------


def stalled_peer(here: World, home: Home) -> Awaitable[Peer]:
    async def connect() -> Peer:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", home.server.port))
        peer = Peer(*await asyncio.open_connection(sock=raw, limit=1024))
        here.peers.append(peer)
        peer.writer.write(head())
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        return peer

    return connect()


def test_slow_reader_is_cut_and_the_others_get_everything(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(max_buffer_bytes=100_000)
        slow = await stalled_peer(here, home)
        quick = [await here.connect(home) for _ in range(3)]
        wire = frame_bytes(b"x" * 10_000, True)
        for at in range(1000):
            for session in home.sessions:
                session.link.write(wire)
            for peer in quick:
                assert await peer.get() == (TEXT, b"x" * 10_000), at
        await until(lambda: home.sessions[0].closed == 1)
        assert [session.closed for session in home.sessions] == [1, 0, 0, 0]
        assert home.counted("gateway_closes_total", code="4410") == 1
        slow.leave()

    tell(story)


def test_stalled_reader_is_gone_in_the_stated_time(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(stall_timeout=7.0, max_buffer_bytes=50_000_000)
        peer = await stalled_peer(here, home)
        session = home.sessions[0]
        began = here.clock.monotonic()
        session.link.write(frame_bytes(b"x" * 20_000_000, True))
        while not session.closed:  # noqa: ASYNC110
            await asyncio.sleep(0.25)
        assert 7.0 <= here.clock.monotonic() - began <= 9.0
        assert home.counted("gateway_closes_total", code="4410") == 1
        # What the kernel held for it went as well, at once: the peer finds a reset and not the rest.
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionResetError):
            await peer.reader.read()

    timed(story)


def test_flood_is_read_slowly_and_loses_nothing(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(frames_per_second=10.0, frames_burst=20.0)
        peer = await here.connect(home)
        for _ in range(2):
            began = here.clock.monotonic()
            for _ in range(120):
                peer.put(TEXT, PING_JSON)
            for _ in range(120):
                assert await peer.get() == (TEXT, b'{"type":"pong"}')
            assert 9.5 <= here.clock.monotonic() - began <= 11.5
            await asyncio.sleep(20.0)  # nothing is saved up for longer than the burst
        assert home.counted("gateway_throttled_total") > 0

    timed(story)


def test_pings_are_not_saved_up(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(pings_per_second=1.0, pings_burst=5.0)
        peer = await here.connect(home)
        await asyncio.sleep(20.0)
        for _ in range(8):
            peer.put(PING)
        assert await peer.close_code() == 1008

    timed(story)


def test_a_close_for_what_breaks_the_protocol_arrives_whatever_came_behind_it(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        for _ in range(5):
            peer = await here.connect(home)
            peer.put(15)
            peer.writer.write(b"x" * 4_000_000)
            assert await peer.close_code() == 1002
            assert await peer.reader.read() == b""  # an end, not a reset, which may overtake the close

    tell(story)


def test_bombs_leave_memory_flat(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(20):
            peer = await here.connect(home)
            peer.writer.write(b"\x82\xff" + (1 << 62).to_bytes(8, "big") + b"\0\0\0\0")
            chunk = b"\0" * 1_000_000
            with suppress(ConnectionError):
                for _ in range(3):
                    peer.writer.write(chunk)
                    await peer.writer.drain()
            assert await peer.close_code() == 1009
            peer.leave()
        for _ in range(20):
            peer = await here.raw(home, b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 1_000_000)
            assert b" 431 " in await peer.reader.readline()
            peer.leave()
        # KiB: the peers' own buffers are in it too; what the gateway would hold if it kept them is 80 MB.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000

    tell(story)


# -- admission ---------------------------------------------------------------------------------------------


def test_preauth_sockets_are_capped(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(preauth_sockets=3, refused_sockets=2)
        home.authenticate = False
        for _ in range(3):
            await here.connect(home)
        status, headers, _ = await here.http(home, head())
        assert status == 503
        assert 2 <= int(headers["retry-after"]) <= 30
        waiting = [await here.raw(home) for _ in range(2)]
        await until(lambda: len(home.server.sockets.refused) == 2)
        assert await (await here.raw(home)).ended()  # even polite refusals are bounded
        for peer in waiting:
            peer.leave()
        home.sessions[0].link.authenticated("default/ann", None)
        await until(lambda: not home.server.sockets.refused)
        await here.connect(home)

    tell(story)


def test_preauth_sockets_are_capped_per_address(tell: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(server={"pages": {"/": ("text/html", b"<p>", [])}}, preauth_per_address=1)
        home.authenticate = False
        peer = await here.connect(home)
        for refused in (head(), head("GET / HTTP/1.1")):
            assert (await here.http(home, refused))[0] == 429
        peer.leave()
        await until(lambda: home.server.sockets.admission.preauth == 0)
        await here.connect(home)

    tell(story)


def test_handshakes_are_rate_limited(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(handshakes_per_second=2.0, handshake_burst=3.0)
        for _ in range(3):
            await here.connect(home)
        status, headers, _ = await here.http(home, head())
        assert status == 503
        assert "retry-after" in headers
        await asyncio.sleep(0.6)
        await here.connect(home)
        assert (await here.http(home, head()))[0] == 503
        assert home.counted("gateway_refused_total", reason="rate") == 2

    timed(story)


@pytest.mark.parametrize("sent", [b"", b"GET /v1/connect HTTP/1.1\r\nHost: x\r\n"])
def test_handshake_that_never_finishes(timed: Callable[[Story], None], sent: bytes) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(open_timeout=3.0)
        began = here.clock.monotonic()
        peer = await here.raw(home, sent)
        assert await peer.ended()
        assert 3.0 <= here.clock.monotonic() - began <= 4.5
        assert home.counted("gateway_open_timeouts_total") == 1
        assert home.server.sockets.admission.sockets == 0

    timed(story)


# -- deadlines -----------------------------------------------------------------------------------------------


def test_no_hello_in_time(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        home.authenticate = False
        peer = await here.connect(home)
        began = here.clock.monotonic()
        peer.put(TEXT, PING_JSON)
        assert await peer.close_code() == 4401
        assert 10.0 <= here.clock.monotonic() - began <= 11.0
        # The peer never answers our close: the socket goes anyway.
        assert await peer.ended()
        assert here.clock.monotonic() - began <= 17.0
        assert home.sessions[0].closed == 1

    timed(story)


def test_quiet_socket_is_pinged_and_lives_by_its_pong(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(heartbeat=25.0, pong_timeout=20.0)
        peer = await here.connect(home)
        for _ in range(10):
            began = here.clock.monotonic()
            assert await peer.get() == (PING, b"")
            assert 25.0 <= here.clock.monotonic() - began <= 26.5
            peer.put(PONG)
        began = here.clock.monotonic()
        assert await peer.get() == (PING, b"")
        assert await peer.close_code() == 1011
        assert 45.0 <= here.clock.monotonic() - began <= 47.0
        assert await peer.ended()

    timed(story)


def test_frames_that_drip_and_never_end_are_idle(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(idle_timeout=60.0)
        peer = await here.connect(home)
        peer.writer.write(b"\x81\xfe\xff\xff\0\0\0\0")
        began = here.clock.monotonic()

        async def drip() -> None:
            while True:
                await asyncio.sleep(1.0)
                peer.writer.write(b" ")

        dripping = here.tasks.create_task(drip())
        assert await peer.close_code() == 4408
        assert 60.0 <= here.clock.monotonic() - began <= 62.0
        dripping.cancel()

    timed(story)


def test_token_ends_the_connection_and_a_new_one_extends_it(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(heartbeat=1e6, idle_timeout=1e6)
        began = here.clock.monotonic()
        now = here.clock.now() / 1000.0
        home.expires = now + 30.0
        peer = await here.connect(home)
        await asyncio.sleep(20.0)
        peer.put(TEXT, b'{"type":"token","rid":"1","token":"%d"}' % int(now + 100.0))
        assert await peer.close_code() == 4413
        assert 99.0 <= here.clock.monotonic() - began <= 101.5

    timed(story)


def test_lifetime_ends_with_a_hint_first(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(lifetime=1000.0, heartbeat=1e6, idle_timeout=1e6, server={"chance": lambda: 0.0})
        peer = await here.connect(home)
        began = here.clock.monotonic()
        opcode, payload = await peer.get()
        assert (opcode, b'"type":"reconnect"' in payload) == (TEXT, True)
        assert 750.0 <= here.clock.monotonic() - began <= 751.5  # the jitter's lower end
        assert await peer.close_code() == 1012
        assert 760.0 <= here.clock.monotonic() - began <= 762.0

    timed(story)


def test_sleeping_process_closes_before_it_acts(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        peer = await here.connect(home)
        session = home.sessions[0]
        asleep = here.clock.monotonic

        def woken() -> float:
            return asleep() + 60.0

        home.server.sockets.monotonic = woken  # the process was stopped for a minute
        session.link.write(frame_bytes(b"stale", True))
        peer.put(TEXT, PING_JSON)
        opcode, payload = await peer.get()
        assert (opcode, payload[:2]) == (CLOSE, (1012).to_bytes(2, "big"))
        assert session.seen == []

    timed(story)


def test_sleeping_process_does_not_read_what_waited(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway()
        peer = await here.connect(home)
        asleep = here.clock.monotonic
        home.server.sockets.monotonic = lambda: asleep() + 60.0
        peer.put(TEXT, PING_JSON)
        assert await peer.close_code() == 1012
        assert home.sessions[0].seen == []
        assert home.counted("gateway_fenced_total") == 1

    timed(story)


def test_a_paused_client_is_not_called_silent_and_can_still_be_closed(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(heartbeat=5.0, pong_timeout=5.0, idle_timeout=10.0)
        peer = await here.connect(home)
        session = home.sessions[0]
        session.link.pause()
        await asyncio.sleep(60.0)
        assert not session.link.closed  # its pongs are in what we do not read
        began = here.clock.monotonic()
        session.link.close(Close.REPLACED, "bye")
        assert await peer.close_code() == 4409
        peer.put(CLOSE, (4409).to_bytes(2, "big"))
        assert await peer.ended()
        assert here.clock.monotonic() - began < 1.0  # our side read the answer, and did not wait for the deadline

    timed(story)


def test_a_slow_reader_that_moves_is_not_stalled(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(stall_timeout=5.0, heartbeat=1e6, idle_timeout=1e6, max_buffer_bytes=50_000_000)
        peer = await stalled_peer(here, home)
        session = home.sessions[0]
        session.link.write(frame_bytes(b"x" * 20_000_000, True))
        transport = peer.writer.transport
        raw = transport.get_extra_info("socket")
        for _ in range(20):
            session.link.write(
                frame_bytes(b"y" * 50_000, True)
            )  # more comes than it reads; only the bound may end that
            await asyncio.sleep(2.0)
            assert len(os.read(raw.fileno(), 30_000)) > 0
        assert not session.link.closed
        while not session.closed:  # noqa: ASYNC110
            await asyncio.sleep(0.25)
        assert home.counted("gateway_closes_total", code="4410") == 1

    timed(story)


def test_who_was_slow_once_and_read_it_all_is_not_stalled(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(stall_timeout=5.0, heartbeat=1e6, idle_timeout=1e6, max_buffer_bytes=50_000_000)
        peer = await here.connect(home)
        home.sessions[0].link.write(frame_bytes(b"x" * 20_000_000, True))
        assert len((await peer.get())[1]) == 20_000_000
        await asyncio.sleep(60.0)
        await peer.ping()

    timed(story)


@pytest.mark.parametrize("end", ["half-closes", "says close", "breaks the protocol"])
def test_who_ends_and_leaves_what_we_sent_unread_is_gone_in_time(timed: Callable[[Story], None], end: str) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(close_timeout=5.0, heartbeat=1e6, idle_timeout=1e6, max_buffer_bytes=50_000_000)
        peer = await stalled_peer(here, home)
        session = home.sessions[0]
        session.link.write(frame_bytes(b"x" * 20_000_000, True))
        if end == "half-closes":
            peer.writer.write_eof()
        else:
            peer.put(*((CLOSE, (1000).to_bytes(2, "big")) if end == "says close" else (15, b"")))
        began = here.clock.monotonic()
        while not session.closed and here.clock.monotonic() - began < 30.0:  # noqa: ASYNC110
            await asyncio.sleep(0.25)
        assert session.closed == 1
        assert here.clock.monotonic() - began <= 6.5
        assert home.server.sockets.admission.sockets == 0

    timed(story)


# -- drain ---------------------------------------------------------------------------------------------------


def test_drain_in_order_and_at_its_pace(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(drain_propagation=5.0, drain_notice=2.0, drain_rate=10.0, drain_deadline=50.0)
        peers = [await here.connect(home) for _ in range(30)]
        began = here.clock.monotonic()
        hints: list[float] = []
        closes: list[float] = []

        async def follow(peer: Peer) -> None:
            opcode, payload = await peer.get()
            assert (opcode, b'"reason":"drain"' in payload) == (TEXT, True)
            hints.append(here.clock.monotonic() - began)
            assert await peer.close_code() == 1012
            closes.append(here.clock.monotonic() - began)
            peer.put(CLOSE, (1012).to_bytes(2, "big"))
            assert await peer.ended()

        following = [here.tasks.create_task(follow(peer)) for peer in peers]
        draining = here.tasks.create_task(home.server.drain())
        await asyncio.sleep(1.0)
        assert (await here.http(home, head("GET /readyz HTTP/1.1")))[0] == 503
        assert (await here.http(home, head("GET /healthz HTTP/1.1")))[0] == 200
        assert (await here.http(home, head()))[0] == 503  # still listening, so the refusal is a polite one
        await asyncio.gather(*following)
        await draining
        assert all(5.0 <= at <= 5.5 for at in hints)
        assert min(closes) >= 7.0
        assert 2.5 <= max(closes) - min(closes) <= 3.5
        assert here.clock.monotonic() - began <= 12.0
        assert [session.closed for session in home.sessions] == [1] * 30
        with pytest.raises(ConnectionError):
            await here.raw(home)

    timed(story)


def test_drain_ends_in_time_whatever_peers_do(timed: Callable[[Story], None]) -> None:
    async def story(here: World) -> None:
        home = await here.gateway(drain_deadline=12.0, drain_rate=1.0)
        for _ in range(40):
            await here.connect(home)
        began = here.clock.monotonic()
        await home.server.drain()
        assert here.clock.monotonic() - began <= 12.1
        assert not home.server.sockets.connections
        assert [session.closed for session in home.sessions] == [1] * 40

    timed(story)
