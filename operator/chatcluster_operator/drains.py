"""Gateways that somebody asked to leave, beside those that an upgrade or a smaller number lets go. Pure.

Asked by an annotation on the pod (``group.DRAIN``). They leave as all others do: one more of their revision is started;
when enough are ready without them, the number goes back, and their controller ends the cheapest, which they are marked
to be. Nobody is told to leave before both marks and numbers are seen as they were written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from chatcluster_operator.observed import Pod, Workload

FIRST = -(2**31)
"""The least that ending a pod can cost."""
PATIENCE = timedelta(seconds=600)
"""For which a gateway may take to be ready before the drain that waits for it is told as stuck."""


@dataclass(frozen=True)
class Asked:
    """Of one revision: gateways that were asked to leave and not told yet."""

    waiting: int = 0
    idle: int = 0
    """Of these those that are not ready: they need no successor."""
    seen: bool = True
    """Whether all numbers agree, of its Deployment and of its pods."""
    serving: int = 0
    """Pods that are ready, asked or not."""


@dataclass(frozen=True)
class Step:
    """How many of one Deployment from now on."""

    replicas: int
    told: int = 0
    """How many leave by this."""


def gateways(pods: Iterable[Pod]) -> list[Pod]:
    """Those that were not told to leave."""
    return [pod for pod in pods if pod.component == "gateway" and pod.ends is None]


def asked_of(pods: Sequence[Pod], running: Sequence[Workload]) -> dict[str, Asked]:
    """By revision."""
    alive = gateways(pods)
    found = {}
    for one in running:
        mine = [pod for pod in alive if pod.revision == one.revision]
        wishing = [pod for pod in mine if pod.asked]
        if not wishing:
            continue
        # Of these one may have been told a moment ago.
        going = max(0, max(one.total, len(mine)) - one.wanted)
        waiting = max(0, len(wishing) - going)
        found[one.revision] = Asked(
            waiting,
            min(waiting, sum(not pod.ready for pod in wishing)),
            len(mine) == one.total == one.wanted,
            sum(pod.ready for pod in mine),
        )
    return found


def room(pods: Sequence[Pod], running: Sequence[Workload], budget: int) -> int:
    """How many more may leave now. Who was told to go but is not seen going yet drains, too."""
    alive = Counter(pod.revision for pod in gateways(pods))
    draining = sum(pod.component == "gateway" and pod.ends is not None for pod in pods)
    going = sum(max(0, max(one.total, alive[one.revision]) - one.wanted) for one in running)
    return max(0, budget - draining - going)


def without_successor(pods: Sequence[Pod], one: Workload) -> tuple[int, int]:
    """How many of a Deployment serve nobody new, and how many of these have nobody to move.

    Who is not ready needs no successor. But sockets that it has, or may have, must move when it leaves: only who is
    known to have none, or was never made, is not one of those that drain.
    """
    holding = sum(pod.ready or pod.connections != 0 for pod in gateways(pods) if pod.revision == one.revision)
    idle = max(0, one.wanted - one.ready)
    return idle, max(0, min(idle, one.wanted - holding))


def unmarked(pods: Sequence[Pod]) -> bool:
    """Whether a mark is still to be written or taken off: until then the wrong one could go."""
    return any((pod.cost == FIRST) != pod.asked for pod in gateways(pods))


def taken_back(pods: Sequence[Pod]) -> bool:
    """Whether one still has the mark that nobody asks to leave any more."""
    return any(pod.cost == FIRST and not pod.asked for pod in gateways(pods))


def costs(pods: Sequence[Pod], *, shrinking: bool) -> dict[str, int]:
    """What ending each would cost: whoever was asked goes first, then the emptiest."""
    found = {}
    for pod in gateways(pods):
        if pod.asked:
            found[pod.name] = FIRST
        elif shrinking and pod.connections is not None:
            found[pod.name] = min(pod.connections, 2**31 - 1)
        elif pod.cost == FIRST:
            found[pod.name] = 0
    return found


def step(asked: Asked, *, have: int, wanted: int, serving: int, room: int, least: int) -> Step:
    """Fewer of a Deployment that has ``have``, some of which were asked to leave.

    ``serving``: gateways that are ready, of all revisions; ``least``: how many must stay so.
    """
    if not asked.seen:
        return Step(have)
    told = max(0, min(room, serving + asked.idle - least, max(asked.waiting, have - wanted)))
    return Step(have - told, told)


def held(pods: Sequence[Pod], running: Sequence[Workload], *, wanted: int, budget: int) -> dict[str, int]:
    """By Deployment how many from now on, while it is not the gateways' turn to become another revision.

    What runs goes on as it is; whoever was asked to leave gets a successor of its own revision.
    """
    asked = asked_of(pods, running)
    waiting = sum(one.waiting for one in asked.values())
    if not waiting or not wanted or unmarked(pods):
        return {}
    have = sum(one.wanted for one in running)
    surge = wanted + min(waiting, budget) - have
    if surge > 0:
        first = next(one for one in running if asked.get(one.revision, Asked()).waiting)
        return {first.name: first.wanted + surge}
    left = room(pods, running, budget)
    serving = sum(min(one.ready, one.wanted) for one in running)
    found = {}
    for one in running:
        mine = asked.get(one.revision)
        if mine is None or not mine.waiting:
            continue
        ready = serving - max(0, min(one.ready, one.wanted) - mine.serving)
        made = step(mine, have=one.wanted, wanted=one.wanted, serving=ready, room=left, least=wanted)
        if made.told:
            found[one.name] = made.replicas
            left -= made.told
            serving -= made.told
    return found


# -- what is said of them -------------------------------------------------------------------------------------------


def obstacle(pods: Sequence[Pod], workloads: Iterable[Workload], now: datetime) -> str:
    """Why no successor gets ready, once it takes too long. A Deployment that was whole once does not say it itself."""
    mine = [one for one in workloads if one.revision and one.wanted]
    refused = next((one.refused for one in mine if one.refused), "")
    late = sorted(
        pod.name
        for pod in gateways(pods)
        if not pod.ready and not pod.asked and pod.created is not None and now - pod.created > PATIENCE
    )
    if late and not refused:
        return f"{', '.join(late[:5])} not ready for more than {PATIENCE.seconds // 60} minutes"
    return refused or next((one.stuck for one in mine if one.stuck), "")


def waits(pods: Sequence[Pod], *, paused: bool, draining: int, budget: int, obstacle: str) -> str:
    """What those wait for that were asked and not told; nothing when there are none."""
    if not any(pod.asked for pod in gateways(pods)):
        return ""
    if paused:
        return "the ChatCluster is paused"
    if draining >= budget:
        return f"{draining} of {budget} drain already"
    if obstacle:
        return f"no successor gets ready: {obstacle}"
    return "its successor is not ready yet"


def told(
    pods: Sequence[Pod], waits: str, now: datetime, before: Iterable[Mapping[str, Any]], *, stuck: bool
) -> list[dict[str, Any]]:
    """For the status: who leaves, then who waits, with what is known of them. ``before``: what was said last."""
    started = {one["pod"]: one.get("connectionsAtStart") for one in before if one.get("phase") != "Waiting"}
    mine = [pod for pod in pods if pod.component == "gateway" and (pod.ends is not None or pod.asked)]
    return [
        _told(pod, waits, now, started, stuck=stuck)
        for pod in sorted(mine, key=lambda pod: (pod.ends is None, pod.since or now, pod.name))
    ]


def _told(pod: Pod, waits: str, now: datetime, started: Mapping[str, int | None], *, stuck: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"pod": pod.name}
    if pod.node:
        found["node"] = pod.node
    if pod.since is not None:
        found["since"] = _stamp(pod.since)
    if pod.ends is None:
        found |= {"phase": "Stuck" if stuck else "Waiting", "message": waits}
    else:
        found |= {"phase": "Stuck" if now > pod.ends else "Leaving", "until": _stamp(pod.ends)}
        if found["phase"] == "Stuck":
            found["message"] = "it should have ended by now: look at its node"
        most = max((one for one in (pod.connections, started.get(pod.name)) if one is not None), default=None)
        if most is not None:
            found["connectionsAtStart"] = most
    if pod.connections is not None:
        found["connections"] = pod.connections
    return found


def _stamp(when: datetime) -> str:
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")
