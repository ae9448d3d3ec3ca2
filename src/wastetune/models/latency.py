"""How long a model takes over one picture: `python -m wastetune.models.latency MODEL THREADS` prints it as JSON.

In a process of its own: TensorFlow takes a number of threads only before it runs, and no runtime shall find the threads
and the memory of another.
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
_RUNS = 300
_SECONDS = 5.0  # enough for a backbone that needs a tenth of a second
_FEWEST = 20


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the pixels of one picture to its probabilities."""

    median: float
    p95: float
    runs: int


def measure_latency(model: Path, threads: int) -> Latency:
    """The latency of the model in a file or folder, measured in a new process. UserError where that fails."""
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
    began = time.perf_counter()
    while len(times) < _RUNS and (len(times) < _FEWEST or time.perf_counter() - began < _SECONDS):
        before = time.perf_counter()
        model.run(picture)
        times.append(1000 * (time.perf_counter() - before))
    median, p95 = np.percentile(times, [50, 95])
    return Latency(float(median), float(p95), len(times))


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(Path(sys.argv[1]), int(sys.argv[2])))))
