"""Real servers into a cache folder: Redis from Debian, Kafka and Cassandra as jars by Maven, with checksums.

Nothing is written into the checkout. Two callers at once are fine: the second waits for the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILES = Path(__file__).parent / "files"
_RELEASES = {"5.0": "cassandra", "4.1": "cassandra-4.1"}
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class Missing(Exception):
    """Something is not installed and cannot be installed from here; the text says what to do."""


def cache() -> Path:
    """``CHATCLUSTER_CACHE``, or ``~/.cache/chatcluster``."""
    given = os.environ.get("CHATCLUSTER_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "chatcluster"


def jars(server: str) -> Path:
    """Folder of the jars of ``kafka`` or of a ``release()``."""
    return cache() / server / "lib"


def redis() -> None:
    """``redis-server`` and ``redis-cli`` are there, or installed, without Debian starting one of its own."""
    _programs({"redis-server": "redis-server", "redis-cli": "redis-tools"}, "redis-server redis-sentinel redis-tools")


def kafka() -> None:
    """Kafka's jars are in the cache and are the pinned ones."""
    _by_maven("kafka")


def cassandra() -> None:
    """Cassandra's jars are in the cache and are the pinned ones."""
    _by_maven(release())


def release() -> str:
    """Name of the Cassandra in use: 5.0, or by ``CHATCLUSTER_TEST_CASSANDRA_VERSION`` another. Raises ``Missing``."""
    given = os.environ.get("CHATCLUSTER_TEST_CASSANDRA_VERSION", "5.0")
    if given not in _RELEASES:
        raise Missing(f"CHATCLUSTER_TEST_CASSANDRA_VERSION={given}: allowed: {', '.join(_RELEASES)}")
    return _RELEASES[given]


def _by_maven(server: str) -> None:
    _programs({"java": "", "mvn": ""}, "maven openjdk-17-jre-headless")
    pom = FILES / f"{server}-pom.xml"
    done = cache() / server / "done"
    if _same(done, pom):
        return
    with locked(server):
        if _same(done, pom):
            return
        shutil.rmtree(jars(server), ignore_errors=True)
        for archive in (cache() / server).glob(f"{server}.*"):  # of other jars
            archive.unlink()
        command = ["mvn", "-q", "-B", "-f", str(pom), _COPY, f"-DoutputDirectory={jars(server)}"]
        with told(f"{server} by Maven"):
            _run([*command, "-DincludeScope=runtime"], f"{server} cannot be fetched by Maven")
        _verify(server)
        done.write_bytes(pom.read_bytes())


def _verify(server: str) -> None:
    for line in (FILES / f"{server}.sha256").read_text().splitlines():
        expected, name = line.split()
        path = jars(server) / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise Missing(f"{path} is not the pinned file (sha256 {expected})")


def _same(done: Path, pom: Path) -> bool:
    return done.is_file() and done.read_bytes() == pom.read_bytes()


def faketime() -> Path:
    """The library that makes clocks wrong, installed when root. Raises ``Missing``."""
    _programs({"faketime": ""}, "faketime")
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise Missing("libfaketime not found: apt-get install faketime")
    return found[0]


def _programs(wanted: dict[str, str], packages: str) -> None:
    missing = [program for program in wanted if shutil.which(program) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"{', '.join(missing)} not found: install {packages} (apt-get install {packages})")
    with locked("apt"), told(f"apt-get install {packages}"), _no_services():
        _run(["apt-get", "update", "-qq"], "apt-get update failed")
        _run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages.split()], "apt-get install failed"
        )


@contextmanager
def _no_services() -> Iterator[None]:
    """Debian starts a service as it installs one, unless this says no."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():  # someone has decided already
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


def _run(command: list[str], failure: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        raise Missing(f"{failure}: {(ended.stdout + ended.stderr).strip()[-600:]}")


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One at a time among all processes of this cache."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def told(what: str) -> Iterator[None]:
    """Says what is done and how long it took."""
    begun = time.monotonic()
    print(f"{what} ...", flush=True)
    yield
    print(f"{what}: {time.monotonic() - begun:.1f} s", flush=True)
