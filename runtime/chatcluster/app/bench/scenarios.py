"""The scenarios: each drives a subject and returns figures and latencies.

Latencies are open loop: counted from the time a message was due, not from when the generator got round to
it, so a stalled server cannot hide its stall (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from chatcluster.app.bench.histogram import LatencyHistogram
from chatcluster.app.bench.limits import produce_times, raw_sender, sync_times
from chatcluster.app.bench.report import Figure, Latencies, latencies
from chatcluster.app.bench.subject import Subject
from chatcluster.app.bench.swarm import Client, between, connect_all

Say = Callable[[str], None]
Found = tuple[list[Figure], list[Latencies]]

BODY = 200
_ACK = b'{"type":"ack","rid":"'
_RAMP = (500, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 8000, 10000)


def _ignore(client: Client, payload: bytes) -> None:
    pass


def _send(channel: str, index: int, size: int = BODY) -> bytes:
    """A send whose rid and first eight characters of body are its index."""
    body = f"{index:08d}".ljust(size, "x")
    return (
        f'{{"type":"send","rid":"{index}","channel":"{channel}","client_id":"b{index}-{time.monotonic_ns():x}","body":"{body}"}}'
    ).encode()


async def _create(client: Client, kind: str, members: Sequence[str], name: str) -> str:
    """Creates a channel over the client's connection."""
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    before = client.on_frame

    def watch(client: Client, payload: bytes) -> None:
        if b'"rid":"create"' in payload and not answered.done():
            answered.set_result(payload)

    client.on_frame = watch
    request = {"type": "channel.create", "rid": "create", "client_id": name, "kind": kind, "members": list(members)}
    client.send(json.dumps(request).encode())
    payload = await asyncio.wait_for(answered, 30)
    client.on_frame = before
    channel = between(payload, b'"channel":"', b'"').decode()
    if not channel:
        raise RuntimeError(payload.decode())
    return channel


class _Run:
    """One open-loop run: when each message was due, when it was acknowledged and delivered."""

    def __init__(self, total: int, deliveries: int) -> None:
        self.due = array("d", bytes(8 * total))
        self.acks = LatencyHistogram()
        self.delivered = LatencyHistogram()
        self.refused = 0
        self._left = total * (deliveries + 1)
        self.done = asyncio.Event()

    def frame(self, _: Client, payload: bytes, *, count_event: bool) -> None:
        now = time.perf_counter()
        if payload.startswith(_ACK):
            index = int(payload[len(_ACK) : payload.index(b'"', len(_ACK))])
            self.acks.record(int((now - self.due[index]) * 1e6))
        elif count_event and b'"kind":"message"' in payload:
            at = payload.find(b'"body":"') + 8
            self.delivered.record(int((now - self.due[int(payload[at : at + 8])]) * 1e6))
        elif payload.startswith(b'{"type":"error"'):
            self.refused += 1
        else:
            return
        self._left -= 1
        if self._left <= 0:
            self.done.set()


async def _offer(run: _Run, rate: float, total: int, send: Callable[[int], None]) -> None:
    begin = time.perf_counter() + 0.05
    index = 0
    while index < total:
        due = min(total, int((time.perf_counter() - begin) * rate) + 1)
        while index < due:
            run.due[index] = begin + index / rate
            send(index)
            index += 1
        await asyncio.sleep(0.001)


