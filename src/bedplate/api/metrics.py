"""`/metrics` in Prometheus' text form: the API's own requests, and what the controller tells through its hook."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bedplate.api.hooks import Operator
from bedplate.api.watch import Hub

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one API, in a registry of their own."""

    def __init__(self, hub: Hub, operator: Operator | None) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "bedplate_api_requests_total", "Requests answered.", ("verb", "resource", "code"), registry=self.registry
        )
        self.seconds = Histogram(
            "bedplate_api_request_duration_seconds",
            "Time to answer, without watches and streams.",
            ("verb",),
            buckets=(0.005, 0.02, 0.1, 0.5, 2, 10),
            registry=self.registry,
        )
        self.registry.register(_Present(hub, operator))

    def text(self) -> bytes:
        """All of it, for a scrape."""
        return generate_latest(self.registry)


class _Present(Collector):
    """Values read at the time of the scrape."""

    def __init__(self, hub: Hub, operator: Operator | None) -> None:
        self._hub = hub
        self._operator = operator

    def collect(self) -> Iterable[Metric]:
        watches = GaugeMetricFamily("bedplate_api_watches", "Watches that run.")
        watches.add_metric((), self._hub.count)
        yield watches
        revision = GaugeMetricFamily("bedplate_store_revision", "Revision of the last write that was dispatched.")
        revision.add_metric((), self._hub.revision)
        yield revision
        for gauge in self._operator.gauges() if self._operator is not None else ():
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for values, value in gauge.samples.items():
                family.add_metric(values, value)
            yield family
