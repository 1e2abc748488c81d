"""Two router processes under load, one killed: every request is answered once, no send arrives twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import recording_router
from chatcluster.backends.links.router import RouterLink
from chatcluster.backends.links.settings import LinkSettings
from chatcluster.core.frames import Answer, ErrorFrame, History, Send
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Caller
from linked import PATIENCE, JumpyClock, until, value

REQUESTS = 20_000


class Router:
    """One process. ``taken``: what it wrote down."""

    def __init__(self, name: str, file: Path) -> None:
        self.file = file
        self.process = subprocess.Popen(
            [sys.executable, recording_router.__file__, name, str(file)], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def taken(self) -> list[str]:
        return self.file.read_text().split()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


@pytest.fixture
def routers(tmp_path: Path) -> Iterator[dict[str, Router]]:
    started = {name: Router(name, tmp_path / name) for name in "ab"}
    yield started
    for router in started.values():
        router.end()


async def test_a_router_is_killed_under_load(routers: dict[str, Router]) -> None:
    answers: dict[str, list[Answer]] = {}
    requests: dict[str, tuple[Caller, Send | History]] = {}
    metrics = Metrics()
    settings = LinkSettings(addresses=tuple(f"127.0.0.1:{router.port}" for router in routers.values()), silence=10.0)
    async with RouterLink.open(settings, name="g", clock=JumpyClock(), metrics=metrics) as link:
        await until(lambda: len(link.peers) == 2)
        for number in range(REQUESTS):
            rid, session, channel = str(number), f"s{number % 40}", f"x{number % 300}"
            read = number % 10 == 9
            request = History(rid, channel) if read else Send(rid, channel, f"c{rid}", "hello")
            caller = Caller("t", "u" + session, session)
            requests[rid] = (caller, request)
            answers[rid] = []
            link.submit(caller, request, answers[rid].append)
            if number == REQUESTS // 2:
                routers["a"].process.kill()
            if number % 50 == 49:
                await asyncio.sleep(0.001)
        async with asyncio.timeout(3 * PATIENCE):
            while not all(answers.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.1)  # a second answer would come now
        assert value(metrics, "link_broken_total") == 1

    assert {len(got) for got in answers.values()} == {1}
    codes = {rid: one.code if isinstance(one, ErrorFrame) else type(one).__name__ for rid, (one,) in answers.items()}
    taken = {name: router.taken() for name, router in routers.items()}
    times = Counter(taken["a"] + taken["b"])
    where = {rid: name for name, rids in taken.items() for rid in rids}
    lanes: dict[tuple[str, str, str], list[int]] = {}
    for rid, (_, request) in requests.items():
        if isinstance(request, History):
            assert codes[rid] == "Reply"
            assert times[rid] <= 2
            continue
        assert codes[rid] in {"Ack", "unknown_outcome"}
        assert times[rid] <= 1, "a send was doubled"
        assert times[rid] == 1 or codes[rid] == "unknown_outcome"
    for name, rids in taken.items():
        for rid in rids:
            caller, request = requests[rid]
            if isinstance(request, Send):
                lanes.setdefault((name, caller.session, request.channel), []).append(int(rid))
    assert all(earlier < later for rids in lanes.values() for earlier, later in pairwise(rids))
    assert set(where.values()) == {"a", "b"}
    assert 0 < Counter(codes.values())["unknown_outcome"] < REQUESTS // 4
