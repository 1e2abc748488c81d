"""The linters of ``make lint-manifests``: what we have is clean, what is bad is found, exceptions have reasons."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import lint_manifests
import manifests
from prebuilt import cache, tool

TOOLS = ("helm", "kubeconform", "ct", "operator-verify", "kube-score", "kube-linter")


@pytest.fixture
def linters(tmp_path):
    """All of them are built, else the test is skipped; the folder is empty."""
    for name in TOOLS:
        tool(name)
    folder = cache() / "kubernetes"
    if not (folder / "lint/bin/checkov").exists():
        pytest.skip("build it first: `scripts/kubernetes.sh checkov`")
    return lint_manifests.Linters(folder, tmp_path)


@pytest.mark.slow
def test_what_we_have_is_clean(linters, capsys):
    assert lint_manifests.main() == 0, capsys.readouterr().out
    told = capsys.readouterr().out
    assert told.count("clean") == 11
    assert "not built" not in told


def bad(folder: Path, group: str) -> None:
    """The operator, but privileged, of an image without a version, with a field that nobody knows."""
    objects = manifests.installation(namespaced=True)
    deployment = objects[-1]
    deployment["spec"]["replica"] = 2
    pod = deployment["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = "operator:latest"
    pod["containers"][0]["securityContext"] = {"privileged": True}
    (folder / f"{lint_manifests.GROUPS[group][0]}bad.yaml").write_text(manifests.written(*objects))


@pytest.mark.slow
@pytest.mark.parametrize("group", lint_manifests.GROUPS)
def test_what_is_bad_is_found(linters, tmp_path, group):
    bad(tmp_path, group)
    assert any("replica" in line for line in linters.kubeconform())
    for linter, found, expected in (
        ("kube-score", linters.kube_score(group), "container-security-context-privileged"),
        ("kube-linter", linters.kube_linter(group), "privileged-container"),
        ("checkov", linters.checkov(group), "CKV_K8S_16"),
    ):
        assert expected in found
        told = lint_manifests.judged(linter, group, found)
        assert any(line.startswith(expected) for line in told), linter


def test_an_exception_that_nothing_needs_is_told():
    tool, group = "kube-linter", "operands"
    names = list(lint_manifests.EXCEPTIONS[tool, group])
    found = {name: ["somewhere: something"] for name in names}
    assert lint_manifests.judged(tool, group, found) == []
    del found[names[0]]
    assert lint_manifests.judged(tool, group, {**found, "new": ["x: y"]}) == [
        "new: x: y",
        f"{names[0]}: an exception that nothing needs any more",
    ]


def test_every_exception_has_a_reason():
    for table in lint_manifests.EXCEPTIONS.values():
        assert all(len(reason.split()) > 4 for reason in table.values())


def test_values_files_for_the_linters_are_yaml():
    for file in (lint_manifests.ROOT / "helm").glob("*/ci/*.yaml"):
        assert isinstance(yaml.safe_load(file.read_text()), dict)
