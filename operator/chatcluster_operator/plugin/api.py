"""Requests to the API server with the user's own kubeconfig. A right that is missing is named."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from chatcluster_operator.group import GROUP, PLURAL, VERSION
from chatcluster_operator.plugin.errors import FAILED, IMPOSSIBLE, UNREACHABLE, USAGE, Failure, Forbidden, NotFound

TIMEOUT = (5.0, 30.0)
"""Seconds to connect, and between two pieces of an answer."""
MERGE = "application/merge-patch+json"

Object = Mapping[str, Any]
_VERBS = {"GET": "get", "PATCH": "patch"}


class Api:
    """One API server. ``namespace``: where nothing else is said."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    @classmethod
    def of(cls, options: argparse.Namespace) -> Api:
        """By the command line's kubeconfig, context and namespace. Raises ``Failure``."""
        from kubernetes import config
        from kubernetes.config.config_exception import ConfigException

        where = options.kubeconfig
        try:
            if where is None and not os.environ.get("KUBECONFIG") and os.environ.get("KUBERNETES_SERVICE_HOST"):
                from kubernetes import client

                made = client.Configuration()
                config.load_incluster_config(client_configuration=made)  # type: ignore[no-untyped-call]
                made.retries = False
                return cls(client.ApiClient(made), options.namespace or _own_namespace())
            contexts, current = config.list_kube_config_contexts(  # type: ignore[no-untyped-call]
                config_file=where
            )
            chosen = next((one for one in contexts if one["name"] == options.context), current)
            if options.context is not None and chosen["name"] != options.context:
                raise Failure(f"no context {options.context!r} in the kubeconfig", USAGE)
            found = config.new_client_from_config(  # type: ignore[no-untyped-call]
                config_file=where, context=options.context, persist_config=False
            )
            found.configuration.retries = False  # --watch asks again; everybody else wants to know
        except (ConfigException, OSError, KeyError, TypeError, ValueError) as error:
            raise Failure(f"kubeconfig: {_line(str(error)) or type(error).__name__}", USAGE) from None
        namespace = options.namespace or (chosen.get("context") or {}).get("namespace") or "default"
        return cls(found, namespace)

    def get(self, path: str, accept: str = "application/json", **query: str) -> Any:
        """An object. Raises ``Failure``."""
        return json.loads(self.raw(path, accept, **query))

    def raw(self, path: str, accept: str = "*/*", **query: str) -> bytes:
        """The bytes of an answer. Raises ``Failure``."""
        return self._ask("GET", path, query, {"Accept": accept}, None)

    def patch(self, path: str, body: Object) -> Any:
        """The object, merged with ``body``. Raises ``Failure``."""
        headers = {"Accept": "application/json", "Content-Type": MERGE}
        return json.loads(self._ask("PATCH", path, {"fieldManager": "kubectl-chat"}, headers, body))

    def items(self, path: str, **query: str) -> list[Any]:
        """All of a list, page by page. Raises ``Failure``."""
        found: list[Any] = []
        token = ""
        while True:
            page = self.get(path, **query, limit="500", **({"continue": token} if token else {}))
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found

    def _ask(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: Object | None
    ) -> bytes:
        import urllib3

        asked = self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=dict(headers),
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._client.call_api(*asked, _request_timeout=TIMEOUT)
            data = bytes(answer.read())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            host = self._client.configuration.host
            raise Failure(f"the API server at {host} does not answer: {_line(str(reason))}", UNREACHABLE) from None
        if answer.status < 400:
            return data
        raise _refused(method, path, answer.status, _message(data))


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return _line(data.decode(errors="replace"))


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


def _refused(method: str, path: str, status: int, message: str) -> Failure:
    if status == 403:
        return Forbidden(missing_right(method, path, message))
    if status == 404:
        return NotFound(_line(message))
    if status == 401:
        return Failure("the API server does not know who you are: log in again", UNREACHABLE)
    if status == 409:
        return Failure(f"somebody was faster: {_line(message)}", IMPOSSIBLE)
    return Failure(f"the API server said {status}: {_line(message)}", FAILED)


def missing_right(method: str, path: str, message: str) -> str:
    """Which right it takes, in words."""
    parts = path.strip("/").split("/")
    if parts[0] not in ("api", "apis"):
        return f"you may not get {path}: {_line(message)}"
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    resource = rest[0] + (f"/{rest[2]}" if len(rest) > 2 else "")
    verb = _VERBS[method] if len(rest) > 1 else "list"
    where = f"in namespace {namespace}" if namespace else "in the whole cluster"
    of = f" of group {group}" if group else ""
    return (
        f"you may not {verb} {resource} {where}: ask for the verb {verb} on {resource}{of} there "
        "(docs/kubectl-chat.md has a Role to copy)"
    )


def _own_namespace() -> str:
    from pathlib import Path

    path = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return path.read_text().strip() if path.is_file() else "default"


# -- paths ----------------------------------------------------------------------------------------------------------


def path_of(api: str, plural: str, namespace: str = "", name: str = "", part: str = "") -> str:
    """Of an object or a list: ``v1`` or ``apps/v1``, plural, namespace (none: of all), name, subresource."""
    root = f"/apis/{api}" if "/" in api else f"/api/{api}"
    middle = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    end = "".join(f"/{quote(one, safe='')}" for one in (name, part) if one)
    return f"{root}{middle}/{plural}{end}"


def cluster_path(namespace: str = "", name: str = "") -> str:
    """Of ChatClusters."""
    return path_of(f"{GROUP}/{VERSION}", PLURAL, namespace, name)


def clusters_of(api: Api, namespace: str) -> list[Any]:
    """All of a namespace; none: of all. Raises ``Failure``."""
    try:
        return api.items(cluster_path(namespace))
    except NotFound:
        raise NotFound("this Kubernetes cluster has no ChatClusters: their definition is not installed") from None


def cluster_of(api: Api, name: str | None) -> Any:
    """The one with this name, or the only one of the namespace. Raises ``Failure``."""
    if name is not None:
        try:
            return api.get(cluster_path(api.namespace, name))
        except NotFound:
            raise NotFound(f"no ChatCluster {name!r} in namespace {api.namespace}") from None
    found = clusters_of(api, api.namespace)
    if not found:
        raise NotFound(f"no ChatCluster in namespace {api.namespace} (kubectl chat status -A shows all)")
    if len(found) > 1:
        names = ", ".join(one["metadata"]["name"] for one in found)
        raise Failure(f"say which one: {names}", USAGE)
    return found[0]
