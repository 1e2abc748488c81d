"""The connection to the API server: whose account, and every request counted. What is asked is ``kube``'s."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from chatcluster_operator.metrics import Metrics


def release() -> str:
    """The version of this operator. Nothing that is rendered may depend on it."""
    try:
        return version("chatcluster")
    except PackageNotFoundError:
        return "unknown"


class _Measured(client.ApiClient):
    """Every request that leaves: verb, resource, answer, time until its head."""

    def __init__(self, made: client.Configuration, metrics: Metrics) -> None:
        super().__init__(made)
        self._metrics = metrics

    async def call_api(self, method: str, url: str, header_params: Any = None, *rest: Any, **more: Any) -> Any:
        """See ``ApiClient``."""
        began = time.monotonic()
        verb = verb_of(method, (header_params or {}).get("Content-Type", ""))
        code = "unreachable"
        try:
            answer = await super().call_api(method, url, header_params, *rest, **more)
            code = str(answer.status)
        except (TimeoutError, asyncio.CancelledError):
            code = "timeout"  # whoever asks cancels what takes too long
            raise
        except ApiException as error:
            code = str(error.status or code)
            raise
        finally:
            self._metrics.requests.labels(verb, resource_of(url), code).inc()
            self._metrics.latency.labels(verb).observe(time.monotonic() - began)
        return answer


def verb_of(method: str, content_type: str) -> str:
    """Of a request, as Kubernetes names it; reads are all ``get``."""
    if method == "PATCH":
        return "apply" if "apply-patch" in content_type else "patch"
    return {"POST": "create", "PUT": "update"}.get(method, method.lower())


def resource_of(url: str) -> str:
    """What a request is about: ``deployments``, ``chatclusters/status``; "" for what servers say of themselves."""
    path = url.partition("?")[0].partition("://")[2].split("/")[1:]
    parts = path[2:] if path[:1] == ["api"] else path[3:] if path[:1] == ["apis"] else []
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    return "/".join(parts[:1] + parts[2:3])


@asynccontextmanager
async def connected(kubeconfig: str | None = None, metrics: Metrics | None = None) -> AsyncIterator[client.ApiClient]:
    """A client, of the pod's own account or of a kubeconfig, whose requests are counted."""
    made = client.Configuration()
    if kubeconfig is None:
        config.load_incluster_config(client_configuration=made)  # type: ignore[no-untyped-call]
    else:
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=kubeconfig, client_configuration=made
        )
    made.retries = 0
    async with _Measured(made, metrics or Metrics()) as api:
        api.user_agent = f"chatcluster-operator/{release()}"  # in the audit log: which one wrote
        yield api
