"""What many ChatClusters cost the operator, on a real control plane that this starts and ends.

    nice -n 10 .venv/bin/python bench/many_clusters.py --clusters 1000 --json figures.json

Needs `make kubernetes`. Each ChatCluster has all its children but no pods (every component has 0 replicas; the pod of
its migration Job is completed by kwok), so that nodes and kubelets are not what is measured; the API server, etcd, the
controllers and the operator share this machine. Reported: the first creation; a restart until every ChatCluster was
looked at; memory; CPU when nothing happens; a spec change until its child is written (times of the audit log).
`--package DIR` measures the operator of another checkout: what was created by this one is found by that one.
Not named after it, since a file `operator.py` here would stand before the standard library's module of that name.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from subprocess import Popen
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "operator")]

from clusters import cluster, path_of, secret  # noqa: E402
from control_plane import ControlPlane, control_plane  # noqa: E402
from operating import defined, figures, operating, until  # noqa: E402

EACH = 20
"""ChatClusters of a namespace."""
NONE: dict[str, Any] = {name: {"replicas": 0} for name in ("gateway", "router", "persister", "presence")}
TICK = os.sysconf("SC_CLK_TCK")


def prepared(plane: ControlPlane) -> None:
    plane.start_nodes(2)
    defined(plane)


def keys(count: int) -> list[tuple[str, str]]:
    return [(f"space-{number // EACH}", f"c{number}") for number in range(count)]


def made(plane: ControlPlane, wanted: list[tuple[str, str]]) -> None:
    for space in dict.fromkeys(space for space, _ in wanted):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}}
        plane.apply(f"/api/v1/namespaces/{space}", body)
        secret(plane, space)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: plane.apply(path_of(*key), cluster(*key, **NONE)), wanted))


def ready(plane: ControlPlane) -> int:
    found = plane.get("/apis/chatcluster.dev/v1/chatclusters?resourceVersion=0")["items"]
    return sum((one.get("status") or {}).get("phase") == "Ready" for one in found)


def memory(process: Popen[bytes]) -> dict[str, float]:
    lines = dict(
        line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if ":" in line
    )
    return {name: int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


def cpu(process: Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def audited(plane: ControlPlane, offset: int) -> Iterator[dict[str, Any]]:
    with plane.audit.open() as file:
        file.seek(offset)
        for line in file:
            if '"operator"' in line or '"admin"' in line:
                entry = json.loads(line)
                if entry["stage"] == "ResponseComplete":
                    yield entry


def changes(plane: ControlPlane, wanted: list[tuple[str, str]], many: int, pause: float) -> list[float]:
    """Seconds from a change of the spec to the answer to the write of the child that it concerns."""
    offset = plane.audit.stat().st_size
    picked = random.Random(1).sample(wanted, min(many, len(wanted)))
    for number, key in enumerate(picked):
        body = {"spec": {"gateway": {"exposure": {"service": {"annotations": {"bench": str(number)}}}}}}
        plane.ask("PATCH", path_of(*key), body, "application/merge-patch+json")
        time.sleep(pause)
    time.sleep(20)
    asked: dict[str, float] = {}
    found: dict[str, float] = {}
    for entry in audited(plane, offset):
        path, user = entry["requestURI"].partition("?")[0], entry["user"]["username"]
        if user == "admin" and entry["verb"] == "patch":
            asked[path] = datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp()
        elif user == "operator" and entry["verb"] == "patch" and path.endswith("-gateway") and "/services/" in path:
            space, name = path.split("/")[4], path.rpartition("/")[2].removesuffix("-gateway")
            done = datetime.fromisoformat(entry["stageTimestamp"]).timestamp()
            found.setdefault(path_of(space, name), done)
    missing = asked.keys() - found.keys()
    if missing:
        raise SystemExit(f"{len(missing)} changes were never written, {sorted(missing)[0]} among them")
    return sorted(found[path] - asked[path] for path in asked)


def measured(options: argparse.Namespace, plane: ControlPlane, folder: Path) -> dict[str, Any]:
    variables = {}
    if options.package:
        variables["PYTHONPATH"] = os.pathsep.join([f"{options.package}/operator", f"{options.package}/runtime"])
    wanted = keys(options.clusters)
    made(plane, wanted)
    result: dict[str, Any] = {"clusters": options.clusters, "load before": os.getloadavg()[0]}
    with operating(plane, folder) as process:
        began = time.monotonic()
        try:
            until(lambda: ready(plane) == options.clusters, options.patience, 2.0)
        except AssertionError:
            one = plane.get("/apis/chatcluster.dev/v1/chatclusters")["items"][0]
            raise SystemExit(f"never ready: {json.dumps(one.get('status'), indent=1)}") from None
        result["first creation s"] = time.monotonic() - began
        result["RSS after creation MiB"] = memory(process)
        time.sleep(10)
    began = time.monotonic()
    with operating(plane, folder, variables=variables) as process:
        until(lambda: figures(process).get("chatcluster_operator_leads") == 1.0, 60)
        result["lead after s"] = time.monotonic() - began

        def all_looked_at() -> bool:
            now = figures(process)
            return (
                now.get("chatcluster_operator_reconciles_total", 0) >= options.clusters
                and now["chatcluster_operator_queue"] <= options.clusters / 50
            )

        until(all_looked_at, options.patience, 0.2)
        result["resync s"] = time.monotonic() - began
        result["CPU of resync s"] = cpu(process)
        result["RSS after resync MiB"] = memory(process)
        time.sleep(15)
        before, at = cpu(process), time.monotonic()
        time.sleep(60)
        result["idle CPU share"] = (cpu(process) - before) / (time.monotonic() - at)
        times = changes(plane, wanted, options.changes, options.pause)
        result["change to child s"] = {
            "P50": statistics.median(times),
            "P95": times[int(len(times) * 0.95) - 1],
            "max": times[-1],
        }
        result["RSS at the end MiB"] = memory(process)
        now, name = figures(process), "chatcluster_operator_reconcile_seconds"
        result["look mean s"] = now[f"{name}_sum"] / now[f"{name}_count"]
    children = itertools.chain.from_iterable(
        plane.get(f"/{where}?limit=1")["items"][:1]
        + [None] * (plane.get(f"/{where}?limit=1")["metadata"].get("remainingItemCount", 0))
        for where in (
            "api/v1/configmaps",
            "api/v1/services",
            "api/v1/serviceaccounts",
            "apis/apps/v1/deployments",
            "apis/batch/v1/jobs",
            "apis/networking.k8s.io/v1/networkpolicies",
            "apis/policy/v1/poddisruptionbudgets",
        )
    )
    result["children"] = sum(1 for _ in children)
    result["load after"] = os.getloadavg()[0]
    return result


def main() -> None:
    """Command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and end what was started
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.2, help="Seconds between two changes.")
    parser.add_argument("--patience", type=float, default=1800.0)
    parser.add_argument("--package", help="Another checkout.")
    parser.add_argument("--json", help="Where the figures go, too.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made_, control_plane(Path(made_) / "plane", ("kwok",)) as plane:
        folder = Path(made_) / "operator"
        folder.mkdir()
        prepared(plane)
        result = measured(options, plane, folder)
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        Path(options.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
