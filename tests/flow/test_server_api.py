"""The server API over HTTP on the whole embedded platform: every operation, and every wrong way to call it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio
from pydantic import BaseModel

from chatcluster.app import api_models as models
from chatcluster.app import server_api
from chatcluster.app.api_keys import SCOPES, ApiKey, ApiKeys
from chatcluster.app.api_routes import BULK, ROUTES, SMALL
from chatcluster.app.clock import SystemClock
from chatcluster.app.embedded import Platform, Settings, embedded
from chatcluster.app.management import management_app, serve_management
from chatcluster.app.server_api import ApiSettings
from chatcluster.core.codes import ERROR_CODES
from chatcluster.core.envelope import Disconnect, Revoke
from chatcluster.core.frames import Answer, ChannelAdd, ErrorFrame, Request
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Caller, Delivery, Unavailable
from chatcluster.services.gateway.auth import Identity, valid_user

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY, READER, OTHER = "k" * 40, "r" * 40, "o" * 40
KEYS = ApiKeys([ApiKey(KEY), ApiKey(READER, scopes=frozenset({"channels:read"})), ApiKey(OTHER, tenant="other")])


_groups = itertools.count()


class Nobody:
    """Nobody connects here."""

    async def verify(self, token: str) -> Identity:
        raise AssertionError


class Api:
    """A back end: ``call`` checks the answer against its model and returns it."""

    def __init__(self, http: aiohttp.ClientSession, platform: Platform) -> None:
        self.http, self.platform = http, platform

    async def raw(
        self, method: str, path: str, body: object = None, *, key: str | None = KEY, **more: Any
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **more.pop("headers", {})}
        async with self.http.request(method, f"/api/v1{path}", json=body, headers=headers, **more) as response:
            return response.status, await response.json(), response

    async def call(
        self, model: type[BaseModel], method: str, path: str, body: object = None, *, key: str = KEY
    ) -> dict[str, Any]:
        status, answer, _ = await self.raw(method, path, body, key=key)
        assert status in (200, 201), answer
        assert answer.keys() <= model.model_fields.keys()
        model.model_validate(answer)
        assert isinstance(answer, dict)
        return answer

    async def refused(self, method: str, path: str, body: object = None, **more: Any) -> tuple[int, str, str | None]:
        """Status, code and field."""
        status, answer, _ = await self.raw(method, path, body, **more)
        assert status >= 400, answer
        assert answer.keys() == {"error"}
        models.Error.model_validate(answer)
        error = answer["error"]
        assert error["code"] in ERROR_CODES
        return status, error["code"], error.get("field")

    async def group(self, client_id: str | None = None, **more: object) -> str:
        body = {"client_id": client_id or f"g{next(_groups)}", "creator": "ada", **more}
        return str((await self.call(models.ChannelMade, "POST", "/channels", body))["channel"])

    async def members(self, channel: str) -> dict[str, str]:
        found: dict[str, str] = {}
        page = ""
        while True:
            answer = await self.call(models.Members, "GET", f"/channels/{channel}/members{page}")
            new = {member["user"]: member["role"] for member in answer["members"]}
            assert not found.keys() & new.keys()
            found |= new
            if "page" not in answer:
                return found
            page = f"?page={answer['page']}"

    async def messages(self, channel: str, query: str = "", count: int = 1) -> list[dict[str, Any]]:
        """History once it has ``count``: an ack means durable, readable is a little later."""
        async with asyncio.timeout(10):
            while True:
                answer = await self.call(models.Messages, "GET", f"/channels/{channel}/messages{query}")
                if len(answer["messages"]) >= count:
                    return list(answer["messages"])
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One platform for all: each test makes channels of its own."""
    starting = embedded(tmp_path_factory.mktemp("data"), settings=Settings(), authenticator=Nobody(), metrics=Metrics())
    async with starting as platform:
        app = management_app(platform, KEYS, SystemClock())
        async with (
            serve_management(app, "127.0.0.1", 0) as port,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        ):
            yield Api(http, platform)


