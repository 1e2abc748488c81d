"""The server API's table of routes, and its OpenAPI 3.1 description. Data only."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from chatcluster import __version__
from chatcluster.app import api_models as models
from chatcluster.app.api_keys import Scope

PREFIX = "/api/v1"
SMALL = 128 * 1024
BULK = 8 * 1024 * 1024
"""Bytes of a body: 10,000 users of 128 characters fit."""


class Route(NamedTuple):
    """One operation. ``name`` is the handler's method and the operationId. ``body``: None takes none."""

    method: str
    path: str
    name: str
    scope: Scope
    body: type[BaseModel] | None
    query: type[BaseModel]
    answer: type[BaseModel]
    summary: str
    status: int = 200
    max_bytes: int = SMALL
    body_required: bool = True


ROUTES = (
    Route(
        "POST", "/channels", "create_channel", "channels:write",
        models.CreateChannel, models.Nothing, models.ChannelMade,
        "Create a channel; a repeat with the same client_id is the same channel.", status=201,
    ),
    Route(
        "GET", "/channels/{channel}", "get_channel", "channels:read",
        None, models.Nothing, models.Channel, "A channel.",
    ),
    Route(
        "GET", "/channels/{channel}/members", "list_members", "channels:read",
        None, models.MembersQuery, models.Members, "Members, ascending by user, in pages.",
    ),
    Route(
        "POST", "/channels/{channel}/members", "add_members", "channels:write",
        models.Users, models.Nothing, models.MembersChanged,
        "Add up to 10,000 members; answered when durable and readable. Repeat after any error.", max_bytes=BULK,
    ),
    Route(
        "DELETE", "/channels/{channel}/members", "remove_members", "channels:write",
        models.Users, models.Nothing, models.MembersChanged,
        "Remove up to 10,000 members. Repeat after any error.", max_bytes=BULK,
    ),
    Route(
        "DELETE", "/channels/{channel}/members/{user}", "remove_member", "channels:write",
        None, models.Nothing, models.MembersChanged, "Remove one member, without a body.",
    ),
    Route(
        "POST", "/channels/{channel}/messages", "publish", "messages:write",
        models.Publish, models.Nothing, models.Published,
        "Publish a message as the system or on behalf of a user; answered when durable.",
    ),
    Route(
        "GET", "/channels/{channel}/messages", "list_messages", "messages:read",
        None, models.MessagesQuery, models.Messages, "History in pages.",
    ),
    Route(
        "POST", "/users/{user}/disconnect", "disconnect_user", "users:write",
        models.Why, models.Nothing, models.Disconnected,
        "Close a user's sessions; they may come back.", body_required=False,
    ),
    Route(
        "POST", "/users/{user}/revoke", "revoke_user", "users:write",
        models.Why, models.Nothing, models.Revoked,
        "Refuse the user's tokens issued before now and end their sessions.", body_required=False,
    ),
)  # fmt: skip

_ERRORS = {
    "400": "The request is wrong; `field` says where.",
    "401": "No key, or none that is known.",
    "403": "The key lacks the scope, or the channel's nature forbids it.",
    "404": "No such channel or message.",
    "409": "`id_conflict`: the client_id stands for other content.",
    "413": "The body is too long.",
    "429": "`rate_limited`: again after `Retry-After`.",
    "503": "`overloaded` or `unavailable`: nothing happened; again after `Retry-After`.",
    "504": "`unknown_outcome`: it may have happened. Repeat with the same client_id and `retry: true`.",
}


def openapi() -> dict[str, Any]:
    """The API's OpenAPI 3.1 description, from the models and the table."""
    answers = {route.answer for route in ROUTES} | {models.Error}
    bodies = {route.body for route in ROUTES if route.body is not None}
    wanted = [
        *((model, "validation") for model in sorted(bodies, key=lambda model: model.__name__)),
        *((model, "serialization") for model in sorted(answers, key=lambda model: model.__name__)),
    ]
    _, definitions = models_json_schema(wanted, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    schemas = definitions["$defs"]
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ChatCluster server API",
            "version": __version__,
            "description": "For a product's back end, on the management port. Every call may be repeated.",
        },
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": {"Error": {"description": "An answered no.", "content": _json("Error")}},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of the API keys' file. Only in this header, never in the URL.",
                }
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": f"Scope `{route.scope}`.",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "maxLength": 128}}
            for name in ("channel", "user")
            if f"{{{name}}}" in route.path
        ]
        + _query(route.query),
        "responses": {
            str(route.status): {"description": "Done.", "content": _json(route.answer.__name__)},
            # A reference may have a description of its own (OpenAPI 3.1).
            **{
                status: {"$ref": "#/components/responses/Error", "description": text}
                for status, text in _ERRORS.items()
            },
        },
    }
    if route.body is not None:
        operation["requestBody"] = {"required": route.body_required, "content": _json(route.body.__name__)}
    return operation


def _query(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    parameters = []
    for name, field in schema.get("properties", {}).items():
        # A parameter is either there or not: null is no value of it.
        (value,) = [choice for choice in field.get("anyOf", [field]) if choice.get("type") != "null"]
        about = field.get("description") or value.get("description", "")
        value = {key: part for key, part in value.items() if key not in ("description", "title")}
        parameters.append({"name": name, "in": "query", "required": False, "description": about, "schema": value})
    return parameters


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
