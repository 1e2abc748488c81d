"""The server API: what a product's back end may do, over HTTP on the management address, under ``/api/v1``.

Everything goes through the ports Router, StoreReader, StoreWriter and Bus with a system caller. Every answer
is JSON; an error is ``{"error": {code, message, retryable, field?, ...}}`` with the protocol's codes and never
says more than that (promise 26).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET
from pydantic import BaseModel, ValidationError

from chatcluster.app import api_models as models
from chatcluster.app.api_keys import ApiKeys, Grant
from chatcluster.app.api_routes import PREFIX, ROUTES, Route, openapi
from chatcluster.app.asking import ask, submitted
from chatcluster.core.codes import ErrorCode, Refused
from chatcluster.core.envelope import Disconnect, Revoke
from chatcluster.core.frames import (
    JSON,
    Ack,
    Answer,
    BadFrame,
    ChannelAdd,
    ChannelCreate,
    ChannelMembers,
    ChannelRemove,
    ErrorFrame,
    History,
    Reply,
    Request,
    Send,
    decode_request,
    refusal,
)
from chatcluster.core.metrics import Metrics
from chatcluster.core.records import inbox_timeline
from chatcluster.core.rows import RevocationRow
from chatcluster.core.session import valid_user
from chatcluster.core.wire import rfc3339
from chatcluster.ports import Bus, Caller, Clock, Router, Store, Unavailable

__all__ = ["ApiSettings", "ServerApi", "openapi"]

log = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)

SYSTEM_USER = "system"
"""Sender of what is published on nobody's behalf. Give nobody a token for it."""
CHUNK = 1_000
"""Users of one router request."""
AHEAD = 2
"""Router requests of one call at the same time: one is being stored while the next goes into the log."""
_RID = "api"
_STATUS: Mapping[ErrorCode, int] = {
    "unauthorized": 401,
    "not_authenticated": 401,
    "forbidden": 403,
    "not_a_member": 403,
    "no_such_channel": 404,
    "no_such_message": 404,
    "id_conflict": 409,
    "rate_limited": 429,
    "overloaded": 503,
    "unavailable": 503,
    "unknown_outcome": 504,
}
"""HTTP status per code; 400 for the others."""


class ApiSettings(msgspec.Struct, frozen=True):
    """Section ``api``."""

    timeout_s: float = 60.0
    """Time of one call, its body included; a bulk call has it for each 1,000 users.

    Members are answered when durable and readable: some ms each where a channel's records go one by one.
    """
    in_flight: int = 256
    """Calls handled at once; over it ``overloaded``. A product's back end needs no more, a loop gone wild does."""
    keys_file: str | None = None
    """Keys of the server API: TOML with ``[[keys]]``, or one key alone. A cluster without it serves no API."""


class ApiError(Exception):
    """An answered no, with its HTTP status."""

    def __init__(self, frame: ErrorFrame, *, status: int | None = None, done: int | None = None) -> None:
        super().__init__(frame.code)
        self.frame = frame
        self.status = status or _STATUS.get(frame.code, 400)
        self.done = done


def refuse(code: ErrorCode, message: str, *, field: str | None = None, status: int | None = None) -> ApiError:
    """The error of a refusal."""
    return ApiError(refusal(Refused(code, message, field=field), None), status=status)


