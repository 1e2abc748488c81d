"""Faults on the real platform under load: who talks, through what, what it cost them, and the audit afterwards."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import uuid4

from chatcluster.app.commands.audit import records_of
from chatcluster.core.history import Acked, Closed, Got, Opened, Record, Sent, Withdrawn
from chatcluster_stack.named import Stack
from chatcluster_stack.platform import scraped
from talking import Talk, faultless, talking

FAR = ("log_in_flight", "log_stalled", "kafka_", "persister_lag", "persister_retries", "persister_tail", "router_sends")
"""Beginnings of the metrics that tell where a message stands still."""

AFTERWARDS = 20_000
"""ms after a fault's end in which what is seen still belongs to it."""


class Balancer:
    """TCP balancer before the gateways: each connection to the next one, and past those that refuse."""

    def __init__(self, urls: Sequence[str], first: int) -> None:
        self.url = ""
        self.accepted = 0
        self._next = first
        self.lead(urls)
        self._open: set[asyncio.Task[None]] = set()

    def lead(self, urls: Sequence[str]) -> None:
        """New connections go to these gateways from now on."""
        addresses = [url.rpartition("/")[2].rpartition(":") for url in urls]
        self._targets = [(host, int(port)) for host, _, port in addresses]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.accepted += 1
        writers = [writer]
        try:
            for _ in self._targets:
                host, port = self._targets[self._next % len(self._targets)]
                self._next += 1
                with suppress(OSError):
                    there, back = await asyncio.open_connection(host, port)
                    writers.append(back)
                    pipes = [asyncio.create_task(_pipe(reader, back)), asyncio.create_task(_pipe(there, writer))]
                    try:
                        await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for pipe in pipes:
                            pipe.cancel()
                        await asyncio.gather(*pipes, return_exceptions=True)
                    return
        finally:
            for one in writers:  # what was written is still sent: a close code has to arrive
                one.close()
            self._open.discard(task)

    async def close(self) -> None:
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def balanced(urls: Sequence[str], *, first: int = 0) -> AsyncIterator[Balancer]:
    """A balancer before the gateways at ``urls``, that begins with number ``first``."""
    balancer = Balancer(urls, first)
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", 0, backlog=1024)
    balancer.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield balancer
    finally:
        server.close()
        await balancer.close()


