"""Metrics for Prometheus: requests and their seconds, pictures, batch sizes, pending pictures."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 3, 4)


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self, pending: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("wastetune_requests", "Answered.", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "wastetune_request_seconds", "From request to answer.", ["path"], buckets=SECONDS, registry=registry
        )
        self._pictures = Counter(
            "wastetune_pictures", "Pictures predicted, or refused.", ["outcome"], registry=registry
        )
        self._batches = Histogram("wastetune_batch_pictures", "Pictures of a run.", buckets=SIZES, registry=registry)
        gauge = Gauge("wastetune_pictures_in_hand", "Being read, waiting or running.", registry=registry)
        gauge.set_function(pending)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Counts an answered request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_picture(self, outcome: str) -> None:
        """Counts a picture that was `predicted` or `refused`."""
        self._pictures.labels(outcome).inc()

    def count_batch(self, pictures: int) -> None:
        """Counts a batch of so many pictures."""
        self._batches.observe(pictures)

    def render(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


class CountRequests:
    """ASGI middleware that counts requests by path and status, with their seconds."""

    def __init__(self, app: "ASGIApp", metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def tracked_send(message: "Message") -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, tracked_send)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # the route's template; all unknown paths are one
            self._metrics.count_request(path, status, time.perf_counter() - began)
