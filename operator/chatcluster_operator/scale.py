"""How many: the operator's own autoscaling, from what the pods say of themselves. Pure.

Up at once, down only when it has been too much for the whole window; without the metrics of every pod: hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatcluster_operator.observed import Pod
from chatcluster_operator.spec import GatewayAutoscaling, PersisterAutoscaling


@dataclass(frozen=True)
class Wish:
    """What was wanted at one moment, in seconds of the monotonic clock."""

    at: float
    replicas: int


@dataclass(frozen=True)
class Scaling:
    """The outcome: replicas, and what to say of them."""

    replicas: int
    active: bool
    reason: str
    message: str
    limited: str = ""
    wish: int | None = None


def gateways(
    scaling: GatewayAutoscaling,
    per_pod: int,
    current: int,
    pods: Sequence[Pod],
    wishes: Iterable[Wish],
    now: float,
    *,
    draining: bool,
) -> Scaling:
    """By connections: as many as keep each below its target, and headroom above."""
    serving = [pod for pod in pods if pod.ends is None]
    known = [pod.connections for pod in serving if pod.connections is not None]
    if not serving or len(known) < len(serving):
        return _hold(
            scaling, current, "NoMetrics", f"{len(serving) - len(known)} of {len(serving)} gateways do not say"
        )
    # What drains comes back to the others: its connections count, too.
    leaving = [pod.connections or 0 for pod in pods if pod.ends is not None]
    connections = sum(known) + sum(leaving)
    each = per_pod * scaling.target_connections_percent / 100
    wish = math.ceil(connections * (1 + scaling.headroom_percent / 100) / each)
    said = f"{connections} connections, {each:.0f} each"
    return _bounded(scaling, current, wish, wishes, now, said, draining=draining)


def persisters(
    scaling: PersisterAutoscaling,
    partitions: int,
    current: int,
    pods: Sequence[Pod],
    wishes: Iterable[Wish],
    now: float,
) -> Scaling:
    """By lag, up to one for each partition."""
    serving = [pod for pod in pods if pod.ends is None]
    known = [pod.measures["chatcluster_persister_lag_records"] for pod in serving if _has_lag(pod) and pod.measures]
    if not serving or len(known) < len(serving):
        return _hold(
            scaling, current, "NoMetrics", f"{len(serving) - len(known)} of {len(serving)} persisters do not say"
        )
    lag = int(sum(known))
    wish = min(partitions, math.ceil(lag / scaling.lag_per_replica))
    return _bounded(scaling, current, wish, wishes, now, f"{lag} records behind", draining=False)


def _has_lag(pod: Pod) -> bool:
    return pod.measures is not None and "chatcluster_persister_lag_records" in pod.measures


def _hold(scaling: GatewayAutoscaling | PersisterAutoscaling, current: int, reason: str, message: str) -> Scaling:
    held = max(scaling.min, min(scaling.max, current or scaling.min))
    return Scaling(held, False, reason, f"holding {held}: {message}")


GAP = 60.0
"""Seconds without a wish after which what was before does not count: nobody knows what was wanted between."""


def _covered(wishes: Iterable[Wish], now: float, window: float) -> bool:
    """Whether it is known for the whole window what was wanted."""
    last = now
    for at in sorted((one.at for one in wishes), reverse=True):
        if last - at > GAP:
            return False
        if now - at >= window:
            return True
        last = at
    return False


def _bounded(
    scaling: GatewayAutoscaling | PersisterAutoscaling,
    current: int,
    wish: int,
    wishes: Iterable[Wish],
    now: float,
    said: str,
    *,
    draining: bool,
) -> Scaling:
    bounded = max(scaling.min, min(scaling.max, wish))
    limited = "TooFewReplicas" if wish < scaling.min else "TooManyReplicas" if wish > scaling.max else ""
    window = scaling.scale_down.stabilization_seconds
    seen = [one for one in wishes if now - one.at <= window]
    # Down only to the most that was wanted within the window, and only when the window is known as a whole.
    covered = _covered(wishes, now, window)
    highest = max((bounded, *(max(scaling.min, min(scaling.max, one.replicas)) for one in seen)))
    if bounded >= current:
        replicas = bounded
    elif draining:
        replicas = current
    else:
        replicas = min(current, highest) if covered or window == 0 else current
    return Scaling(replicas, True, "Computed", f"{said}: {wish} wanted, {replicas} given", limited, wish)
