"""The only room that talks to the API server: reads, server-side apply, patches, deletes, events.

Every write passes ``_may_write``: a process that is not surely the leader any more writes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import aiohttp
import msgspec
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import DynamicApiError
from kubernetes.aio.dynamic.resource import Resource

from chatcluster_operator.drift import holds
from chatcluster_operator.kinds import CLUSTER, PLURALS
from chatcluster_operator.names import COST, HASH, MANAGER, Cluster, hash_of
from chatcluster_operator.observed import Child
from chatcluster_operator.spec import GROUP, KIND, VERSION

log = logging.getLogger(__name__)

TIMEOUT = 15.0
"""Seconds for one request: a server that stalls is a server that is away."""
PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""What is asked of a Secret: its head alone. Its content never comes here."""
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
TRIES = 4
"""Of one request."""
PASSING = frozenset({409, 429, 500, 502, 503, 504})
"""Answers after which the same may do the next moment."""
LONGEST = 5.0
"""Seconds that one request waits for the next try; what the server wants later than this, the next look does."""
PAGE = 500
"""Objects of one answer to a list."""

Object = Mapping[str, Any]


class NotLeading(Exception):
    """A write by somebody who is not surely the leader."""


class Trouble(Exception):
    """The API server did not do it: to be tried again, unless ``lasting``."""

    def __init__(self, text: str, *, status: int = 0, retry_after: float | None = None, ending: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after
        self.lasting = status in (400, 422)
        """The server understood and refused: the same again is refused again."""
        self.ending = ending
        """The namespace is being taken away, with everything in it: nothing can be made there any more."""


class Kube:
    """Reads and writes of the operator. ``writes`` counts what was sent to change something."""

    def __init__(self, api: client.ApiClient, leads: Callable[[], bool]) -> None:
        self._api = api
        self._leads = leads
        self._dynamic = DynamicClient(api)  # type: ignore[no-untyped-call]
        self._resources: dict[tuple[str, str], Any] = {}
        self.writes = 0

    async def kinds(self, wanted: Mapping[str, str]) -> frozenset[str]:
        """Which of these kinds (kind: apiVersion) the cluster has now: one request for each apiVersion."""
        served: dict[str, set[str]] = {}
        for api in sorted(set(wanted.values())):
            try:
                found = await self._ask(partial(self._dynamic.request, "get", f"/apis/{api}"))
            except Trouble as trouble:
                if trouble.status != 404:
                    raise
                found = {}
            served[api] = {one["kind"] for one in found.get("resources") or ()}
        return frozenset(kind for kind, api in wanted.items() if kind in served[api])

    # -- reads --------------------------------------------------------------------------------------------

    async def secrets(self, namespace: str, names: set[str]) -> dict[str, str]:
        """Of each Secret that is there: what changes when somebody writes it. Its content is not read."""
        resource = self._resource("v1", "Secret")

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

    async def current(self, cluster: Cluster) -> bool:
        """Whether the ChatCluster is still there, the same one, and not being deleted: asked of the server itself.

        Whoever makes children for what is gone makes them again and again, against the garbage collector.
        """
        resource = self._resource(*CLUSTER)
        try:
            found = await self._ask(
                resource.get, name=cluster.name, namespace=cluster.namespace, header_params={"Accept": PARTIAL}
            )
        except Trouble as trouble:
            if trouble.status == 404:
                return False
            raise
        head = found["metadata"]
        return head["uid"] == cluster.uid and "deletionTimestamp" not in head

    async def cluster(self, namespace: str, name: str) -> Object | None:
        """A ChatCluster as the server has it."""
        try:
            found = await self._ask(self._resource(*CLUSTER).get, name=name, namespace=namespace)
        except Trouble as trouble:
            if trouble.status == 404:
                return None
            raise
        return dict(found)

    async def pages(
        self, api: str, kind: str, namespace: str | None, labels: str = "", *, heads: bool = False
    ) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        """All objects of a kind, or their ``heads``, in pages, each with the version from which a watch goes on."""
        resource = self._resource(api, kind)
        more: str | None = None
        while True:
            found = await self._ask(
                resource.get,
                namespace=namespace,
                label_selector=labels or None,
                limit=PAGE,
                _continue=more,
                header_params={"Accept": PARTIAL_LIST} if heads else {},
            )
            # Of heads, the server says null for none.
            yield found["items"] or [], found["metadata"]["resourceVersion"]
            more = found["metadata"].get("continue")
            if not more:
                return

    async def stream(
        self, api: str, kind: str, namespace: str | None, labels: str, since: str, *, quiet: float, lasts: int
    ) -> AsyncIterator[dict[str, Any]]:
        """News since a version, bookmarks among them; ends when the server ends it, or says nothing for ``quiet`` s."""
        resource = self._resource(api, kind)
        answer = None
        try:
            try:
                async with asyncio.timeout(TIMEOUT):
                    answer = await resource.get(
                        serialize=False,
                        namespace=namespace,
                        label_selector=labels,
                        resource_version=since,
                        timeout_seconds=lasts,
                        watch="true",
                        query_params=[("allowWatchBookmarks", "true")],
                        _request_timeout=lasts + 2 * quiet,
                    )
                buffer = bytearray()
                while True:
                    async with asyncio.timeout(quiet):
                        chunk = await answer.content.readany()
                    if not chunk:
                        return
                    buffer += chunk
                    *lines, rest = buffer.split(b"\n")
                    buffer = rest
                    for line in lines:
                        if line:
                            yield msgspec.json.decode(line)
            except (ApiException, DynamicApiError, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                raise _trouble(error) from None
        finally:
            if answer is not None:
                answer.close()

    async def listed(self, api: str, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        """Objects of a kind that is not watched, by their labels."""
        resource = self._resource(api, kind)
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = await self._ask(resource.get, namespace=namespace, label_selector=selector)
        return [{**item, "apiVersion": api, "kind": kind} for item in found["items"] or ()]

    # -- writes -------------------------------------------------------------------------------------------

    async def apply(self, wanted: Object, live: Object | None) -> dict[str, Any] | None:
        """Bring a child to what is wanted, by server-side apply; as it then is, or None if nothing was to be written.

        Fields of others stay. What stands there as wanted is not written again.
        """
        head = wanted["metadata"]
        if wanted.get("patch"):
            if live is None or holds(wanted["spec"], live["spec"]):
                return None
            resource = self._resource(wanted["apiVersion"], wanted["kind"])
            return await self._write(
                resource.patch,
                name=head["name"],
                namespace=head["namespace"],
                body={"spec": wanted["spec"]},
                content_type="application/merge-patch+json",
                field_manager=MANAGER,
            )
        mark = hash_of(wanted)
        if live is not None:
            marked = (live["metadata"].get("annotations") or {}).get(HASH)
            if marked == mark and holds(wanted, live):
                return None
        body = {**wanted, "metadata": {**head, "annotations": {**(head.get("annotations") or {}), HASH: mark}}}
        resource = self._resource(wanted["apiVersion"], wanted["kind"])
        return await self._write(
            resource.server_side_apply,
            name=head["name"],
            namespace=head["namespace"],
            body=body,
            field_manager=MANAGER,
            force_conflicts="true",
        )

    async def delete(self, namespace: str, child: Child) -> None:
        """Take a child away, and what belongs to it."""
        resource = self._resource(child.api, child.kind)
        try:
            await self._write(resource.delete, name=child.name, namespace=namespace, propagation_policy="Background")
        except Trouble as trouble:
            if trouble.status != 404:
                raise

    async def make_link_secret(self, cluster: Cluster) -> None:
        """The secret by which gateways are known to routers, once; nobody needs to read it."""
        resource = self._resource("v1", "Secret")
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
        resource = self._resource("v1", "Pod")
        await self._write(
            resource.patch,
            name=pod,
            namespace=namespace,
            body={"metadata": {"annotations": {COST: str(cost)}}},
            content_type="application/merge-patch+json",
            field_manager=MANAGER,
        )

    async def status(self, cluster: Cluster, status: Object) -> dict[str, Any]:
        """Say how it is; what is not in it any more is taken away. The ChatCluster as it then is."""
        resource = self._resource(*CLUSTER)
        return await self._write(
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
        resource = self._resource("events.k8s.io/v1", "Event")
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

    def _resource(self, api: str, kind: str) -> Any:
        found = self._resources.get((api, kind))
        if found is None:
            group, _, version = api.rpartition("/")
            found = Resource(  # type: ignore[no-untyped-call]
                prefix="apis" if group else "api",
                group=group,
                api_version=version,
                kind=kind,
                namespaced=True,
                name=PLURALS[kind],
                client=self._dynamic,
                subresources={"status": {"kind": kind, "name": f"{PLURALS[kind]}/status", "namespaced": True}},
            )
            self._resources[api, kind] = found
        return found

    async def _write(self, method: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
        async def led(**arguments: Any) -> Any:
            if not self._leads():  # asked for each try
                raise NotLeading
            self.writes += 1
            return await method(**arguments)

        return await self._ask(led, **arguments)

    async def _ask(self, method: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
        """One request; again when the server is in trouble for a moment. Each of ours may be sent twice."""
        for attempt in range(TRIES):
            try:
                return await self._once(method, **arguments)
            except Trouble as trouble:
                after = trouble.retry_after or 0.0
                if attempt == TRIES - 1 or trouble.status not in PASSING or after > LONGEST:
                    raise
                await asyncio.sleep(max(after, random.uniform(0.05, 0.2) * 2**attempt))
        raise AssertionError

    async def _once(self, method: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await method(serialize=False, **arguments)
                return dict(msgspec.json.decode(await answer.read()))
        except (ApiException, DynamicApiError, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _trouble(error) from None


def _trouble(error: Exception) -> Trouble:
    status = getattr(error, "status", 0) or 0
    headers = getattr(error, "headers", None) or {}
    after = headers.get("Retry-After") if hasattr(headers, "get") else None
    text = f"{status} {getattr(error, 'reason', '')}".strip() if status else type(error).__name__
    body = getattr(error, "body", None)
    if status in (400, 403, 404, 409, 422) and body:
        text += f": {body.decode(errors='replace') if isinstance(body, bytes) else body}"[:600]
    try:
        waits = None if after is None else float(after)
    except ValueError:
        waits = None
    return Trouble(text, status=status, retry_after=waits, ending=status in (403, 404) and _ending(body))


def _ending(body: Any) -> bool:
    """Whether a refusal is for the namespace's end, as its admission says it, or because it has none any more."""
    try:
        details = json.loads(body).get("details") or {}
        if details.get("kind") == "namespaces":
            return True
        return any(one.get("reason") == "NamespaceTerminating" for one in details.get("causes") or ())
    except (ValueError, TypeError, AttributeError):
        return False


def backoff(attempt: int, retry_after: float | None = None) -> float:
    """Seconds until the next try: full jitter up to 30 s, and no sooner than the server asks."""
    return max(retry_after or 0.0, random.random() * min(30.0, 0.5 * 2.0 ** min(attempt, 10)))


__all__ = ["Kube", "NotLeading", "Trouble", "backoff"]
