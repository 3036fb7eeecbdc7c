"""Figures for Prometheus. Labels come from the names of routes, products and verdicts alone, so they are few."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from advrad.serving.records import Inspection

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of the figures."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class Metrics:
    """The counters of one service, in a registry of their own.

    Example:
        >>> metrics = Metrics()
        >>> metrics.request("GET", "/healthz", 200, 0.001)
        >>> 'advrad_requests_total{method="GET",route="/healthz",status="200"} 1.0' in metrics.text(0, {}, {})
        True
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "advrad_requests", "Requests by route.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "advrad_request_seconds", "Seconds per request.", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self._inspections = Counter(
            "advrad_inspections", "Inspections over HTTP.", ["product", "verdict"], registry=self._registry
        )
        self._queue = Gauge("advrad_queue_length", "Images that wait for a verdict.", registry=self._registry)
        self._drift = Gauge(
            "advrad_drift_alarm", "1 where camera, light or product changed.", ["product"], registry=self._registry
        )
        self._outbox = Gauge(
            "advrad_outbox_pending", "Verdicts that wait to be delivered.", ["sink"], registry=self._registry
        )
        self._up = Gauge("advrad_store_up", "1 while the history can be reached.", registry=self._registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            method: Method of HTTP.
            route: Address with the names of its parts in place of their values.
            status: Status of HTTP.
            seconds: Seconds from the first byte of the request to the last of the answer.
        """
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def inspected(self, inspections: Iterable[Inspection]) -> None:
        """Count inspections.

        Args:
            inspections: Stored inspections.
        """
        for inspection in inspections:
            self._inspections.labels(inspection.product, "defective" if inspection.defective else "good").inc()

    def text(self, queue: int, alarms: Mapping[str, bool], pending: Mapping[str, int] | None) -> str:
        """The figures now.

        Args:
            queue: Images that wait for a verdict.
            alarms: Whether an alarm of drift stands, by product.
            pending: Verdicts that wait to be delivered, by sink; None if the history cannot be reached.
        """
        self._queue.set(queue)
        for product, alarm in alarms.items():
            self._drift.labels(product).set(float(alarm))
        self._up.set(float(pending is not None))
        if pending is not None:
            self._outbox.clear()
            for sink, count in pending.items():
                self._outbox.labels(sink).set(count)
        return generate_latest(self._registry).decode()
