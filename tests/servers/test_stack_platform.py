"""The whole platform as processes, on real servers: it talks, it is seen, it leaves when told."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from chatcluster.app.bench.subject import described
from chatcluster.app.tokens import mint
from chatcluster.client import Client, Message
from chatcluster_stack.named import Stack
from chatcluster_stack.platform import scraped
from chatcluster_stack.status import table
from talking import stored

pytestmark = pytest.mark.slow


def client(stack: Stack, gateway: int, user: str) -> Client:
    return Client(stack.urls[gateway], token=mint(stack.key, user=user), device=f"{user}-device")


async def heard(chat: Client, count: int) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(60):
        async for message in chat.messages():
            found.append(message)
            if len(found) == count:
                return found
    raise AssertionError("it ended")


def shown(stack: Stack) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table(stack))
    return console.export_text()


async def test_two_gateways_talk(stack: Stack) -> None:
    async with client(stack, 0, "ann") as ann, client(stack, 1, "bob") as bob:
        direct = await ann.create_direct("bob")
        group = await bob.create_group(["ann", "cid"], name="all of us")
        hearing = asyncio.create_task(heard(bob, 4))
        for channel in (direct, group):
            await ann.send(channel, f"from ann in {channel}", timeout=60)
            await bob.send(channel, f"from bob in {channel}", timeout=60)
        bodies = {message.body for message in await hearing}
        assert bodies == {f"from {user} in {channel}" for user in ("ann", "bob") for channel in (direct, group)}
    # Who was never connected reads it all, at the other gateway than its sender's.
    async with client(stack, 1, "cid") as cid:
        assert await stored(cid, group, 2) == [f"from {user} in {group}" for user in ("ann", "bob")]


def test_status_shows_every_process(stack: Stack) -> None:
    text = shown(stack)
    assert text.count("ready") == len(stack.nodes)
    assert stack.ready()
    stack.node("persister-2").kill()
    stack.node("router-2").pause()
    text = shown(stack)
    assert "down" in text
    assert "paused" in text
    assert stack.problems()["persister-2"] == "down"


def test_what_a_test_left_down_is_up_again(stack: Stack) -> None:
    assert stack.problems() == {}
    described_now = described(stack.platform.bench)
    for role in ("gateway", "router", "persister", "presence"):
        pids = [stack.node(name).pid for name in stack.platform.roles.names(role)]
        assert described_now.stages[role] == pids
    assert "router_sends_total" in scraped(stack.platform.management("router-1"))


@pytest.mark.parametrize("name", ["gateway-2", "router-2", "persister-2", "presence-1"])
def test_sigterm_ends_a_role_in_time(stack: Stack, name: str) -> None:
    node = stack.node(name)
    if node.pid is not None:  # started by this process, so that its exit status is ours to see
        node.term(patience=20)
    assert node.status == 0, node.log.read_text()[-2000:]


async def test_sends_go_on_while_every_role_is_killed_once(stack: Stack) -> None:
    async with client(stack, 0, "eve") as eve, client(stack, 1, "fay") as fay:
        direct = await eve.create_direct("fay")
        hearing = asyncio.create_task(heard(fay, 4))
        for name in ("router-1", "persister-1", "presence-1", "gateway-1"):
            await asyncio.to_thread(stack.node(name).kill)
            sending = asyncio.create_task(eve.send(direct, f"{name} is gone", timeout=90))
            await asyncio.to_thread(stack.node(name).start)
            await sending
        assert [message.body for message in await hearing] == [
            f"{name} is gone" for name in ("router-1", "persister-1", "presence-1", "gateway-1")
        ]
