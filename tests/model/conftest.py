"""A whole platform in virtual time whose every seam can fail, for the state machine of ``test_delivery``.

Real routers, persisters, gateways' sessions and SDK clients, on memory bus, tails and dedupe and the SQLite log
and store. A service reaches its ports through a ``Process``: it can be killed or frozen between any two calls.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close as CloseFrame

from chatcluster.backends.memory.bus import MemoryBuses
from chatcluster.backends.memory.dedupe import MemoryDedupe
from chatcluster.backends.memory.read_cursors import MemoryReadCursors
from chatcluster.backends.memory.tails import MemoryTails
from chatcluster.backends.memory.workers import MemoryWorkers
from chatcluster.backends.sqlite import SqliteLog, SqliteStore
from chatcluster.client import engine as sdk
from chatcluster.client.client import Client
from chatcluster.client.connection import Connection, Ending, NotConnected
from chatcluster.client.errors import ChatError, RequestRefused
from chatcluster.client.recorder import Observer
from chatcluster.core.codes import Close
from chatcluster.core.frames import JSON, Answer, ClientFrame, ErrorFrame, Request, ServerFrame
from chatcluster.core.history import Record
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import INBOX, MESSAGES, channel_key
from chatcluster.ports import Beat, Caller, Delivery, Failure, Full, Lost, Receipt, Report, Unavailable
from chatcluster.services.gateway.auth import Identity
from chatcluster.services.gateway.session_settings import SessionSettings
from chatcluster.services.gateway.sessions import Sessions
from chatcluster.services.persister.service import PersisterService
from chatcluster.services.persister.settings import PersisterSettings
from chatcluster.services.router.changes import direct_id, group_id
from chatcluster.services.router.service import RouterService
from chatcluster.services.router.settings import RouterSettings

TENANT = "t"
USERS = ("ann", "bob", "cid", "dan")
LIMIT = 3
"""Members from which a channel is large: four users are enough to see it switch."""


class Faults:
    """What goes wrong now. One for all processes; rates from 0 to 1."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.heal()

    def heal(self) -> None:
        self.lose = 0.0  # of the bus, silently
        self.double = 0.0
        self.late = 0.0
        self.shuffle = False
        self.down: set[str] = set()  # "store", "tails", "dedupe"
        self.torn = 0.0  # writes of the store that are applied in part and raise
        self.reports = 0.0  # appends that stand and are reported as failures
        self.refused = 0.0  # appends that do not stand and are reported as failures