class WrongClock:
    """The wall clock of a Python process, ahead by ``set`` seconds, at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = {"PYTHONPATH": str(Path(__file__).parent / "skewed"), "WRONG_CLOCK": str(file)}
        self.set(0.0)

    def set(self, seconds: float) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+f}")
        new.replace(self._file)


@dataclass
class Cost:
    """What clients felt of one fault, in seconds."""

    fault: str
    silent: float = 0.0
    """The longest time in which nobody got an ack."""
    slowest: float = 0.0
    """The longest from the first attempt of a send to its ack."""
    away: float = 0.0
    """The longest that one client was without a connection."""
    late: float = 0.0
    """The longest from an ack until a receiver had the message: repair, where the bus lost it."""
    withdrawn: int = 0
    """Messages withdrawn from somebody."""


@dataclass
class Ordeal:
    """People who talk while ``stack`` suffers."""

    stack: Stack
    talk: Talk
    history: Path
    faults: list[tuple[str, int, int]] = field(default_factory=list)

    @asynccontextmanager
    async def fault(self, name: str, *, heal: bool = True, after: float = 2.0) -> AsyncIterator[None]:
        """The block is the fault; then everything that is down or paused comes up again."""
        begun = _ms()
        yield
        if heal:
            await asyncio.to_thread(self.stack.heal)
        self.faults.append((name, begun, _ms()))
        await asyncio.sleep(after)

    async def act(self, name: str, action: Callable[..., None], **options: object) -> None:
        """A fault handle without blocking the talk: ``act("router-1", Node.kill)``."""
        await asyncio.to_thread(action, self.stack.node(name), **options)

    def costs(self) -> list[Cost]:
        """By fault, from the recording."""
        return measured(list(records_of([self.history])), self.faults)


@asynccontextmanager
async def ordeal(stack: Stack, folder: Path, seed: int, *, rate: float = 25.0) -> AsyncIterator[Ordeal]:
    """People talk through balancers for the time of the block; afterwards the audit finds no fault.

    What it cost goes to stdout, and to the file that ``CHATCLUSTER_FAULTS_REPORT`` names. A failure carries what
    every process of the platform says of itself then.
    """
    async with AsyncExitStack() as around:
        around.push_async_exit(partial(_explained, stack))
        balancers = [await around.enter_async_context(balanced(stack.urls, first=i)) for i in range(len(stack.urls))]
        urls = [balancer.url for balancer in balancers]
        talk, judged = await around.enter_async_context(
            talking(urls, stack.key, folder, seed, rate=rate, after=f"-{uuid4().hex[:8]}")
        )
        talk.patience = 300.0  # three servers that start at once on a busy machine take a minute
        await asyncio.sleep(2.0)
        running = Ordeal(stack, talk, folder / "history.jsonl")
        yield running
        healed = time.monotonic()
        audit = await judged()
        told = time.monotonic() - healed
        report(running.costs(), audit.counts, len(audit.violations), told)
        faultless(audit)


@asynccontextmanager
async def given(stack: Stack, environment: dict[str, str], *names: str) -> AsyncIterator[None]:
    """These processes with more settings, for the time of the block."""
    nodes = [stack.node(name) for name in names]
    before = [dict(node.environment) for node in nodes]

    async def anew() -> None:
        await asyncio.gather(*(asyncio.to_thread(node.term) for node in nodes))
        await asyncio.to_thread(stack.heal)

    try:
        for node in nodes:
            node.environment.update(environment)
        await anew()
        yield
    finally:
        for node, old in zip(nodes, before, strict=True):
            node.environment.clear()
            node.environment.update(old)
        await anew()


async def _explained(stack: Stack, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
    if isinstance(error, Exception):
        error.add_note(await asyncio.to_thread(confessions, stack))


def confessions(stack: Stack) -> str:
    """What is wrong by name, and of each role its last troubles and how far it is: for whoever reads a failure."""
    lines = [f"problems: {stack.problems()}"]
    for name in stack.platform.nodes:
        measures = scraped(stack.platform.management(name))
        far = {key: value for key, value in sorted(measures.items()) if value and key.startswith(FAR)}
        lines += [f"{name}: " + " ".join(f"{key}={value:g}" for key, value in far.items())]
        said = stack.node(name).log.read_text(errors="replace").splitlines()
        lines += [f"   {line}" for line in [one for one in said if '"info"' not in one][-6:]]
    return "\n".join(lines)


def report(costs: Iterable[Cost], counts: dict[str, int], violations: int, told: float) -> None:
    """One line per fault."""
    lines = [
        f"{cost.fault}: no acks for {cost.silent:.1f} s, slowest send {cost.slowest:.1f} s, away {cost.away:.1f} s, "
        f"told {cost.late:.1f} s after its ack, {cost.withdrawn} withdrawn"
        for cost in costs
    ]
    names = ("acked", "missing", "phantoms", "double_messages", "order_violations")
    lines.append(
        f"   audit: {violations} violations, {' '.join(f'{n}={counts[n]}' for n in names)}; quiet after {told:.1f} s"
    )
    print("\n".join(["", *lines]))
    if file := os.environ.get("CHATCLUSTER_FAULTS_REPORT"):
        with open(file, "a") as out:
            out.write("\n".join(lines) + "\n")


def measured(records: Sequence[Record], faults: Sequence[tuple[str, int, int]]) -> list[Cost]:
    """What each fault (name, begin, end in ms) cost; to it belongs what began until the next, or 20 s later."""
    first: dict[tuple[str, str], int] = {}
    attempts: dict[tuple[str, str], tuple[str, str]] = {}
    acks: dict[tuple[str, str], int] = {}
    stored: dict[str, tuple[int, int]] = {}  # id: sent, acked
    closed: dict[str, int] = {}
    ways: list[tuple[int, int]] = []
    heard: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    withdrawn: list[int] = []
    for record in sorted(records, key=lambda record: record.at):
        if isinstance(record, Sent) and record.op == "send":
            key = (record.client, record.client_id)
            first.setdefault(key, record.at)
            attempts[record.client, record.rid] = key
        elif isinstance(record, Acked) and (sent := attempts.get((record.client, record.rid))) is not None:
            acks.setdefault(sent, record.at)
            stored.setdefault(record.id, (first[sent], record.at))
        elif isinstance(record, Closed):
            closed[record.client] = record.at
        elif isinstance(record, Opened) and record.client in closed:
            ways.append((closed.pop(record.client), record.at))
        elif isinstance(record, Got) and (record.client, record.id) not in seen:
            seen.add((record.client, record.id))
            heard[record.id] = record.at
        elif isinstance(record, Withdrawn):
            withdrawn.append(record.at)
    answered = sorted(acks.values())
    costs = []
    for number, (name, begun, ended) in enumerate(faults):
        until = min(ended + AFTERWARDS, faults[number + 1][1] if number + 1 < len(faults) else ended + AFTERWARDS)
        cost = Cost(name)
        following = number + 1 < len(faults)
        gaps = [
            (a, min(b, until) if following else b) for a, b in itertools.pairwise(answered) if b > begun and a < until
        ]
        cost.silent = max((b - a for a, b in gaps), default=0) / 1000
        cost.slowest = (
            max((acks[k] - at for k, at in first.items() if begun <= at < until and k in acks), default=0) / 1000
        )
        cost.away = max((b - a for a, b in ways if begun <= a < until), default=0) / 1000
        late = (heard[i] - at for i, (sent_at, at) in stored.items() if begun <= sent_at < until and i in heard)
        cost.late = max((*late, 0)) / 1000
        cost.withdrawn = sum(begun <= at and (at < until or not following) for at in withdrawn)
        costs.append(cost)
    return costs


def _ms() -> int:
    return time.time_ns() // 1_000_000
