"""``status``: fetch, show, and with ``--watch`` again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

from chatcluster_operator.plugin import view
from chatcluster_operator.plugin.api import Api, cluster_of, clusters_of
from chatcluster_operator.plugin.errors import UNREACHABLE, USAGE, Failure, NotFound
from chatcluster_operator.plugin.paint import Paint


def run(options: argparse.Namespace) -> int:
    """Once, or until interrupted."""
    if options.name and options.all_namespaces:
        raise Failure("a name is of one namespace: leave out -A, or the name", USAGE)
    if not options.interval >= 0.2:
        raise Failure("--interval is 0.2 or more", USAGE)
    api, paint = Api.of(options), Paint.of(options.color)
    if not options.watch:
        print(_text(_fetch(api, options), options, paint))
        return 0
    terminal = sys.stdout.isatty() and options.output == "text"
    shown, since = "", datetime.now(UTC)
    while True:
        silent = ""
        try:
            text = _text(_fetch(api, options), options, paint)
            since = datetime.now(UTC)
        except Failure as failure:
            if failure.code != UNREACHABLE or not shown:
                raise
            text, silent = shown, f"\n\nas of {since:%H:%M:%S} UTC: {failure}"
        if terminal:
            print(f"\x1b[H\x1b[J{text}{silent}", flush=True)
        elif text != shown:
            print(text if options.output == "json" else f"-- {since:%H:%M:%S} UTC\n{text}", flush=True)
        shown = text
        time.sleep(options.interval)


def _fetch(api: Api, options: argparse.Namespace) -> list[Any]:
    if options.all_namespaces:
        return clusters_of(api, "")
    if options.name:
        return [cluster_of(api, options.name)]
    found = clusters_of(api, api.namespace)
    if not found and options.output == "text":
        raise NotFound(f"no ChatCluster in namespace {api.namespace} (kubectl chat status -A shows all)")
    return found


def _text(clusters: list[Any], options: argparse.Namespace, paint: Paint) -> str:
    if options.output == "json":
        # One line for each look of --watch.
        indent = None if options.watch else 2
        return json.dumps({"clusters": [view.document(one) for one in clusters]}, indent=indent)
    now = datetime.now(UTC)
    if options.all_namespaces and not clusters:
        return "no ChatCluster in any namespace"
    if options.all_namespaces or len(clusters) > 1:
        return "\n".join(view.table(clusters, now, paint, namespaces=options.all_namespaces))
    return "\n".join(view.details(clusters[0], now, paint, verbose=options.verbose))
