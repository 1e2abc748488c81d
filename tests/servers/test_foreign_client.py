"""A client written from ``docs/protocol.md`` alone, with aiohttp and without our SDK, against a real server."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

pytestmark = pytest.mark.slow
MSGPACK = "chatcluster.v1.msgpack"


class Foreign:
    """Keeps the client's rules: events once by id, marks saved, repeats with the same client_id."""

    def __init__(self, token: str, *, protocol: str = "chatcluster.v1.json", bearer: bool = False) -> None:
        self.token, self.protocol, self.bearer = token, protocol, bearer
        self.rids = 0
        self.waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.saved: dict[str, Any] = {}
        self.events: dict[str, dict[str, Any]] = {}
        self.pending: set[str] = set()
        self.frames: list[dict[str, Any]] = []

    async def open(self, http: aiohttp.ClientSession, url: str, **more: Any) -> Foreign:
        headers = {"Authorization": f"Bearer {self.token}"} if self.bearer else {}
        self.socket = await http.ws_connect(url, protocols=[self.protocol], headers=headers)
        assert self.socket.protocol == self.protocol
        self.reading = asyncio.create_task(self._read())
        resume = {"resume": copy.deepcopy(self.saved)} if self.saved else {}
        token = {} if self.bearer else {"token": self.token}
        self.welcome = await self.ask("hello", **token, **resume, **more)
        assert self.welcome["type"] == "welcome", self.welcome
        self.saved.setdefault("inbox", self.welcome["inbox"])
        return self

    async def ask(self, asked: str, /, **fields: Any) -> dict[str, Any]:
        self.rids += 1
        rid = f"r{self.rids}"
        answer = self.waiting[rid] = asyncio.get_running_loop().create_future()
        frame = {"type": asked, "rid": rid, **fields}
        if self.protocol == MSGPACK:
            await self.socket.send_bytes(msgspec.msgpack.encode(frame))
        else:
            await self.socket.send_str(json.dumps(frame))
        return await asyncio.wait_for(answer, 10)

    async def do(self, asked: str, /, **fields: Any) -> dict[str, Any]:
        """Rule 3: what is retryable is repeated, the same, with ``retry``."""
        end = time.monotonic() + 10
        while (answer := await self.ask(asked, **fields))["type"] == "error":
            assert answer["retryable"], answer
            assert time.monotonic() < end, answer
            await asyncio.sleep(answer.get("retry_after_ms", 50) / 1000)
            if asked in ("send", "edit", "delete", "react"):
                fields["retry"] = True
        return answer

    async def refused(self, code: str, asked: str, /, **fields: Any) -> None:
        answer = await self.ask(asked, **fields)
        assert (answer["type"], answer.get("code")) == ("error", code), answer

    async def _read(self) -> None:
        async for message in self.socket:
            text = message.type is aiohttp.WSMsgType.TEXT
            frame = json.loads(message.data) if text else msgspec.msgpack.decode(message.data)
            self.frames.append(frame)
            if frame["type"] == "event":
                self.events.setdefault(frame["id"], frame)
                (self.pending.add if frame["live"] else self.pending.discard)(frame["id"])
            elif frame["type"] == "mark":
                self.pending &= set(frame["pending"])
                self.saved["pending"] = frame["pending"]
                if "inbox" in frame:
                    self.saved["inbox"] = frame["inbox"]
                self.saved.setdefault("channels", {}).update(frame.get("channels", {}))
            if "rid" in frame:
                self.waiting.pop(frame["rid"]).set_result(frame)  # exactly one answer: a second one ends the reading

    def kinds(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        return [
            event
            for event in self.events.values()
            if event["kind"] == kind and all(event.get(name) == value for name, value in fields.items())
        ]

    def shown(self, channel: str) -> list[str]:
        return [event["id"] for event in sorted(self.kinds("message", channel=channel), key=lambda e: int(e["id"]))]

    async def until(self, test: Callable[[], Any]) -> None:
        end = time.monotonic() + 10
        while not test():
            assert not self.reading.done(), self.frames[-5:]
            assert time.monotonic() < end, self.frames[-5:]
            await asyncio.sleep(0.01)

    async def cut(self) -> None:
        """The network goes: no close frame."""
        self.socket._response.connection.transport.abort()  # type: ignore[union-attr]
        await asyncio.wait_for(asyncio.gather(self.reading, return_exceptions=True), 5)


@pytest.fixture(scope="module")
def server(serve: Any) -> Any:
    return serve()


@asynccontextmanager
async def session(server: Any) -> AsyncIterator[Callable[..., Any]]:
    async with aiohttp.ClientSession() as http:

        async def enter(user: str, **how: Any) -> Foreign:
            return await Foreign(server.token(user), **how).open(http, f"http://127.0.0.1:{server.port}/v1/connect")

        enter.http = http  # type: ignore[attr-defined]
        yield enter


async def test_a_conversation_in_both_encodings(server: Any) -> None:
    async with session(server) as enter:
        ann, ben = await enter("ann", protocol=MSGPACK), await enter("ben", bearer=True)
        made = await ann.do("channel.create", client_id="c", kind="direct", members=["ben"])
        channel = made["channel"]
        sent = await ann.do("send", channel=channel, client_id="m", body="Hello", data={"big": 2**60, "kept": None})
        again = await ann.do("send", channel=channel, client_id="m", body="Hello", data={"big": 2**60, "kept": None})
        assert (sent["duplicate"], again["duplicate"], again["id"]) == (False, True, sent["id"])
        await ann.refused("id_conflict", "send", channel=channel, client_id="m", body="Other", retry=True)
        await ben.until(lambda: sent["id"] in ben.events)
        message = ben.events[sent["id"]]["message"]
        assert (message["body"], message["data"]) == ("Hello", {"big": 2**60, "kept": None})
        for kind, change, by, fields in (
            ("edited", "edit", ann, {"body": "Hello!"}),
            ("reaction", "react", ben, {"emoji": "👍"}),
            ("deleted", "delete", ann, {}),
        ):
            done = await by.do(change, channel=channel, id=sent["id"], client_id=change, **fields)
            for one in (ann, ben):
                await one.until(lambda one=one, done=done: done["id"] in one.events)
                assert one.events[done["id"]]["kind"] == kind
        read = await ben.do("read", channel=channel, id=sent["id"])
        assert read["read"] == sent["id"]
        await ann.until(lambda: ann.kinds("read", user="ben", message_id=sent["id"]))
        await ann.until(lambda: not ann.pending)


async def test_ids_and_nulls_are_as_documented(server: Any) -> None:
    async with session(server) as enter:
        ann = await enter("cara")
        channel = (await ann.do("channel.create", client_id="c", kind="group", members=[], name=None))["channel"]
        await ann.do("send", channel=channel, client_id="m", body="x", data=None, reply_to=None, retry=None)
        await ann.do("sync", inbox=ann.welcome["inbox"], channels=None, limit=None)
        await ann.refused("bad_request", "send", channel=channel, client_id="n", body="x", reply_to="007")
        await ann.refused("unknown_type", "from.the.future")
        await ann.refused("bad_cursor", "sync", inbox="junk")
        await ann.refused("bad_limit", "history", channel=channel, limit=0)
        await ann.refused("no_such_channel", "history", channel="elsewhere")
        other = Foreign(server.token("cara"))
        await other.open(enter.http, f"http://127.0.0.1:{server.port}/v1/connect", device=None, resume=None)


async def test_cut_connections_lose_and_double_nothing(server: Any) -> None:
    async with session(server) as enter:
        ann, ben = await enter("dora"), await enter("emil")
        channel = (await ann.do("channel.create", client_id="c", kind="direct", members=["emil"]))["channel"]
        ids: list[str] = []
        for turn in range(4):
            for number in range(6):
                if number == 5:
                    await ben.cut()
                sent = await ann.do("send", channel=channel, client_id=f"{turn}-{number}", body="x")
                ids.append(sent["id"])
            back = Foreign(ben.token)
            back.saved, back.events, back.pending = ben.saved, ben.events, ben.pending
            ben = await back.open(enter.http, f"http://127.0.0.1:{server.port}/v1/connect")
            assert ben.welcome["resumed"] is True
        await ben.until(lambda: len(ben.shown(channel)) >= len(ids) and not ben.pending)
        assert ben.shown(channel) == ids


async def test_a_channel_grows_large_under_an_online_member(server: Any) -> None:
    async with session(server) as enter:
        ann, ben = await enter("fay"), await enter("gus")
        channel = (await ann.do("channel.create", client_id="g", kind="group", members=["gus"]))["channel"]
        for start in range(0, 698, 100):
            users = [f"crowd-{number}" for number in range(start, min(start + 100, 698))]
            await ann.do("channel.add", channel=channel, users=users)
        await ben.until(lambda: ben.kinds("route", channel=channel, to="channel"))
        first = (await ann.do("send", channel=channel, client_id="1", body="to many"))["id"]
        await ben.until(lambda: first in ben.events and channel in ben.saved.get("channels", {}))
        assert ben.events[first]["timeline"] == f"channel:{channel}"
        await ben.until(lambda: not ben.pending)
        left = await ben.do("unfollow", channel=channel)
        second = (await ann.do("send", channel=channel, client_id="2", body="unheard"))["id"]
        assert second not in ben.events
        followed = await ben.do("follow", channel=channel, cursor=left["cursor"])
        assert followed["route"] == "channel"
        await ben.until(lambda: second in ben.events)
        assert ben.shown(channel) == [first, second]