async def direct(subject: Subject, say: Say, *, pairs: int = 500, seconds: float = 5.0) -> Found:
    """1:1 messages between ``pairs`` pairs: ramp to saturation, then half of it."""
    say(f"connecting {2 * pairs} users")
    hellos = [subject.hello(f"pair-{number // 2}-{'ab'[number % 2]}") for number in range(2 * pairs)]
    clients = await connect_all(subject.urls, hellos, _ignore)
    channels: list[str] = []
    for start in range(0, pairs, 50):
        some = range(start, min(pairs, start + 50))
        made = (_create(clients[2 * pair], "direct", [f"pair-{pair}-b"], f"d{pair}") for pair in some)
        channels += await asyncio.gather(*made)

    spent: dict[str, float] = {}  # µs of CPU per message by stage, of the last run

    async def at(rate: float, length: float) -> tuple[_Run, float]:
        total = int(rate * length)
        run = _Run(total, 1)
        for number, client in enumerate(clients):
            # the sender's own copy of the event is not counted as a delivery
            client.on_frame = partial(run.frame, count_event=number % 2 == 1)
        before, stages = subject.cpu(), subject.cpu_by_stage()
        await _offer(
            run, rate, total, lambda index: clients[index % pairs * 2].send(_send(channels[index % pairs], index))
        )
        try:
            await asyncio.wait_for(run.done.wait(), 10)
        except TimeoutError:
            counts = f"{run.acks.count:,} of {total:,} acknowledged, {run.delivered.count:,} delivered"
            say(f"  {counts}, {run.refused:,} refused")
        count = max(1, run.delivered.count)
        spent.update({name: (now - stages[name]) / count * 1e6 for name, now in subject.cpu_by_stage().items()})
        return run, (subject.cpu() - before) / count * 1e6

    await asyncio.sleep(subject.settle)
    await at(500, 2.0)  # warm
    await asyncio.sleep(subject.settle / 4)
    best, cost = 0.0, 0.0
    for rate in _RAMP:
        run, micros = await at(rate, 3.0)
        p99 = run.delivered.percentile(99) / 1000
        ack = run.acks.percentile(99) / 1000
        by_stage = ", ".join(f"{name} {cost:.0f}" for name, cost in spent.items()) if len(spent) > 1 else ""
        say(f"  {rate:>6,}/s: deliver P99 {p99:8.1f} ms, ack P99 {ack:8.1f} ms, {micros:5.0f} µs CPU  {by_stage}")
        if run.delivered.count < 0.99 * rate * 3 or p99 > 250:
            break
        best, cost = rate, micros
    if not best:
        say("  not even the lowest rate was held: nothing to take half of")
        for client in clients:
            client.drop()
        return [Figure("direct", "saturation", best, "messages/s", "below the lowest rate offered")], []
    half = best / 2
    run, micros = await at(half, seconds)
    shares = [Figure("direct", f"CPU per message at half: {name}", cost, "µs") for name, cost in spent.items()]
    if subject.kafka is None:
        disk = sync_times(subject.folder, 2.0)
        beside = f"disk sync P50 {disk.percentile(50) / 1000:.1f}, P99 {disk.percentile(99) / 1000:.1f} ms"
    else:
        bare = await produce_times(subject.kafka, half, seconds)
        beside = f"bare produce P50 {bare.percentile(50) / 1000:.1f}, P99 {bare.percentile(99) / 1000:.1f} ms"
    for client in clients:
        client.drop()
    deliver, ack = run.delivered.percentile(99) / 1000, run.acks.percentile(99) / 1000
    figures = [
        Figure("direct", "saturation", best, "messages/s"),
        Figure("direct", "CPU per message at saturation", cost, "µs", goal="≤ 200", met=cost <= 200),
        Figure("direct", "CPU per message at half", micros, "µs"),
        Figure("direct", "send → deliver P99 at half", deliver, "ms", goal="< 10", met=0 < deliver < 10),
        Figure("direct", "send → ack P99 at half", ack, "ms", beside, "< 50", 0 < ack < 50),
        *(shares if len(shares) > 1 else []),
    ]
    measured = [
        latencies("direct", "send → deliver", half, run.delivered),
        latencies("direct", "send → ack", half, run.acks),
    ]
    return figures, measured


async def _large(subject: Subject, say: Say, name: str, members: int, online: int) -> tuple[str, list[Client]]:
    """A channel of ``members`` with ``online`` of them connected and following it."""
    made = await subject.api(
        "POST", "/channels", {"client_id": name, "kind": "group", "name": name, "creator": f"{name}-0"}
    )
    channel = str(made["channel"])
    users = [f"{name}-{number}" for number in range(1, members)]
    begin = time.perf_counter()
    for start in range(0, len(users), 10_000):
        await subject.api("POST", f"/channels/{channel}/members", {"users": users[start : start + 10_000]})
        say(f"  {min(len(users), start + 10_000):,} of {members:,} members, {time.perf_counter() - begin:.1f} s")
    say(f"  connecting {online:,} of them")
    following: list[asyncio.Future[None]] = []
    hellos = [subject.hello(f"{name}-{number}") for number in range(online)]
    clients = await connect_all(subject.urls, hellos, _ignore)
    loop = asyncio.get_running_loop()
    for client in clients:
        follows: asyncio.Future[None] = loop.create_future()

        def on_frame(_: Client, payload: bytes, follows: asyncio.Future[None] = follows) -> None:
            if b'"rid":"follow"' in payload and not follows.done():
                if payload.startswith(b'{"type":"error"'):
                    follows.set_exception(RuntimeError(payload.decode()))
                else:
                    follows.set_result(None)

        client.on_frame = on_frame
        client.send(f'{{"type":"follow","rid":"follow","channel":"{channel}"}}'.encode())
        following.append(follows)
    await asyncio.wait_for(asyncio.gather(*following), 120)
    return channel, clients


