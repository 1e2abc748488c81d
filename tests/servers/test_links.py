"""The links on real sockets: routers killed, frozen and replaced under load, strangers, secrets, certificates."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import link_router
from chatcluster.app.clock import SystemClock
from chatcluster.backends.links.router import RouterLink
from chatcluster.backends.links.router_server import serve_router
from chatcluster.backends.links.settings import LinkServerSettings, LinkSettings
from chatcluster.backends.links.wire import (
    MAX_FRAME,
    Calls,
    Challenge,
    Hello,
    Welcome,
    decode_from_server,
    encode,
)
from chatcluster.core.frames import Answer, ErrorFrame, History, Send
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Caller, Misconfigured

PATIENCE = 30.0
TIMES = {"heartbeat": 0.3, "silence": 1.2, "resolve_interval": 0.5}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Routers:
    """Processes by name; each keeps its port and its file over restarts."""

    def __init__(self, folder: Path) -> None:
        self.ports = {name: free_port() for name in "ab"}
        self._files = {name: folder / name for name in "ab"}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = [sys.executable, link_router.__file__, str(self.ports[name]), name, str(self._files[name])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        self._processes[name] = process
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"ready\n"

    def signal(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)

    def wait(self, name: str) -> int:
        return self._processes[name].wait(PATIENCE)

    def taken(self) -> list[list[str]]:
        """[session, channel, rid] of every send, router by router."""
        files = (file for file in self._files.values() if file.exists())
        return [line.split() for file in files for line in file.read_text().splitlines()]

    def addresses(self) -> tuple[str, ...]:
        return tuple(f"127.0.0.1:{port}" for port in self.ports.values())

    def end(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def routers(tmp_path: Path) -> Iterator[Routers]:
    running = Routers(tmp_path)
    yield running
    running.end()


@dataclass
class People:
    """Who sends over a link, and what became of it."""

    link: RouterLink
    answers: dict[str, list[Answer]] = field(default_factory=dict)

    def ask(self, *, read: bool = False) -> None:
        number = len(self.answers)
        rid, session, channel = str(number), f"s{number % 50}", f"c{number % 37}"
        request = History(rid, channel) if read else Send(rid, channel, "k" + rid, "hello")
        self.answers[rid] = []
        self.link.submit(Caller("t", "u" + session, session), request, self.answers[rid].append)

    def codes(self) -> Counter[str]:
        assert all(len(answers) <= 1 for answers in self.answers.values())
        answered = [answers[0] for answers in self.answers.values() if answers]
        return Counter(one.code if isinstance(one, ErrorFrame) else type(one).__name__ for one in answered)

    async def all(self) -> None:
        await until(lambda: all(self.answers.values()))


@asynccontextmanager
async def linked(addresses: tuple[str, ...], **settings: Any) -> AsyncIterator[RouterLink]:
    chosen = LinkSettings(addresses=addresses, **{**TIMES, **settings})
    async with RouterLink.open(chosen, name="g", clock=SystemClock(), metrics=Metrics()) as link:
        yield link


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 -- what is waited for has no event
            await asyncio.sleep(0.02)


@pytest.mark.slow
def test_a_router_is_killed_under_load_and_every_request_is_answered_once(routers: Routers) -> None:
    async def main() -> None:
        for name in "ab":
            routers.start(name)
        async with linked(routers.addresses()) as link:
            await until(lambda: len(link.peers) == 2)
            people = People(link)
            for turn in range(1000):
                for number in range(100):
                    people.ask(read=number % 10 == 0)
                if turn == 400:
                    routers.signal("a", signal.SIGKILL)
                if turn == 700:
                    routers.wait("a")
                    routers.start("a")
                await asyncio.sleep(0.001)
                await until(lambda: link._open < 20_000)
            await people.all()
            codes = people.codes()
            assert sum(codes.values()) == 100_000
            assert codes["Ack"] + codes["unknown_outcome"] == 90_000
            assert codes["Reply"] + codes["unavailable"] == 10_000
            assert codes["unavailable"] == 0, "reads are asked again of the other router"
            taken = Counter(rid for _, _, rid in routers.taken())
            assert max(taken.values()) == 1, "a send was doubled"
            acked = {rid for rid, (answer,) in people.answers.items() if type(answer).__name__ == "Ack"}
            assert acked <= taken.keys(), "a send was acked and never taken"

    uvloop.run(main())


@pytest.mark.slow
def test_routers_are_replaced_one_by_one_and_nobody_is_refused(routers: Routers) -> None:
    async def main() -> None:
        for name in "ab":
            routers.start(name)
        async with linked(routers.addresses()) as link:
            await until(lambda: len(link.peers) == 2)
            people = People(link)
            replaced = asyncio.create_task(asyncio.to_thread(replace))
            while not replaced.done() or len(people.answers) < 2_000:
                for _ in range(10):
                    people.ask()
                await asyncio.sleep(0.005)
                if replaced.done():
                    replaced.result()
            await people.all()
            assert people.codes() == {"Ack": len(people.answers)}
            assert len(routers.taken()) == len(people.answers)

    def replace() -> None:
        for name in "ab":
            routers.signal(name, signal.SIGTERM)
            assert routers.wait(name) == 0
            routers.start(name)
            # The other is replaced when gateways have had the time to find this one (a pod's readiness).
            time.sleep(3.0)

    uvloop.run(main())


def test_a_frozen_router_is_left_and_comes_back(routers: Routers) -> None:
    async def main() -> None:
        for name in "ab":
            routers.start(name)
        async with linked(routers.addresses()) as link:
            await until(lambda: len(link.peers) == 2)
            routers.signal("a", signal.SIGSTOP)
            people = People(link)
            for _ in range(500):
                people.ask()
                people.ask(read=True)
            await people.all()
            codes = people.codes()
            assert codes["Reply"] == 500
            assert codes["Ack"] > 0
            assert codes["unknown_outcome"] > 0
            assert codes["Ack"] + codes["unknown_outcome"] == 500
            assert set(link.peers) == {"b"}
            routers.signal("a", signal.SIGCONT)
            await until(lambda: len(link.peers) == 2)
            taken = Counter(rid for _, _, rid in routers.taken())
            assert max(taken.values()) == 1

    uvloop.run(main())


# -- strangers ---------------------------------------------------------------------------------------------


class Serving:
    """A router's end in this process."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        self.metrics = Metrics()
        chosen = LinkServerSettings(listen="127.0.0.1:0", **{"heartbeat": 0.3, "silence": 1.2, **settings})
        self._opened = serve_router(
            link_router.Noting(str(tmp_path / "taken")),
            link_router.Places(),
            chosen,
            name="a",
            metrics=self.metrics,
            clock=SystemClock(),
        )

    async def __aenter__(self) -> str:
        link = await self._opened.__aenter__()
        return f"127.0.0.1:{link.port}"

    async def __aexit__(self, *error: Any) -> None:
        await self._opened.__aexit__(*error)


