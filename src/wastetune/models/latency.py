"""The latency of a model for one picture, and the costs of models that are not trained yet.

`python -m wastetune.models.latency MODEL THREADS` prints the latency of an exported file as JSON. It is measured in a
process of its own, because TensorFlow's number of threads can only be set before it runs, and so that no runtime shares
memory and threads with another.

The costs of a study's trials are those of the exported ONNX model in ONNX Runtime on one thread. Weights do not change
them, so they are measured before a trial is trained, once for each architecture. Of a backbone, only the part above the
features is converted each time. To be comparable under any load, a model is run in turns with a reference, whose
latency was measured when the study began, and the ratio of both is what counts.
"""

import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from wastetune.backbones.backbone import Backbone, build_trunk, nearest_cut
from wastetune.backbones.cuts import TOP
from wastetune.backbones.own.onnx_trunk import open_session
from wastetune.errors import UserError, first_line, install_command
from wastetune.files import write_whole
from wastetune.models.export import OPSET, join_head, trunk_as_onnx, whole_as_onnx
from wastetune.models.loading import INPUT, open_model
from wastetune.training.assembly import assemble_model, copy_branch, with_softmax
from wastetune.training.config import TrialConfig
from wastetune.training.head import BuildHead
from wastetune.training.learner import open_keras_model

_WARM_UP = 10
_MAX_RUNS = 300
_MAX_SECONDS = 5.0  # 300 runs of a slow backbone would take half a minute
_MIN_RUNS = 20
_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")
_EXPORTED = ("latency_ms", "megabytes")  # costs that need the model as ONNX


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
    picture = _picture(model.size)
    (times,) = _time_in_turns([lambda: model.run(picture)])
    median, p95 = np.percentile(times, [50, 95])
    return Latency(float(median), float(p95), len(times))


def _picture(size: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)


def _time_in_turns(runs: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Milliseconds of each run of each function; they take turns, so that load falls on all alike."""
    for _ in range(_WARM_UP):
        for run in runs:
            run()
    times: list[list[float]] = [[] for _ in runs]
    started = time.perf_counter()
    while len(times[0]) < _MAX_RUNS and (
        len(times[0]) < _MIN_RUNS or time.perf_counter() - started < _MAX_SECONDS * len(runs)
    ):
        for run, own in zip(runs, times, strict=True):
            before = time.perf_counter()
            run()
            own.append(1000 * (time.perf_counter() - before))
    return times


def _undisturbed(times: Sequence[float]) -> float:
    """The time of a run that nothing else disturbed: on a busy machine, the median may be ten times as long."""
    return float(np.percentile(times, 5))


def _in_two_digits(value: float) -> float:
    """To a few percent, which is as far as a repeated measurement agrees: a front is not to be made of noise."""
    return float(f"{value:.2g}")


def check_measurable(costs: Sequence[str]) -> None:
    """UserError where a package is missing that these costs are measured with."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing and set(costs) & set(_EXPORTED):
        raise UserError(
            f"{' and '.join(each for each in costs if each in _EXPORTED)} are those of the exported ONNX model, and "
            f"{', '.join(missing)} is not installed; {install_command('onnx')}"
        )


def describe_machine() -> str:
    """What a latency depends on beside the model: the processor and the version of the runtime."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)", file.read_text(), re.M) if file.exists() else None
    return f"{found[1] if found else platform.processor() or platform.machine()}, ONNX Runtime {version('onnxruntime')}"


@dataclass(frozen=True)
class Meter:
    """Measures what models of one backbone cost. `trunk` and `reference` are ONNX; None where no cost needs them."""

    costs: tuple[str, ...]
    backbone: Backbone
    classes: int
    build: BuildHead
    trunk: Any = None
    reference: Any = None  # a session of the default's model
    reference_ms: float = 0.0


def open_meter(
    costs: Sequence[str], backbone: Backbone, classes: int, build: BuildHead, default: TrialConfig, cache: Path
) -> Meter:
    """A meter whose reference is the model of the default configuration, and is still to be measured.

    The trunk as ONNX, whose conversion takes seconds, is kept in the cache folder.
    """
    meter = Meter(tuple(costs), backbone, classes, build)
    if not set(costs) & set(_EXPORTED):
        return meter
    import onnx

    file = cache / "onnx" / f"{backbone.name}-{backbone.digest[:16]}-{backbone.size}-{OPSET}.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        converted = trunk_as_onnx(build_trunk(backbone, (TOP,)))
        write_whole(file, lambda part: onnx.save(converted, str(part)))
    meter = replace(meter, trunk=onnx.load(str(file)))
    try:
        with _open_head(meter, default) as head:
            reference = open_session(join_head(meter.trunk, head).SerializeToString(), 1)
    except Exception as error:  # an operation of a head of the user's own
        raise UserError(
            f"the default's model cannot be exported to ONNX ({first_line(error, 200)}), so neither latency_ms nor "
            "megabytes can be objectives"
        ) from error
    return replace(meter, reference=reference)


def measure_reference(meter: Meter) -> float:
    """The milliseconds of the default's model, which all latencies of a study are measured against."""
    picture = _picture(meter.backbone.size)
    (times,) = _time_in_turns([partial(meter.reference.run, None, {INPUT: picture})])
    return round(_undisturbed(times), 4)


def trunk_costs(meter: Meter) -> dict[str, float]:
    """The costs of the backbone without any head, below which no model of it can be."""
    return _costs(meter, int(build_trunk(meter.backbone, (TOP,)).count_params()), meter.trunk)


def model_costs(meter: Meter, config: TrialConfig) -> dict[str, float]:
    """The costs of the model of one configuration, trained or not. Where it is cut makes no difference."""
    with _open_head(meter, config) as head:
        parameters = int(build_trunk(meter.backbone, (TOP,)).count_params()) + int(head.count_params())
        joined = None if meter.trunk is None else join_head(meter.trunk, head)
    return _costs(meter, parameters, joined)


def mean_costs(meter: Meter, configs: Sequence[TrialConfig]) -> dict[str, float]:
    """The costs of the mean of several configurations' models behind the trunk that they share, as it is exported."""
    branches = []
    for seed, config in enumerate(configs):  # ONNX has equal weights once
        cut = nearest_cut(meter.backbone, config.frozen_depth)
        with open_keras_model(meter.backbone, cut, config, meter.classes, seed, meter.build) as model:
            branches.append(copy_branch(cut, model))
    whole = assemble_model(meter.backbone, branches)
    return _costs(meter, int(whole.count_params()), None if meter.trunk is None else whole_as_onnx(whole))


@contextmanager
def _open_head(meter: Meter, config: TrialConfig) -> Iterator[Any]:
    """A Keras model from the features at the top to probabilities."""
    with open_keras_model(meter.backbone, TOP, config, meter.classes, 0, meter.build) as model:
        yield with_softmax(model)


def _costs(meter: Meter, parameters: int, model: Any) -> dict[str, float]:
    """The costs of a model that has so many parameters and is this ONNX model."""
    found = {"parameters": float(parameters)}
    if model is not None:
        content = model.SerializeToString()
        found["megabytes"] = round(len(content) / 1e6, 3)
        if "latency_ms" in meter.costs:
            picture, session = _picture(meter.backbone.size), open_session(content, 1)
            own, reference = _time_in_turns(
                [partial(each.run, None, {INPUT: picture}) for each in (session, meter.reference)]
            )
            found["latency_ms"] = _in_two_digits(meter.reference_ms * _undisturbed(own) / _undisturbed(reference))
    return {key: found[key] for key in meter.costs}


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(Path(sys.argv[1]), int(sys.argv[2])))))