async def test_channels_are_created_once_and_described(api: Api) -> None:
    channel = await api.group("ops", name="Ops", members=["bob"])
    assert await api.group("ops", name="Ops", members=["bob"]) == channel
    described = await api.call(models.Channel, "GET", f"/channels/{channel}")
    assert described["kind"] == "group"
    assert (described["name"], described["creator"]) == ("Ops", "ada")
    assert (described["members"], described["head"]) == (2, None)
    assert await api.members(channel) == {"ada": "owner", "bob": "member"}


async def test_a_direct_channel_of_two_users_is_one_channel(api: Api) -> None:
    one = await api.group("d1", kind="direct", members=["bob"])
    body = {"client_id": "d2", "kind": "direct", "members": ["bob", "ada"]}
    assert (await api.call(models.ChannelMade, "POST", "/channels", body))["channel"] == one


async def test_a_creator_beside_a_thousand_members_leaves_none_of_them_out(api: Api) -> None:
    channel = await api.group(members=[f"u{n}" for n in range(1_000)])
    assert len(await api.members(channel)) == 1_001


async def test_members_are_added_and_removed_in_bulk(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_api, "CHUNK", 100)  # several router requests without thousands of members
    channel = await api.group()
    users = [f"u{number:03}" for number in range(250)]
    path = f"/channels/{channel}/members"
    assert await api.call(models.MembersChanged, "POST", path, {"users": [*users, "u000"]}) == {
        "channel": channel,
        "done": 250,
    }
    assert (await api.members(channel)).keys() == {"ada", *users}
    await api.call(models.MembersChanged, "DELETE", path, {"users": users[10:]})
    await api.call(models.MembersChanged, "DELETE", f"{path}/u000")
    assert (await api.members(channel)).keys() == {"ada", *users[1:10]}


async def test_publishing_is_idempotent_by_client_id(api: Api) -> None:
    channel = await api.group()
    path = f"/channels/{channel}/messages"
    first = await api.call(models.Published, "POST", path, {"client_id": "m1", "body": "hi", "data": {"n": 1}})
    again = await api.call(models.Published, "POST", path, {"client_id": "m1", "body": "hi", "data": {"n": 1}})
    assert (first["duplicate"], again["duplicate"], again["id"]) == (False, True, first["id"])
    assert await api.refused("POST", path, {"client_id": "m1", "body": "other"}) == (409, "id_conflict", "client_id")
    later = {"client_id": "m1", "body": "as bob", "sender": "bob", "reply_to": first["id"], "after": first["id"]}
    second = await api.call(models.Published, "POST", path, later)
    shown = await api.messages(channel, count=2)
    assert [(message["id"], message["sender"], message["body"]) for message in shown] == [
        (first["id"], "system", "hi"),
        (second["id"], "bob", "as bob"),
    ]
    assert shown[0]["data"] == {"n": 1}
    assert shown[1]["reply_to"] == first["id"]
    described = await api.call(models.Channel, "GET", f"/channels/{channel}")
    assert described["head"] == second["id"]


async def test_history_comes_in_pages(api: Api) -> None:
    channel = await api.group()
    path = f"/channels/{channel}/messages"
    ids = []
    for number in range(5):
        body = {"client_id": f"m{number}", "body": str(number)}
        ids.append((await api.call(models.Published, "POST", path, body))["id"])
    await api.messages(channel, count=5)

    async def page(query: str) -> tuple[list[str], bool]:
        answer = await api.call(models.Messages, "GET", path + query)
        return [message["id"] for message in answer["messages"]], answer["more"]

    assert await page("?limit=2") == (ids[3:], True)
    assert await page(f"?limit=2&before={ids[1]}") == (ids[:1], False)
    assert await page(f"?limit=2&after={ids[0]}") == (ids[1:3], True)


async def listen(api: Api, count: int) -> list[object]:
    """The next envelopes of what is subscribed to."""
    told: list[object] = []
    async with asyncio.timeout(5):
        async for batch in api.platform.bus.listen():
            told += [delivery.envelope for delivery in batch if isinstance(delivery, Delivery)]
            if len(told) >= count:
                break
    return told


