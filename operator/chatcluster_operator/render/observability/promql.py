"""What rules and dashboards are made of: selections of series, rules, alerts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Object = dict[str, Any]
Severity = Literal["critical", "warning", "info"]
"""critical: wake somebody; warning: look at it today; info: know it."""


@dataclass(frozen=True)
class Series:
    """Series of one platform, or of whatever else has these matchers."""

    matchers: tuple[str, ...] = ()
    recorded: tuple[str, ...] | None = None
    """Of what is recorded, where that has other labels: aggregated, it has lost ``job``."""

    def __call__(self, metric: str, *more: str) -> str:
        """A selector: ``metric{matchers}``."""
        matchers = self.recorded if ":" in metric and self.recorded is not None else self.matchers
        inner = ",".join((*matchers, *more))
        return f"{metric}{{{inner}}}" if inner else metric

    def rate(self, metric: str, window: str, *more: str) -> str:
        """Per second."""
        return f"rate({self(metric, *more)}[{window}])"

    def increase(self, metric: str, window: str, *more: str) -> str:
        """In the window."""
        return f"increase({self(metric, *more)}[{window}])"


def by(labels: str, expression: str, how: str = "sum") -> str:
    """An aggregation."""
    return f"{how} by ({labels}) ({expression})"


def quantile(q: float, labels: str, rate: str) -> str:
    """Of a histogram's buckets' rates."""
    return f"histogram_quantile({q}, {by(f'{labels}, le', rate)})"


@dataclass(frozen=True)
class Record:
    """A recording rule."""

    name: str
    expr: str

    def rendered(self) -> Object:
        return {"record": self.name, "expr": self.expr}


@dataclass(frozen=True)
class Alert:
    """An alert; ``wait``: how long it must hold. Texts are Prometheus' templates."""

    name: str
    severity: Severity
    expr: str
    wait: str
    summary: str
    description: str

    def rendered(self, runbook_base: str, labels: Mapping[str, str]) -> Object:
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.wait,
            "labels": {**labels, "severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{runbook_base}#{self.name.lower()}",
            },
        }


def groups(
    prefix: str,
    records: Iterable[Record],
    alerts: Iterable[Alert],
    *,
    interval: str,
    runbook_base: str,
    labels: Mapping[str, str],
) -> list[Object]:
    """As in a file of rules: what is recorded stands before who reads it."""
    rendered = [one.rendered() for one in records]
    found: list[Object] = []
    if rendered:
        found.append({"name": f"{prefix}-records", "interval": interval, "rules": rendered})
    found.append(
        {
            "name": f"{prefix}-alerts",
            "interval": interval,
            "rules": [one.rendered(runbook_base, labels) for one in alerts],
        }
    )
    return found
