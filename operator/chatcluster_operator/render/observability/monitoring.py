"""The same without a ChatCluster: files for a Prometheus that somebody else configures, and for the operator's chart.

``scripts/generate.py`` writes them to ``monitoring/``. The platform's rules select by ``job="chatcluster"`` there.
"""

from __future__ import annotations

from chatcluster_operator.observability import RUNBOOKS, Objectives, Thresholds
from chatcluster_operator.render.observability import (
    board_operator,
    board_platform,
    objectives,
    of_operator,
    of_platform,
)
from chatcluster_operator.render.observability.promql import Object, Series, groups

JOB = "chatcluster"


def platform_rules(runbook_base: str = RUNBOOKS) -> list[Object]:
    """Groups of rules of any platform, by what is usual."""
    of = Series((f'job="{JOB}"',), recorded=())
    asked = Objectives()
    return groups(
        "chatcluster",
        objectives.records(of, asked),
        of_platform.alerts(of, asked, Thresholds()),
        interval="30s",
        runbook_base=runbook_base,
        labels={},
    )


def operator_rules(runbook_base: str = RUNBOOKS) -> list[Object]:
    """Groups of rules of the operator."""
    of = Series()
    return groups(
        "chatcluster-operator",
        of_operator.records(of),
        of_operator.alerts(of),
        interval="30s",
        runbook_base=runbook_base,
        labels={},
    )


def dashboards() -> dict[str, Object]:
    """By name."""
    return {"platform": board_platform.board(), "operator": board_operator.board()}
