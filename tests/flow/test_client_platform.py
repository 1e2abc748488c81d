"""The SDK, the terminal client and administration against the real platform."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from chatcluster.app.tokens import load_key, mint
from chatcluster.client import (
    ChannelView,
    Client,
    FileCursors,
    IdConflict,
    NoSuchChannel,
    Shown,
)


@asynccontextmanager
async def platform(data: Path, *arguments: str) -> AsyncIterator[dict[str, str]]:
    """``chatcluster dev`` in a process of its own; its addresses by name."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatcluster", "dev", "--data", str(data)),
        *("--listen", "127.0.0.1:0", "--management", "127.0.0.1:0", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    addresses: dict[str, str] = {}
    try:
        async with asyncio.timeout(30):
            while not {"page", "socket", "management"} <= addresses.keys():
                words = (await process.stdout.readline()).decode().split()
                assert words or not process.stdout.at_eof(), "chatcluster dev ended before it listened"
                if len(words) == 2:
                    addresses[words[0]] = words[1]
        yield addresses
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, str, Path]]:
    data = tmp_path_factory.mktemp("platform")
    async with platform(data, "--no-demo") as addresses:
        yield addresses["socket"], addresses["management"], data


async def eventually(wanted: Callable[[], Awaitable[object]]) -> None:
    """Waits until ``wanted`` is true; the platform stores a moment after it acks."""
    async with asyncio.timeout(20):
        while not await wanted():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def until(view: ChannelView, wanted: Callable[[list[Shown]], bool]) -> list[Shown]:
    """What the view shows when it is as wanted."""

    async def shows() -> bool:
        return wanted(view.messages())

    await eventually(shows)
    return view.messages()


async def bodies(chat: Client, channel: str) -> list[str]:
    """The channel's history, the newest first."""
    return [message.body async for message in chat.history(channel, page=1)]


@pytest.mark.asyncio(loop_scope="module")
async def test_two_users_talk(embedded: tuple[str, str, Path]) -> None:
    url, _, data = embedded
    key = load_key(data)
    async with (
        Client(url, token=mint(key, user="ann"), device="a") as ann,
        Client(url, token=mint(key, user="bob"), device="b", codec="json") as bob,
    ):
        channel = await ann.create_direct("bob")
        assert await bob.create_direct("ann") == channel
        shown = ann.view(channel)
        question = await ann.send(channel, "how do you do?")
        heard = bob.messages()
        message = await anext(heard)
        assert (message.body, message.id, message.sender) == ("how do you do?", question.id, "ann")
        answer = await bob.send(channel, "how do you do", reply_to=message.id)
        assert int(answer.id) > int(question.id)
        again = await bob.send(channel, "how do you do", reply_to=message.id, client_id=answer.client_id)
        assert (again.id, again.duplicate) == (answer.id, True)
        with pytest.raises(IdConflict):
            await bob.send(channel, "something else", client_id=answer.client_id)
        rows = await until(shown, lambda rows: [row.mark for row in rows] == ["durable", "durable"])
        assert [row.message.body for row in rows] == ["how do you do?", "how do you do"]

        await bob.edit(channel, answer.id, "well, thank you")
        await ann.react(channel, answer.id, "👍")
        await until(shown, lambda rows: rows[1].message.body == "well, thank you")
        await until(shown, lambda rows: rows[1].message.reactions == {"👍": ["ann"]})
        await ann.delete(channel, question.id)
        await until(shown, lambda rows: rows[0].message.deleted)
        await eventually(lambda: _is(bodies(bob, channel), ["well, thank you", ""]))
        assert await ann.read(channel, answer.id) == answer.id
        [row] = [row async for row in ann.channels()]
        assert (row.id, row.kind, row.read, row.unread) == (channel, "direct", answer.id, 0)
        assert sorted([member.user async for member in ann.members(channel)]) == ["ann", "bob"]
        with pytest.raises(NoSuchChannel):
            await ann.send("nowhere", "x")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_bot_misses_nothing_while_it_is_away(embedded: tuple[str, str, Path], tmp_path: Path) -> None:
    """More is said than the queue, a page and a resume hold."""
    url, _, data = embedded
    key = load_key(data)
    cursors = FileCursors(tmp_path / "bot.json")
    count = 120

    async def hear(chat: Client, wanted: int) -> list[str]:
        heard = []
        async with asyncio.timeout(40):
            async for message in chat.messages():
                heard.append(message.body)
                if len(heard) == wanted:
                    return heard
        return heard

    async with Client(url, token=mint(key, user="carl"), device="c") as carl:
        channel = await carl.create_group(["bot"], name="long")
        async with Client(url, token=mint(key, user="bot"), device="bot", cursors=cursors, queue=7) as bot:
            await carl.send(channel, "first")
            assert await hear(bot, 1) == ["first"]
            reading = asyncio.create_task(_read_on(bot))  # comes back for what follows, so the mark is saved

            async def marked() -> bool:
                saved = await cursors.load()
                return saved is not None and saved.newest is not None

            await eventually(marked)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        said = [f"m{number}" for number in range(count)]
        for body in said:
            await carl.send(channel, body)
        async with Client(url, token=mint(key, user="bot"), device="bot", cursors=cursors, queue=7) as bot:
            heard = await hear(bot, count)
            if heard[0] == "first":  # at least once: the mark may be from before it
                heard = [*heard[1:], *await hear(bot, 1)]
            assert heard == said