class ServerApi:
    """Handlers of ``ROUTES``; ``add_to`` puts them on an aiohttp application."""

    def __init__(
        self,
        *,
        router: Router,
        store: Store,
        bus: Bus,
        keys: ApiKeys,
        clock: Clock,
        metrics: Metrics,
        settings: ApiSettings | None = None,
    ) -> None:
        self._router = router
        self._store = store
        self._bus = bus
        self._keys = keys
        self._clock = clock
        self._metrics = metrics
        self._settings = settings or ApiSettings()
        self._in_flight = 0
        self._openapi = msgspec.json.encode(openapi())

    def add_to(self, app: web.Application) -> None:
        """Routes under ``/api``; what is not there is answered as JSON too."""
        for route in ROUTES:
            handler: Callable[[Call], Awaitable[object]] = getattr(self, route.name)
            app.router.add_route(route.method, PREFIX + route.path, self._serve(route, handler), name=route.name)
        app.router.add_get("/api/openapi.json", self._describe)

    async def _describe(self, request: web.Request) -> web.Response:
        return web.Response(body=self._openapi, content_type="application/json")

    def _serve(
        self, route: Route, handler: Callable[[Call], Awaitable[object]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def serve(request: web.Request) -> web.Response:
            try:
                if self._in_flight >= self._settings.in_flight:
                    raise refuse("overloaded", "too many calls at once")
                self._in_flight += 1
                try:
                    async with asyncio.timeout(self._settings.timeout_s) as deadline:
                        call = await self._call(route, request)
                        call.deadline = deadline
                        answer = await handler(call)
                finally:
                    self._in_flight -= 1
                response = _json(route.status, answer)
            except ApiError as error:
                response = error_response(error)
            except Unavailable:
                response = error_response(refuse("unavailable", "the store does not answer"))
            except TimeoutError:
                response = error_response(refuse("unknown_outcome", "no answer in time"))
            except Exception as error:
                # What went wrong is for the log, by its kind: a message may quote what a user wrote.
                log.error("server API: %s failed: %s", route.name, type(error).__name__)
                response = error_response(refuse("unknown_outcome", "the call failed", status=500))
            self._metrics.counter(
                "api_calls_total", "Calls of the server API.", operation=route.name, status=str(response.status)
            ).add()
            return response

        return serve

    async def _call(self, route: Route, request: web.Request) -> Call:
        # Credentials first, and only from the header: URLs end up in logs.
        grant = self._keys.find(request.headers.get(hdrs.AUTHORIZATION))
        if grant is None:
            raise refuse("unauthorized", "an API key is needed: Authorization: Bearer <key>")
        if route.scope not in grant.scopes:
            raise refuse("forbidden", f"this key lacks the scope {route.scope}")
        query = _validated(route.query, _query(request.query_string), strict=False)
        body: BaseModel | None = None
        raw = await _read(request, route.max_bytes)
        if route.body is None:
            if raw:
                raise refuse("bad_request", "this call takes no body")
        elif raw or route.body_required:
            body = _validated(route.body, _object(raw), strict=True)
        else:
            body = route.body()
        path = {name: _path_part(name, value) for name, value in request.match_info.items()}
        return Call(grant, path, query, body)

    async def _ask(self, caller: Caller, request: Request) -> Answer:
        _check(request)
        return _granted(await ask(self._router, caller, request))

    # -- channels -----------------------------------------------------------------------------------------

    async def create_channel(self, call: Call) -> object:
        asked = call.asked(models.CreateChannel)
        members = [*([asked.creator] if asked.creator else []), *asked.members]
        if not members:
            raise refuse("bad_request", "a channel has a creator or members", field="members")
        request = ChannelCreate(_RID, asked.client_id, asked.kind, members[:CHUNK], asked.name)
        caller = call.caller(asked.creator)
        reply = await self._reply(caller, request)
        channel = reply.channel
        assert isinstance(channel, str)
        if members[CHUNK:]:  # the creator beside 1,000 members
            await self._reply(call.caller(), ChannelAdd(_RID, channel, members[CHUNK:]))
        return {"channel": channel}

    async def get_channel(self, call: Call) -> object:
        tenant, channel = call.grant.tenant, call.path["channel"]
        found = await self._store.channel(tenant, channel)
        if found is None:
            raise refuse("no_such_channel", "there is no such channel")
        head = (await self._store.heads(tenant, [channel])).get(channel)
        return {
            "id": channel,
            "kind": found.kind,
            "name": found.name,
            "creator": found.creator,
            "created": rfc3339(found.created),
            "members": found.members,
            "route": found.route,
            "head": None if head is None else str(head),
        }

    # -- members ------------------------------------------------------------------------------------------

    async def list_members(self, call: Call) -> object:
        query = call.queried(models.MembersQuery)
        reply = await self._reply(call.caller(), ChannelMembers(_RID, call.path["channel"], query.page))
        return _known(members=reply.members, page=reply.page)

    async def add_members(self, call: Call) -> object:
        return await self._change_members(call, call.asked(models.Users).users, ChannelAdd)

    async def remove_members(self, call: Call) -> object:
        return await self._change_members(call, call.asked(models.Users).users, ChannelRemove)

    async def remove_member(self, call: Call) -> object:
        return await self._change_members(call, [call.path["user"]], ChannelRemove)

    async def _change_members(
        self, call: Call, users: Sequence[str], change: type[ChannelAdd] | type[ChannelRemove]
    ) -> object:
        channel, users = call.path["channel"], list(dict.fromkeys(users))
        left = deque(change(_RID, channel, users[start : start + CHUNK]) for start in range(0, len(users), CHUNK))
        for request in left:
            _check(request)
        asked: deque[tuple[int, asyncio.Future[Answer]]] = deque()
        # The first goes alone: it may switch the channel's route, and the others go by that.
        done, most = 0, 1
        while left or asked:
            while left and len(asked) < most:
                request = left.popleft()
                asked.append((len(request.users), submitted(self._router, call.caller(), request)))
            call.go_on(self._settings.timeout_s)
            size, answer = asked.popleft()
            try:
                _granted(await answer)
            except ApiError as error:
                error.done = done
                # What comes after this call must not meet what is still on its way.
                if asked:
                    await asyncio.wait([later for _, later in asked])
                raise
            done, most = done + size, AHEAD
        return {"channel": channel, "done": done}

    # -- messages -----------------------------------------------------------------------------------------

    async def publish(self, call: Call) -> object:
        asked = call.asked(models.Publish)
        sender = None if asked.sender is None else _user(asked.sender, "sender")
        request = Send(
            _RID,
            call.path["channel"],
            asked.client_id,
            asked.body,
            asked.data,
            asked.reply_to,
            asked.after,
            asked.retry,
        )
        answer = await self._ask(call.caller(sender), request)
        assert isinstance(answer, Ack)
        return {"channel": answer.channel, "id": answer.id, "time": answer.time, "duplicate": answer.duplicate}

    async def list_messages(self, call: Call) -> object:
        query = call.queried(models.MessagesQuery)
        request = History(_RID, call.path["channel"], query.before, query.after, query.limit)
        reply = await self._reply(call.caller(), request)
        return _known(messages=reply.messages, more=reply.more, complete=reply.complete, reason=reply.reason)

    # -- users ----------------------------------------------------------------------------------------------

    async def disconnect_user(self, call: Call) -> object:
        user = call.path["user"]
        reason = call.asked(models.Why).reason or "disconnected"
        self._bus.publish([inbox_timeline(call.grant.tenant, user)], Disconnect(reason))
        return {"user": user}

    async def revoke_user(self, call: Call) -> object:
        tenant, user = call.grant.tenant, call.path["user"]
        before = self._clock.now()
        # The store first: gateways poll it, so the revocation holds whatever becomes of the rumour.
        await self._store.write([RevocationRow(tenant, user, before)])
        reason = call.asked(models.Why).reason or "revoked"
        self._bus.publish([inbox_timeline(tenant, user)], Revoke(before, reason))
        return {"user": user, "before": rfc3339(before)}

    async def _reply(self, caller: Caller, request: Request) -> Reply:
        answer = await self._ask(caller, request)
        assert isinstance(answer, Reply)
        return answer


def _check(request: Request) -> None:
    """The same checks that a client's frame passes: lengths, depth and numbers of ``data``. Raises ``ApiError``."""
    try:
        decode_request(JSON, JSON.encode(request))
    except BadFrame as bad:
        raise ApiError(bad.error) from None
    except (OverflowError, RecursionError, ValueError):
        raise refuse("bad_request", "data has a value that JSON does not know", field="data") from None


def _granted(answer: Answer) -> Answer:
    """The answer. Raises ``ApiError`` where it is a no."""
    if isinstance(answer, ErrorFrame):
        raise ApiError(answer)
    return answer


class Call:
    """One call, its credentials and inputs checked."""

    __slots__ = ("_body", "_query", "deadline", "grant", "path")

    def __init__(self, grant: Grant, path: Mapping[str, str], query: BaseModel, body: BaseModel | None) -> None:
        self.grant = grant
        self.path = path
        self.deadline: asyncio.Timeout | None = None
        self._query = query
        self._body = body

    def asked(self, model: type[M]) -> M:
        """The body."""
        assert isinstance(self._body, model)
        return self._body

    def queried(self, model: type[M]) -> M:
        """The query."""
        assert isinstance(self._query, model)
        return self._query

    def go_on(self, seconds: float) -> None:
        """The call has ``seconds`` from now."""
        if self.deadline is not None:
            self.deadline.reschedule(asyncio.get_running_loop().time() + seconds)

    def caller(self, user: str | None = None) -> Caller:
        """On whose behalf: above membership and roles, in the key's tenant and no other."""
        return Caller(self.grant.tenant, user or SYSTEM_USER, "server-api", system=True)


def error_response(error: ApiError) -> web.Response:
    """``{"error": ...}`` with its status, and ``Retry-After`` where it says when."""
    frame = error.frame
    problem = _known(
        code=frame.code,
        message=frame.message,
        retryable=frame.retryable,
        field=frame.field,
        retry_after_ms=frame.retry_after_ms,
        done=UNSET if error.done is None else error.done,
    )
    response = _json(error.status, {"error": problem})
    if error.status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    elif error.status in (429, 503):
        after = frame.retry_after_ms if isinstance(frame.retry_after_ms, int) else 1000
        response.headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(after / 1000)))
    return response