class Process:
    """What a service may still do, and the seams that it reaches through."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.clock = type(world.clock)()
        self.task: asyncio.Task[None] | None = None
        self.service: Any = None
        self.open: dict[int, tuple[Callable[[Answer], None], str | None]] = {}  # of a router
        self.held: deque[tuple[str, Any, bytes, Report, float]] | None = None  # appends on their way
        self._steps: int | None = None
        self._freeze = False
        self._thawed = asyncio.Event()
        self._thawed.set()

    def after(self, steps: int, *, freeze: bool) -> None:
        """Dies (or freezes) before the ``steps``-th call of a port from now."""
        self._steps, self._freeze = steps, freeze

    def step(self) -> bool:
        """Another call begins. Whether it may."""
        if self._steps is not None and not self.dead:
            self._steps -= 1
            if self._steps < 0:
                self._steps = None
                if self._freeze:
                    self._thawed.clear()
                else:
                    self.kill()
        return not self.dead

    async def gate(self) -> None:
        if not self.step():
            raise asyncio.CancelledError
        await self._thawed.wait()
        if self.dead:
            raise asyncio.CancelledError

    @property
    def frozen(self) -> bool:
        return not self._thawed.is_set()

    def thaw(self) -> None:
        self._steps = None
        self._thawed.set()

    def kill(self) -> None:
        if self.dead:
            return
        self.dead = True
        self._thawed.set()
        if self.task is not None:
            asyncio.get_running_loop().call_soon(self.task.cancel)
        opened, self.open = self.open, {}
        for done, rid in opened.values():
            if rid is not None:  # the gateway sees the connection to its router end
                done(ErrorFrame("unknown_outcome", "the router is gone", True, rid))

    def release(self) -> None:
        """What was on its way to the log arrives."""
        held, self.held = self.held, None
        for topic, key, value, report, _ in held or ():
            self._append(topic, key, value, report)

    def forget(self) -> None:
        """What was on its way never arrives."""
        held, self.held = self.held, None
        for *_, report, _ in held or ():
            self.answer(report, Failure("lost"))

    def append(self, topic: str, key: Any, value: bytes, report: Report) -> None:
        if not self.step():
            return
        if self.held is not None:
            if len(self.held) > 500:
                raise Full("the way to the log is long")
            self.held.append((topic, key, value, report, asyncio.get_running_loop().time()))
        else:
            self._append(topic, key, value, report)

    def _append(self, topic: str, key: Any, value: bytes, report: Report) -> None:
        faults = self.world.faults

        def told(result: Receipt | Failure) -> None:
            self.answer(report, Failure("the answer was lost") if wrong else result)

        wrong = faults.rng.random() < faults.reports
        if faults.rng.random() < faults.refused:
            asyncio.get_running_loop().call_soon(self.answer, report, Failure("refused"))
        elif isinstance(key, int):
            self.world.log.append_to(topic, key, value, told)
        else:
            self.world.log.append(topic, key, value, told)

    def answer(self, report: Report, result: Receipt | Failure) -> None:
        if not self.dead:
            report(result)


class Through:
    """A port as a process reaches it."""

    def __init__(self, process: Process, name: str, port: Any) -> None:
        self._process = process
        self._name = name
        self._port = port

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if inspect.iscoroutinefunction(found):

            async def call(*args: Any, **more: Any) -> Any:
                process, faults = self._process, self._process.world.faults
                await process.gate()
                if self._name in faults.down:
                    raise Unavailable(self._name)
                if self._name == "store" and name == "write" and faults.rng.random() < faults.torn:
                    await found([row for row in args[0] if faults.rng.random() < 0.5])
                    raise Unavailable("torn")
                result = await found(*args, **more)
                await process.gate()
                return result

            return call
        if name == "settle":
            return lambda settled: found(settled) if self._process.step() else None
        return found


class ThroughLog(Through):
    """The log as a process reaches it: appends may be late, lost, or stand without being told."""

    def append(self, topic: str, key: str, value: bytes, report: Report) -> None:
        self._process.append(topic, key, value, report)

    def append_to(self, topic: str, partition: int, value: bytes, report: Report) -> None:
        self._process.append(topic, partition, value, report)

    def stalled(self) -> float:
        held = self._process.held
        if held:
            return asyncio.get_running_loop().time() - held[0][4]
        return float(self._port.stalled())


class ThroughBus(Through):
    """The bus as a process reaches it: what comes may be doubled, late, in another order."""

    def publish(self, topics: Sequence[str], envelope: Any) -> None:
        if self._process.step():
            self._port.publish(topics, envelope)

    async def listen(self) -> AsyncIterator[Sequence[Delivery | Lost]]:
        faults, late = self._process.world.faults, self._process.world.late
        async for came in self._port.listen():
            batch = list(came)
            rng = faults.rng
            if faults.late:
                kept = [item for item in batch if isinstance(item, Lost) or rng.random() >= faults.late]
                late.extend((self._port, item) for item in batch if item not in kept)
                batch = kept
            if faults.double:
                batch += [item for item in batch if rng.random() < faults.double]
            if faults.shuffle:
                rng.shuffle(batch)
            if self._process.dead:
                return
            yield batch


class Link:
    """A client's connection, seen from its session."""

    def __init__(self, socket: Socket) -> None:
        self.codec = JSON
        self.closed = False
        self.socket = socket

    def send(self, frame: ServerFrame) -> None:
        self.write(JSON.encode(frame) + b"\n")

    def write(self, wire: bytes) -> None:
        if not self.closed:
            for line in wire.splitlines():
                self.socket.come(line)

    def close(self, code: Close, reason: str) -> None:
        if not self.closed:
            self.closed = True
            self.socket.end(int(code), reason)

    def authenticated(self, key: str, expires: float | None) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Socket:
    """A client's connection, seen from the SDK; what is in flight is lost when it is cut."""

    subprotocol = JSON.name

    def __init__(self, device: Device, gateway: Process) -> None:
        self.device = device
        self.gateway = gateway
        self.transport = self
        self._came: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._end: ConnectionClosedError | None = None
        self.link = Link(self)
        self.handler = gateway.service.accept(self.link, None)

    def come(self, line: bytes) -> None:
        self._came.append(line)
        self._news.set()

    def end(self, code: int, reason: str) -> None:
        """The server closed: what is in flight still comes."""
        if self._end is None:
            self._end = ConnectionClosedError(CloseFrame(code, reason), None)
            asyncio.get_running_loop().call_soon(self.handler.on_closed)
            self._news.set()

    def abort(self) -> None:
        """Cut: in both directions what is in flight is lost."""
        self.link.closed = True
        self._came.clear()
        if self._end is None:
            self._end = ConnectionClosedError(None, None)
            if not self.gateway.dead:
                asyncio.get_running_loop().call_soon(self.handler.on_closed)
        self._news.set()

    async def recv(self, decode: bool = False) -> bytes:
        while not self._came or self.device.stalled:
            if self._end is not None and not self._came:
                raise self._end
            self._news.clear()
            await self._news.wait()
        return self._came.popleft()

    async def send(self, raw: bytes, text: bool = True) -> None:
        if self._end is not None:
            raise self._end
        frame: ClientFrame = JSON.decode(raw)
        self.handler.on_frame(frame)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.abort()

    def wake(self) -> None:
        self._news.set()