async def _is(found: Awaitable[list[str]], wanted: list[str]) -> bool:
    return await found == wanted


async def _read_on(chat: Client) -> None:
    async for _ in chat.messages():
        pass


async def test_a_send_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    data = tmp_path / "platform"
    async with platform(data, "--no-demo") as addresses:
        url = addresses["socket"]
        port = url.split(":")[2].split("/")[0]
        chat = Client(url, token=mint(load_key(data), user="ann"), device="a")
        await chat.__aenter__()
        channel = await chat.create_group(["bob"], name="g")
        before = await chat.send(channel, "before")
    sending = asyncio.create_task(chat.send(channel, "during"))
    try:
        await asyncio.sleep(0)
        async with platform(data, "--no-demo", "--listen", f"127.0.0.1:{port}"):
            sent = await sending
            assert int(sent.id) > int(before.id)
            await eventually(lambda: _is(bodies(chat, channel), ["during", "before"]))
            await chat.close()
    finally:
        sending.cancel()
        await chat.close()


async def _chatcluster(*arguments: str, typed: str = "") -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatcluster", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate(typed.encode())
    return process.returncode or 0, out.decode()


@pytest.mark.asyncio(loop_scope="module")
async def test_chat_in_a_pipe(embedded: tuple[str, str, Path]) -> None:
    url, _, data = embedded
    who = ("--url", url, "--data", str(data))
    status, out = await _chatcluster("chat", "--user", "dora", *who, typed="/direct emil\nhello\x1b[31m\n/nonsense\n")
    assert status == 0, out
    assert "* live as dora" in out
    assert "/nonsense is no command" in out
    status, out = await _chatcluster("chat", "--user", "emil", *who, "--open", "dora", typed="/list\nhi\n/quit\n")
    assert status == 0, out
    assert "1. dora (direct, 2 members" in out
    async with Client(url, token=mint(load_key(data), user="emil")) as chat:
        channel = await chat.create_direct("dora")
        await eventually(lambda: _is(bodies(chat, channel), ["hi", "hello\x1b[31m"]))
    status, out = await _chatcluster("chat", "--token", "forged", "--url", url)
    assert status == 1
    assert "Error:" in out
    assert "Traceback" not in out


@pytest.mark.asyncio(loop_scope="module")
async def test_administration(embedded: tuple[str, str, Path], tmp_path: Path) -> None:
    url, management, data = embedded
    api = ("--management", management, "--data", str(data))
    status, out = await _chatcluster("channel", "create", "--name", "crowd", "--creator", "root", *api)
    assert status == 0, out
    channel = out.strip()
    people = tmp_path / "people.txt"
    people.write_text("# the crowd\n\n" + "".join(f"p{number:04d}\n" for number in range(1500)) + "p0001\n")
    status, out = await _chatcluster("members", "import", str(people), "--channel", channel, "--batch", "400", *api)
    assert status == 0, out
    assert os.listdir(tmp_path) == ["people.txt"]
    status, out = await _chatcluster("members", "list", "--channel", channel, *api)
    listed = out.splitlines()
    assert len(listed) == 1501
    assert "root\towner" in listed
    status, out = await _chatcluster("members", "remove", "--channel", channel, *api, "p0000", "p0001")
    assert status == 0, out
    status, out = await _chatcluster(
        "channel", "rename", channel, "multitude", "--user", "root", "--url", url, *api[2:]
    )
    assert status == 0, out

    async def renamed() -> bool:
        _, out = await _chatcluster("channel", "show", channel, "--json", *api)
        shown = json.loads(out)
        return (shown["name"], shown["members"]) == ("multitude", 1499)

    await eventually(renamed)
    status, out = await _chatcluster("channel", "list", "--user", "root", "--url", url, *api[2:])
    assert status == 0, out
    assert "multitude" in out
    status, out = await _chatcluster("channel", "show", "nowhere", *api)
    assert status == 1
    assert "no_such_channel" in out