def _json(status: int, answer: object) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(answer), content_type="application/json")


def _known(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not UNSET}


def _path_part(name: str, value: str) -> str:
    if name == "user":
        return _user(value, name)
    if not 1 <= len(value) <= 128 or not value.isprintable():
        raise refuse("no_such_channel", "there is no such channel")
    return value


def _user(user: str, field: str) -> str:
    if not valid_user(user):
        raise refuse("bad_request", "a user has 1 to 128 characters, none of them a control character", field=field)
    return user


async def _read(request: web.Request, limit: int) -> bytes:
    if request.content_length is not None and request.content_length > limit:
        raise refuse("bad_request", f"the body has at most {limit} bytes", status=413)
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise refuse("bad_request", f"the body has at most {limit} bytes", status=413)
    return bytes(body)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise refuse("bad_json", f"the body is not JSON: {reason}") from None
    if not isinstance(value, dict):
        raise refuse("bad_json", "the body is one object")
    return value


def _query(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=32)
    except ValueError:
        raise refuse("bad_request", "too many parameters") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        if name in query:
            raise refuse("bad_request", "a parameter stands twice", field=name[:64])
        query[name] = value
    return query


def _validated(model: type[M], value: Mapping[str, Any], *, strict: bool) -> M:
    try:
        return model.model_validate(value, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:128] or None
        raise refuse("bad_request", first["msg"], field=field) from None
