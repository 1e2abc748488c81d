"""The field's linters over everything that reaches an API server (``rendered``); those that are built.

``scripts/kubernetes.sh helm kubeconform kube-score kube-linter ct checkov crds operator-verify`` builds all of them.
Every exception stands in ``EXCEPTIONS`` with its reason; one that no finding needs any more is a failure as well.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import rendered
import schemas
from charts import CHARTS

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / ".ci/lint"
GROUPS = {"installation": ("chart-", "plain-"), "operands": ("operands-",)}
"""What is installed, and what the operator makes: file name prefixes."""

_PULL = "a version or digest of an image is never written again; Always would stop restarts while the registry is away"
_CPU = "a process that is throttled stalls every socket that it holds, or loses its Lease"
_DIGEST = "a release names its images by version; image.digest and spec.image take digests"
_SPREAD = "spread by zone and by host with topologySpreadConstraints"
EXCEPTIONS: dict[tuple[str, str], dict[str, str]] = {
    ("kube-score", "installation"): {
        "container-image-pull-policy": _PULL,
        "cpu-limit": _CPU,
    },
    ("kube-score", "operands"): {
        "container-image-pull-policy": _PULL,
        "cpu-limit": _CPU,
        "container-ephemeral-storage-request-and-limit": "a pod over it is evicted with its connections; the root is "
        "read-only, /tmp is limited to 64 MiB, logs are rotated by the kubelet",
        "deployment-has-host-podantiaffinity": _SPREAD,
        "horizontalpodautoscaler-has-target": "gateways are scaled by the ChatCluster's scale subresource",
        "statefulset-has-servicename": "one pod, that nobody asks by its own name",
    },
    ("kube-linter", "operands"): {
        "no-anti-affinity": _SPREAD,
        "job-ttl-seconds-after-finished": "a finished migration stays: that it is there says that it was done",
    },
    ("checkov", "installation"): {
        "CKV_K8S_11": _CPU,
        "CKV_K8S_15": _PULL,
        "CKV_K8S_38": "the operator speaks to the API server: its token is what it is for",
        "CKV_K8S_43": _DIGEST,
    },
    ("checkov", "operands"): {
        "CKV_K8S_11": _CPU,
        "CKV_K8S_15": _PULL,
        "CKV_K8S_43": _DIGEST,
    },
}


class Linters:
    """Over the files of a folder. Each gives its findings, one a line."""

    def __init__(self, cache: Path, folder: Path) -> None:
        self.tools = cache / "tools"
        self.python = cache / "lint/bin"
        self.folder = folder

    def files(self, group: str) -> list[Path]:
        return sorted(file for file in self.folder.glob("*.yaml") if file.name.startswith(GROUPS[group]))

    def kubeconform(self) -> list[str]:
        """Every field is known to the API server's own schema."""
        pattern = f"{schemas.folder_for()}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
        options = ("-strict", "-output=json", f"-schema-location={pattern}")
        done = _run(self.tools / "kubeconform", *options, *self.files("installation"), *self.files("operands"))
        return [
            f"{one['filename']}: {one['kind']} {one['name']}: {one['msg']}"
            for one in json.loads(done)["resources"] or ()
        ]

    def kube_score(self, group: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for file in self.files(group):  # one cluster's objects at a time: they refer to each other
            done = _run(self.tools / "kube-score", "score", "-o=json", "--kubernetes-version=v1.34", file)
            for thing in json.loads(done) or ():
                for check in thing["checks"]:
                    for comment in check["comments"] or ():
                        if check["skipped"] or check["grade"] >= 10:
                            continue
                        name = "cpu-limit" if comment["summary"] == "CPU limit is not set" else check["check"]["id"]
                        found.setdefault(name, []).append(f"{file.name}: {thing['object_name']}: {comment['summary']}")
        return found

    def kube_linter(self, group: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        done = _run(self.tools / "kube-linter", "lint", "--format=json", *self.files(group))
        for one in json.loads(done)["Reports"] or ():
            thing = one["Object"]["K8sObject"]
            text = f"{thing['GroupVersionKind']['Kind']} {thing['Name']}: {one['Diagnostic']['Message']}"
            found.setdefault(one["Check"], []).append(text)
        return found

    def checkov(self, group: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        files = [part for file in self.files(group) for part in ("-f", file)]
        done = _run(self.python / "checkov", *files, "--framework=kubernetes", "-o=json", "--quiet", "--skip-download")
        for one in json.loads(done)["results"]["failed_checks"]:
            found.setdefault(one["check_id"], []).append(f"{one['resource']}: {one['check_name']}")
        return found

    def helm(self) -> list[str]:
        found = []
        for chart in CHARTS:
            source = ROOT / "helm" / chart
            for values in sorted((source / "ci").glob("*-values.yaml")) or [source / "values.yaml"]:
                done = _run(self.tools / "helm", "lint", source, "--strict", f"--kube-version={rendered.KUBERNETES}",
                            "--values", values)  # fmt: skip
                found += [
                    f"{chart}: {line}" for line in done.splitlines() if re.match(r"\[(WARNING|ERROR)\]|Error", line)
                ]
        return found

    def ct(self) -> list[str]:
        path = f"{self.python}{os.pathsep}{self.tools}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [self.tools / "ct", "lint", "--charts", ",".join(f"helm/{chart}" for chart in CHARTS),
             "--chart-yaml-schema", CONFIG / "chart_schema.yaml", "--lint-conf", CONFIG / "yamllint.yaml",
             "--check-version-increment=false", "--validate-maintainers=false",
             f"--helm-lint-extra-args=--kube-version={rendered.KUBERNETES}"],
            cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return (done.stdout + done.stderr).splitlines() if done.returncode else []

    def yamllint(self) -> list[str]:
        files = [
            *ROOT.glob("helm/*/*.yaml"),
            *ROOT.glob("helm/*/ci/*.yaml"),
            *ROOT.glob("examples/*.yaml"),
            ROOT / "compose.yaml",
        ]
        return _run(
            self.python / "yamllint", "--strict", "--format=parsable", "-c", CONFIG / "yamllint.yaml", *files
        ).splitlines()

    def operator_verify(self) -> list[str]:
        command = [self.tools / "operator-verify", "manifests", "--operatorhub_validate", ROOT / "deploy/olm/bundle"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        return [line for line in lines if "level=" in line and not any(one in line for one in NOISE)]


NOISE = (
    'The \\"operatorhub\\" validator is deprecated',  # of the tool's own option
    "using APIs which were deprecated and removed in v1.25",  # it reads resources of rules, which have no version
)


def _run(*command: str | Path) -> str:
    """Its output; linters say by their exit code that they found something, which their output says as well."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout and done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr[-2000:]}")
    return done.stdout


def judged(tool: str, group: str, found: dict[str, list[str]]) -> list[str]:
    """What no exception stands for, and exceptions that nothing stands for."""
    allowed = EXCEPTIONS.get((tool, group), {})
    unused = [f"{name}: an exception that nothing needs any more" for name in allowed if name not in found]
    return [f"{name}: {text}" for name, texts in found.items() if name not in allowed for text in texts] + unused


def main() -> int:
    cache = schemas.cache_folder()
    bad = False
    with tempfile.TemporaryDirectory() as scratch:
        helm = cache / "tools/helm"
        folder = Path(scratch)
        rendered.write(folder, helm if helm.exists() else None)
        linters = Linters(cache, folder)
        plain: list[tuple[Path, str, Callable[[], list[str]]]] = [
            (helm, "helm lint", linters.helm),
            (linters.tools / "kubeconform", "kubeconform", linters.kubeconform),
            (linters.tools / "ct", "ct lint", linters.ct),
            (linters.python / "yamllint", "yamllint", linters.yamllint),
            (linters.tools / "operator-verify", "operator-verify", linters.operator_verify),
        ]
        grouped: list[tuple[Path, str, Callable[[str], dict[str, list[str]]]]] = [
            (linters.tools / "kube-score", "kube-score", linters.kube_score),
            (linters.tools / "kube-linter", "kube-linter", linters.kube_linter),
            (linters.python / "checkov", "checkov", linters.checkov),
        ]
        runs: list[tuple[Path, str, Callable[[], list[str]]]] = [
            *plain,
            *(
                (path, f"{tool} ({group})", lambda tool=tool, group=group, lint=lint: judged(tool, group, lint(group)))
                for path, tool, lint in grouped
                for group in GROUPS
            ),
        ]
        for path, name, lint in runs:
            if not path.exists():
                print(f"== {name}: not built (scripts/kubernetes.sh {path.name.replace('yamllint', 'checkov')})")
                continue
            findings = lint()
            bad = bad or bool(findings)
            print(f"== {name}: {'clean' if not findings else ''}")
            for line in findings:
                print(f"   {line}")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
