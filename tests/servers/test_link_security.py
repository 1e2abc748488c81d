"""Who may use the internal links: secrets, certificates, strangers."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chatcluster.backends.links import serving
from chatcluster.backends.links.router import RouterLink
from chatcluster.backends.links.settings import LinkSettings
from chatcluster.backends.links.wire import Beats, Calls, Hello, encode
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Misconfigured
from linked import PATIENCE, QUICK, JumpyClock, World, until, value

SECRET = "a secret of enough characters"
OTHER = "another secret of as many characters"


def write(path: Path, text: str | bytes) -> str:
    """A file that appears at once, as a mounted secret does."""
    new = path.with_suffix(path.suffix + ".new")
    new.write_bytes(text.encode() if isinstance(text, str) else text)
    os.replace(new, path)
    return str(path)


# -- secrets ----------------------------------------------------------------------------------------------


async def test_both_know_the_secret(tmp_path: Path) -> None:
    file = write(tmp_path / "s", SECRET)
    async with World("a", server={"secret_file": file}, secret_file=file).open("a") as world:
        world.send()
        await world.answered()
        assert world.code("0") == "Ack"


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        (OTHER, SECRET, "is the secret the same"),
        (None, SECRET, "asks for a secret"),
        (SECRET, None, "does not know the secret"),
    ],
)
async def test_a_secret_that_is_wrong_or_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ours: str | None, theirs: str | None, why: str
) -> None:
    our_file = None if ours is None else write(tmp_path / "ours", ours)
    their_file = None if theirs is None else write(tmp_path / "theirs", theirs)
    with caplog.at_level(logging.INFO, logger="chatcluster.links"):
        world = World("a", grace=0.1, secret_file=our_file, server={"secret_file": their_file})
        async with world.open():
            await world.start("a")
            await until(lambda: why in (world.link.problems() or ""))
            world.send()
            await world.answered()
            assert world.code("0") == "unavailable"
            assert not world.seen
    assert not any(secret in caplog.text for secret in (SECRET, OTHER))


async def test_a_changed_secret_is_asked_of_new_connections(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    world = World("a", secret_file=write(ours, SECRET), server={"secret_file": write(theirs, SECRET)})
    async with world.open("a"):
        write(theirs, OTHER)
        await world.answered(world.send())  # an old connection stays
        world.cut("a")
        await until(lambda: "is the secret the same" in (world.link.problems() or ""))
        write(ours, OTHER)
        await world.connected("a")
        await world.answered(world.send())
        assert world.codes() == {"Ack": 2}


@pytest.mark.parametrize("text", [None, "short"])
async def test_a_secret_that_is_none_refuses_the_start(tmp_path: Path, text: str | None) -> None:
    file = str(tmp_path / "s") if text is None else write(tmp_path / "s", text)
    with pytest.raises(Misconfigured, match=r"link\.secret_file"):
        await World("a", server={"secret_file": file}).start("a")
    settings = LinkSettings(addresses=("127.0.0.1:1",), secret_file=file)
    with pytest.raises(Misconfigured, match=r"routers\.secret_file") as refused:
        async with RouterLink.open(settings, name="g", clock=JumpyClock(), metrics=Metrics()):
            pass
    assert "short" not in str(refused.value)


# -- TLS ----------------------------------------------------------------------------------------------------


class Authority:
    """A CA, and the certificates that it signs."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, 0), critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = made.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.file = write(folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
        )

    def issue(self, name: str) -> dict[str, str]:
        """A key and a certificate, in files (over those that are there)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._builder(subject, key).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "cert_file": write(self.folder / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM)),
            "key_file": write(self.folder / f"{name}.key", private),
        }


def serial_at(port: int, ca: str, own: dict[str, str]) -> Callable[[], int]:
    def look() -> int:
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(own["cert_file"], own["key_file"])
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname="127.0.0.1") as tls:
            shown = tls.getpeercert(binary_form=True)
            assert shown is not None
            return x509.load_der_x509_certificate(shown).serial_number

    return look


async def test_mutual_tls(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    world = World(
        "a", ca_file=ca.file, **ca.issue("gateway"), server={"ca_file": ca.file, **ca.issue("router"), "silence": 5.0}
    )
    async with world.open("a"):
        for number in range(200):
            world.send("s", f"x{number}", "x" * 5_000)
        await world.answered()
        assert world.codes() == {"Ack": 200}


@pytest.mark.parametrize("case", ["plain", "no certificate", "another authority's", "a server of another authority"])
async def test_who_has_no_certificate_of_the_authority_is_refused(tmp_path: Path, case: str) -> None:
    ca, other = Authority(tmp_path), Authority(tmp_path, "other")
    server = {"ca_file": ca.file, **ca.issue("router"), "handshake": 0.5}
    ours: dict[str, Any] = {
        "plain": {},
        "no certificate": {"ca_file": ca.file},
        "another authority's": {"ca_file": ca.file, **other.issue("stranger")},
        "a server of another authority": {"ca_file": other.file, **ca.issue("gateway")},
    }[case]
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # asyncio tells of failed handshakes
    world = World("a", grace=0.1, server=server, **{**ours, "connect_timeout": 1.0})
    async with world.open():
        await world.start("a")
        await until(lambda: (told := world.link.problems() or "").count("127.0.0.1") and "Connect call" not in told)
        world.send()
        await world.answered()
        assert world.code("0") == "unavailable"
        assert not world.seen


async def test_a_certificate_is_replaced_while_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_RENEW", 0.05)
    ca = Authority(tmp_path)
    own, theirs = ca.issue("gateway"), ca.issue("router")
    world = World("a", ca_file=ca.file, **own, server={"ca_file": ca.file, **theirs, "silence": 5.0})
    async with world.open("a"):
        look = serial_at(world.ports["a"], ca.file, own)
        before = await asyncio.to_thread(look)
        ca.issue("router")
        async with asyncio.timeout(PATIENCE):
            while await asyncio.to_thread(look) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await world.answered(world.send())  # the old connection stays
        assert value(world.metrics, "link_broken_total") == 0
        world.cut("a")
        await until(lambda: value(world.metrics, "link_broken_total") == 1)
        await world.connected("a")
        await world.answered(world.send())
        assert world.codes() == {"Ack": 2}


async def test_half_a_pair_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_RENEW", 0.02)
    ca = Authority(tmp_path)
    own, theirs = ca.issue("gateway"), ca.issue("router")
    world = World("a", ca_file=ca.file, **own, server={"ca_file": ca.file, **theirs, "silence": 5.0})
    async with world.open("a"):
        look = serial_at(world.ports["a"], ca.file, own)
        before = await asyncio.to_thread(look)
        os.replace(ca.issue("somebody")["cert_file"], theirs["cert_file"])  # its key is missing
        await asyncio.sleep(0.3)
        assert await asyncio.to_thread(look) == before
        os.remove(theirs["key_file"])
        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(look) == before


def test_settings_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(Misconfigured, match="cert_file is missing"):
            await World("a", server={"ca_file": "ca.pem"}).start("a")
        with pytest.raises(Misconfigured, match=r"link\.cert_file"):
            await World("a", server={"cert_file": str(tmp_path / "none")}).start("a")

    asyncio.run(main())


# -- strangers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"\x00\x00\x00\x03abc",
        b"\x00\x00\x00\x00",
        b"\x00\xff\xff\xff" + b"x" * 100,
        encode(Calls([])),
        encode(Beats("g", [])),
        encode(Hello(1, "presence", "g", b"n" * 16, b"")),
        encode(Hello(1, "router", "g", b"short", b"")),
        b"",
        b"\x00\x00",
    ],
)
async def test_a_stranger_is_cut_and_harms_nobody(said: bytes) -> None:
    async with World("a", silence=60.0, server={"handshake": 0.3, "silence": 60.0}).open("a") as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.ports["a"])
        writer.write(said)
        async with asyncio.timeout(PATIENCE):
            with suppress(OSError):
                while await reader.read(4096):
                    pass
        writer.transport.abort()
        await world.answered(world.send())
        assert world.code("0") == "Ack"
        assert [guest.ready for guest in world.servers["a"]._guests] == [True]


async def test_too_many_connections_are_cut() -> None:
    async with World("a", server={"max_connections": 3, "handshake": 10.0}).open("a") as world:
        writers = []
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", world.ports["a"])
            writers.append(writer)
        await until(lambda: value(world.server_metrics, "link_refused_total") >= 3)
        assert len(world.servers["a"]._guests) == 3
        await world.answered(world.send())
        for writer in writers:
            writer.transport.abort()
        await until(lambda: len(world.servers["a"]._guests) == 1)


async def test_one_who_asks_a_router_for_presence_is_cut() -> None:
    settings = {**QUICK}
    async with World("a", **settings).open("a") as world:
        world.link.peers["a"].say(encode(Beats("g", [])))
        await until(lambda: value(world.metrics, "link_broken_total") == 1)
        await world.connected("a")