class Device:
    """One device of a user: a real SDK client on fake sockets, recorded."""

    def __init__(self, world: World, name: str, user: str, *, first: bool) -> None:
        self.world = world
        self.name = name
        self.user = user
        self.first = first  # it was there before any channel
        self.stalled = False
        self.socket: Socket | None = None
        self.observer = Observer(world.records.append, world.clock.now, name, user=user, tenant=TENANT)
        self.client = Client(
            f"ws://{name}", token=user, device=name, codec="json", queue=50, connect_timeout=0, observer=self.observer
        )
        self.client._engine._random = world.rng.random
        self.after: dict[str, int] = {}  # a later device: messages from this offset on come as events
        self.asked: set[str] = set()  # channels whose whole history it has read

    async def run(self) -> None:
        for channel in self.world.channels:
            self.client.view(channel)
        async with self.client:
            if not self.first:
                await self.client._engine.live(100_000)
                for channel in self.world.channels:
                    self.after[channel] = await self.world.end(channel)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._consume())
                    for channel in list(self.world.channels):
                        tasks.create_task(self._older(channel))
            else:
                await self._consume()

    async def _consume(self) -> None:
        async for _ in self.client.events():
            pass

    async def _older(self, channel: str) -> None:
        with suppress(ChatError):
            while not self.client.view(channel).complete:
                if not await self.client.older(channel, timeout=10_000):
                    break
            if self.client.view(channel).complete:
                self.asked.add(channel)


class Presence:
    def beat(self, gateway: str, beats: Sequence[Beat]) -> None: ...
    async def watch(self, *args: Any) -> Sequence[Any]:
        return []

    def forget(self, gateway: str, sessions: Sequence[str]) -> None: ...


class Authenticator:
    async def verify(self, token: str) -> Identity:
        return Identity(token, TENANT, 9e9, 1.7e9)


class Front:
    """The gateways' way to routers."""

    def __init__(self, world: World, gateway: int) -> None:
        self._world = world
        self._gateway = gateway
        self._number = 0

    def submit(self, caller: Caller, request: Request, done: Callable[[Answer], None]) -> None:
        routers = [router for router in self._world.routers if not router.dead]
        rid = getattr(request, "rid", None)
        if not routers:
            done(ErrorFrame("unavailable", "no router", True, rid or ""))
            return
        router = routers[self._gateway % len(routers)]
        self._number += 1
        number = self._number * 2 + self._gateway
        router.open[number] = (done, rid)

        def answered(answer: Answer) -> None:
            # A dead router's answers reach nobody; a frozen one's come when it is thawed.
            if not router.dead and router.open.pop(number, None) is not None:
                done(answer)

        router.service.submit(caller, request, answered)


