"""Thousands of members imported on the real platform while what carries it dies: all are members, each once."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from chatcluster.app.tokens import mint
from chatcluster.client import Client
from chatcluster_stack.named import Stack
from chatcluster_stack.processes import Node

pytestmark = pytest.mark.slow
MEMBERS = 6_000
TRIES = 10


async def members(stack: Stack, *arguments: str) -> tuple[int, str]:
    """``chatcluster members`` on the stack: its exit code and what it wrote."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatcluster", "members", *arguments, "--management", stack.api),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "CHATCLUSTER_API_KEY": stack.api_key},
    )
    written, _ = await running.communicate()
    assert running.returncode is not None
    return running.returncode, written.decode()


async def imported(stack: Stack, file: Path, channel: str) -> list[str]:
    """Again until it is done, as its user would; what the runs that were broken off said."""
    said: list[str] = []
    for _ in range(TRIES):
        code, text = await members(stack, "import", str(file), "--channel", channel, "--batch", "500")
        if code == 0:
            return said
        said.append(text)
        await asyncio.sleep(3)
    raise AssertionError(f"not imported: {said}")


async def test_an_import_goes_on_over_deaths_and_everyone_is_a_member_once(stack: Stack, tmp_path: Path) -> None:
    run = uuid4().hex[:8]
    names = [f"{run}-{number:05}" for number in range(MEMBERS)]
    file = tmp_path / "users"
    file.write_text("\n".join(names))
    owner = Client(stack.urls[0], token=mint(stack.key, user=f"owner-{run}"), device="d", connect_timeout=60)
    async with owner:
        channel = await owner.create_group([f"first-{run}"], name="imported")
        importing = asyncio.create_task(imported(stack, file, channel))
        for name in ("persister-1", "router-2"):
            await asyncio.sleep(1.5)
            assert not importing.done(), "too few members to die while they come"
            await asyncio.to_thread(Node.kill, stack.node(name))
            await asyncio.to_thread(stack.heal)
        await importing

        code, text = await members(stack, "list", "--channel", channel)
        assert code == 0, text
        listed = [line.partition("\t")[0] for line in text.splitlines()]
        assert sorted(listed) == sorted([*names, f"first-{run}", f"owner-{run}"])
        # Who came last is told what is said from now on, though nobody's inbox is written for so many.
        last = Client(stack.urls[1], token=mint(stack.key, user=names[-1]), device="d", connect_timeout=60)
        async with last:
            await owner.send(channel, "welcome", timeout=60)
            async with asyncio.timeout(60):
                async for message in last.messages():
                    if message.channel == channel:
                        assert message.body == "welcome"
                        break
