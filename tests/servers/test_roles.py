"""The roles as processes: refused starts, starts without servers, several processes on one port."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from chatcluster.app.tokens import mint
from chatcluster.client.client import Client
from chatcluster_stack.named import Stack

Run = Callable[..., subprocess.Popen[bytes]]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def ask(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=3) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def children_of(pid: int) -> list[int]:
    """Its children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(condition: Callable[[], object], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never came"
        time.sleep(0.05)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Starts ``chatcluster ...`` with settings by environment; whatever is left is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHATCLUSTER_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "chatcluster", *arguments],
            env={**inherited, **{f"CHATCLUSTER_{name}": value for name, value in settings.items()}},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(
    ("role", "settings", "said"),
    [
        ("router", {"KAFKA__BROKERS": "x"}, "kafka.brokers = 'x': no such setting"),
        ("persister", {"TYPO__X": "1"}, "[typo]: no such section"),
        ("gateway", {}, "auth.jwks_url is missing"),
        ("gateway", {"AUTH__SECRET_FILE": "/nowhere"}, "auth.secret_file: no signing key at /nowhere"),
        ("router", {"KAFKA__ACKS": "1"}, "kafka.acks = '1': only 'all' is allowed"),
        ("persister", {"KAFKA__MIN_INSYNC_REPLICAS": "4"}, "kafka.min_insync_replicas = 4: allowed: 1 to"),
        ("router", {"API__KEYS_FILE": "/nowhere"}, "api.keys_file = '/nowhere': No such file"),
        ("presence", {"LINK__SECRET_FILE": "/nowhere"}, "link.secret_file = '/nowhere': No such file"),
    ],
)
def test_wrong_settings_refuse_the_start_in_one_line(run: Run, role: str, settings: dict[str, str], said: str) -> None:
    process = run(role, "--management", f"127.0.0.1:{free_port()}", **settings)
    try:
        _, errors = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        pytest.fail("it started")
    assert process.returncode != 0
    text = errors.decode()
    assert "Traceback" not in text
    last = [line for line in text.splitlines() if line.startswith("Error: ")]
    assert len(last) == 1
    assert said in last[0]


NOWHERE = {
    "REDIS__SHARDS": "127.0.0.1:9",
    "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9",
    "CASSANDRA__CONTACT_POINTS": "127.0.0.1",
    "CASSANDRA__PORT": "9",
    "ROUTERS__ADDRESSES": "127.0.0.1:9",
    "PRESENCES__ADDRESSES": "127.0.0.1:9",
    "LINK__LISTEN": "127.0.0.1:0",
}


@pytest.mark.parametrize(
    ("role", "waits_for"), [("gateway", "router"), ("router", "kafka"), ("persister", "kafka"), ("presence", None)]
)
def test_without_servers_it_starts_says_so_and_leaves_when_told(
    run: Run, tmp_path: Path, role: str, waits_for: str | None
) -> None:
    key = tmp_path / "key"
    key.write_text(secrets.token_hex(32))
    port = free_port()
    more = ["--listen", "127.0.0.1:0"] if role == "gateway" else []
    process = run(role, *more, "--management", f"127.0.0.1:{port}", AUTH__SECRET_FILE=str(key), **NOWHERE)
    until(lambda: ask(port, "/healthz")[0] == 200)
    if waits_for is None:
        until(lambda: "redis: degraded" in ask(port, "/readyz")[1])
    else:
        until(lambda: f"{waits_for}: " in ask(port, "/readyz")[1])
        status, text = ask(port, "/readyz")
        assert status == 503
        assert text.startswith(f"{role}: starting; ")
    assert 'dependency_up{dependency="redis"} 0.0' in ask(port, "/metrics")[1]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors.decode()[-2000:]
    lines = errors.decode().splitlines()
    assert all(json.loads(line)["role"] == role for line in lines)
    # One line per change of state, not one per try.
    assert len(lines) < 40


@pytest.mark.slow
async def test_several_processes_share_a_port_and_are_kept(run: Run, stack: Stack) -> None:
    listen, port = free_port(), free_port()
    platform = stack.platform
    process = run(
        *("gateway", "--listen", f"127.0.0.1:{listen}", "--management", f"127.0.0.1:{port}"),
        *("--processes", "2", "--config", str(platform.config)),
        PROCESS__NAME="pool",
        GATEWAY__DRAIN_PROPAGATION="0.2",
        GATEWAY__DRAIN_NOTICE="0.2",
    )
    until(lambda: ask(port, "/readyz")[0] == 200)
    assert ask(port, "/readyz")[1].count("gateway: ok") == 2

    def sockets() -> list[float]:
        lines = ask(port, "/metrics")[1].splitlines()
        return [float(line.split()[-1]) for line in lines if line.startswith("chatcluster_sessions{")]

    clients = [
        Client(f"ws://127.0.0.1:{listen}", token=mint(platform.key, user=f"pool-{n}"), device="d") for n in range(24)
    ]
    for client in clients:
        await client.__aenter__()
    until(lambda: sum(sockets()) == 24)
    assert min(sockets()) > 0, "the kernel gives each of them some"

    children = children_of(process.pid)
    assert len(children) == 2
    os.kill(children[0], signal.SIGKILL)
    until(lambda: ask(port, "/readyz")[0] == 503)
    until(lambda: ask(port, "/readyz")[0] == 200)
    channel = await clients[0].create_direct("pool-1")
    assert await clients[0].send(channel, "hello", timeout=30)

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    for client in clients:
        await client.__aexit__(None, None, None)