async def read_frame(reader: asyncio.StreamReader) -> Any:
    size = int.from_bytes(await reader.readexactly(4), "big")
    return decode_from_server(await reader.readexactly(size))


async def shaken(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stranger who knows the protocol; the server asks for no secret."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert isinstance(await read_frame(reader), Challenge)
    writer.write(encode(Hello(1, "router", "stranger", b"n" * 16, b"")))
    assert isinstance(await read_frame(reader), Welcome)
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> None:
    """The other end has closed; pings before it do not count."""
    async with asyncio.timeout(PATIENCE):
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass


CALLER = Caller("t", "u", "s")
BEFORE = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a large frame": (9_000).to_bytes(4, "big") + b"x" * 100,
    "an endless frame": b"\xff\xff\xff\xff",
    "calls before the handshake": encode(Calls([(1, CALLER, History("r", "c"))])),
    "another service": encode(Hello(1, "presence", "g", b"n" * 16, b"")),
    "noise": b"\0\0\0\4\xc1\xc1\xc1\xc1",
}
AFTER = {
    "an endless frame": (MAX_FRAME + 1).to_bytes(4, "big"),
    "noise": b"\0\0\0\4\xc1\xc1\xc1\xc1",
    "a second hello": encode(Hello(1, "router", "g", b"n" * 16, b"")),
    "no calls": b"\0\0\0\7" + b"\x92\xa5calls"[:7],
    "depth": (100_000).to_bytes(4, "big") + b"\x91" * 100_000,
}