@pytest.mark.parametrize(("key", "tenant"), [(KEY, "default"), (OTHER, "other")])
async def test_disconnect_and_revoke_reach_the_users_sessions(api: Api, key: str, tenant: str) -> None:
    bus = api.platform.bus
    await bus.subscribe([f"u:{tenant}/ada lovelace"])
    before = list(await api.platform.store.revocations())
    await api.call(models.Disconnected, "POST", "/users/ada%20lovelace/disconnect", {"reason": "bye"}, key=key)
    revoked = await api.call(models.Revoked, "POST", "/users/ada%20lovelace/revoke", key=key)
    (row,) = [row for row in await api.platform.store.revocations() if row not in before]
    assert (row.tenant, row.user) == (tenant, "ada lovelace")
    told = await listen(api, 2)
    await bus.unsubscribe([f"u:{tenant}/ada lovelace"])
    assert told == [Disconnect("bye"), Revoke(row.before, "revoked")]
    assert revoked["before"].endswith("Z")
    assert abs(row.before - SystemClock().now()) < 60_000


# -- credentials ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Bearer"},
        {"X-Api-Key": KEY},
        {"Cookie": f"key={KEY}"},
    ],
)
async def test_without_a_good_key_there_is_one_answer(api: Api, headers: dict[str, str]) -> None:
    status, answer, response = await api.raw("GET", "/channels/x", key=None, headers=headers)
    assert (status, answer["error"]["code"]) == (401, "unauthorized")
    assert answer["error"]["message"] == "an API key is needed: Authorization: Bearer <key>"
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("name", ["token", "access_token", "key", "api_key", "authorization"])
async def test_keys_in_the_url_are_never_accepted(api: Api, name: str) -> None:
    assert (await api.refused("GET", f"/channels/x?{name}={KEY}", key=None))[:2] == (401, "unauthorized")
    assert await api.refused("GET", f"/channels/x?{name}={KEY}") == (400, "bad_request", name)


async def test_every_operation_asks_for_its_scope(api: Api) -> None:
    for route in ROUTES:
        path = route.path.replace("{channel}", "c").replace("{user}", "u")
        status, answer, _ = await api.raw(route.method, path, key=READER)
        assert (status == 403 and route.scope in answer["error"]["message"]) is (route.scope != "channels:read")
    assert {route.scope for route in ROUTES} == SCOPES


async def test_a_key_is_good_for_its_tenant_alone(api: Api) -> None:
    channel = await api.group()
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/members", None),
        ("GET", "/messages", None),
        ("POST", "/members", {"users": ["eve"]}),
        ("POST", "/messages", {"client_id": "m", "body": "hi"}),
    ):
        theirs = await api.refused(method, f"/channels/{channel}{path}", body, key=OTHER)
        nobodys = await api.refused(method, f"/channels/unknown{path}", body, key=OTHER)
        assert theirs == nobodys == (404, "no_such_channel", theirs[2])
    assert (await api.members(channel)).keys() == {"ada"}


# -- bad input ------------------------------------------------------------------------------------------------

GOOD = {"client_id": "m1", "body": "hi"}


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({**GOOD, "bdy": "x"}, "bad_request", "bdy"),
        ({"body": "hi"}, "bad_request", "client_id"),
        ({**GOOD, "body": 1}, "bad_request", "body"),
        ({**GOOD, "retry": "true"}, "bad_request", "retry"),
        ({**GOOD, "reply_to": 12}, "bad_request", "reply_to"),
        ({**GOOD, "reply_to": "-1"}, "bad_request", "reply_to"),
        ({**GOOD, "after": "9" * 20}, "bad_request", "after"),
        ({**GOOD, "sender": ""}, "bad_request", "sender"),
        ({**GOOD, "body": ""}, "body_empty", "body"),
        ({**GOOD, "body": "é" * 9000}, "body_too_long", "body"),
        ({**GOOD, "client_id": ""}, "bad_client_id", "client_id"),
        ({**GOOD, "client_id": "x" * 65}, "bad_client_id", "client_id"),
        ([], "bad_json", None),
        ("hi", "bad_json", None),
    ],
)
async def test_a_bad_message_is_refused_by_name(api: Api, body: object, code: str, field: str | None) -> None:
    channel = await api.group()
    assert await api.refused("POST", f"/channels/{channel}/messages", body) == (400, code, field)


