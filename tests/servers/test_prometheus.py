"""A real Prometheus on the embedded platform under load: the rules have values, and alerts fire when something breaks.

Rules are those of ``monitoring/``, but evaluated every second, and without the time that an alert must hold.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager

import pytest
import yaml

import exported
from chatcluster.app.tokens import load_key
from chatcluster_operator.render.observability.monitoring import platform_rules
from control_plane import free_port
from operating import until
from prebuilt import tool
from running import running
from talking import talking

pytestmark = pytest.mark.slow
LABELS = {"namespace": "default", "chatcluster": "main", "component": "embedded"}


class Prometheus:
    """Asked over HTTP."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path, **query):
        with urllib.request.urlopen(f"{self.url}/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expression):
        found = self.ask("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self):
        return {one["labels"]["alertname"]: one for one in self.ask("alerts")["alerts"] if one["state"] == "firing"}

    def up(self):
        try:
            return bool(self.ask("query", query="vector(1)")["result"])
        except OSError:
            return False


@contextmanager
def prometheus(folder, target):
    """With our rules, on one target."""
    groups = platform_rules()
    for group in groups:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if "alert" in rule:
                rule["for"] = "0s"
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    static = {"targets": [f"127.0.0.1:{target}"], "labels": {**LABELS, "pod": "main-embedded-0"}}
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "chatcluster", "static_configs": [static]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    options = (
        f"--config.file={folder}/prometheus.yaml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with running([tool("prometheus", quick=True), *options], folder / "prometheus.log", cwd=folder):
        found = Prometheus(port)
        until(found.up, 30)
        yield found


@contextmanager
def platform(folder, *options):
    """The embedded platform as a process; its ports and its process."""
    sockets, management = free_port(), free_port()
    command = (
        *(sys.executable, "-m", "chatcluster", "dev", "--no-demo", "--data", folder / "data"),
        *("--listen", f"127.0.0.1:{sockets}", "--management", f"127.0.0.1:{management}", *options),
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with running(command, folder / "platform.log", env=environ) as process:
        until(lambda: _answers(management), 30)
        yield sockets, management, process


def _answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def told_by(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return exported.of_text(answer.read().decode())


RECORDED = (
    "chatcluster:sends:rate5m",
    "chatcluster:send_errors:ratio_rate5m",
    "chatcluster:send_errors:ratio_rate3d",
    "chatcluster:acks_slow:ratio_rate5m",
    "chatcluster:ack_seconds:p50_5m",
    "chatcluster:ack_seconds:p99_5m",
    "chatcluster:delivery_seconds:p99_5m",
    "chatcluster:proof_seconds:p99_5m",
    "chatcluster:connections:sum",
)


async def test_rules_have_values_and_alerts_fire_when_something_breaks(tmp_path):
    with (
        platform(tmp_path, "--bus-loss", "0.4") as (sockets, management, running),
        prometheus(tmp_path, management) as asked,
    ):
        key = load_key(tmp_path / "data")
        async with talking([f"ws://127.0.0.1:{sockets}"], key, tmp_path, 7, rate=50.0):
            deadline = time.monotonic() + 40
            seen = {}
            while len(seen) < len(RECORDED) or "ChatClusterBusLossy" not in asked.firing():
                assert time.monotonic() < deadline, (seen, sorted(asked.firing()))
                await asyncio.sleep(1)
                values = {name: asked.value(name) for name in RECORDED}
                seen = {name: value for name, value in values.items() if value is not None and not math.isnan(value)}
            assert seen["chatcluster:connections:sum"] == 4
            assert seen["chatcluster:sends:rate5m"] > 0, "over 5 minutes, of which there were a few seconds"
            assert seen["chatcluster:send_errors:ratio_rate5m"] == 0
            assert 0 < seen["chatcluster:ack_seconds:p50_5m"] <= seen["chatcluster:ack_seconds:p99_5m"] < 5
            text = asked.firing()["ChatClusterBusLossy"]["annotations"]["description"]
            assert text.startswith("default/main: ")
            assert "%" in text
            print(seen, text)
            # What is wrong here is the bus alone.
            assert not asked.firing().keys() & {
                "ChatClusterComponentDown",
                "ChatClusterRetractions",
                "ChatClusterPodDown",
            }
            told = told_by(management)
            sources = {**exported.of_runtime(), **exported.PROCESS}
            assert not told.keys() - sources.keys(), "what a process tells is in the list that rules are held against"
            assert all(labels <= sources[name] for name, labels in told.items())
        running.kill()
        wanted = {"ChatClusterPodDown", "ChatClusterComponentDown"}
        until(lambda: wanted <= asked.firing().keys(), 30, 0.5)
        missing = {
            one["labels"]["component"]
            for one in asked.ask("alerts")["alerts"]
            if one["labels"]["alertname"] == "ChatClusterComponentDown"
        }
        assert missing == {"gateway", "router", "persister", "presence"}


async def test_nothing_fires_while_nothing_is_broken(tmp_path):
    """Even without the time that alerts must hold."""
    with platform(tmp_path) as (sockets, management, _), prometheus(tmp_path, management) as asked:
        await asyncio.to_thread(until, lambda: asked.value("chatcluster:connections:sum") == 0, 20)
        async with talking([f"ws://127.0.0.1:{sockets}"], load_key(tmp_path / "data"), tmp_path, 8, rate=50.0):
            for _ in range(12):
                await asyncio.sleep(1)
                # This machine's other work is none of its faults.
                assert not asked.firing().keys() - {"ChatClusterEventLoopLate"}
        assert asked.value("chatcluster:sends:rate5m") > 0
