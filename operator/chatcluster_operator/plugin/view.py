"""A ChatCluster as people want to see it: from the object of the API to lines. Pure: ``now`` is an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from chatcluster_operator.plugin.paint import Paint, plain

Object = Mapping[str, Any]
COMPONENTS = ("persister", "router", "presence", "gateway")

_USUAL = {
    "Available": "True", "Progressing": "False", "Degraded": "False", "DependenciesReachable": "True",
    "Draining": "False", "ScalingActive": "", "ScalingLimited": "False", "ReconciliationPaused": "False",
    "UpgradeBlocked": "False", "Ready": "True",
}  # fmt: skip
"""The status of each condition on a day without news."""
_SERIOUS = ("Available", "Degraded", "DependenciesReachable", "UpgradeBlocked", "Ready")
_SHOWN = ("Available", "DependenciesReachable", "Progressing")
"""Told on such a day, too."""


def conditions_of(cluster: Object) -> dict[str, Object]:
    """By type."""
    return {one["type"]: one for one in (cluster.get("status") or {}).get("conditions") or ()}


def tone_of(condition: Object) -> str:
    """How a condition is to be taken."""
    kind, status = condition["type"], condition["status"]
    if condition.get("reason") == "Stuck":
        return "bad"
    if kind == "ScalingActive":
        return "note" if condition.get("reason") == "NoMetrics" else "good" if status == "True" else "quiet"
    if status == _USUAL.get(kind, status):
        return "good" if kind in _SERIOUS or kind in _SHOWN else "quiet"
    return "bad" if kind in _SERIOUS and status != "Unknown" else "note"


def _head(cluster: Object) -> tuple[str, str, str]:
    """Tone, word and sentence of the whole."""
    said = conditions_of(cluster)
    ready = said.get("Ready")
    if ready is None:
        return "note", "Unknown", "no operator has looked at it yet: does one run?"
    text = plain(ready.get("message", ""))
    if ready["status"] == "True":
        return "good", "Ready", text
    moving = said.get("Progressing", {}).get("status") == "True"
    serves = said.get("Available", {}).get("status") == "True"
    broken = any(said.get(kind, {}).get("status") == "True" for kind in ("UpgradeBlocked", "Degraded"))
    tone = "note" if moving and serves and not broken else "bad"
    return tone, plain(ready.get("reason", "NotReady")), text


def unseen(cluster: Object) -> str:
    """Whether the operator is behind, in words."""
    generation = cluster["metadata"].get("generation", 0)
    seen = (cluster.get("status") or {}).get("observedGeneration")
    if seen is None or seen >= generation:
        return ""
    return f"the operator has not seen the newest spec yet (generation {generation}, seen {seen}): does it run?"


def details(cluster: Object, now: datetime, paint: Paint, *, verbose: bool = False) -> list[str]:
    """All of one ChatCluster."""
    head, status = cluster["metadata"], cluster.get("status") or {}
    tone, word, text = _head(cluster)
    facts = [f"namespace {head.get('namespace', '')}", f"version {plain(status.get('version') or '?')}"]
    facts.append(f"{age(head.get('creationTimestamp'), now)} old")
    since = age(conditions_of(cluster).get("Ready", {}).get("lastTransitionTime"), now)
    lines = [f"{paint(head['name'], 'strong')}  {paint(' · '.join(facts), 'quiet')}"]
    lines.append(f"{paint.mark(tone)} {paint(word, tone)}  {text}" + (f" (for {since})" if since != "?" else ""))
    if behind := unseen(cluster):
        lines.append(f"{paint.mark('note')} {behind}")
    for part in (
        _components(cluster, paint),
        _drains(cluster, now, paint),
        _autoscaling(cluster, paint),
        _conditions(cluster, now, paint, verbose=verbose),
        _endpoints(status, paint),
    ):
        if part:
            lines += ["", *part]
    return lines


def _components(cluster: Object, paint: Paint) -> list[str]:
    parts = (cluster.get("status") or {}).get("components") or {}
    if not parts:
        if (cluster["spec"].get("dependencies") or {}).get("embedded"):
            return ["embedded: everything in one pod"]
        return []
    rows = [["COMPONENT", "READY", "UPDATED", "REVISION", "LOAD"]]
    for name in COMPONENTS:
        one = parts.get(name)
        if one is None:
            continue
        desired, ready, updated = (int(one.get(key) or 0) for key in ("desired", "ready", "updated"))
        rows.append(
            [
                name,
                paint(f"{ready}/{desired}", "good" if ready >= desired else "bad" if not ready else "note"),
                paint(str(updated), "" if updated >= desired else "note"),
                plain(one.get("revision") or "-"),
                _load(cluster, name, one),
            ]
        )
    return paint.table(rows)


def _load(cluster: Object, name: str, one: Object) -> str:
    # Sums over pods that did not answer are no numbers.
    if conditions_of(cluster).get("DependenciesReachable", {}).get("reason") == "NoMetrics":
        return "not known: no pod tells its metrics" if name in ("gateway", "persister") else ""
    if name == "persister" and one.get("lag") is not None:
        return f"{one['lag']:,} records behind"
    if name == "gateway" and one.get("connections") is not None:
        gateway = cluster["spec"].get("gateway") or {}
        room = int(one.get("ready") or 0) * int((gateway.get("capacity") or {}).get("connectionsPerPod") or 0)
        share = f", {100 * one['connections'] / room:.0f} % of {room:,}" if room else ""
        return f"{one['connections']:,} connections{share}"
    return ""


def _drains(cluster: Object, now: datetime, paint: Paint) -> list[str]:
    drains = (cluster.get("status") or {}).get("drains") or []
    if not drains:
        return []
    most = ((cluster["spec"].get("gateway") or {}).get("drain") or {}).get("maxConcurrent", 1)
    rows = [["DRAINS", "NODE", "PROGRESS", f"(at most {most} at once)"]]
    rows += [drain_row(one, now, paint) for one in drains]
    return paint.table(rows)


def drain_row(one: Object, now: datetime, paint: Paint) -> list[str]:
    """One drain: pod, node, progress, words."""
    phase = one.get("phase") or "Leaving"
    name, node = plain(one["pod"]), plain(one.get("node") or "-")
    message = plain(one.get("message") or "")
    if not one.get("until"):
        tone = "bad" if phase == "Stuck" else "note"
        return [name, node, paint(phase, tone), f"asked {age(one.get('since'), now)} ago: {message}"]
    left, start = one.get("connections"), one.get("connectionsAtStart")
    if left is None:
        progress, text = paint(phase, "note"), "connections not known"
    elif not start:
        progress, text = f"{paint.bar(1.0)} 100 %", "no connections left"
    else:
        share = 1 - min(left, start) / start
        progress, text = f"{paint.bar(share)} {share * 100:3.0f} %", f"{left:,} of {start:,} connections left"
    if phase == "Stuck":
        return [name, node, progress, paint(f"{text}; stuck: {message}", "bad")]
    return [name, node, progress, f"{text}, at most until {clock(one['until'])} ({age(one['until'], now)})"]


def _autoscaling(cluster: Object, paint: Paint) -> list[str]:
    rows = [["AUTOSCALING", "MODE", "RANGE", ""]]
    said = conditions_of(cluster).get("ScalingActive", {})
    for name, unit in (("gateway", "connections"), ("persister", "lag")):
        scaling = (cluster["spec"].get(name) or {}).get("autoscaling") or {}
        mode = scaling.get("mode", "none")
        if mode == "none":
            continue
        by = (
            f"{scaling.get('targetConnectionsPercent', 70)} % of a gateway's connections"
            if unit == "connections"
            else f"{scaling.get('lagPerReplica', 0):,} records behind each"
        )
        rows.append([name, mode, f"{scaling.get('min', '?')} to {scaling.get('max', '?')}", by])
    if len(rows) == 1:
        return []
    lines = paint.table(rows)
    if said.get("reason") not in (None, "NotConfigured"):
        lines.append(f"{paint.mark(tone_of(said))} {plain(said.get('message', ''))}")
    return lines


def _conditions(cluster: Object, now: datetime, paint: Paint, *, verbose: bool) -> list[str]:
    found = []
    for one in conditions_of(cluster).values():
        tone = tone_of(one)
        if one["type"] == "Ready" or not (verbose or tone in ("bad", "note") or one["type"] in _SHOWN):
            continue
        found.append((one, tone))
    if not found:
        return []
    wide = max(len(one["type"]) for one, _ in found)
    lines = [paint("CONDITIONS", "quiet")]
    for one, tone in found:
        said = "" if one["status"] == _USUAL.get(one["type"]) else f"{plain(one.get('reason', ''))}: "
        text = f"{said}{plain(one.get('message', ''))} ({age(one.get('lastTransitionTime'), now)})"
        first, *rest = paint.wrapped(text, wide + 4)
        lines.append(f"{paint.mark(tone)} {one['type'].ljust(wide)}  {first}")
        lines += [f"{' ' * (wide + 4)}{line}" for line in rest]
    return lines


def _endpoints(status: Object, paint: Paint) -> list[str]:
    ends = status.get("endpoints") or {}
    rows = [["ENDPOINTS", "(inside the Kubernetes cluster)"]]
    rows += [
        [name, plain(ends[key])] for key, name in (("sockets", "clients"), ("serverApi", "server API")) if ends.get(key)
    ]
    return paint.table(rows) if len(rows) > 1 else []


def table(clusters: Sequence[Object], now: datetime, paint: Paint, *, namespaces: bool) -> list[str]:
    """One line for each."""
    rows = [["NAMESPACE", "NAME", "", "STATE", "VERSION", "GATEWAYS", "CONNECTIONS", "LAG", "DRAINS", "AGE"]]
    for one in sorted(clusters, key=lambda one: (one["metadata"].get("namespace", ""), one["metadata"]["name"])):
        tone, word, _ = _head(one)
        status = one.get("status") or {}
        parts = status.get("components") or {}
        dark = conditions_of(one).get("DependenciesReachable", {}).get("reason") == "NoMetrics"
        connections, lag = (parts.get("gateway") or {}).get("connections"), (parts.get("persister") or {}).get("lag")
        rows.append(
            [
                one["metadata"].get("namespace", ""),
                one["metadata"]["name"],
                paint.mark(tone),
                paint(word, tone),
                plain(status.get("version") or "?"),
                plain(status.get("gateways") or "?"),
                "?" if dark or connections is None else f"{connections:,}",
                "?" if dark or lag is None else f"{lag:,}",
                str(len(status.get("drains") or ())),
                age(one["metadata"].get("creationTimestamp"), now),
            ]
        )
    return paint.table(rows if namespaces else [row[1:] for row in rows])


def document(cluster: Object) -> dict[str, Any]:
    """For programs: what ``details`` tells, as the API has it."""
    head, status = cluster["metadata"], cluster.get("status") or {}
    ready = conditions_of(cluster).get("Ready", {})
    return {
        "namespace": head.get("namespace", ""),
        "name": head["name"],
        "generation": head.get("generation", 0),
        "observedGeneration": status.get("observedGeneration"),
        "ready": ready.get("status") == "True",
        "reason": ready.get("reason"),
        "message": ready.get("message"),
        "paused": bool(cluster["spec"].get("paused", False)),
        **{key: status.get(key) for key in ("version", "components", "drains", "conditions", "endpoints")},
        "autoscaling": {
            name: (cluster["spec"].get(name) or {}).get("autoscaling") for name in ("gateway", "persister")
        },
    }


def age(stamp: str | None, now: datetime) -> str:
    """From then to now, or from now to then, in one unit."""
    try:
        seconds = abs((now - datetime.fromisoformat(stamp or "")).total_seconds())
    except (ValueError, TypeError):
        return "?"
    for unit, size, most in (("s", 1, 120), ("m", 60, 120 * 60), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds // 86400)}d"


def clock(stamp: str) -> str:
    """The time of day, UTC."""
    try:
        return f"{datetime.fromisoformat(stamp):%H:%M:%S} UTC"
    except ValueError:
        return plain(stamp)