def deep(depth: int) -> str:
    return '{"client_id":"m","body":"hi","data":' + '{"a":' * depth + "1" + "}" * depth + "}"


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"", 400, "bad_json"),
        (b"{", 400, "bad_json"),
        (b'{"client_id":"m","body":"\xff"}', 400, "bad_json"),
        (b'{"client_id":"m","body":"\\ud800"}', 400, "bad_json"),
        (b'{"client_id":"m","body":"hi","data":{"a":NaN}}', 400, "bad_json"),
        (b'{"client_id":"m","body":"hi","data":{"a":' + b"9" * 1000 + b"}}", 400, None),
        (deep(40).encode(), 400, "bad_request"),
        (deep(10_000).encode(), 400, "bad_json"),
        (b" " * (SMALL + 1), 413, "bad_request"),
    ],
)
async def test_bad_bytes_are_refused(api: Api, raw: bytes, status: int, code: str | None) -> None:
    channel = await api.group()
    headers = {"Authorization": f"Bearer {KEY}"}
    async with api.http.post(f"/api/v1/channels/{channel}/messages", data=raw, headers=headers) as response:
        answer = await response.json()
        assert response.status == status, answer
        assert answer["error"]["code"] == code or code is None


async def test_a_body_without_a_length_is_bounded_too(api: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(BULK // 65_536 + 2):
            yield b" " * 65_536

    headers = {"Authorization": f"Bearer {KEY}"}
    async with api.http.post("/api/v1/channels/c/members", data=chunks(), headers=headers) as response:
        assert response.status == 413


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/channels/unknown", None, (404, "no_such_channel", None)),
        ("GET", "/channels/" + "x" * 129, None, (404, "no_such_channel", None)),
        ("GET", "/channels/a%0Ab", None, (404, "no_such_channel", None)),
        ("POST", "/users/" + "x" * 129 + "/revoke", None, (400, "bad_request", "user")),
        ("POST", "/users/a%0Ab/revoke", None, (400, "bad_request", "user")),
        (
            "POST",
            "/channels/c/messages",
            {"client_id": "c", "body": "b", "sender": "a\nb"},
            (400, "bad_request", "sender"),
        ),
        ("GET", "/channels/c/messages?limit=0", None, (400, "bad_request", "limit")),
        ("GET", "/channels/c/messages?limit=many", None, (400, "bad_request", "limit")),
        ("GET", "/channels/c/messages?before=x", None, (400, "bad_request", "before")),
        ("GET", "/channels/c/messages?limit=1&limit=2", None, (400, "bad_request", "limit")),
        ("GET", "/channels/c?" + "&".join(f"a{n}=" for n in range(40)), None, (400, "bad_request", None)),
        ("GET", "/channels/c", {}, (400, "bad_request", None)),
        ("POST", "/channels", {"client_id": "c"}, (400, "bad_request", "members")),
        ("POST", "/channels", {"client_id": "c", "kind": "huge", "creator": "a"}, (400, "bad_request", "kind")),
        ("POST", "/channels/c/members", {"users": []}, (400, "bad_request", "users")),
        ("POST", "/channels/c/members", {"users": ["u"] * 10_001}, (400, "bad_request", "users")),
        ("POST", "/channels/c/members", {"users": ["u", ""]}, (400, "bad_request", "users.1")),
        ("POST", "/channels/c/members", {"users": ["u"]}, (404, "no_such_channel", "channel")),
        ("PUT", "/channels", None, (405, "bad_request", None)),
        ("GET", "/nothing", None, (404, "bad_request", None)),
    ],
)
async def test_bad_calls_are_refused_by_name(
    api: Api, method: str, path: str, body: object, expected: tuple[int, str, str | None]
) -> None:
    assert await api.refused(method, path, body) == expected


