"""The latency of a model for one picture: `python -m wastetune.models.latency MODEL THREADS` prints it as JSON.

It is measured in a process of its own, because TensorFlow's number of threads can only be set before it runs, and so
that no runtime shares memory and threads with another.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wastetune.errors import UserError
from wastetune.models.loading import open_model

_WARM_UP = 10
_MAX_RUNS = 300
_MAX_SECONDS = 5.0  # 300 runs of a slow backbone would take half a minute
_MIN_RUNS = 20


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the pixels of one picture to its probabilities."""

    median: float
    p95: float
    runs: int


def measure_latency(model: Path, threads: int) -> Latency:
    """The latency of the model in a file or folder, measured in a new process. Raises UserError if that fails."""
    command = [sys.executable, "-m", "wastetune.models.latency", str(model), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"the latency of {model} cannot be measured: {reason}")
    return Latency(**json.loads(done.stdout.splitlines()[-1]))


def _measure(path: Path, threads: int) -> Latency:
    model = open_model(path, threads=threads)
    picture = np.random.default_rng(0).integers(0, 256, (1, model.size, model.size, 3), dtype=np.uint8)
    for _ in range(_WARM_UP):
        model.run(picture)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _MAX_RUNS and (len(times) < _MIN_RUNS or time.perf_counter() - started < _MAX_SECONDS):
        before = time.perf_counter()
        model.run(picture)
        times.append(1000 * (time.perf_counter() - before))
    median, p95 = np.percentile(times, [50, 95])
    return Latency(float(median), float(p95), len(times))


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(Path(sys.argv[1]), int(sys.argv[2])))))
