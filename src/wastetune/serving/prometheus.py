"""What Prometheus reads: requests, their seconds, pictures, the sizes of runs, what waits."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 3, 4)


class Gauges:
    """The figures of one service, in a registry of their own."""

    def __init__(self, taken: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("wastetune_requests", "Answered.", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "wastetune_request_seconds", "From request to answer.", ["path"], buckets=SECONDS, registry=registry
        )
        self._pictures = Counter(
            "wastetune_pictures", "Pictures predicted, or refused.", ["outcome"], registry=registry
        )
        self._batches = Histogram("wastetune_batch_pictures", "Pictures of a run.", buckets=SIZES, registry=registry)
        in_hand = Gauge("wastetune_pictures_in_hand", "Being read, waiting or running.", registry=registry)
        in_hand.set_function(taken)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_picture(self, outcome: str) -> None:
        """A picture was `predicted`, or `refused`."""
        self._pictures.labels(outcome).inc()

    def count_run(self, pictures: int) -> None:
        """The model ran on so many pictures."""
        self._batches.observe(pictures)

    def render(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self._registry)


class Counted:
    """An ASGI app whose requests are counted, with the status of the answer and the seconds until it."""

    def __init__(self, app: "ASGIApp", gauges: Gauges) -> None:
        self._app, self._gauges = app, gauges

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 500

        async def told(message: "Message") -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # its template; whatever else is asked for is one path
            self._gauges.count_request(path, status, time.perf_counter() - began)