class _FanOut:
    """Counts events until every client has its share. A send that is refused (the disk stands still) is repeated."""

    def __init__(self, clients: Sequence[Client], channel: str) -> None:
        self._channel = channel
        self._left = 0
        self.refused = 0
        self.last = 0.0
        self.bytes = 0
        self._done = asyncio.Event()
        for client in clients:
            client.on_frame = _ignore
            client.on_bytes = self._bytes

    def _bytes(self, client: Client, data: bytes) -> None:
        # Counted by a mark that every event has once; where a read cuts an event, the mark comes with one part.
        events = data.count(b'"body":"')
        if events:
            self._left -= events
            self.bytes = len(data) // events
            if self._left <= 0:
                self.last = time.perf_counter()
                self._done.set()
        elif b'"type":"error"' in data:
            self.refused += 1
            index = int(between(data, b'"rid":"', b'"') or b"0")
            asyncio.get_running_loop().call_later(0.05, client.send, _send(self._channel, index))

    async def round(self, expected: int, send: Callable[[], None]) -> float:
        """Seconds from the send to the last delivery."""
        self._left = expected
        self._done.clear()
        begin = time.perf_counter()
        send()
        await asyncio.wait_for(self._done.wait(), 30)
        return self.last - begin


async def fanout(subject: Subject, say: Say, *, sockets: int = 2000, seconds: float = 1.0, turns: int = 5) -> Found:
    """One event to ``sockets`` followers, one at a time and eight waiting, beside one bare send per socket."""
    name = f"fan{sockets}"
    channel, clients = await _large(subject, say, name, max(600, sockets), sockets)
    count = _FanOut(clients, channel)
    sent = 0

    def burst(events: int) -> Callable[[], None]:
        def send() -> None:
            nonlocal sent
            for _ in range(events):
                clients[sent % sockets].send(_send(channel, sent))
                sent += 1

        return send

    await count.round(sockets, burst(1))
    ours: dict[int, list[float]] = {1: [], 8: []}
    limits: list[float] = []
    micros: list[float] = []
    # In turn, so that a neighbour's noise meets all three alike; the ratio is taken turn by turn.
    async with raw_sender(sockets, count.bytes) as raw:
        for _ in range(turns):
            await asyncio.sleep(1.0)  # marks and stores of the turn before are not the limit's to pay
            limits.append(await raw.rate(seconds))
            for events, found in ours.items():
                rounds, begin, cpu = 0, time.perf_counter(), subject.cpu()
                while time.perf_counter() - begin < seconds:
                    await count.round(sockets * events, burst(events))
                    rounds += 1
                found.append(rounds * events * sockets / (time.perf_counter() - begin))
                if events == 1:
                    micros.append((subject.cpu() - cpu) / (rounds * sockets) * 1e6)
            say(f"  one at a time {ours[1][-1]:,.0f}/s, eight waiting {ours[8][-1]:,.0f}/s, raw {limits[-1]:,.0f}/s")
    if count.refused:
        say(f"  {count.refused:,} sends were refused and repeated")
    for client in clients:
        client.drop()
    one, eight = (median(a / b for a, b in zip(ours[events], limits, strict=True)) for events in (1, 8))
    beside, cost = f"raw {median(limits):,.0f}/s", median(micros)
    scenario = f"fanout {sockets:,}"
    return [
        Figure(scenario, "deliveries, one event at a time", median(ours[1]), "/s", beside),
        Figure(scenario, "ratio to raw", one, "", beside, "≥ 0.75", one >= 0.75),
        Figure(scenario, "deliveries, eight waiting", median(ours[8]), "/s", beside),
        Figure(scenario, "ratio to raw, eight waiting", eight, "", beside, "≥ 2.5", eight >= 2.5),
        Figure(scenario, "CPU per delivery, one at a time", cost, "µs", goal="≤ 12", met=cost <= 12),
    ], []


async def group(subject: Subject, say: Say, *, members: int = 499, rounds: int = 40) -> Found:
    """A small group (write fan-out): one message to ``members`` inboxes, all online here."""
    hellos = [subject.hello(f"grp-{number}") for number in range(members)]
    clients = await connect_all(subject.urls, hellos, _ignore)
    channel = await _create(clients[0], "group", [f"grp-{number}" for number in range(1, members)], f"grp{members}")
    await asyncio.sleep(1)
    count = _FanOut(clients, channel)
    histogram = LatencyHistogram()
    for index in range(rounds):
        took = await count.round(members, partial(clients[index].send, _send(channel, index)))
        histogram.record(int(took * 1e6))
        await asyncio.sleep(0.05)
    for client in clients:
        client.drop()
    p99 = histogram.percentile(99) / 1000
    say(f"  last delivery P99 {p99:.1f} ms")
    return [Figure("group", f"last of {members} deliveries, P99", p99, "ms", goal="≤ 20", met=p99 <= 20)], [
        latencies("group", "send → last delivery", 20, histogram)
    ]


