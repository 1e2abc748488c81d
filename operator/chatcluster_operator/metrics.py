"""What the operator counts of itself. Instruments alone: what is read at a scrape is in ``exposition``.

Names and labels are an interface: rules and dashboards in ``render/observability`` are written on them, and a test
holds the two together. No label holds what users choose without bound.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

PREFIX = "chatcluster_operator_"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
MINUTES = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0)

RESULTS = ("ok", "error", "invalid", "not_leading")
REASONS = {
    400: "Invalid",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Gone",
    422: "Invalid",
    429: "TooManyRequests",
}
FAULT = "Fault"
"""A look that failed by a fault of ours."""


def reason_of(status: int) -> str:
    """Of an answer that was none: what the operator could not do. 0: nobody answered."""
    if not status:
        return "Unreachable"
    return REASONS.get(status, "ServerError" if status >= 500 else "Other")


class Metrics:
    """Of one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # twice as many series, for nothing
        self.registry = CollectorRegistry()
        self.reconciles = self._counter("reconciles", "Looks at a ChatCluster, by how they ended.", "result")
        self.errors = self._counter("reconcile_errors", "Looks that failed, by what was in the way.", "reason")
        self.seconds = self._histogram("reconcile_seconds", "Of one look at a ChatCluster.")
        self.waits = self._histogram("queue_wait_seconds", "From due to looked at.")
        self.requests = self._counter(
            "api_requests", "Requests to the API server, watches aside.", "verb", "resource", "code"
        )
        self.latency = self._histogram("api_request_seconds", "Until the answer begins.", "verb")
        self.scalings = self._counter(
            "scale_decisions", "Changes of the number that builtin autoscaling wants.", "component", "direction"
        )
        self.drain_seconds = self._histogram("drain_seconds", "Of gateways that left.", bounds=MINUTES)
        for result in RESULTS:
            self.reconciles.labels(result)
        for reason in (*REASONS.values(), "Unreachable", "ServerError", "Other", FAULT):
            self.errors.labels(reason)
        for component in ("gateway", "persister"):
            for direction in ("up", "down", "held"):
                self.scalings.labels(component, direction)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, bounds: tuple[float, ...] = SECONDS) -> Histogram:
        return Histogram(PREFIX + name, text, labels, buckets=bounds, registry=self.registry)
