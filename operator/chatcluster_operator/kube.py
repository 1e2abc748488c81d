"""The only room that talks to the API server: reads, server-side apply, patches, deletes, events.

Every write passes ``_may_write``: a process that is not surely the leader any more writes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import DynamicApiError, ResourceNotFoundError

from chatcluster_operator.names import COST, HASH, MANAGER, Cluster, hash_of
from chatcluster_operator.observed import Child
from chatcluster_operator.spec import GROUP, KIND, VERSION

log = logging.getLogger(__name__)

TIMEOUT = 15.0
"""Seconds for one request: a server that stalls is a server that is away."""
PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""What is asked of a Secret: its head alone. Its content never comes here."""

Object = Mapping[str, Any]


class NotLeading(Exception):
    """A write by somebody who is not surely the leader."""


class Trouble(Exception):
    """The API server did not do it: to be tried again, unless ``lasting``."""

    def __init__(self, text: str, *, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after
        self.lasting = status in (400, 422)
        """The server understood and refused: the same again is refused again."""


@asynccontextmanager
async def connected(kubeconfig: str | None = None) -> AsyncIterator[client.ApiClient]:
    """A client, of the pod's own account or of a kubeconfig."""
    made = client.Configuration()
    if kubeconfig is None:
        config.load_incluster_config(client_configuration=made)  # type: ignore[no-untyped-call]
    else:
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=kubeconfig, client_configuration=made
        )
    made.retries = 0
    async with client.ApiClient(made) as api:
        yield api


class Kube:
    """Reads and writes of the operator. ``writes`` counts what was sent to change something."""

    def __init__(self, api: client.ApiClient, leads: Callable[[], bool]) -> None:
        self._api = api
        self._leads = leads
        self._dynamic: DynamicClient | None = None
        self.writes = 0

    async def kinds(self, wanted: Mapping[str, str]) -> frozenset[str]:
        """Which of these kinds (kind: apiVersion) the cluster has."""
        found = set()
        for kind, api in wanted.items():
            try:
                await self._resource(api, kind)
            except ResourceNotFoundError:
                continue
            found.add(kind)
        return frozenset(found)

    def forget_kinds(self) -> None:
        """Ask anew what kinds there are."""
        self._dynamic = None

    # -- reads --------------------------------------------------------------------------------------------

    async def secrets(self, namespace: str, names: set[str]) -> dict[str, str]:
        """Of each Secret that is there: what changes when somebody writes it. Its content is not read."""
        resource = await self._resource("v1", "Secret")

        async def one(name: str) -> tuple[str, str] | None:
            try:
                found = await self._ask(resource.get, name=name, namespace=namespace, header_params={"Accept": PARTIAL})
            except Trouble as trouble:
                if trouble.status == 404:
                    return None
                raise
            head = found["metadata"]
            return name, hashlib.sha256(f"{head['uid']}/{head['resourceVersion']}".encode()).hexdigest()[:10]

        return dict(pair for pair in await asyncio.gather(*map(one, sorted(names))) if pair is not None)

    async def listed(self, api: str, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        """Objects of a kind that is not watched, by their labels."""
        resource = await self._resource(api, kind)
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = await self._ask(resource.get, namespace=namespace, label_selector=selector)
        return [{**item, "apiVersion": api, "kind": kind} for item in found["items"]]

    # -- writes -------------------------------------------------------------------------------------------

    async def apply(self, wanted: Object, live: Object | None) -> bool:
        """Bring a child to what is wanted, by server-side apply; whether anything had to be written.

        Fields of others stay. What stands there as wanted is not written again.
        """
        head = wanted["metadata"]
        if wanted.get("patch"):
            if live is None or _holds(wanted["spec"], live["spec"]):
                return False
            resource = await self._resource(wanted["apiVersion"], wanted["kind"])
            await self._write(
                resource.patch,
                name=head["name"],
                namespace=head["namespace"],
                body={"spec": wanted["spec"]},
                content_type="application/merge-patch+json",
                field_manager=MANAGER,
            )
            return True
        mark = hash_of(wanted)
        if live is not None:
            marked = (live["metadata"].get("annotations") or {}).get(HASH)
            if marked == mark and _holds(wanted, live):
                return False
        body = {**wanted, "metadata": {**head, "annotations": {**(head.get("annotations") or {}), HASH: mark}}}
        resource = await self._resource(wanted["apiVersion"], wanted["kind"])
        await self._write(
            resource.server_side_apply,
            name=head["name"],
            namespace=head["namespace"],
            body=body,
            field_manager=MANAGER,
            force_conflicts="true",
        )
        return True

    async def delete(self, namespace: str, child: Child) -> None:
        """Take a child away, and what belongs to it."""
        resource = await self._resource(child.api, child.kind)
        try:
            await self._write(resource.delete, name=child.name, namespace=namespace, propagation_policy="Background")
        except Trouble as trouble:
            if trouble.status != 404:
                raise

    async def make_link_secret(self, cluster: Cluster) -> None:
        """The secret by which gateways are known to routers, once; nobody needs to read it."""
        resource = await self._resource("v1", "Secret")
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": cluster.child("link"),
                "namespace": cluster.namespace,
                "labels": cluster.labels("link"),
                "ownerReferences": [cluster.owner()],
            },
            "type": "Opaque",
            "stringData": {"secret": secrets.token_hex(32)},
        }
        try:
            await self._write(resource.create, namespace=cluster.namespace, body=body, field_manager=MANAGER)
        except Trouble as trouble:
            if trouble.status != 409:
                raise

    async def cost(self, namespace: str, pod: str, cost: int) -> None:
        """What ending this pod would cost, for the controller that chooses."""
        resource = await self._resource("v1", "Pod")
        await self._write(
            resource.patch,
            name=pod,
            namespace=namespace,
            body={"metadata": {"annotations": {COST: str(cost)}}},
            content_type="application/merge-patch+json",
            field_manager=MANAGER,
        )

    async def status(self, cluster: Cluster, status: Object) -> None:
        """Say how it is; what is not in it any more is taken away."""
        resource = await self._resource(f"{GROUP}/{VERSION}", KIND)
        await self._write(
            resource.status.patch,
            name=cluster.name,
            namespace=cluster.namespace,
            body={"status": status},
            content_type="application/merge-patch+json",
            field_manager=MANAGER,
        )

    async def event(self, cluster: Cluster, kind: str, reason: str, message: str) -> None:
        """Tell whoever reads ``kubectl describe``. What cannot be told is logged only."""
        now = datetime.now(UTC)
        resource = await self._resource("events.k8s.io/v1", "Event")
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{cluster.name}.{secrets.token_hex(8)}", "namespace": cluster.namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": kind,
            "reason": reason,
            "action": reason,
            "note": message[:1000],
            "reportingController": f"{GROUP}/operator",
            "reportingInstance": MANAGER,
            "regarding": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "name": cluster.name,
                "namespace": cluster.namespace,
                "uid": cluster.uid,
            },
        }
        try:
            await self._write(resource.create, namespace=cluster.namespace, body=body)
        except Trouble as trouble:
            log.info("event not told: %s: %s", reason, trouble)

    # -- one request ----------------------------------------------------------------------------------------

    async def _resource(self, api: str, kind: str) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT):
                if self._dynamic is None:
                    self._dynamic = await DynamicClient(self._api)  # type: ignore[no-untyped-call]
                return await self._dynamic.resources.get(api_version=api, kind=kind)
        except (ApiException, DynamicApiError, OSError, TimeoutError) as error:
            raise _trouble(error) from None

    async def _write(self, method: Callable[..., Any], **arguments: Any) -> Any:
        if not self._leads():
            raise NotLeading
        self.writes += 1
        return await self._ask(method, **arguments)

    async def _ask(self, method: Callable[..., Any], **arguments: Any) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await method(serialize=False, **arguments)
                return await answer.json()
        except (ApiException, DynamicApiError, OSError, TimeoutError, ValueError) as error:
            raise _trouble(error) from None