class World:
    """The platform, its faults, its clients and everything they saw."""

    def __init__(self, loop: type[asyncio.SelectorEventLoop], clock: type[Any], path: Path, seed: int) -> None:
        self.runner = asyncio.Runner(loop_factory=loop)
        self.clock = clock()
        self.log_clock = clock()
        self.path = path
        self.rng = random.Random(seed)
        self.faults = Faults(self.rng)
        self.records: list[Record] = []
        self.late: list[tuple[Any, Delivery | Lost]] = []
        self.channels: dict[str, str] = {}  # id to who made it
        self.devices: list[Device] = []
        self.routers: list[Process] = []
        self.persisters: list[Process] = []
        self.gateways: list[Process] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.count = 0
        self.workers = 0
        self.metrics = Metrics()
        self.snapshot: Any = None

    def run(self, what: Any) -> Any:
        return self.runner.run(what)

    # -- starting and stopping -----------------------------------------------------------------------------

    async def start(self) -> None:
        stack = self.stack = AsyncExitStack()
        self.log = await stack.enter_async_context(
            SqliteLog.open(self.path, clock=self.log_clock, metrics=self.metrics, partitions=dict.fromkeys(
                ("messages", "inbox", "reads", "dead-letters", "notifications"), 2))
        )  # fmt: skip
        self.store = await stack.enter_async_context(
            SqliteStore.open(self.path, clock=self.clock, metrics=self.metrics)
        )
        self.buses = MemoryBuses()
        self.buses.drop = lambda _topic, _envelope: self.rng.random() < self.faults.lose
        self.tails = MemoryTails(clock=self.clock, entries=8)
        self.dedupe = MemoryDedupe(clock=self.clock)
        self.cursors = MemoryReadCursors()
        self.add_persister()
        self.add_router()
        for number in range(2):
            self.add_gateway(number)
        for user in USERS:
            await self.add_device(user)
        await asyncio.sleep(0.1)

    def _begin(self, process: Process, service: Any) -> Process:
        process.service = service
        process.task = asyncio.create_task(service.run(), name=process.name)
        self.tasks.append(process.task)
        return process

    def add_router(self) -> None:
        self.workers += 1
        process = Process(self, f"router-{self.workers}")
        bus = self.buses.subscriber(process.name)
        service = RouterService(
            log=ThroughLog(process, "log", self.log),  # type: ignore[arg-type]
            bus=ThroughBus(process, "bus", bus),  # type: ignore[arg-type]
            store=Through(process, "store", self.store),  # type: ignore[arg-type]
            dedupe=Through(process, "dedupe", self.dedupe),  # type: ignore[arg-type]
            cursors=Through(process, "cursors", self.cursors),  # type: ignore[arg-type]
            tails=Through(process, "tails", self.tails),  # type: ignore[arg-type]
            workers=MemoryWorkers(clock=process.clock, floor=0, worker=self.workers),
            clock=process.clock,
            metrics=Metrics(),
            settings=RouterSettings(
                name=process.name, sends_per_second=1e6, send_burst=1_000_000, inbox_fanout_limit=LIMIT
            ),
        )
        self.routers.append(self._begin(process, service))

    def add_persister(self) -> None:
        process = Process(self, f"persister-{len(self.persisters)}")
        service = PersisterService(
            log=ThroughLog(process, "log", self.log),  # type: ignore[arg-type]
            reader=Through(process, "log", self.log),  # type: ignore[arg-type]
            messages=Through(process, "log", self.log.consumer("stage1", MESSAGES)),  # type: ignore[arg-type]
            inbox=Through(process, "log", self.log.consumer("stage2", INBOX)),  # type: ignore[arg-type]
            store=Through(process, "store", self.store),  # type: ignore[arg-type]
            tails=Through(process, "tails", self.tails),  # type: ignore[arg-type]
            bus=ThroughBus(process, "bus", self.buses.subscriber(process.name)),  # type: ignore[arg-type]
            cursors=Through(process, "cursors", self.cursors),  # type: ignore[arg-type]
            clock=process.clock,
            metrics=Metrics(),
            settings=PersisterSettings(
                inbox_fanout_limit=LIMIT, inbox_fanout_floor=LIMIT, channels=2, users=2, members=6, append_chunk=3
            ),
        )
        self.persisters.append(self._begin(process, service))

    def add_gateway(self, number: int) -> None:
        process = Process(self, f"gateway-{number}-{len(self.tasks)}")
        service = Sessions(
            name=process.name,
            router=Front(self, number),
            bus=ThroughBus(process, "bus", self.buses.subscriber(process.name)),  # type: ignore[arg-type]
            tails=Through(process, "tails", self.tails),  # type: ignore[arg-type]
            store=Through(process, "store", self.store),  # type: ignore[arg-type]
            presence=Presence(),  # type: ignore[arg-type]
            log=self.log,
            authenticator=Authenticator(),
            clock=process.clock,
            metrics=Metrics(),
            settings=SessionSettings(pending_per_topic=20, resume_events=20, page=5, batch=3, linger=5.0),
            frame_bytes=lambda payload, text: payload + b"\n",
        )
        if number < len(self.gateways):
            self.gateways[number] = process
        else:
            self.gateways.append(process)
        self._begin(process, service)

    async def add_device(self, user: str) -> None:
        first = not self.channels and len(self.devices) < len(USERS)
        device = Device(self, f"{user}-{len(self.devices)}", user, first=first)
        self.devices.append(device)
        self.tasks.append(asyncio.create_task(device.run(), name=device.name))

    def connect(self, url: str) -> Connection:
        """What the SDK calls to open a socket."""
        name = url.removeprefix("ws://").partition("/")[0]
        device = next(device for device in self.devices if device.name == name)
        self.count += 1
        gateway = self.gateways[self.count % 2]
        if gateway.dead:
            raise NotConnected(Ending("no such gateway"))
        device.socket = Socket(device, gateway)
        return Connection(device.socket)  # type: ignore[arg-type]

    def kill_gateway(self, number: int) -> None:
        gateway = self.gateways[number]
        gateway.kill()
        for device in self.devices:
            if device.socket is not None and device.socket.gateway is gateway:
                device.socket.abort()
        self.add_gateway(number)

    def revive(self) -> None:
        """Somebody looks after the processes: what died is started again (as Kubernetes does)."""
        self.routers = [router for router in self.routers if not router.dead] or []
        if not self.routers:
            self.add_router()
        if self.persisters[-1].dead:
            self.add_persister()

    async def heal(self) -> None:
        self.faults.heal()
        for process in (*self.routers, *self.persisters, *self.gateways):
            process.thaw()
            process.clock.skew = 0
            if not process.dead:
                process.release()
        self.log_clock.skew = 0
        for device in self.devices:
            device.stalled = False
            if device.socket is not None:
                device.socket.wake()
        self.revive()

    async def end(self, channel: str) -> int:
        return await self.log.end(MESSAGES, self.log.partition_of(MESSAGES, channel_key(TENANT, channel)))

    # -- clients act -----------------------------------------------------------------------------------------

    def task(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self.tasks.append(task)
        return task

    async def quietly(self, coroutine: Any) -> Any:
        """A request whose refusal is an answer too."""
        with suppress(RequestRefused):
            return await coroutine

    async def settled(self, coroutine: Any) -> Any:
        """One whose outcome may stay unknown: it is given up after a while."""
        with suppress(ChatError):
            return await coroutine

    def known(self, channel: str, creator: str) -> None:
        self.channels[channel] = creator
        for device in self.devices:
            device.client.view(channel)

    def group(self, creator: str, client_id: str) -> str:
        return group_id(TENANT, creator, client_id)

    def direct(self, one: str, other: str) -> str:
        return direct_id(TENANT, one, other)

    def regress(self) -> None:
        """Save the tails, or put back what was saved: a fail-over to a replica that is behind."""
        if self.snapshot is None:
            self.snapshot = deepcopy((self.tails._tails, self.tails._size, self.tails._committed))
        else:
            self.tails._tails, self.tails._size, self.tails._committed = self.snapshot
            self.snapshot = None

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.stack.aclose()


@pytest.fixture
def new_world(
    loop_clock: Any, jumping_loop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., World]:
    """``new_world(seed)``: a platform to start with ``world.run(world.start())``."""
    shm = Path("/dev/shm")
    base = shm if shm.is_dir() else tmp_path
    worlds: list[World] = []

    async def connected(url: str, **_: Any) -> Connection:
        return worlds[-1].connect(url)

    monkeypatch.setattr(sdk, "connected", connected)

    def make(seed: int, path: Path) -> World:
        worlds[:] = [World(jumping_loop, type(loop_clock), path, seed)]
        return worlds[-1]

    make.base = base  # type: ignore[attr-defined]
    return make
