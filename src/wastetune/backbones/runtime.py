"""A trunk that runs: with OpenVINO where it is installed, 1.3 to 4 times as fast on a CPU, else with Keras.

WASTETUNE_RUNTIME says which: `auto` (the default), `keras` or `openvino`. `auto` takes Keras also where
TensorFlow has a GPU. Both give the same activations within float32 rounding, far below the half precision
that most are stored in.
"""

import itertools
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from wastetune.backbones.backbone import Backbone, build_trunk
from wastetune.backbones.cuts import Cut
from wastetune.errors import UserError

RUNTIMES = ("auto", "keras", "openvino")
VARIABLE = "WASTETUNE_RUNTIME"

# Pictures at a time, the fastest that were measured (docs/log.md): OpenVINO runs several such batches at once.
_KERAS_BATCH = 32
_OPENVINO_BATCH = 4

PixelArray = npt.NDArray[np.uint8]
ActivationArrays = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class TrunkRunner:
    """A trunk, ready to run.

    `run` takes batches of up to `batch` pictures, (n, size, size, 3) uint8, and gives the activations of each, in
    order: one array (n, ...) per cut. It asks for the next batches before it has given this one's activations.
    """

    runtime: str
    batch: int
    run: Callable[[Iterable[PixelArray]], Iterator[ActivationArrays]]


def choose_runtime() -> str:
    """What trunks run with: "keras" or "openvino". UserError where WASTETUNE_RUNTIME asks for what cannot be had."""
    wanted = _wanted()
    installed = find_spec("openvino") is not None
    if wanted == "openvino" and not installed:
        raise UserError(
            f"{VARIABLE} is openvino, which is not installed: pip install 'wastetune[openvino]', or set it to auto"
        )
    if wanted == "auto":
        return "openvino" if installed and _is_tensorflow_on_cpu() else "keras"
    return wanted


def open_trunk(backbone: Backbone, cuts: tuple[Cut, ...]) -> TrunkRunner:
    """A backbone's trunk, ready to run up to each of the cuts.

    The last one is kept: a study asks for the same trunk once per view, and to convert it takes seconds.
    Where OpenVINO was chosen by `auto` and fails, Keras runs the trunk, and a warning says so.
    UserError where it was asked for and fails, and as `choose_runtime`.
    """
    return _open(backbone, cuts, choose_runtime(), _wanted() == "auto")


@lru_cache(maxsize=1)
def _open(backbone: Backbone, cuts: tuple[Cut, ...], runtime: str, may_fall_back: bool) -> TrunkRunner:
    trunk = build_trunk(backbone, cuts)
    if runtime == "openvino":
        try:
            return _open_openvino(trunk, backbone.size)
        except Exception as error:  # a conversion may fail in any way: an operation, a version, a processor
            said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            reason = f"OpenVINO cannot run the trunk of {backbone.name} ({said})"
            if not may_fall_back:
                raise UserError(f"{reason}; set {VARIABLE} to keras") from error
            warnings.warn(f"{reason}; Keras runs it, slower", RuntimeWarning, stacklevel=3)
    return TrunkRunner("keras", _KERAS_BATCH, lambda batches: _run_keras(trunk, batches))


def _wanted() -> str:
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted not in RUNTIMES:
        raise UserError(f"{VARIABLE} is {wanted!r}, but must be auto, keras or openvino")
    return wanted


def _is_tensorflow_on_cpu() -> bool:
    import keras

    return keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu")


def _run_keras(trunk: Any, batches: Iterable[PixelArray]) -> Iterator[ActivationArrays]:
    for pixels in batches:
        made = trunk.predict_on_batch(_padded(pixels, _KERAS_BATCH).astype(np.float32))
        yield [np.asarray(each)[: len(pixels)] for each in (made if isinstance(made, list) else [made])]


def _open_openvino(trunk: Any, size: int) -> TrunkRunner:
    # OpenVINO reports its use to Google Analytics unless this package is missing; nobody here has agreed to that.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    import tensorflow

    pixels = tensorflow.TensorSpec((_OPENVINO_BATCH, size, size, 3), tensorflow.uint8)
    whole = tensorflow.function(lambda batch: trunk(tensorflow.cast(batch, tensorflow.float32), training=False))
    function = whole.get_concrete_function(pixels)
    names = [tensor.name for tensor in function.outputs]  # OpenVINO orders the outputs by their names
    hints = {
        "PERFORMANCE_HINT": "THROUGHPUT",  # small batches side by side, instead of all cores on one
        "ENABLE_CPU_PINNING": False,  # the cores are shared with who augments, and with other workers
        "INFERENCE_PRECISION_HINT": "f32",  # some processors would take bfloat16, and give other activations
    }
    compiled = openvino.Core().compile_model(openvino.convert_model(function), "CPU", hints)
    return TrunkRunner("openvino", _OPENVINO_BATCH, lambda batches: _run_openvino(compiled, names, batches))


def _run_openvino(compiled: Any, names: list[str], batches: Iterable[PixelArray]) -> Iterator[ActivationArrays]:
    # One request more than run at once, so that the next one starts while the last one's activations are taken.
    count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1
    requests = [compiled.create_infer_request() for _ in range(count)]
    busy: deque[tuple[Any, int]] = deque()
    try:
        for pixels, request in zip(batches, itertools.cycle(requests), strict=False):
            done = _take(*busy.popleft(), names) if len(busy) == count else None
            request.start_async([_padded(pixels, _OPENVINO_BATCH)])
            busy.append((request, len(pixels)))
            if done:
                yield done
        while busy:
            yield _take(*busy.popleft(), names)
    finally:  # on Ctrl-C or an error in the batches, none may be left running
        for request, _ in busy:
            request.wait()


def _take(request: Any, pictures: int, names: list[str]) -> ActivationArrays:
    request.wait()
    return [request.get_tensor(name).data[:pictures].copy() for name in names]


def _padded(pixels: PixelArray, size: int) -> PixelArray:
    """A whole batch, because trunks are compiled for one shape only."""
    if len(pixels) == size:
        return pixels
    batch = np.zeros((size, *pixels.shape[1:]), np.uint8)
    batch[: len(pixels)] = pixels
    return batch