async def huge(subject: Subject, say: Say, *, members: int = 200_000, online: int = 5000, rounds: int = 20) -> Found:
    """A channel of ``members`` with ``online`` following here: one message to all of them."""
    begin = time.perf_counter()
    channel, clients = await _large(subject, say, "huge", members, online)
    imported = time.perf_counter() - begin
    await asyncio.sleep(1)
    count = _FanOut(clients, channel)
    histogram = LatencyHistogram()
    for index in range(rounds):
        took = await count.round(online, partial(clients[index].send, _send(channel, index)))
        histogram.record(int(took * 1e6))
        await asyncio.sleep(0.1)
    size = count.bytes
    for client in clients:
        client.drop()
    await asyncio.sleep(0.5)
    async with raw_sender(online, size) as sender:
        raw = await sender.rate(3)
    middle, bound = histogram.percentile(50) / 1000, online / (0.75 * raw) * 1000 + 20
    say(f"  last delivery: median {middle:.0f} ms; predicted by the fan-out rate {bound:.0f} ms")
    predicted = f"{online:,} / (0.75 × raw {raw:,.0f}/s) + 20 ms = {bound:.0f} ms"
    return [
        Figure("huge", f"{members:,} members made and {online:,} connected in", imported, "s"),
        Figure(
            "huge", f"last of {online:,} deliveries, median", middle, "ms", predicted, f"≤ {bound:.0f}", middle <= bound
        ),
    ], [latencies("huge", "send → last delivery", 10, histogram)]


async def idle(subject: Subject, say: Say, *, connections: int = 8000) -> Found:
    """Memory of idle, authenticated, subscribed connections."""
    warm = await connect_all(subject.urls, [subject.hello(f"warm-{number}") for number in range(500)], _ignore)
    for client in warm:
        client.drop()
    await asyncio.sleep(3)
    before = subject.rss()
    clients = await connect_all(
        subject.urls, [subject.hello(f"idle-{number}") for number in range(connections)], _ignore
    )
    await asyncio.sleep(5)
    cpu = subject.cpu()
    await asyncio.sleep(10)
    busy = (subject.cpu() - cpu) / 10 * 100
    each = (subject.rss() - before) / connections / 1024
    say(f"  {each:.1f} KiB each; {busy:.1f} % of a core while idle")
    for client in clients:
        client.drop()
    return [
        Figure("idle", f"RSS per connection at {connections:,}", each, "KiB", goal="≤ 8", met=each <= 8),
        Figure("idle", f"CPU of {connections:,} idle connections", busy, "% of a core"),
    ], []


async def reconnect(subject: Subject, say: Say, *, connections: int = 3000) -> Found:
    """All clients are dropped at once and resume: how many per second, and what it asks of the store."""
    users = [f"storm-{number}" for number in range(connections)]
    clients = await connect_all(subject.urls, [subject.hello(user) for user in users], _ignore)
    await asyncio.sleep(2)
    hellos = [
        subject.hello(user, resume={"inbox": client.inbox.decode(), "channels": {}, "pending": []})
        for user, client in zip(users, clients, strict=True)
    ]
    for client in clients:
        client.drop()
    await asyncio.sleep(1)
    reads, cpu = await subject.metric("chatcluster_resume_store_reads_total"), subject.cpu()
    begin = time.perf_counter()
    again = await connect_all(subject.urls, hellos, _ignore, at_once=500)
    elapsed = time.perf_counter() - begin
    cost = (subject.cpu() - cpu) / connections * 1e6
    await asyncio.sleep(0.5)
    reads = await subject.metric("chatcluster_resume_store_reads_total") - reads
    resumed = sum(b'"resumed":true' in client.welcome.result() for client in again)
    rate = connections / elapsed
    say(f"  {rate:,.0f} resumes/s, {cost:.0f} µs each, {resumed} of {connections} resumed, {reads:.0f} store reads")
    for client in again:
        client.drop()
    return [
        Figure("reconnect", f"resumes, {connections:,} at once", rate, "/s", goal="≥ 3,000", met=rate >= 3000),
        Figure("reconnect", "CPU per resume", cost, "µs"),
        Figure("reconnect", "store reads", reads, "", goal="0", met=reads == 0),
        Figure("reconnect", "resumed", resumed / connections * 100, "%", goal="100", met=resumed == connections),
    ], []
