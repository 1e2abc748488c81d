"""A long tier goes on where it was cut off: what passed with the same inputs is not run again.

Only with ``CHATCLUSTER_TEST_RESUME=1`` (``.ci/run`` sets it). What passed stands in the cache under a digest of all
files that the tier depends on; any change of one of them, and everything runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from prebuilt import cache

TIERS = {
    "tests/kubernetes/": (
        *(
            "operator",
            "runtime",
            "stack",
            "crds",
            "helm",
            "deploy",
            "monitoring",
            "examples",
            "scripts",
            "requirements",
        ),
        *("tests/kubernetes", "tests/support", "Dockerfile", "Makefile", "pyproject.toml"),
    ),
}
"""Tests by the beginning of their name, and what they depend on."""


def digest(root: Path, inputs: Iterable[str]) -> str:
    """Of the names and contents of all files below ``inputs``."""
    found = sha256()
    for name in inputs:
        top = root / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in files:
            if path.is_file() and "__pycache__" not in path.parts:
                content = sha256(path.read_bytes()).hexdigest()
                found.update(f"{path.relative_to(root)} {content}\n".encode())
    return found.hexdigest()[:32]


class Resuming:
    """The plugin: one file of passed tests for each tier."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._files = {tier: folder / f"{digest(root, inputs)}.txt" for tier, inputs in TIERS.items()}
        self._passed = {
            tier: frozenset(file.read_text().splitlines()) if file.exists() else frozenset[str]()
            for tier, file in self._files.items()
        }
        self._failed: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def _tier(self, name: str) -> str | None:
        return next((tier for tier in self._files if name.startswith(tier)), None)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            tier = self._tier(item.nodeid)
            if tier is not None and item.nodeid in self._passed[tier]:
                item.add_marker(pytest.mark.skip(reason="passed before with the same inputs"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        report = yield
        tier = self._tier(item.nodeid)
        if tier is not None:
            if not report.passed:
                self._failed.add(item.nodeid)
            elif report.when == "teardown" and item.nodeid not in self._failed:
                with self._files[tier].open("a") as file:
                    file.write(f"{item.nodeid}\n")
        return report


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CHATCLUSTER_TEST_RESUME") == "1":
        config.pluginmanager.register(Resuming(config.rootpath, cache() / "passed"))
