"""What the server counts, in Prometheus' text format. One registry for each server: tests run several."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter(
            "vqrae_requests", "Requests that were answered.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "vqrae_request_seconds",
            "From a request's head to its answer.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.inside = Gauge("vqrae_requests_inside", "Requests that wait or are computed.", registry=registry)
        self.images = Counter("vqrae_images", "Images that were computed.", ["graph"], registry=registry)
        self.batch = Histogram(
            "vqrae_batch_images",
            "Images computed together, seen from each request.",
            ["graph"],
            buckets=BATCH_BUCKETS,
            registry=registry,
        )

    def text(self) -> bytes:
        """The figures as Prometheus reads them."""
        return generate_latest(self._registry)
