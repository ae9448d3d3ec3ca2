"""Runs a trunk with OpenVINO, if it is installed (1.3 to 4 times as fast on a CPU), or with Keras.

A trunk in an ONNX file is run by OpenVINO or, in the place of Keras, by ONNX Runtime.

WASTETUNE_RUNTIME chooses: `auto` (the default), `keras` or `openvino`. `auto` also chooses Keras when
TensorFlow has a GPU. Both give the same activations within float32 rounding, far below the half precision
in which most are stored.
"""

import itertools
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from wastetune.backbones.backbone import Backbone, build_trunk
from wastetune.backbones.cuts import TOP, Cut
from wastetune.backbones.own.onnx_trunk import FEATURES, OnnxTrunk, open_session, run_session
from wastetune.errors import UserError, install_command
from wastetune.settings import RUNTIME
from wastetune.signals import deferred_signals

RUNTIMES = ("auto", "keras", "openvino")

# Pictures per batch, the fastest of those measured (docs/log.md). OpenVINO runs several batches at once.
_KERAS_BATCH = 32
_OPENVINO_BATCH = 4
_WARM_UP, _TIMED = 3, 21  # runs of a latency
_BATCHES_TIMED = 3

PixelArray = npt.NDArray[np.uint8]
ActivationArrays = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class TrunkRunner:
    """A trunk, ready to run.

    `run` takes batches of up to `batch` pictures, (n, size, size, 3) uint8, and yields the activations of each, in
    order: one array (n, ...) per cut. It reads the next batches before it yields the activations of a batch.
    """

    runtime: str
    batch: int
    run: Callable[[Iterable[PixelArray]], Iterator[ActivationArrays]]


def choose_runtime() -> str:
    """The runtime of trunks, "keras" or "openvino". Raises UserError if WASTETUNE_RUNTIME names one not available."""
    wanted = _setting()
    installed = find_spec("openvino") is not None
    if wanted == "openvino" and not installed:
        raise UserError(
            f"{RUNTIME.variable} is openvino, which is not installed: {install_command('openvino')}, or set it to auto"
        )
    if wanted == "auto":
        return "openvino" if installed and _is_tensorflow_on_cpu() else "keras"
    return wanted


def open_trunk(backbone: Backbone, cuts: tuple[Cut, ...]) -> TrunkRunner:
    """A backbone's trunk, ready to run up to each of the cuts.

    The most recent one is cached: a study opens the same trunk once per view, and conversion takes seconds.
    If OpenVINO was chosen by `auto` and fails, Keras runs the trunk, with a warning.
    Raises UserError if it was chosen explicitly and fails, and as `choose_runtime`.
    """
    return _open(backbone, cuts, choose_runtime(), _setting() == "auto")


@lru_cache(maxsize=1)
def _open(backbone: Backbone, cuts: tuple[Cut, ...], runtime: str, may_fall_back: bool) -> TrunkRunner:
    onnx = backbone.onnx
    trunk = build_trunk(backbone, cuts) if onnx is None else None
    instead = "Keras" if onnx is None else "ONNX Runtime"
    if runtime == "openvino":
        try:
            with deferred_signals():  # an interrupt in the middle would look like an error of the conversion
                return _open_openvino(trunk, backbone.size) if onnx is None else _open_onnx_in_openvino(onnx)
        except Exception as error:  # conversion raises any exception: for an operation, a version, a processor
            message = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            reason = f"OpenVINO cannot run the trunk of {backbone.name} ({message})"
            if not may_fall_back:
                raise UserError(f"{reason}; set {RUNTIME.variable} to keras") from error
            warnings.warn(f"{reason}; {instead} runs it, slower", RuntimeWarning, stacklevel=3)
    if onnx is not None:
        session = open_session(onnx.content)
        return TrunkRunner("onnxruntime", _KERAS_BATCH, lambda batches: run_session(session, batches))
    return TrunkRunner("keras", _KERAS_BATCH, lambda batches: _run_keras(trunk, batches))


def time_one_picture(backbone: Backbone) -> float:
    """Milliseconds of one picture alone through the whole backbone, by Keras on this machine; the median of some."""
    trunk = build_trunk(backbone, (TOP,))
    picture = np.random.default_rng(0).uniform(0, 255, (1, backbone.size, backbone.size, 3)).astype(np.float32)
    seconds = []
    for _ in range(_WARM_UP + _TIMED):
        started = time.perf_counter()
        trunk.predict_on_batch(picture)
        seconds.append(time.perf_counter() - started)
    return round(1000 * float(np.median(seconds[_WARM_UP:])), 2)


def time_pictures(backbone: Backbone) -> float:
    """Seconds of one picture, in batches, through the whole backbone, by Keras on this machine; the least of some."""
    trunk = build_trunk(backbone, (TOP,))
    pictures = (
        np.random.default_rng(0).uniform(0, 255, (_KERAS_BATCH, backbone.size, backbone.size, 3)).astype(np.float32)
    )
    seconds = []
    for _ in range(_WARM_UP + _BATCHES_TIMED):
        started = time.perf_counter()
        trunk.predict_on_batch(pictures)
        seconds.append(time.perf_counter() - started)
    return min(seconds[_WARM_UP:]) / _KERAS_BATCH