def _trouble(error: Exception) -> Trouble:
    status = getattr(error, "status", 0) or 0
    headers = getattr(error, "headers", None) or {}
    after = headers.get("Retry-After") if hasattr(headers, "get") else None
    text = f"{status} {getattr(error, 'reason', '')}".strip() if status else type(error).__name__
    body = getattr(error, "body", None)
    if status in (400, 403, 409, 422) and body:
        text += f": {body.decode(errors='replace') if isinstance(body, bytes) else body}"[:600]
    try:
        waits = None if after is None else float(after)
    except ValueError:
        waits = None
    return Trouble(text, status=status, retry_after=waits)


def _holds(wanted: Any, live: Any) -> bool:
    """Whether everything that is wanted stands there; what others added beside does not count."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            key in live and _holds(value, live[key]) if value not in ({}, [], None) else not live.get(key)
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(wanted) == len(live)
            and all(_holds(one, other) for one, other in zip(wanted, live, strict=True))
        )
    if isinstance(wanted, str) and isinstance(live, str) and wanted != live:
        return _amount(wanted) == _amount(live) is not None
    return bool(wanted == live)


_UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _amount(text: str) -> float | None:
    """A quantity's value: the server writes 1000m as 1."""
    for unit in ("Ki", "Mi", "Gi", "Ti", "m", "k", "M", "G", "T", ""):
        number = text[: -len(unit)] if unit and text.endswith(unit) else text
        if number != text or not unit:
            try:
                return float(number) * _UNITS.get(unit, 1.0)
            except ValueError:
                return None
    return None


def backoff(attempt: int, retry_after: float | None = None) -> float:
    """Seconds until the next try: full jitter up to 30 s, and no sooner than the server asks."""
    return max(retry_after or 0.0, random.random() * min(30.0, 0.5 * 2.0 ** min(attempt, 10)))


__all__ = ["Kube", "NotLeading", "Trouble", "backoff", "connected"]
