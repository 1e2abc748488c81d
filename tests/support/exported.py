"""Which metrics the runtime and the operator really export, with their labels: read from where they are made.

The runtime's from its sources, since one process alone (the embedded platform) has not what Redis, Kafka, Cassandra and
links count; the operator's from its exposition.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from prebuilt import ROOT

TARGET = frozenset(
    {"namespace", "pod", "container", "job", "instance", "endpoint", "chatcluster", "component", "process"}
)
"""Labels that scraping gives, our PodMonitor's relabelings among them; ``process`` is a pool's."""
PROCESS = {
    name: frozenset[str]()
    for name in (
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
    )
}
"""Of prometheus_client's ``ProcessCollector``, which both have."""
SCRAPED = {"up": frozenset[str]()}
"""Prometheus' own, of each target."""


def of_runtime() -> dict[str, frozenset[str]]:
    """By sample's name its labels."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "runtime/chatcluster").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            kind = node.func.attr
            if kind not in ("counter", "gauge", "histogram") or not isinstance(node.args[0], ast.Constant):
                continue
            name = f"chatcluster_{node.args[0].value}"
            labels = {one.arg for one in node.keywords if one.arg not in (None, "bounds")}
            if any(one.arg is None for one in node.keywords):
                labels |= _spread(path)
            names = [name] if kind != "histogram" else [f"{name}_{end}" for end in ("bucket", "sum", "count")]
            for one in names:
                found.setdefault(one, set()).update(label for label in labels if label)
                if one.endswith("_bucket"):
                    found[one].add("le")
    return {name: frozenset(labels) for name, labels in found.items()}


def _spread(path: Path) -> set[str]:
    """Of ``**labels``: the keys of the dictionary of this name."""
    match = re.search(r"labels = \{(.*?)\}", path.read_text())
    assert match is not None, f"{path}: labels of an instrument that this test does not understand"
    return set(re.findall(r'"(\w+)":', match.group(1)))


def of_text(text: str) -> dict[str, frozenset[str]]:
    """The same of an exposition."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        match = re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ", line)
        if match and not line.startswith("#"):
            found.setdefault(match.group(1), set()).update(re.findall(r'(\w+)="', match.group(2) or ""))
    return {name: frozenset(labels) for name, labels in found.items()}


_WORDS = frozenset(
    {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
)
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")


def used(expression: str) -> dict[str, set[str]]:
    """Of an expression of PromQL: by metric the labels that are selected; under "" those that are grouped by."""
    found: dict[str, set[str]] = {"": set()}
    for group in _GROUPING.findall(expression):
        found[""] |= {one.strip() for one in group.split(",") if one.strip()}
    for name, matchers in _SELECTOR.findall(expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
    bare = _SELECTOR.sub(" ", _GROUPING.sub(" ", expression))
    bare = re.sub(r'"[^"]*"', " ", bare)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    for match in re.finditer(r"(?<![\w.$])([a-zA-Z_:][\w:]*)\b(?!\s*\()", bare):
        if match.group(1) not in _WORDS and not re.fullmatch(r"e\d*|Inf|NaN", match.group(1)):
            found.setdefault(match.group(1), set())
    return found
