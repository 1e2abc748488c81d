"""What the operator sees of one ChatCluster: plain data, read by ``kube``, judged by ``plan``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from chatcluster_operator.group import DRAIN
from chatcluster_operator.names import COST, MANAGER, REVISION, TEMPLATE, VERSION

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Child:
    """An object that belongs to the ChatCluster, by the labels of its inventory."""

    api: str
    kind: str
    name: str

    @classmethod
    def of(cls, thing: Object) -> Child:
        """Of an object, wanted or seen."""
        return cls(thing["apiVersion"], thing["kind"], thing["metadata"]["name"])


def trimmed(thing: Object) -> dict[str, Any]:
    """What of a child is kept: all that anybody here reads, and no more, since there are many."""
    head = thing["metadata"]
    kept = {key: head[key] for key in _HEAD if key in head}
    found = {**thing, "metadata": kept}
    kind = thing["kind"]
    if kind == "Pod":
        status = thing.get("status") or {}
        found["spec"] = {key: one for key, one in (thing.get("spec") or {}).items() if key == "nodeName"}
        found["status"] = {key: status[key] for key in ("phase", "podIP") if key in status} | {
            "conditions": [
                {key: one[key] for key in ("type", "status", "lastTransitionTime") if key in one}
                for one in status.get("conditions") or ()
                if one["type"] == "Ready"
            ]
        }
    elif kind in ("Deployment", "StatefulSet"):
        # Of who owns what: who says how many.
        kept["managedFields"] = [
            {"manager": one.get("manager"), "fieldsV1": {"f:spec": {"f:replicas": {}}}}
            for one in head.get("managedFields") or ()
            if "f:replicas" in (one.get("fieldsV1") or {}).get("f:spec", {})
        ]
    elif kind != "Job":
        found.pop("status", None)
    return found


_HEAD = (
    *("name", "namespace", "uid", "generation", "labels", "annotations", "ownerReferences"),
    *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
)


@dataclass(frozen=True)
class Workload:
    """A Deployment or StatefulSet."""

    name: str
    wanted: int
    ready: int
    updated: int
    total: int
    settled: bool
    """Whether its controller has seen the last change, and every pod is of it and available."""
    stuck: str
    """Why it does not get on, as its controller says."""
    annotations: Mapping[str, str]
    version: str
    revision: str
    """Of a gateway's Deployment: which."""
    template: str = ""
    """Of another's: the hash of its pod template, as it was rendered."""
    config: str = ""
    """The ConfigMap that its pods mount."""
    scaled: bool = False
    """Whether somebody else says how many."""
    refused: str = ""
    """Why its controller cannot make a pod: a quota, a policy."""

    @classmethod
    def of(cls, thing: Object) -> Workload:
        """Of a Deployment or a StatefulSet as the API gives it."""
        spec, status, head = thing["spec"], thing.get("status") or {}, thing["metadata"]
        wanted = spec.get("replicas", 1)
        updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
        ready = status.get("readyReplicas", 0)
        seen = status.get("observedGeneration", 0) >= head.get("generation", 0)
        said = {one["type"]: one for one in status.get("conditions") or ()}
        progress, failure = said.get("Progressing", {}), said.get("ReplicaFailure", {})
        stuck = progress.get("message", "") if progress.get("reason") == "ProgressDeadlineExceeded" else ""
        return cls(
            name=head["name"],
            wanted=wanted,
            ready=ready,
            updated=updated,
            total=total,
            settled=seen and updated == total == wanted == status.get("availableReplicas", 0 if wanted else wanted),
            stuck=stuck,
            annotations=spec["template"]["metadata"].get("annotations") or {},
            version=(head.get("annotations") or {}).get(VERSION, ""),
            revision=(head.get("labels") or {}).get(REVISION, ""),
            template=(head.get("annotations") or {}).get(TEMPLATE, ""),
            config=_config(spec["template"]),
            scaled=any(
                "f:replicas" in (one.get("fieldsV1") or {}).get("f:spec", {})
                for one in head.get("managedFields") or ()
                if one.get("manager") != MANAGER
            ),
            refused=failure.get("message", "") if failure.get("status") == "True" else "",
        )


def _config(template: Object) -> str:
    volumes = template["spec"].get("volumes") or ()
    return next((one["configMap"]["name"] for one in volumes if one["name"] == "config"), "")


@dataclass(frozen=True)
class Pod:
    """A pod of a component."""

    name: str
    component: str
    revision: str
    ready: bool
    ends: datetime | None
    """When the kubelet kills it, of a pod that was told to leave; None: it was not."""
    measures: Mapping[str, float] | None = None
    """Its metrics by name, without labels, summed. None: it did not answer."""
    asked: bool = False
    """Whether somebody asked it to leave."""
    since: datetime | None = None
    """When it was asked to leave, or else told. None: not known."""
    cost: int | None = None
    """What ending it costs, as its controller reads it."""
    node: str = ""
    created: datetime | None = None
    unready: datetime | None = None
    """Since when it is not ready; None: it is."""

    @classmethod
    def of(cls, thing: Object, measures: Mapping[str, float] | None) -> Pod:
        """Of a pod as the API gives it."""
        head, labels = thing["metadata"], thing["metadata"].get("labels") or {}
        conditions = (thing.get("status") or {}).get("conditions") or ()
        said: Object = next((one for one in conditions if one["type"] == "Ready"), {})
        ready = said.get("status") == "True"
        created = _time(head.get("creationTimestamp"))
        ends = head.get("deletionTimestamp")
        notes = head.get("annotations") or {}
        since = _time(notes.get(DRAIN))
        if since is None and ends is not None:
            since = datetime.fromisoformat(ends) - timedelta(seconds=head.get("deletionGracePeriodSeconds") or 0)
        return cls(
            name=head["name"],
            component=labels.get("app.kubernetes.io/component", ""),
            revision=labels.get(REVISION, ""),
            ready=ready,
            ends=None if ends is None else datetime.fromisoformat(ends),
            measures=measures,
            asked=DRAIN in notes,
            since=since,
            cost=_number(notes.get(COST)),
            node=(thing.get("spec") or {}).get("nodeName", ""),
            created=created,
            # Who has no node yet is told of by its age alone.
            unready=None if ready else _time(said.get("lastTransitionTime")) or created,
        )

    @property
    def connections(self) -> int | None:
        """Of a gateway; None: not known."""
        if self.measures is None:
            return None
        found = self.measures.get("chatcluster_gateway_sockets")
        return None if found is None else int(found)


def _time(text: str | None) -> datetime | None:
    """People may write anything into an annotation."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


@dataclass(frozen=True)
class Migration:
    """A migration Job."""

    name: str
    done: bool
    failed: str
    config: str = ""

    @classmethod
    def of(cls, thing: Object) -> Migration:
        """Of a Job as the API gives it."""
        conditions = (thing.get("status") or {}).get("conditions") or ()
        true = {one["type"]: one.get("message", "") for one in conditions if one["status"] == "True"}
        return cls(
            thing["metadata"]["name"],
            "Complete" in true,
            (true["Failed"] or "it failed") if "Failed" in true else "",
            _config(thing["spec"]["template"]),
        )


@dataclass(frozen=True)
class Observed:
    """All of it, as of one read."""

    children: Iterable[Child] = ()
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    migrations: Mapping[str, Migration] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Of each mounted Secret that is there: what changes with its content."""
    kinds: frozenset[str] = frozenset()
    """Optional kinds that the cluster has."""
    status: Mapping[str, Any] = field(default_factory=dict)
    generation: int = 0
