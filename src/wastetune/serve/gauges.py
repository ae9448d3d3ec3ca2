"""What Prometheus reads: requests, their seconds, pictures, the sizes of runs, what waits."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16)


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