def _setting() -> str:
    wanted = RUNTIME.resolve()
    if wanted not in RUNTIMES:
        raise UserError(f"{RUNTIME.variable} is {wanted!r}, but must be auto, keras or openvino")
    return wanted


def list_gpus() -> list[str]:
    """The GPUs that Keras's backend can use."""
    import keras

    return [str(device) for device in keras.distribution.list_devices("gpu")]


def _is_tensorflow_on_cpu() -> bool:
    import keras

    return keras.backend.backend() == "tensorflow" and not list_gpus()


def _run_keras(trunk: Any, batches: Iterable[PixelArray]) -> Iterator[ActivationArrays]:
    """Two batches run at once, as each operation has half of the cores (`load_backbone`)."""
    trunk.make_predict_function()  # here, because two threads would each make one
    busy: deque[Future[ActivationArrays]] = deque()
    with ThreadPoolExecutor(2) as pool:
        for pixels in batches:
            done = busy.popleft().result() if len(busy) == 2 else None
            busy.append(pool.submit(_predict, trunk, pixels))
            if done:
                yield done
        while busy:
            yield busy.popleft().result()


def _predict(trunk: Any, pixels: PixelArray) -> ActivationArrays:
    made = trunk.predict_on_batch(_padded(pixels, _KERAS_BATCH).astype(np.float32))
    return [np.asarray(each)[: len(pixels)] for each in (made if isinstance(made, list) else [made])]


def _open_openvino(trunk: Any, size: int) -> TrunkRunner:
    openvino = _import_openvino()
    import tensorflow

    pixels = tensorflow.TensorSpec((_OPENVINO_BATCH, size, size, 3), tensorflow.uint8)
    # Without AutoGraph, which nothing here needs: on Python 3.13 it loses the names that a lambda takes from outside.
    whole = tensorflow.function(
        lambda batch: trunk(tensorflow.cast(batch, tensorflow.float32), training=False), autograph=False
    )
    function = whole.get_concrete_function(pixels)
    names = [tensor.name for tensor in function.outputs]  # OpenVINO orders the outputs by their names
    if sys.version_info >= (3, 13):
        # OpenVINO 2026.4 finds TensorFlow's version by two calls of `exec` that share a name, which Python 3.13 ended.
        from openvino.frontend.tensorflow import utils

        utils.get_environment_setup = lambda framework: {"tensorflow": tensorflow.__version__}
    return _compile(openvino.convert_model(function), names)


def _open_onnx_in_openvino(trunk: OnnxTrunk) -> TrunkRunner:
    model = _import_openvino().Core().read_model(model=trunk.content)
    model.reshape([_OPENVINO_BATCH, trunk.size, trunk.size, 3])
    return _compile(model, [FEATURES])


def _import_openvino() -> Any:
    # OpenVINO reports its use to Google Analytics unless this package is missing; users have not agreed to that.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _compile(model: Any, names: list[str]) -> TrunkRunner:
    hints = {
        "PERFORMANCE_HINT": "THROUGHPUT",  # small batches side by side, instead of all cores on one
        "ENABLE_CPU_PINNING": False,  # augmentation and other workers use the same cores
        "INFERENCE_PRECISION_HINT": "f32",  # on some processors the default is bfloat16, with other activations
    }
    compiled = _import_openvino().Core().compile_model(model, "CPU", hints)
    return TrunkRunner("openvino", _OPENVINO_BATCH, lambda batches: _run_openvino(compiled, names, batches))


def _run_openvino(compiled: Any, names: list[str], batches: Iterable[PixelArray]) -> Iterator[ActivationArrays]:
    # One more request than run at once, so that the next one starts while the activations of the last are copied.
    count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1
    requests = [compiled.create_infer_request() for _ in range(count)]
    busy: deque[tuple[Any, int]] = deque()
    try:
        for pixels, request in zip(batches, itertools.cycle(requests), strict=False):
            done = _finish(*busy.popleft(), names) if len(busy) == count else None
            request.start_async([_padded(pixels, _OPENVINO_BATCH)])
            busy.append((request, len(pixels)))
            if done:
                yield done
        while busy:
            yield _finish(*busy.popleft(), names)
    finally:  # after Ctrl-C or an error in the batches, no request may still run
        for request, _ in busy:
            request.wait()


def _finish(request: Any, pictures: int, names: list[str]) -> ActivationArrays:
    request.wait()
    return [request.get_tensor(name).data[:pictures].copy() for name in names]


def _padded(pixels: PixelArray, size: int) -> PixelArray:
    """The pixels filled up to a whole batch, because trunks are compiled for one shape."""
    if len(pixels) == size:
        return pixels
    batch = np.zeros((size, *pixels.shape[1:]), np.uint8)
    batch[: len(pixels)] = pixels
    return batch