@pytest.mark.parametrize("what", BEFORE)
def test_a_stranger_is_cut_before_the_handshake(what: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with Serving(tmp_path) as address:
            host, port = address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(BEFORE[what])
            await ended(reader)
            writer.close()
            async with linked((address,)) as link:  # the server lives
                await link.facts()

    uvloop.run(main())


@pytest.mark.parametrize("what", AFTER)
def test_a_gateway_that_speaks_nonsense_is_cut(what: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with Serving(tmp_path) as address:
            reader, writer = await shaken(address)
            writer.write(AFTER[what])
            await ended(reader)
            writer.close()
            async with linked((address,)) as link:
                await link.facts()

    uvloop.run(main())


def test_who_says_nothing_is_cut(tmp_path: Path) -> None:
    async def main() -> None:
        async with Serving(tmp_path, handshake=0.2) as address:
            host, port = address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            await ended(reader)
            writer.close()
        async with Serving(tmp_path) as address:
            reader, writer = await shaken(address)  # and then no sign of life
            await ended(reader)
            writer.close()

    uvloop.run(main())


def test_connections_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with Serving(tmp_path, max_connections=1) as address:
            reader, writer = await shaken(address)
            host, port = address.split(":")
            second, other = await asyncio.open_connection(host, int(port))
            await ended(second)
            other.close()
            writer.close()
            await ended(reader)

    uvloop.run(main())


def test_a_gateway_that_takes_no_answers_is_not_read_any_more_and_cut(tmp_path: Path) -> None:
    async def main() -> None:
        async with Serving(tmp_path, max_buffer=100_000) as address:
            _reader, writer = await shaken(address)
            writer.transport.pause_reading()
            calls = encode(Calls([(number, CALLER, History("r" * 60, "c")) for number in range(500)]))

            async def flood() -> None:
                while True:
                    writer.write(calls)
                    await writer.drain()

            with pytest.raises((ConnectionError, TimeoutError)):
                async with asyncio.timeout(PATIENCE):
                    await flood()
            writer.close()
            async with linked((address,)) as link:
                await link.facts()

    uvloop.run(main())


# -- secrets and certificates --------------------------------------------------------------------------------


async def told(link: RouterLink, what: str) -> None:
    await until(lambda: what in (link.problems() or ""))


def test_only_who_knows_the_secret_is_served_and_a_changed_one_counts_for_new_connections(tmp_path: Path) -> None:
    async def main() -> None:
        files = {name: tmp_path / name for name in ("server", "right", "wrong")}
        for name, file in files.items():
            file.write_text(("wrong" if name == "wrong" else "right") * 5 + "\n")
        secret = {name: str(file) for name, file in files.items()}
        async with Serving(tmp_path, secret_file=secret["server"]) as address:
            async with linked((address,), secret_file=secret["right"]) as link:
                await link.facts()
                async with linked((address,), secret_file=secret["wrong"]) as wrong:
                    await told(wrong, "is the secret the same")
                    files["server"].write_text("wrong" * 5)
                    await wrong.facts()
                assert link.problems() is None
            async with linked((address,)) as without:
                await told(without, "it asks for a secret")
        async with Serving(tmp_path) as address, linked((address,), secret_file=secret["right"]) as link:
            await told(link, "it does not know the secret")

    uvloop.run(main())


@pytest.mark.parametrize("text", [None, "short"])
def test_a_secret_that_is_none_is_named_and_never_quoted(text: str | None, tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "secret"
        if text is not None:
            file.write_text(text)
        for opened in (linked(("127.0.0.1:1",), secret_file=str(file)), Serving(tmp_path, secret_file=str(file))):
            with pytest.raises(Misconfigured, match="secret_file = ") as caught:
                async with opened:  # type: ignore[attr-defined]
                    pass
            assert "short" not in str(caught.value)

    uvloop.run(main())


class Authority:
    """Makes certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(self._subject, self._key, authority=True)
        self.file = str(folder / f"{name}.pem")
        Path(self.file).write_bytes(certificate)

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> bytes:
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str) -> dict[str, str]:
        """Settings with a certificate of this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        files = {what: str(self._folder / f"{self._name}-{name}.{what}") for what in ("cert_file", "key_file")}
        Path(files["cert_file"]).write_bytes(self._signed(subject, key, authority=False))
        Path(files["key_file"]).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


def test_mutual_tls(tmp_path: Path) -> None:
    async def main() -> None:
        ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
        server = {"ca_file": ours.file, **ours.issue("router")}
        async with Serving(tmp_path, **server) as address:
            async with linked((address,), ca_file=ours.file, **ours.issue("gateway")) as link:
                assert (await link.facts()).epoch == "e"
                people = People(link)
                for _ in range(2_000):
                    people.ask()
                await people.all()
                assert people.codes() == {"Ack": 2_000}
            for wrong in (
                {},  # plain TCP
                {"ca_file": ours.file},  # no certificate
                {"ca_file": ours.file, **others.issue("gateway")},  # another authority's
                {"ca_file": others.file, **ours.issue("gateway")},  # does not believe the server
            ):
                async with linked((address,), **wrong) as link:
                    await until(lambda link=link: "(" in (link.problems() or ""))  # type: ignore[misc]
                    assert not link.peers

    uvloop.run(main())


def test_a_changed_certificate_counts_for_new_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatcluster.backends.links.serving._RENEW", 0.1)

    async def main() -> None:
        old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
        server = old.issue("router")
        async with Serving(tmp_path, **server) as address, linked((address,), ca_file=old.file) as link:
            await link.facts()
            async with linked((address,), ca_file=new.file) as early:
                await until(lambda: "(" in (early.problems() or ""))
                fresh = new.issue("router")
                for what, file in server.items():
                    shutil.copyfile(fresh[what], file)
                await early.facts()
            assert link.problems() is None

    uvloop.run(main())


def test_certificates_that_are_none_are_named(tmp_path: Path) -> None:
    async def main() -> None:
        files = Authority(tmp_path, "ours").issue("router")
        with pytest.raises(Misconfigured, match=r"routers\.ca_file is missing"):
            async with linked(("127.0.0.1:1",), **files):
                pass
        with pytest.raises(Misconfigured, match=r"link\.cert_file is missing"):
            async with Serving(tmp_path, ca_file=files["cert_file"]):
                pass
        shutil.copyfile(files["key_file"], files["cert_file"])
        with pytest.raises(Misconfigured, match=r"link\.cert_file = "):
            async with Serving(tmp_path, **files):
                pass

    uvloop.run(main())