@pytest.mark.parametrize("user", ["Ünï çødé 👩‍👩‍👧", "no\u00a0break", "\u202ebidi", "a/b", "ann?x=%41#"])
async def test_whoever_can_sign_in_can_be_a_member_and_a_sender_and_be_revoked(api: Api, user: str) -> None:
    assert valid_user(user)
    channel, quoted = await api.group(members=[user]), quote(user, safe="")
    assert user in await api.members(channel)
    message = {"client_id": "m", "body": "hello", "sender": user}
    await api.call(models.Published, "POST", f"/channels/{channel}/messages", message)
    await api.call(models.MembersChanged, "DELETE", f"/channels/{channel}/members/{quoted}")
    assert user not in await api.members(channel)
    assert (await api.call(models.Revoked, "POST", f"/users/{quoted}/revoke"))["user"] == user


# -- when things fail -------------------------------------------------------------------------------------------


class Scripted:
    """A router that answers what it is told to, for states that the real one is rarely in."""

    def __init__(self, answer: Callable[[Caller, Request], Answer | None]) -> None:
        self.answer = answer

    def submit(self, caller: Caller, request: Request, done: Callable[[Answer], None]) -> None:
        answer = self.answer(caller, request)
        if answer is not None:
            done(answer)


class Parts:
    """The platform with some parts replaced."""

    def __init__(self, platform: Platform, **parts: object) -> None:
        self._platform, self._parts = platform, parts

    def __getattr__(self, name: str) -> Any:
        return self._parts.get(name, getattr(self._platform, name))


