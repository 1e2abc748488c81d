"""The faults of every process on the real platform, under load: nothing acknowledged is lost, doubled or out of order.

People talk over both gateways all the time; a session of talk meets several faults and is then audited once, after
everything is up again and everybody was told everything. One seed each: a failure can be met again.

``CHATCLUSTER_LONG=1`` adds the long ones. ``CHATCLUSTER_FAULTS_REPORT=FILE`` gathers what each fault cost.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from chatcluster.app.commands.audit import records_of
from chatcluster.app.tokens import mint
from chatcluster.client import Client
from chatcluster.core.history import Acked, Closed, Failed, Got, Opened, Withdrawn
from chatcluster_stack.named import Stack
from chatcluster_stack.processes import Node
from ordeals import Ordeal, WrongClock, balanced, given, ordeal
from talking import stored

pytestmark = pytest.mark.slow
LONG = bool(os.environ.get("CHATCLUSTER_LONG"))
long = pytest.mark.skipif(not LONG, reason="set CHATCLUSTER_LONG=1")


async def killed(running: Ordeal, *names: str, down: float = 0.0) -> None:
    """SIGKILL at the same time, up again after ``down`` seconds."""
    async with running.fault(f"kill -9 {' + '.join(names)}"):
        await asyncio.gather(*(running.act(name, Node.kill) for name in names))
        await asyncio.sleep(down)


async def frozen(running: Ordeal, name: str, seconds: float) -> None:
    """SIGSTOP, SIGCONT after ``seconds``: a zombie that believes it is still whom it was."""
    async with running.fault(f"{name} frozen for {seconds:g} s", after=4.0):
        await running.act(name, Node.pause)
        await asyncio.sleep(seconds)


async def left(running: Ordeal, name: str) -> None:
    """SIGTERM; it ends by itself with 0."""
    async with running.fault(f"SIGTERM {name}"):
        await running.act(name, Node.term, patience=25.0)
        node = running.stack.node(name)
        assert node.status in {0, None}, f"{name} ended with {node.status}"  # None: another process started it


async def wiped(running: Ordeal, name: str) -> None:
    """A Redis that lost everything."""
    async with running.fault(f"{name} killed, restarted empty", after=5.0):
        await running.act(name, Node.wipe)


# -- one after the other -------------------------------------------------------------------------------------


async def test_every_role_is_killed(stack: Stack, tmp_path: Path) -> None:
    async with ordeal(stack, tmp_path, 11) as running:
        for name in ("router-1", "gateway-1", "persister-1", "presence-1", "redis-1"):
            await killed(running, name)


async def test_a_frozen_process_wakes_as_a_zombie(stack: Stack, tmp_path: Path) -> None:
    async with ordeal(stack, tmp_path, 12) as running:
        await frozen(running, "gateway-1", 60.0 if LONG else 12.0)
        await frozen(running, "router-1", 12.0)
        await frozen(running, "persister-1", 12.0)
    records = list(records_of([tmp_path / "history.jsonl"]))
    assert any(isinstance(record, Closed) for record in records)
    assert all(record.resumed for record in records if isinstance(record, Opened) and record.conn > 1)


async def test_leaving_costs_no_request(stack: Stack, tmp_path: Path) -> None:
    async with ordeal(stack, tmp_path, 13) as running:
        await left(running, "gateway-2")
        await left(running, "router-2")
    records = list(records_of([tmp_path / "history.jsonl"]))
    assert {record.code for record in records if isinstance(record, Closed)} <= {1000, 1001, 1012}
    assert all(record.resumed for record in records if isinstance(record, Opened) and record.conn > 1)
    assert [record.code for record in records if isinstance(record, Failed)] == []


async def test_redis_is_gone(stack: Stack, tmp_path: Path) -> None:
    async with ordeal(stack, tmp_path, 14) as running:
        await wiped(running, "redis-2")
        await killed(running, "redis-1", "redis-2", down=20.0)


async def test_sends_go_on_without_redis(stack: Stack, tmp_path: Path) -> None:
    """Acked while both are away: dedupe is asked of the log, worker numbers are held on lease."""
    key, ivy_name = stack.key, f"ivy-{uuid4().hex[:8]}"
    async with (
        Client(stack.urls[0], token=mint(key, user="hal"), device="d") as hal,
        Client(stack.urls[1], token=mint(key, user=ivy_name), device="d") as ivy,
    ):
        channel = await hal.create_direct(ivy_name)
        await hal.send(channel, "before", timeout=30)
        await asyncio.gather(*(asyncio.to_thread(stack.node(name).kill) for name in ("redis-1", "redis-2")))
        try:
            for number in range(20):
                await hal.send(channel, f"without {number}", timeout=15)
            messages = await stored(ivy, channel, 21)
        finally:
            await asyncio.gather(*(asyncio.to_thread(stack.node(name).start) for name in ("redis-1", "redis-2")))
        assert messages == ["before", *(f"without {number}" for number in range(20))]


async def test_brokers_are_killed(stack: Stack, tmp_path: Path) -> None:
    async with ordeal(stack, tmp_path, 15) as running:
        await killed(running, "kafka-2", down=5.0)
        await killed(running, "kafka-1", "kafka-3", down=10.0)  # below min ISR: nothing is acknowledged


async def test_cassandra_is_paused_and_killed(stack: Stack, tmp_path: Path) -> None:
    async with ordeal(stack, tmp_path, 16) as running:
        await frozen(running, "cassandra-1", 8.0)
        for _ in range(2):
            await killed(running, "cassandra-1")


async def test_rebalance_storm(stack: Stack, tmp_path: Path) -> None:
    rng = random.Random(17)
    async with ordeal(stack, tmp_path, 17) as running, running.fault("rebalance storm"):
        for turn in range(6):
            node = stack.node(f"persister-{1 + turn % 2}")
            await asyncio.to_thread(rng.choice((node.kill, node.term)))
            await asyncio.sleep(rng.uniform(0.2, 1.5))
            await asyncio.to_thread(node.start)
            await asyncio.sleep(rng.uniform(0.2, 1.5))


@pytest.mark.parametrize(
    "names", [("router-1", "redis-1"), ("kafka-3", "persister-2"), ("gateway-2", "router-2")], ids="+".join
)
async def test_two_faults_at_once(stack: Stack, tmp_path: Path, names: tuple[str, str]) -> None:
    async with ordeal(stack, tmp_path, 18) as running, running.fault(f"{' + '.join(names)} at once", after=5.0):
        actions = [Node.wipe if name.startswith("redis") else Node.kill for name in names]
        await asyncio.gather(*(running.act(name, action) for name, action in zip(names, actions, strict=True)))


@pytest.mark.parametrize("gateways", [False, pytest.param(True, marks=long)], ids=["routers", "routers+gateways"])
async def test_routers_die_between_the_bus_and_the_log(stack: Stack, tmp_path: Path, gateways: bool) -> None:
    """The log is slow, so that what is told live is not in it yet: whoever told it dies."""
    async with ordeal(stack, tmp_path, 23, rate=50.0) as running:
        for _ in range(2):
            async with running.fault("routers killed between bus and log", after=4.0):
                brokers = [name for name in stack.nodes if name.startswith("kafka")]
                await asyncio.gather(*(running.act(name, Node.pause) for name in brokers))
                await asyncio.sleep(0.9)  # then sends are refused
                dying = ["router-1", "router-2", *(["gateway-1", "gateway-2"] if gateways else [])]
                await asyncio.gather(*(running.act(name, Node.kill) for name in dying))
    records = list(records_of([tmp_path / "history.jsonl"]))
    acked = {record.id for record in records if isinstance(record, Acked)}
    withdrawn = {record.id for record in records if isinstance(record, Withdrawn)}
    assert withdrawn
    assert not withdrawn & acked


# -- the bus -------------------------------------------------------------------------------------------------

SPEAKERS = ("router-1", "router-2", "persister-1", "persister-2")


@pytest.mark.parametrize(
    ("what", "settings"),
    [
        ("half of the bus lost", {"BUS_LOSS": "0.5"}),
        (
            "1 % of the bus lost, 20 % repeated, 20 % late",
            {"BUS_LOSS": "0.01", "BUS_REPEAT": "0.2", "BUS_DELAY": "0.2"},
        ),
        pytest.param("the whole bus lost", {"BUS_LOSS": "1"}, marks=long),
    ],
    ids=["half", "lies", "all"],
)
async def test_the_bus_lies(stack: Stack, tmp_path: Path, what: str, settings: dict[str, str]) -> None:
    environment = {f"CHATCLUSTER_REDIS__{name}": value for name, value in settings.items()}
    async with given(stack, environment, *SPEAKERS), ordeal(stack, tmp_path, 19) as running, running.fault(what):
        await asyncio.sleep(12.0)
    got = [record for record in records_of([tmp_path / "history.jsonl"]) if isinstance(record, Got)]
    assert any(record.live for record in got) or settings["BUS_LOSS"] == "1"
    if settings["BUS_LOSS"] != "0.01":
        assert sum(not record.live for record in got) > len(got) // 10  # told by the proof


# -- clocks --------------------------------------------------------------------------------------------------


async def test_the_clock_of_one_router_is_wrong(stack: Stack, tmp_path: Path) -> None:
    clock = WrongClock(tmp_path / "offset")
    async with given(stack, clock.environment, "router-1"), ordeal(stack, tmp_path, 20) as running:
        for offset in (5.0, -5.0, 3600.0, -3600.0):
            async with running.fault(f"clock of router-1 {offset:+g} s", heal=False):
                clock.set(offset)
                await asyncio.sleep(8.0)
        async with running.fault("clock of router-1 right again", after=5.0):
            clock.set(0.0)


# -- many ----------------------------------------------------------------------------------------------------


async def test_a_storm_of_reconnects_is_resumed_elsewhere(stack: Stack, tmp_path: Path) -> None:
    async with AsyncExitStack() as around:
        # All at gateway-1 first; the balancer leads them to the other one when it is gone.
        balancer = await around.enter_async_context(balanced(stack.urls[:1]))
        crowd = [
            Client(balancer.url, token=mint(stack.key, user=f"crowd{n}"), device=f"d{n}", connect_timeout=60)
            for n in range(200)
        ]
        for start in range(0, len(crowd), 20):
            await asyncio.gather(*(around.enter_async_context(client) for client in crowd[start : start + 20]))
        async with ordeal(stack, tmp_path, 21) as running:
            async with running.fault("gateway-1 killed under 200 connections", after=5.0):
                before = {client: client._engine.welcome for client in crowd}
                balancer.lead(stack.urls[1:])
                await running.act("gateway-1", Node.kill)
                begun = asyncio.get_running_loop().time()
                async with asyncio.timeout(90):
                    for client in crowd:
                        while client._engine.welcome in (None, before[client]):  # noqa: ASYNC110
                            await asyncio.sleep(0.05)
                print(f"\n200 clients resumed after {asyncio.get_running_loop().time() - begun:.1f} s")
            assert all(client._engine.welcome.resumed for client in crowd)  # type: ignore[union-attr]


# -- long ----------------------------------------------------------------------------------------------------


@long
async def test_redis_is_gone_for_a_minute(stack: Stack, tmp_path: Path) -> None:
    """Worker numbers are leased for longer, by default: sends go on."""
    async with given(stack, {"CHATCLUSTER_REDIS__LEASE": "90"}, "router-1", "router-2"):
        async with ordeal(stack, tmp_path, 25) as running:
            await killed(running, "redis-1", "redis-2", down=60.0)
        assert max(cost.silent for cost in running.costs()) < 30.0


@long
async def test_cassandra_is_gone_for_minutes(stack: Stack, tmp_path: Path) -> None:
    """Sends go on: the log keeps what the store does not take."""
    async with ordeal(stack, tmp_path, 24) as running:
        await killed(running, "cassandra-1", down=120.0)


@long
@pytest.mark.parametrize("seed", [31, 47, 101])
async def test_soak(stack: Stack, tmp_path: Path, seed: int) -> None:
    """Ten minutes of talk, a fault by chance every few seconds."""
    rng = random.Random(seed)
    roles = [f"{role}-{n}" for role in ("router", "gateway", "persister") for n in (1, 2)]
    async with ordeal(stack, tmp_path, seed) as running:
        loop = asyncio.get_running_loop()
        ends = loop.time() + float(os.environ.get("CHATCLUSTER_SOAK", "600"))
        while loop.time() < ends:
            name = rng.choice([*roles, "presence-1", "redis-1", "redis-2", "kafka-1", "kafka-2", "kafka-3"])
            kind = rng.choice(("kill", "kill", "freeze", "leave", "wipe"))
            if kind == "freeze" and not name.startswith("kafka"):
                await frozen(running, name, rng.uniform(1.0, 12.0))
            elif kind == "leave" and name in roles:
                await left(running, name)
            elif kind == "wipe" and name.startswith("redis"):
                await wiped(running, name)
            else:
                await killed(running, name, down=rng.uniform(0.0, 3.0))
            await asyncio.sleep(rng.uniform(1.0, 8.0))
