"""``pause``, ``resume``, ``restart``: each is one field of the spec."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from chatcluster_operator.group import RESTARTED
from chatcluster_operator.plugin.api import Api, cluster_of, cluster_path
from chatcluster_operator.plugin.errors import USAGE, Failure


def pause(options: argparse.Namespace) -> int:
    """Set ``spec.paused``."""
    return _paused(options, paused=True)


def resume(options: argparse.Namespace) -> int:
    """Take it back."""
    return _paused(options, paused=False)


def _paused(options: argparse.Namespace, *, paused: bool) -> int:
    api = Api.of(options)
    cluster = cluster_of(api, options.name)
    name = cluster["metadata"]["name"]
    if bool(cluster["spec"].get("paused", False)) == paused:
        print(f"{name} {'is paused already' if paused else 'is not paused'}")
        return 0
    api.patch(cluster_path(api.namespace, name), {"spec": {"paused": paused}})
    print(
        f"{name} is paused: its pods go on, and the operator writes nothing but its status"
        if paused
        else f"{name} goes on: the operator writes what the spec says"
    )
    return 0


def restart(options: argparse.Namespace) -> int:
    """Another annotation of a component's pods: another revision, which rolls as every other does."""
    api = Api.of(options)
    cluster = cluster_of(api, options.name)
    name, component = cluster["metadata"]["name"], options.component
    section = section_of(cluster, component)
    when = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    api.patch(cluster_path(api.namespace, name), {"spec": {section: {"podAnnotations": {RESTARTED: when}}}})
    print(f"{component} of {name} becomes another revision; follow it: kubectl chat status {name} -w")
    if cluster["spec"].get("paused"):
        print(f"{name} is paused: it begins after kubectl chat resume {name}")
    return 0


def section_of(cluster: Any, component: str) -> str:
    """Which part of the spec describes the component's pods. Raises ``Failure``."""
    embedded = bool((cluster["spec"].get("dependencies") or {}).get("embedded"))
    name = cluster["metadata"]["name"]
    if embedded and component != "embedded":
        raise Failure(f"{name} is embedded: everything is one pod, restart embedded (its clients reconnect)", USAGE)
    if not embedded and component == "embedded":
        raise Failure(f"{name} is not embedded: restart gateway, router, persister or presence", USAGE)
    return "gateway" if embedded else component