async def ask_parts(api: Api, path: str, body: object, settings: ApiSettings, **parts: object) -> tuple[int, Any, Any]:
    app = management_app(Parts(api.platform, **parts), KEYS, SystemClock(), settings=settings)
    async with (
        serve_management(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        return await Api(http, api.platform).raw("POST", path, body)


async def test_a_bulk_call_that_fails_half_way_says_how_far_it_came(api: Api) -> None:
    def answer(caller: Caller, request: Request) -> Answer:
        assert isinstance(request, ChannelAdd)
        assert len(request.users) <= 1000
        assert caller == Caller("default", "system", "server-api", True)
        if "u2000" in request.users:
            return ErrorFrame("overloaded", "busy", True, request.rid, 2500)
        return server_api.Reply(request.rid)

    users = {"users": [f"u{number}" for number in range(3000)]}
    status, body, response = await ask_parts(api, "/channels/c/members", users, ApiSettings(), router=Scripted(answer))
    assert (status, body["error"]["code"], body["error"]["done"]) == (503, "overloaded", 2000)
    assert body["error"]["retryable"] is True
    assert response.headers["Retry-After"] == "3"


class Slow:
    """A router whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[ChannelAdd, Callable[[Answer], None]]] = asyncio.Queue()

    def submit(self, caller: Caller, request: ChannelAdd, done: Callable[[Answer], None]) -> None:
        self.asked.put_nowait((request, done))

    async def take(self, first: str) -> Callable[[], None]:
        """The next request, whose first user is this one; what answers it."""
        request, done = await self.asked.get()
        assert request.users[0] == first
        return lambda: done(server_api.Reply(request.rid))

    async def idle(self) -> bool:
        await asyncio.sleep(0.05)
        return self.asked.empty()


USERS = {"users": [f"u{number}" for number in range(5000)]}


async def test_of_a_bulk_call_the_first_goes_alone_and_then_two_at_a_time(api: Api) -> None:
    router = Slow()
    calling = asyncio.create_task(ask_parts(api, "/channels/c/members", USERS, ApiSettings(), router=router))
    one = await router.take("u0")
    assert await router.idle()
    one()
    two, three = await router.take("u1000"), await router.take("u2000")
    assert await router.idle()
    three()  # nobody promises the order of answers
    assert await router.idle()
    two()
    (await router.take("u3000"))()
    (await router.take("u4000"))()
    assert (await calling)[1] == {"channel": "c", "done": 5000}


async def test_a_bulk_call_that_fails_is_answered_when_nothing_of_it_is_on_its_way(api: Api) -> None:
    router = Slow()
    calling = asyncio.create_task(ask_parts(api, "/channels/c/members", USERS, ApiSettings(), router=router))
    (await router.take("u0"))()
    refused, done = await router.asked.get()
    other = await router.take("u2000")
    done(ErrorFrame("overloaded", "busy", True, refused.rid))
    assert await router.idle()
    assert not calling.done()
    other()
    _, body, _ = await calling
    assert (body["error"]["code"], body["error"]["done"]) == ("overloaded", 1000)
    assert router.asked.empty()


async def test_no_answer_in_time_is_an_unknown_outcome(api: Api) -> None:
    settings = ApiSettings(timeout_s=0.05)
    router = Scripted(lambda caller, request: None)
    status, body, _ = await ask_parts(api, "/channels/c/messages", GOOD, settings, router=router)
    assert (status, body["error"]["code"], body["error"]["retryable"]) == (504, "unknown_outcome", True)


async def test_a_fault_shows_no_trace_and_no_secret(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    def answer(caller: Caller, request: Request) -> Answer:
        raise RuntimeError(f"the secret {KEY}")

    status, body, _ = await ask_parts(api, "/channels/c/messages", GOOD, ApiSettings(), router=Scripted(answer))
    assert (status, body["error"]["code"]) == (500, "unknown_outcome")
    assert KEY not in json.dumps(body) + caplog.text
    assert "RuntimeError" in caplog.text


async def test_a_revocation_that_is_not_stored_is_not_claimed(api: Api) -> None:
    class Down:
        async def write(self, rows: object) -> None:
            raise Unavailable("down")

    await api.platform.bus.subscribe(["u:default/ada"])
    status, body, response = await ask_parts(api, "/users/ada/revoke", {}, ApiSettings(), store=Down())
    assert (status, body["error"]["code"]) == (503, "unavailable")
    assert response.headers["Retry-After"] == "1"
    await api.call(models.Disconnected, "POST", "/users/ada/disconnect")
    assert await listen(api, 1) == [Disconnect("disconnected")]  # and no Revoke before it


async def test_calls_in_flight_are_bounded(api: Api) -> None:
    asked = asyncio.Event()
    waiting: list[Callable[[Answer], None]] = []

    class Slow:
        def submit(self, caller: Caller, request: Request, done: Callable[[Answer], None]) -> None:
            waiting.append(done)
            asked.set()

    app = management_app(Parts(api.platform, router=Slow()), KEYS, SystemClock(), settings=ApiSettings(in_flight=1))
    async with (
        serve_management(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        other = Api(http, api.platform)
        first = asyncio.create_task(other.raw("POST", "/channels/c/messages", GOOD))
        await asked.wait()
        assert (await other.refused("POST", "/channels/c/messages", GOOD))[:2] == (503, "overloaded")
        waiting[0](server_api.Ack("api", "c", "1", "", False))
        assert (await first)[0] == 200
        for _ in range(2):  # refused ones made room, too
            assert (await other.refused("GET", "/channels/nosuch"))[:2] == (404, "no_such_channel")


# -- the description ----------------------------------------------------------------------------------------------


async def test_the_description_is_served_and_speaks_of_every_operation(api: Api) -> None:
    async with api.http.get("/api/openapi.json") as response:
        served = await response.json()
    assert served == server_api.openapi()
    assert served["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, operations in served["paths"].items() for method in operations}
    assert described == {(route.method, f"/api/v1{route.path}") for route in ROUTES}
    text = json.dumps(served)
    for name in served["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/components/')[1:]}:
        kind, name = reference.split("/")
        assert name in served["components"][kind]
