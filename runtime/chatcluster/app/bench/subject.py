"""The platform under test: one of our own on its own core, or a running one by its address."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from chatcluster.app.tokens import API_KEY, SIGNING_KEY, mint, read_key

_TICK = os.sysconf("SC_CLK_TCK")
UNLIMITED: Mapping[str, str] = {
    "CHATCLUSTER_ROUTER__SENDS_PER_SECOND": "1000000",
    "CHATCLUSTER_ROUTER__SEND_BURST": "1000000",
    "CHATCLUSTER_GATEWAY__FRAMES_PER_SECOND": "1000000",
    "CHATCLUSTER_GATEWAY__FRAMES_BURST": "1000000",
    "CHATCLUSTER_GATEWAY__HANDSHAKES_PER_SECOND": "1000000",
    "CHATCLUSTER_GATEWAY__HANDSHAKE_BURST": "1000000",
    "CHATCLUSTER_GATEWAY__PREAUTH_SOCKETS": "50000",
    "CHATCLUSTER_GATEWAY__PREAUTH_PER_ADDRESS": "50000",
}
"""Settings of our own subject: the load comes from one address and few users, as no attack does."""


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A running platform as ``--platform FILE`` tells it, in JSON.

    ``urls``: its gateways. ``management``: addresses whose metrics are summed. ``api``: the server API's.
    ``stages``: name to the pids whose CPU is counted as that stage; ``messaging``: those that make up "CPU per
    message" (gateway and router). ``kafka``: bootstrap servers, to measure a bare produce beside acks.
    """

    urls: list[str]
    api: str
    signing_key: str
    api_key: str
    management: list[str] = []
    stages: dict[str, list[int]] = {}
    messaging: list[str] = []
    kafka: str | None = None


class Subject:
    """Where to connect, what it costs, and a way to ask its server API."""

    def __init__(self, what: Description) -> None:
        self.urls = what.urls
        self.kafka = what.kafka
        self.settle = 8.0 if len(what.stages) > 1 else 0.0
        """Seconds that a scenario waits when its users are there: many processes on few cores have much to catch up."""
        self.folder = Path(what.signing_key).parent
        self._api = what.api
        self._management = what.management or [what.api]
        self._stages = what.stages
        self._messaging = what.messaging or list(what.stages)
        self._key = read_key(Path(what.signing_key))
        self._api_key = Path(what.api_key).read_text().strip()
        self._tokens: dict[str, str] = {}
        self.http: aiohttp.ClientSession | None = None

    def hello(self, user: str, *, resume: dict[str, Any] | None = None) -> bytes:
        """A hello frame for ``user``, with one token for the whole run, as a device has."""
        token = self._tokens.get(user)
        if token is None:
            token = self._tokens[user] = mint(self._key, user=user, ttl=7200)
        frame: dict[str, Any] = {
            "type": "hello",
            "rid": "h",
            "token": token,
            "device": "bench",
        }
        if resume is not None:
            frame["resume"] = resume
        return json.dumps(frame, separators=(",", ":")).encode()

    async def api(self, method: str, path: str, body: object = None) -> Any:
        """One call of the server API. Raises ``RuntimeError`` with its error."""
        assert self.http is not None
        headers = {"Authorization": f"Bearer {self._api_key}"}
        async with self.http.request(method, f"{self._api}/api/v1{path}", json=body, headers=headers) as response:
            answer = await response.json()
            if response.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer}")
            return answer

    async def metric(self, name: str) -> float:
        """The sum of a metric's samples over all processes, 0 when it is not there."""
        assert self.http is not None
        total = 0.0
        for address in self._management:
            async with self.http.get(f"{address}/metrics") as response:
                lines = (await response.text()).splitlines()
            total += sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))
        return total

    def cpu_by_stage(self) -> dict[str, float]:
        """Seconds of CPU that each stage has used, all threads; empty for a remote platform."""
        return {name: sum(_cpu(pid) for pid in pids) for name, pids in self._stages.items()}

    def cpu(self) -> float:
        """Seconds of CPU of the stages that a message is counted by; 0 for a remote platform."""
        return sum(seconds for name, seconds in self.cpu_by_stage().items() if name in self._messaging)

    def rss(self) -> int:
        """Resident bytes of the same stages; 0 for a remote platform."""
        pids = [pid for name, pids in self._stages.items() if name in self._messaging for pid in pids]
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * os.sysconf("SC_PAGE_SIZE")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def described(file: Path) -> Description:
    """The platform that a file tells of. Raises ``msgspec.DecodeError``, ``OSError``."""
    return msgspec.json.decode(file.read_bytes(), type=Description)


def folder_of(url: str, management: str, data: Path, pid: int | None = None) -> Description:
    """An embedded platform by its data folder."""
    return Description(
        urls=[url],
        api=management,
        signing_key=str(data / SIGNING_KEY),
        api_key=str(data / API_KEY),
        stages={} if pid is None else {"platform": [pid]},
    )


@contextlib.asynccontextmanager
async def running(what: Description) -> AsyncIterator[Subject]:
    """A platform that runs already."""
    subject = Subject(what)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as subject.http:
        yield subject


@contextlib.asynccontextmanager
async def started(settings: Mapping[str, str] | None = None) -> AsyncIterator[Subject]:
    """``chatcluster dev`` in a process of its own, on the first core that this process may use.

    The load generator should then stay on another one (``pin_load``). Ends it when the block is left.
    """
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="chatcluster-bench-") as folder:
        data = Path(folder)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chatcluster", "dev", "--no-demo", "--data", folder),
            *("--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, **UNLIMITED, **(settings or {})},
        )
        os.sched_setaffinity(process.pid, {cores[0]})
        assert process.stdout is not None
        try:
            addresses: dict[str, str] = {}
            while not {"page", "management"} <= addresses.keys():
                line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
                if not line:
                    raise RuntimeError("chatcluster dev ended before it listened")
                for name in ("page", "management"):
                    if f"{name} " in line and "http://" in line:
                        addresses[name] = "http://" + line.partition("http://")[2].split()[0].rstrip("/")
            drain = asyncio.create_task(_read_all(process.stdout))
            what = folder_of("ws" + addresses["page"][4:], addresses["management"], data, process.pid)
            subject = Subject(what)
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as subject.http:
                yield subject
            drain.cancel()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _read_all(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


def pin_load() -> None:
    """Keep this process off the subject's core, where there is another one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, set(cores[1:]))
